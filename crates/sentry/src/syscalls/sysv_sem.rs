//! semget, semop, semtimedop, semctl.

use std::sync::Arc;

use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::mask::nanoseconds;
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::ipc::sysv::sem::{Operation, SEM_UNDO, SEMVMX, Set};
use crate::ipc::sysv::{Perm, UndoList, Wanted};
use crate::task::Cx;
use crate::wait::{PollEvents, WaitError};

const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;
const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

/// `struct semid64_ds`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SemidDs {
    perm: Perm,
    otime: i64,
    unused1: u64,
    ctime: i64,
    unused2: u64,
    count: u64,
    unused3: [u64; 2],
}

const _: () = assert!(size_of::<SemidDs>() == 104);

pub fn sys_semget(cx: &mut Cx, args: Args) -> Flow<'_> {
    let ipc = cx.task.ipc_objects();
    Flow::done(ipc.sem.get(cx, &ipc.limits, args.i32(0), args.i32(1), args.u32(2)).map(|id| id as u64))
}

pub fn sys_semop(cx: &mut Cx, args: Args) -> Flow<'_> {
    semop(cx, &args, None)
}

pub fn sys_semtimedop(cx: &mut Cx, args: Args) -> Flow<'_> {
    let timeout = args.opt_ptr(3).map(|addr| cx.mm.read_val::<[i64; 2]>(addr)).transpose();
    match timeout {
        Ok(timeout) => semop(cx, &args, timeout),
        Err(errno) => Flow::done(Err(errno)),
    }
}

fn semop<'a>(cx: &'a mut Cx, args: &Args, timeout: Option<[i64; 2]>) -> Flow<'a> {
    let (id, addr, count) = (args.i32(0), args.u64(1), args.u64(2) as u32);
    if count < 1 || id < 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    if u64::from(count) > cx.task.ipc_objects().limits.semopm.get() {
        return Flow::done(Err(Errno::E2BIG));
    }
    let prepared = (|| {
        let mut operations: SmallVec<[Operation; 4]> = SmallVec::new();
        for n in 0..u64::from(count) {
            operations.push(cx.mm.read_val(addr.wrapping_add(n * size_of::<Operation>() as u64))?);
        }
        let timeout_ns = timeout.map(|[sec, nsec]| nanoseconds(sec, nsec)).transpose()?;
        let set = cx.task.ipc_objects().sem.find(id)?;
        let undo = operations.iter().any(|operation| operation.flags & SEM_UNDO != 0).then(|| undo_list(cx));
        let pending = set.operate(cx, &operations, undo.as_deref())?;
        Ok((set, pending, timeout_ns))
    })();
    match prepared {
        Err(errno) => Flow::done(Err(errno)),
        Ok((_, None, _)) => Flow::done(Ok(0)),
        Ok((set, Some(pending), timeout_ns)) => {
            let deadline = cx.deadline(timeout_ns);
            Flow::wait(async move {
                let queues = [(set.queue(), PollEvents::IN)];
                let waited = cx.wait(&queues, deadline, || set.result(&pending)).await;
                let result = match waited {
                    Ok(result) => result,
                    // Never restarted (signal(7)). What has happened meanwhile counts.
                    Err(error) => set.withdraw(&pending).unwrap_or(Err(match error {
                        WaitError::TimedOut => Errno::EAGAIN,
                        WaitError::Interrupted => Errno::EINTR,
                    })),
                };
                Ok(result.map(|()| 0)?)
            })
        }
    }
}

/// The caller's adjustments, made when first needed.
fn undo_list(cx: &Cx) -> Arc<UndoList> {
    cx.task.sem_undo.lock().get_or_insert_with(|| UndoList::new(cx.task.tgid())).clone()
}

pub fn sys_semctl(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::Done(control(cx, args.i32(0), args.i32(1), args.i32(2), args.u64(3)))
}

fn control(cx: &Cx, id: i32, number: i32, command: i32, argument: u64) -> Outcome {
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let ipc = cx.task.ipc_objects();
    let creds = cx.creds();
    match command {
        IPC_INFO | SEM_INFO => {
            let (used, max, total) = ipc.sem.totals();
            let [usz, aem] = if command == SEM_INFO { [used as i32, total as i32] } else { [20, SEMVMX] };
            let limits = &ipc.limits;
            let [mns, mni, msl, opm] =
                [&limits.semmns, &limits.semmni, &limits.semmsl, &limits.semopm].map(|limit| limit.get() as i32);
            let info: [i32; 10] = [mns, mni, mns, mns, msl, opm, opm, usz, SEMVMX, aem];
            cx.mm.write_val(argument, &info)?;
            Ok(max)
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let set = if command == IPC_STAT { ipc.sem.find(id)? } else { ipc.sem.at(id)? };
            let state = set.state.lock();
            if command != SEM_STAT_ANY {
                state.perm.check(&creds, Wanted::READ)?;
            }
            let (perm, otime, ctime, count) = (state.perm, state.otime, state.ctime, set.count as u64);
            drop(state);
            let described = SemidDs { perm, otime, unused1: 0, ctime, unused2: 0, count, unused3: [0; 2] };
            cx.mm.write_val(argument, &described)?;
            Ok(if command == IPC_STAT { 0 } else { set.id as u64 })
        }
        GETPID | GETVAL | GETALL | GETNCNT | GETZCNT | SETALL => {
            let set = ipc.sem.find(id)?;
            set.state.lock().perm.check(&creds, if command == SETALL { Wanted::WRITE } else { Wanted::READ })?;
            values(cx, &set, number, command, argument)
        }
        SETVAL => {
            let value = argument as i32;
            if !(0..=SEMVMX).contains(&value) {
                return Err(Errno::ERANGE.into());
            }
            let set = ipc.sem.find(id)?;
            let number = usize::try_from(number).ok().filter(|&number| number < set.count).ok_or(Errno::EINVAL)?;
            set.state.lock().perm.check(&creds, Wanted::WRITE)?;
            set.set_values(cx, |at| (at == number).then_some(value));
            Ok(0)
        }
        IPC_SET => {
            let new: SemidDs = cx.mm.read_val(argument)?;
            let set = ipc.sem.find(id)?;
            let mut state = set.state.lock();
            state.perm.control(&creds)?;
            state.perm.update(&new.perm)?;
            state.ctime = (cx.kernel().clock.realtime_ns() / 1_000_000_000) as i64;
            Ok(0)
        }
        IPC_RMID => {
            let set = ipc.sem.find(id)?;
            set.state.lock().perm.control(&creds)?;
            ipc.sem.remove(&set);
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

fn values(cx: &Cx, set: &Set, number: i32, command: i32, argument: u64) -> Outcome {
    match command {
        GETALL => {
            let values: Vec<u8> =
                set.state.lock().semaphores.iter().flat_map(|semaphore| (semaphore.value as u16).to_ne_bytes()).collect();
            cx.mm.write(argument, &values)?;
            return Ok(0);
        }
        SETALL => {
            let mut bytes = vec![0; set.count * 2];
            cx.mm.read(argument, &mut bytes)?;
            let values: Vec<i32> =
                bytes.chunks_exact(2).map(|pair| i32::from(u16::from_ne_bytes([pair[0], pair[1]]))).collect();
            if values.iter().any(|&value| value > SEMVMX) {
                return Err(Errno::ERANGE.into());
            }
            set.set_values(cx, |at| values.get(at).copied());
            return Ok(0);
        }
        _ => {}
    }
    let number = usize::try_from(number).ok().filter(|&number| number < set.count).ok_or(Errno::EINVAL)?;
    let semaphore = set.state.lock().semaphores.get(number).copied().unwrap_or_default();
    Ok(match command {
        GETPID => cx.local(semaphore.pid) as u64,
        GETVAL => semaphore.value as u64,
        GETNCNT => set.waiters(number).0,
        _ => set.waiters(number).1,
    })
}
