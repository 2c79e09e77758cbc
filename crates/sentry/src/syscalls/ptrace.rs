//! `ptrace`: requests that steer a tracee. Those on its registers and memory are in `ptrace_data`.

use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::{Args, Flow, ptrace_data};
use crate::Errno;
use crate::ptrace::{EVENT_STOP, Options, Stop};
use crate::signal::{SigInfo, SigSet, Signal};
use crate::task::{Cx, SyscallWork, Task, TaskFlags, Tracing};

const TRACEME: u64 = 0;
const CONT: u64 = 7;
const KILL: u64 = 8;
const SINGLESTEP: u64 = 9;
const ATTACH: u64 = 16;
const DETACH: u64 = 17;
const SYSCALL: u64 = 24;
const SYSEMU: u64 = 31;
const SYSEMU_SINGLESTEP: u64 = 32;
const SETOPTIONS: u64 = 0x4200;
const GETEVENTMSG: u64 = 0x4201;
const GETSIGINFO: u64 = 0x4202;
const SETSIGINFO: u64 = 0x4203;
const SEIZE: u64 = 0x4206;
const INTERRUPT: u64 = 0x4207;
const LISTEN: u64 = 0x4208;
const PEEKSIGINFO: u64 = 0x4209;
const GETSIGMASK: u64 = 0x420a;
const SETSIGMASK: u64 = 0x420b;

/// `PTRACE_PEEKSIGINFO_SHARED`
const SHARED_QUEUE: u32 = 1;

pub(super) fn ptrace(cx: &mut Cx, args: Args) -> Flow<'_> {
    match steer(cx, args) {
        Some(result) => Flow::done(result),
        None => ptrace_data::request(cx, args),
    }
}

/// The task of a number if the caller traces it, whatever it does just now.
///
/// # Errors
/// `ESRCH`.
fn tracee(cx: &Cx, tid: i32) -> Result<Arc<Task>, Errno> {
    let task = cx.find_task(tid).ok_or(Errno::ESRCH)?;
    let ours = std::ptr::eq(task.ptrace.lock().tracer.as_ptr(), Arc::as_ptr(&cx.task));
    if ours { Ok(task) } else { Err(Errno::ESRCH) }
}

/// Calls `act` with a tracee's stop.
///
/// # Errors
/// `ESRCH` when it is no tracee of the caller, or not stopped; those of `act`.
pub(super) fn stopped<T>(cx: &Cx, tid: i32, act: impl FnOnce(&Arc<Task>, &mut Stop) -> Result<T, Errno>) -> Result<T, Errno> {
    let task = tracee(cx, tid)?;
    let mut state = task.ptrace.lock();
    act(&task, state.stopped_mut().ok_or(Errno::ESRCH)?)
}

/// Requests that are done at once and do not look at registers or memory. None: another one.
fn steer(cx: &mut Cx, args: Args) -> Option<Result<u64, Errno>> {
    let (tid, addr, data) = (args.i32(1), args.u64(2), args.u64(3));
    let done = |result: Result<(), Errno>| Some(result.map(|()| 0));
    match args.u64(0) {
        TRACEME => {
            let task = cx.task.clone();
            done(task.trace_me())
        }
        ATTACH => done(target(cx, tid).and_then(|target| cx.task.attach_to(&target))),
        SEIZE => done(seize(cx, tid, addr, data)),
        KILL => done(tracee(cx, tid).map(|task| {
            let _ = task.group.send_signal(SigInfo::user(Signal::KILL, cx.task.tgid(), cx.creds().uid));
        })),
        INTERRUPT => done(interrupt(cx, tid)),
        LISTEN => done(listen(cx, tid)),
        CONT => done(resume(cx, tid, data, SyscallWork::empty())),
        SINGLESTEP => done(resume(cx, tid, data, SyscallWork::STEP)),
        SYSCALL => done(resume(cx, tid, data, SyscallWork::SYSCALL_TRACE)),
        SYSEMU => done(resume(cx, tid, data, SyscallWork::SYSCALL_EMU)),
        SYSEMU_SINGLESTEP => done(resume(cx, tid, data, SyscallWork::SYSCALL_EMU | SyscallWork::STEP)),
        DETACH => done(detach(cx, tid, data)),
        SETOPTIONS => done(options(cx, tid, data)),
        GETEVENTMSG => done(stopped(cx, tid, |_, stop| Ok(stop.message)).and_then(|message| cx.mm.write_val(data, &message))),
        GETSIGINFO => {
            let info = stopped(cx, tid, |_, stop| stop.info.ok_or(Errno::EINVAL));
            done(info.and_then(|info| cx.mm.write(data, &info.encode())))
        }
        SETSIGINFO => done(set_siginfo(cx, tid, data)),
        PEEKSIGINFO => Some(peek_siginfo(cx, tid, addr, data)),
        GETSIGMASK => done(signal_mask(cx, tid, addr).and_then(|task| cx.mm.write_val(data, &visible_mask(&task).0))),
        SETSIGMASK => done(set_signal_mask(cx, tid, addr, data)),
        _ => None,
    }
}

/// A task to attach to. A zombie cannot be attached to.
fn target(cx: &Cx, tid: i32) -> Result<Arc<Task>, Errno> {
    let pids = &cx.task.container.pids;
    let gone = || if pids.process(tid).is_some() { Errno::EPERM } else { Errno::ESRCH };
    pids.task(tid).ok_or_else(gone)
}

fn seize(cx: &Cx, tid: i32, addr: u64, data: u64) -> Result<(), Errno> {
    let target = target(cx, tid)?;
    let options = Options::from_bits(data).filter(|_| addr == 0).ok_or(Errno::EIO)?;
    cx.task.seize(&target, options)
}

fn interrupt(cx: &Cx, tid: i32) -> Result<(), Errno> {
    let task = tracee(cx, tid)?;
    {
        let mut state = task.ptrace.lock();
        if !state.seized {
            return Err(Errno::EIO);
        }
        state.trap = true;
    }
    task.raise(TaskFlags::STOP);
    task.ptrace.wake();
    Ok(())
}

fn listen(cx: &Cx, tid: i32) -> Result<(), Errno> {
    let task = tracee(cx, tid)?;
    {
        let mut state = task.ptrace.lock();
        let stop = state.stopped().ok_or(Errno::ESRCH)?;
        if !state.seized || stop.info.is_none_or(|info| info.code >> 8 != EVENT_STOP) {
            return Err(Errno::EIO);
        }
        state.listening = true;
    }
    task.ptrace.wake();
    Ok(())
}

/// The signal to go on with: any number up to 64.
fn resume_signal(data: u64) -> Result<i32, Errno> {
    i32::try_from(data).ok().filter(|&signal| signal <= Signal::MAX).ok_or(Errno::EIO)
}

fn resume(cx: &Cx, tid: i32, data: u64, work: SyscallWork) -> Result<(), Errno> {
    let task = tracee(cx, tid)?;
    task.ptrace.lock().stopped().ok_or(Errno::ESRCH)?;
    task.resume_tracee(resume_signal(data)?, work);
    Ok(())
}

fn detach(cx: &Cx, tid: i32, data: u64) -> Result<(), Errno> {
    let task = tracee(cx, tid)?;
    task.ptrace.lock().stopped().ok_or(Errno::ESRCH)?;
    let signal = resume_signal(data)?;
    cx.task.container.pids.with_tracing(|tracing: &mut Tracing<'_>| {
        tracing.remove(&task);
        task.let_go(Some(signal));
    });
    Ok(())
}

fn options(cx: &Cx, tid: i32, data: u64) -> Result<(), Errno> {
    let task = tracee(cx, tid)?;
    let mut state = task.ptrace.lock();
    state.stopped().ok_or(Errno::ESRCH)?;
    state.options = Options::from_bits(data).ok_or(Errno::EINVAL)?;
    Ok(())
}

fn set_siginfo(cx: &Cx, tid: i32, addr: u64) -> Result<(), Errno> {
    // Whether it is stopped comes first.
    stopped(cx, tid, |_, _| Ok(()))?;
    let bytes = cx.mm.read_val::<[u8; SigInfo::SIZE]>(addr)?;
    let number = bytes.first().map_or(0, |&low| i32::from(low));
    let signal = Signal::new(number).unwrap_or(Signal::TRAP);
    let info = SigInfo::decode(signal, &bytes).ok_or(Errno::E2BIG)?;
    stopped(cx, tid, |_, stop| {
        stop.info.ok_or(Errno::EINVAL)?;
        stop.info = Some(info);
        Ok(())
    })
}

/// `struct ptrace_peeksiginfo_args`.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct PeekSigInfo {
    offset: u64,
    flags: u32,
    count: i32,
}

fn peek_siginfo(cx: &Cx, tid: i32, addr: u64, data: u64) -> Result<u64, Errno> {
    stopped(cx, tid, |_, _| Ok(()))?;
    let wanted: PeekSigInfo = cx.mm.read_val(addr)?;
    if wanted.flags & !SHARED_QUEUE != 0 || wanted.count < 0 {
        return Err(Errno::EINVAL);
    }
    let task = tracee(cx, tid)?;
    let queue = if wanted.flags & SHARED_QUEUE != 0 {
        task.group.inner.lock().pending.infos()
    } else {
        task.signals.lock().pending.infos()
    };
    let from = usize::try_from(wanted.offset).unwrap_or(usize::MAX);
    let mut done = 0;
    for (info, to) in queue.iter().skip(from).take(wanted.count as usize).zip((data..).step_by(SigInfo::SIZE)) {
        match cx.mm.write(to, &info.encode()) {
            Ok(()) => done += 1,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// The stopped task whose mask is meant; `size` is a `sigset_t`'s.
fn signal_mask(cx: &Cx, tid: i32, size: u64) -> Result<Arc<Task>, Errno> {
    let task = stopped(cx, tid, |task, _| Ok(task.clone()))?;
    if size == 8 { Ok(task) } else { Err(Errno::EINVAL) }
}

/// The mask it will have when a temporary one is taken back.
fn visible_mask(task: &Task) -> SigSet {
    let signals = task.signals.lock();
    signals.saved_mask.unwrap_or(signals.blocked)
}

fn set_signal_mask(cx: &Cx, tid: i32, size: u64, addr: u64) -> Result<(), Errno> {
    let task = signal_mask(cx, tid, size)?;
    let mask = SigSet(cx.mm.read_val::<u64>(addr)?);
    task.signals.lock().saved_mask = None;
    task.clear(TaskFlags::RESTORE_MASK);
    task.set_blocked(mask);
    Ok(())
}
