//! Delivery: what a task does with its pending signals on the way back to user mode (`get_signal` of kernel/signal.c).

use super::{DefaultAction, Handling, SigAction, SigFlags, SigInfo, SigSet, Signal};
use crate::task::{Cx, ExitStatus, TaskFlags, Task};

/// A signal that a handler is to be called for.
pub(crate) struct Caught {
    pub info: SigInfo,
    pub action: SigAction,
}

/// What the next pending signal asks for.
pub(crate) enum Delivery {
    /// Nothing is pending.
    None,
    /// Push a frame for this one.
    Handler(Caught),
    /// Stop the process. With the count of `SIGCONT`s when the signal was taken.
    Stop { signal: Signal, continues: u64 },
    /// End the process.
    Exit(ExitStatus),
}

impl Task {
    /// Takes pending signals until one needs something done.
    pub(crate) fn next_signal(&self) -> Delivery {
        loop {
            let mut inner = self.group.inner.lock();
            let mut signals = self.signals.lock();
            let wanted = SigSet(!signals.blocked.0);
            let Some(mut info) = signals.pending.take(wanted).or_else(|| inner.pending.take(wanted)) else {
                self.recalculate(&inner, &signals);
                return Delivery::None;
            };
            let forced = signals.forced.contains(info.signal);
            signals.forced = signals.forced.minus(SigSet(info.signal.bit()));
            self.recalculate(&inner, &signals);
            let continues = inner.stop.continues;
            drop(signals);
            drop(inner);
            if !self.group.timers.delivered(&mut info) {
                continue;
            }
            let sighand = self.group.sighand();
            let action = sighand.get(info.signal);
            match action.handling() {
                Handling::Ignore => continue,
                Handling::Call(_) => {
                    if action.flags().contains(SigFlags::RESETHAND) {
                        sighand.set(info.signal, SigAction { handler: 0, ..action });
                    }
                    return Delivery::Handler(Caught { info, action });
                }
                Handling::Default => {}
            }
            // The first process gets only what it asked for, and what its own instructions raised.
            if self.group.is_init() && !forced && !SigSet::UNBLOCKABLE.contains(info.signal) {
                continue;
            }
            match info.signal.default_action() {
                DefaultAction::Ignore | DefaultAction::Continue => continue,
                DefaultAction::Stop => {
                    if info.signal != Signal::STOP && self.container.pids.is_orphaned(self.group.pgid()) {
                        continue;
                    }
                    return Delivery::Stop { signal: info.signal, continues };
                }
                DefaultAction::Terminate | DefaultAction::Core => return Delivery::Exit(ExitStatus::killed(info.signal)),
            }
        }
    }
}

impl Cx {
    /// Sets the signal mask for the time of one call (`sigsuspend`, `ppoll`, `pselect6`, `epoll_pwait`). The old mask comes back when the call
    /// ends, or, if a handler runs, when that returns.
    pub fn set_temporary_mask(&mut self, mask: SigSet) {
        let old = self.task.set_blocked(mask);
        let mut signals = self.task.signals.lock();
        if signals.saved_mask.is_none() {
            signals.saved_mask = Some(old);
        }
        drop(signals);
        self.task.set_flags(TaskFlags::RESTORE_MASK);
    }

    /// Takes a temporary mask back.
    pub(crate) fn restore_mask(&mut self) {
        self.task.clear(TaskFlags::RESTORE_MASK);
        let saved = self.task.signals.lock().saved_mask.take();
        if let Some(mask) = saved {
            self.task.set_blocked(mask);
        }
    }
}
