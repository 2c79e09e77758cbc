//! `futex` and the robust list.

use std::sync::atomic::Ordering;

use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::ipc::futex::pi::{self, Trying};
use crate::ipc::futex::{self, Missed, Scope, requeue_pi};
use crate::task::Cx;
use crate::time::{MonoTime, Timespec};

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAKE_OP: u32 = 5;
const LOCK_PI: u32 = 6;
const UNLOCK_PI: u32 = 7;
const TRYLOCK_PI: u32 = 8;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
const WAIT_REQUEUE_PI: u32 = 11;
const CMP_REQUEUE_PI: u32 = 12;
const LOCK_PI2: u32 = 13;
const PRIVATE: u32 = 128;
const CLOCK_REALTIME: u32 = 256;

pub(super) fn futex(cx: &mut Cx, args: Args) -> Flow<'_> {
    let operation = args.u32(1);
    let scope = if operation & PRIVATE != 0 { Scope::Private } else { Scope::Shared };
    let addr = args.u64(0);
    let count = |n: usize| usize::try_from(args.i32(n)).map_err(|_| Errno::EINVAL);
    // Linux wakes one even when asked for none, or for a negative number.
    let wake_count = args.i32(2).max(1) as usize;
    if operation & CLOCK_REALTIME != 0 && !matches!(operation & 127, WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2) {
        return Flow::done(Err(Errno::ENOSYS));
    }
    let result = match operation & 127 {
        WAIT | WAIT_BITSET => return Flow::wait(wait(cx, args, scope)),
        LOCK_PI | LOCK_PI2 | TRYLOCK_PI => return Flow::wait(lock_pi(cx, args, scope)),
        WAIT_REQUEUE_PI => return Flow::wait(wait_requeue_pi(cx, args, scope)),
        UNLOCK_PI => pi::unlock(cx, addr, scope).map(|()| 0),
        CMP_REQUEUE_PI => {
            count(3).and_then(|most| requeue_pi::requeue(cx, addr, args.u64(4), scope, args.i32(2), most, args.u32(5)))
        }
        WAKE => futex::wake(cx, addr, scope, wake_count, u32::MAX),
        WAKE_BITSET if args.u32(5) == 0 => Err(Errno::EINVAL),
        WAKE_BITSET => futex::wake(cx, addr, scope, wake_count, args.u32(5)),
        REQUEUE | CMP_REQUEUE => count(2).and_then(|wake| {
            let expected = (operation & 127 == CMP_REQUEUE).then(|| args.u32(5));
            futex::requeue(cx, (addr, scope), (args.u64(4), scope), wake, count(3)?, expected)
        }),
        WAKE_OP => count(3).and_then(|wake2| futex::wake_op(cx, addr, args.u64(4), scope, wake_count, wake2, args.u32(5))),
        _ => Err(Errno::ENOSYS),
    };
    Flow::done(result.map(|n| n as u64))
}

async fn wait(cx: &mut Cx, args: Args, scope: Scope) -> Outcome {
    let operation = args.u32(1);
    let timeout = match args.opt_ptr(3) {
        Some(addr) => Some(cx.mm.read_val::<Timespec>(addr)?.ns()?),
        None => None,
    };
    let absolute = operation & 127 == WAIT_BITSET;
    let bitset = if absolute { args.u32(5) } else { u32::MAX };
    if bitset == 0 {
        return Err(Errno::EINVAL.into());
    }
    let deadline = match timeout {
        None => MonoTime::NEVER,
        Some(at) if absolute => absolute_deadline(cx, operation & CLOCK_REALTIME != 0, at),
        Some(ns) => cx.deadline(Some(ns)),
    };
    let restart = if timeout.is_some() { Restart::Block } else { Restart::Sys };
    match futex::wait(cx, args.u64(0), scope, args.u32(2), bitset, deadline).await {
        Ok(()) => Ok(0),
        Err(Missed::Failed(errno)) => Err(errno.into()),
        Err(Missed::Cut(error)) => Err(Fail::from_wait(error, Errno::ETIMEDOUT, restart)),
    }
}

/// An absolute time as a deadline; kept over restarts.
pub(super) fn absolute_deadline(cx: &mut Cx, realtime: bool, at_ns: u64) -> MonoTime {
    if !realtime {
        return MonoTime(at_ns);
    }
    let left = at_ns.saturating_sub(cx.kernel().clock.realtime_ns());
    cx.deadline(Some(left))
}

/// The time-out of the calls below: absolute, if there is one.
fn absolute_timeout(cx: &mut Cx, addr: Option<u64>, realtime: bool) -> Result<MonoTime, Errno> {
    let Some(addr) = addr else { return Ok(MonoTime::NEVER) };
    let at = cx.mm.read_val::<Timespec>(addr)?.ns()?;
    Ok(absolute_deadline(cx, realtime, at))
}

/// A wait that is always made again after a signal, or that a time-out ends.
fn inherited(result: Result<(), Missed>) -> Outcome {
    match result {
        Ok(()) => Ok(0),
        Err(Missed::Failed(errno)) => Err(errno.into()),
        Err(Missed::Cut(error)) => Err(Fail::from_wait(error, Errno::ETIMEDOUT, Restart::Always)),
    }
}

async fn lock_pi(cx: &mut Cx, args: Args, scope: Scope) -> Outcome {
    let operation = args.u32(1);
    if operation & 127 == TRYLOCK_PI {
        return inherited(pi::lock(cx, args.u64(0), scope, MonoTime::NEVER, Trying::Once).await);
    }
    let realtime = operation & 127 == LOCK_PI || operation & CLOCK_REALTIME != 0;
    let deadline = absolute_timeout(cx, args.opt_ptr(3), realtime)?;
    inherited(pi::lock(cx, args.u64(0), scope, deadline, Trying::Waits).await)
}

async fn wait_requeue_pi(cx: &mut Cx, args: Args, scope: Scope) -> Outcome {
    let deadline = absolute_timeout(cx, args.opt_ptr(3), args.u32(1) & CLOCK_REALTIME != 0)?;
    inherited(requeue_pi::wait(cx, args.u64(0), args.u64(4), scope, args.u32(2), deadline).await)
}

/// `sizeof(struct robust_list_head)`.
const ROBUST_HEAD: u64 = 24;

pub(super) fn set_robust_list(cx: &mut Cx, args: Args) -> Flow<'_> {
    if args.u64(1) != ROBUST_HEAD {
        return Flow::done(Err(Errno::EINVAL));
    }
    cx.task.robust_list.store(args.u64(0), Ordering::Relaxed);
    Flow::Done(Ok(0))
}

pub(super) fn get_robust_list(cx: &mut Cx, args: Args) -> Flow<'_> {
    let task = match args.i32(0) {
        0 => Some(cx.task.clone()),
        tid => cx.find_task(tid),
    };
    Flow::done(task.ok_or(Errno::ESRCH).and_then(|task| {
        super::process_vm::may_inspect(cx, &task)?;
        cx.mm.write_val(args.u64(1), &task.robust_list.load(Ordering::Relaxed))?;
        cx.mm.write_val(args.u64(2), &ROBUST_HEAD)?;
        Ok(0)
    }))
}
