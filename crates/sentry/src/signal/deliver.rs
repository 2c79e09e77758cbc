//! Delivery: what a task does with its pending signals on the way back to user mode (`get_signal` of kernel/signal.c).

use super::{DefaultAction, Handling, SigAction, SigFlags, SigInfo, SigSet, Signal};
use crate::task::{Cx, Task, TaskFlags};

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
    Exit(SigInfo),
}

/// A signal that has been taken from the queues.
struct Taken {
    info: SigInfo,
    /// It acts on a container's first process too.
    forced: bool,
    /// The count of `SIGCONT`s when it was taken.
    continues: u64,
}

impl Cx {
    /// Takes pending signals until one needs something done. A tracer sees each first.
    pub(crate) async fn next_signal(&mut self) -> Delivery {
        while let Some(taken) = self.task.take_deliverable() {
            let taken = match self.task.traced() && taken.info.signal != Signal::KILL {
                false => taken,
                true => match self.trace_signal(taken.info).await {
                    Some(info) => Taken { info, ..taken },
                    // Something else may be first now.
                    None => return Delivery::None,
                },
            };
            if let Some(delivery) = self.task.deliver(&taken) {
                return delivery;
            }
        }
        Delivery::None
    }
}

impl Task {
    fn take_deliverable(&self) -> Option<Taken> {
        loop {
            let mut inner = self.group.inner.lock();
            let mut signals = self.signals.lock();
            let wanted = SigSet(!signals.blocked.0);
            let Some(mut info) = signals.pending.take(wanted).or_else(|| inner.pending.take(wanted)) else {
                self.recalculate(&inner, &signals);
                return None;
            };
            let forced = signals.forced.contains(info.signal);
            signals.forced = signals.forced.minus(SigSet(info.signal.bit()));
            self.recalculate(&inner, &signals);
            let continues = inner.stop.continues;
            drop(signals);
            drop(inner);
            if self.group.timers.delivered(&mut info) {
                return Some(Taken { info, forced, continues });
            }
        }
    }

    /// What a signal asks for; None: nothing.
    fn deliver(&self, taken: &Taken) -> Option<Delivery> {
        let info = taken.info;
        let sighand = self.group.sighand();
        let action = sighand.get(info.signal);
        match action.handling() {
            Handling::Ignore => return None,
            Handling::Call(_) => {
                if action.flags().contains(SigFlags::RESETHAND) {
                    sighand.set(info.signal, SigAction { handler: 0, ..action });
                }
                return Some(Delivery::Handler(Caught { info, action }));
            }
            Handling::Default => {}
        }
        // The first process gets only what it asked for, and what its own instructions raised.
        if self.group.is_init() && !taken.forced && !SigSet::UNBLOCKABLE.contains(info.signal) {
            return None;
        }
        match info.signal.default_action() {
            DefaultAction::Ignore | DefaultAction::Continue => None,
            DefaultAction::Stop => {
                let orphaned = info.signal != Signal::STOP && self.container.pids.is_orphaned(self.group.pgid());
                (!orphaned).then_some(Delivery::Stop { signal: info.signal, continues: taken.continues })
            }
            DefaultAction::Terminate | DefaultAction::Core => Some(Delivery::Exit(info)),
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
