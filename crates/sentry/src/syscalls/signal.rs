//! Dispositions, masks, waiting for signals, the alternate stack, the way back from a handler.

use zerocopy::IntoBytes;

use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::signal::{SigAction, SigInfo, SigSet, Signal, StackT};
use crate::task::Cx;
use crate::time::{MonoTime, Timespec};
use crate::wait::WaitError;

pub(super) fn rt_sigaction(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(sigaction(cx, args).map(|()| 0))
}

fn sigaction(cx: &Cx, args: Args) -> Result<(), Errno> {
    args.sigset_size(3)?;
    let signal = Signal::new(args.i32(0)).ok_or(Errno::EINVAL)?;
    let sighand = cx.task.group.sighand();
    let new = match args.opt_ptr(1) {
        Some(addr) => Some(cx.mm.read_val::<SigAction>(addr)?),
        None => None,
    };
    if new.is_some() && SigSet::UNBLOCKABLE.contains(signal) {
        return Err(Errno::EINVAL);
    }
    let old = match new {
        Some(mut action) => {
            action.mask = SigSet(action.mask).blockable().0;
            // Flags that the kernel does not know are not kept, so that programs can find out.
            action.flags &= 0xdc00_0807;
            let old = sighand.set(signal, action);
            if action.ignores(signal) {
                cx.task.group.discard_pending(SigSet::EMPTY.with(signal));
            }
            old
        }
        None => sighand.get(signal),
    };
    match args.opt_ptr(2) {
        Some(addr) => cx.mm.write_val(addr, &old),
        None => Ok(()),
    }
}

pub(super) fn rt_sigprocmask(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(sigprocmask(cx, args).map(|()| 0))
}

fn sigprocmask(cx: &Cx, args: Args) -> Result<(), Errno> {
    args.sigset_size(3)?;
    let old = cx.task.signals.lock().blocked;
    if let Some(addr) = args.opt_ptr(1) {
        let set = SigSet(cx.mm.read_val::<u64>(addr)?);
        let new = match args.i32(0) {
            0 => old.union(set),
            1 => old.minus(set),
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        cx.task.set_blocked(new);
    }
    match args.opt_ptr(2) {
        Some(addr) => cx.mm.write_val(addr, &old.0),
        None => Ok(()),
    }
}

pub(super) fn rt_sigpending(cx: &mut Cx, args: Args) -> Flow<'_> {
    if args.u64(1) > 8 {
        return Flow::done(Err(Errno::EINVAL));
    }
    let blocked = cx.task.signals.lock().blocked;
    let set = SigSet(cx.task.pending_signals().0 & blocked.0);
    let bytes = set.0.to_le_bytes();
    Flow::done(cx.mm.write(args.u64(0), bytes.get(..args.u64(1) as usize).unwrap_or_default()).map(|()| 0))
}

pub(super) fn rt_sigreturn(cx: &mut Cx, _: Args) -> Flow<'_> {
    let result = cx.pop_frame();
    Flow::Done(Ok(result.unwrap_or_else(|_| {
        cx.task.force_signal(SigInfo::kernel(Signal::SEGV));
        0
    })))
}

/// `restart_syscall`: restarts happen inside the sentry, so nobody is ever told to make this call.
pub(super) fn restart_syscall(_: &mut Cx, _: Args) -> Flow<'_> {
    Flow::done(Err(Errno::EINTR))
}

pub(super) fn pause(cx: &mut Cx, _: Args) -> Flow<'_> {
    Flow::wait(async move { Err(wait_for_signal(cx).await) })
}

pub(super) fn rt_sigsuspend(cx: &mut Cx, args: Args) -> Flow<'_> {
    let mask = args.sigset_size(1).and_then(|()| cx.mm.read_val::<u64>(args.u64(0)));
    match mask {
        Err(errno) => Flow::done(Err(errno)),
        Ok(mask) => {
            cx.set_temporary_mask(SigSet(mask));
            Flow::wait(async move { Err(wait_for_signal(cx).await) })
        }
    }
}

async fn wait_for_signal(cx: &Cx) -> Fail {
    let _ = cx.wait(&[], MonoTime::NEVER, || None::<()>).await;
    Fail::Restart(Restart::NoHandler)
}

pub(super) fn rt_sigtimedwait(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(sigtimedwait(cx, args))
}

async fn sigtimedwait(cx: &mut Cx, args: Args) -> Outcome {
    args.sigset_size(3)?;
    let wanted = SigSet(cx.mm.read_val::<u64>(args.u64(0))?).blockable();
    let timeout = match args.opt_ptr(2) {
        Some(addr) => Some(cx.mm.read_val::<Timespec>(addr)?.ns()?),
        None => None,
    };
    let deadline = cx.deadline(timeout);
    cx.task.signals.lock().awaited = wanted;
    let task = cx.task.clone();
    let found = cx.wait(&[], deadline, || task.take_signal(wanted)).await;
    cx.task.signals.lock().awaited = SigSet::EMPTY;
    cx.task.recheck_signals();
    let info = match found {
        Ok(info) => info,
        Err(WaitError::TimedOut) => return Err(Errno::EAGAIN.into()),
        // Linux gives EINTR even when the signal then does nothing but stop (signal(7)).
        Err(WaitError::Interrupted) => return Err(Errno::EINTR.into()),
    };
    if let Some(addr) = args.opt_ptr(1) {
        cx.mm.write(addr, &info.encode())?;
    }
    Ok(info.signal.number() as u64)
}

pub(super) fn sigaltstack(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(altstack(cx, args).map(|()| 0))
}

fn altstack(cx: &Cx, args: Args) -> Result<(), Errno> {
    let sp = cx.context.registers().rsp;
    let old = cx.task.signals.lock().alt_stack;
    if let Some(addr) = args.opt_ptr(0) {
        let new = old.change(&cx.mm.read_val::<StackT>(addr)?, sp)?;
        cx.task.signals.lock().alt_stack = new;
    }
    match args.opt_ptr(1) {
        Some(addr) => cx.mm.write(addr, old.report(sp).as_bytes()),
        None => Ok(()),
    }
}
