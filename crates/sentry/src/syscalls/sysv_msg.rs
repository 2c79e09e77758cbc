//! msgget, msgsnd, msgrcv, msgctl.

use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::ipc::sysv::msg::{MSG_COPY, Message, Queue, Select};
use crate::ipc::sysv::{IPC_NOWAIT, Perm, Wanted};
use crate::task::{Capability, Cx};
use crate::time::MonoTime;
use crate::wait::PollEvents;

const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// `struct msqid64_ds`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct MsqidDs {
    perm: Perm,
    stime: i64,
    rtime: i64,
    ctime: i64,
    bytes: u64,
    count: u64,
    max_bytes: u64,
    lspid: i32,
    lrpid: i32,
    unused: [u64; 2],
}

const _: () = assert!(size_of::<MsqidDs>() == 120);

pub fn sys_msgget(cx: &mut Cx, args: Args) -> Flow<'_> {
    let ipc = cx.task.ipc_objects();
    Flow::done(ipc.msg.get(cx, &ipc.limits, args.i32(0), args.u32(1)).map(|id| id as u64))
}

pub fn sys_msgsnd(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(send(cx, args))
}

async fn send(cx: &mut Cx, args: Args) -> Outcome {
    let (id, addr, len, flags) = (args.i32(0), args.u64(1), args.u64(2), args.u32(3));
    let kind = cx.mm.read_val::<i64>(addr)?;
    if len > cx.task.ipc_objects().limits.msgmax.get() || id < 0 || kind < 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0; len as usize];
    cx.mm.read(addr.wrapping_add(8), &mut bytes)?;
    let queue = cx.task.ipc_objects().msg.find(id)?;
    let mut message = Some(Message { kind, bytes });
    let nowait = flags & IPC_NOWAIT != 0;
    let cx = &*cx;
    let attempt = || queue.send(cx, &mut message).or(nowait.then_some(Err(Errno::EAGAIN)));
    let queues = [(queue.queue(), PollEvents::OUT)];
    let sent = cx.wait(&queues, MonoTime::NEVER, attempt).await;
    sent.map_err(|error| Fail::from_wait(error, Errno::EAGAIN, Restart::NoHandler))??;
    Ok(0)
}

pub fn sys_msgrcv(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(receive(cx, args))
}

async fn receive(cx: &mut Cx, args: Args) -> Outcome {
    let (id, addr, max, kind, flags) = (args.i32(0), args.u64(1), args.u64(2), args.i64(3), args.u32(4));
    if id < 0 || (max as i64) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let select = Select::new(kind, flags)?;
    let queue = cx.task.ipc_objects().msg.find(id)?;
    let nowait = flags & (IPC_NOWAIT | MSG_COPY) != 0;
    let cx = &*cx;
    let attempt = || queue.receive(cx, select, max, flags).or(nowait.then_some(Err(Errno::ENOMSG)));
    let queues = [(queue.queue(), PollEvents::IN)];
    let received = cx.wait(&queues, MonoTime::NEVER, attempt).await;
    let message = received.map_err(|error| Fail::from_wait(error, Errno::EAGAIN, Restart::NoHandler))??;
    let part = message.bytes.get(..(max as usize).min(message.bytes.len())).unwrap_or_default();
    cx.mm.write_val(addr, &message.kind)?;
    cx.mm.write(addr.wrapping_add(8), part)?;
    Ok(part.len() as u64)
}

pub fn sys_msgctl(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(control(cx, args.i32(0), args.i32(1), args.u64(2)))
}

fn control(cx: &Cx, id: i32, command: i32, addr: u64) -> Result<u64, Errno> {
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let ipc = cx.task.ipc_objects();
    let creds = cx.creds();
    match command {
        IPC_INFO | MSG_INFO => {
            let (used, max) = ipc.msg.counts();
            let totals = &ipc.msg.totals;
            let (mni, mnb) = (ipc.limits.msgmni.get(), ipc.limits.msgmnb.get());
            let [pool, map, total] = match command {
                MSG_INFO => [used as u64, totals.messages.load(Ordering::Relaxed), totals.bytes.load(Ordering::Relaxed)],
                _ => [mni.saturating_mul(mnb) / 1024, mnb, mnb],
            };
            let max_bytes = ipc.limits.msgmax.get() as i32;
            let info: [i32; 8] = [pool as i32, map as i32, max_bytes, mnb as i32, mni as i32, 16, total as i32, 0xffff];
            cx.mm.write_val(addr, &info)?;
            Ok(max)
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let queue = if command == IPC_STAT { ipc.msg.find(id)? } else { ipc.msg.at(id)? };
            if command != MSG_STAT_ANY {
                queue.state.lock().perm.check(&creds, Wanted::READ)?;
            }
            let described = describe(cx, &queue);
            cx.mm.write_val(addr, &described)?;
            Ok(if command == IPC_STAT { 0 } else { queue.id as u64 })
        }
        IPC_SET => {
            let new: MsqidDs = cx.mm.read_val(addr)?;
            let queue = ipc.msg.find(id)?;
            let mut state = queue.state.lock();
            state.perm.control(&creds)?;
            if new.max_bytes > ipc.limits.msgmnb.get() && !creds.has(Capability::SysResource) {
                return Err(Errno::EPERM);
            }
            state.perm.update(&new.perm)?;
            // Linux takes any number; what it can hold is bounded by memory.
            state.max_bytes = new.max_bytes;
            state.ctime = (cx.kernel().clock.realtime_ns() / 1_000_000_000) as i64;
            drop(state);
            // Who waits may have lost the right to, or have room now.
            queue.wake(PollEvents::IN | PollEvents::OUT);
            Ok(0)
        }
        IPC_RMID => {
            let queue = ipc.msg.find(id)?;
            queue.state.lock().perm.control(&creds)?;
            ipc.msg.remove(&queue);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn describe(cx: &Cx, queue: &Queue) -> MsqidDs {
    let state = queue.state.lock();
    MsqidDs {
        perm: state.perm,
        stime: state.stime,
        rtime: state.rtime,
        ctime: state.ctime,
        bytes: state.bytes,
        count: state.messages.len() as u64,
        max_bytes: state.max_bytes,
        lspid: cx.local(state.lspid),
        lrpid: cx.local(state.lrpid),
        unused: [0; 2],
    }
}
