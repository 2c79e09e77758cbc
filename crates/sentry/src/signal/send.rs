//! Sending signals: what a signal does before anybody looks at it (`prepare_signal` and `complete_signal` of Linux's
//! kernel/signal.c).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Charge, DefaultAction, Handling, SigInfo, SigSet, Signal, TaskSignals};
use crate::Errno;
use crate::task::{ExitStatus, GroupInner, PidTable, Resource, Task, TaskFlags, ThreadGroup, Tid, jobs};
use crate::wait::PollEvents;

/// Where a signal comes from: a container's first process is protected from signals it has no handler for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A process of the container.
    Inside,
    /// Outside the container: `SIGKILL` and `SIGSTOP` work on the first process too.
    Outside,
    /// The kernel, for a reason that cannot be ignored; or a user outside, for whom the first process is the only one.
    Forced,
}

/// What is left to do when the group's lock has been released, and the `PidTable`'s.
#[derive(Default)]
#[must_use]
pub(crate) struct After {
    /// Tell the parent that the process has continued (or had stopped).
    continued: bool,
    wake: bool,
    /// Traced threads that hear of the end of a stop.
    notify: Vec<Arc<Task>>,
}

impl ThreadGroup {
    /// Sends a signal to the process; one of its threads takes it. No permission check.
    ///
    /// # Errors
    /// `EAGAIN` when a realtime signal with information cannot be queued (`RLIMIT_SIGPENDING`).
    pub fn send_signal(&self, info: SigInfo) -> Result<(), Errno> {
        self.send_signal_from(info, Origin::Inside)
    }

    /// As [`send_signal`](ThreadGroup::send_signal), for a sender that is not in the container.
    ///
    /// # Errors
    /// As `send_signal`.
    pub fn send_signal_from(&self, info: SigInfo, origin: Origin) -> Result<(), Errno> {
        self.send(info, None, origin)
    }

    /// Signals pending for the process as a whole (/proc/PID/status).
    pub fn pending_signals(&self) -> SigSet {
        self.inner.lock().pending.set()
    }

    /// Sends a signal under the `PidTable`'s lock, so that no wait sees what it tells of before it is queued.
    pub(crate) fn send_in_table(&self, info: SigInfo) -> After {
        self.post(info, None, Origin::Inside).0
    }

    fn send(&self, info: SigInfo, target: Option<&Task>, origin: Origin) -> Result<(), Errno> {
        let (after, result) = self.post(info, target, origin);
        self.follow_up(after);
        result
    }

    fn post(&self, info: SigInfo, target: Option<&Task>, origin: Origin) -> (After, Result<(), Errno>) {
        let mut after = After::default();
        let mut inner = self.inner.lock();
        if inner.ended.is_some() || (inner.exiting.is_some() && info.signal != Signal::KILL) {
            return (after, Ok(()));
        }
        self.job_control(&mut inner, info.signal, &mut after);
        let result = if self.ignored(&inner, info.signal, target, origin) {
            Ok(())
        } else {
            after.wake = true;
            self.queue(&mut inner, info, target, origin)
        };
        (after, result)
    }

    /// Does what a signal has left to do. Without locks held.
    pub(crate) fn follow_up(&self, after: After) {
        for task in after.notify {
            task.notify_job_control();
        }
        if after.continued {
            jobs::notify_parent_of_stop(self, jobs::StopChange::Continued, || true);
        }
        if after.wake {
            self.signal_sent.wake(PollEvents::IN);
        }
    }

    /// Stop signals and `SIGCONT` cancel each other; `SIGCONT` ends a stop.
    fn job_control(&self, inner: &mut GroupInner, signal: Signal, after: &mut After) {
        if SigSet::STOPS.contains(signal) {
            discard(inner, SigSet(Signal::CONT.bit()));
        } else if signal == Signal::CONT {
            discard(inner, SigSet::STOPS);
            inner.stop.continues += 1;
            if inner.stop.signal.take().is_some() {
                inner.stop.epoch += 1;
                inner.stop.stopped_threads = 0;
                inner.stop.report_stopped = false;
                after.notify = inner.threads.iter().filter(|task| task.traced()).cloned().collect();
                if std::mem::take(&mut inner.stop.complete) {
                    inner.stop.report_continued = true;
                    after.continued = true;
                }
                self.resumed.wake(PollEvents::IN);
            }
        }
    }

    /// `sig_ignored`: a signal that would do nothing is not even queued, unless it is blocked (its disposition may change).
    fn ignored(&self, inner: &GroupInner, signal: Signal, target: Option<&Task>, origin: Origin) -> bool {
        let blocks = |task: &Task| task.signals.lock().blocked.contains(signal);
        let blocked = match target {
            Some(task) => blocks(task),
            None => inner.threads.first().is_some_and(|task| blocks(task)),
        };
        if blocked && signal != Signal::KILL {
            return false;
        }
        // A tracer hears of ignored signals too.
        let traced = target.map_or_else(|| inner.threads.first().is_some_and(|task| task.traced()), Task::traced);
        if traced && signal != Signal::KILL {
            return false;
        }
        let action = self.sighand.read().get(signal);
        let unkillable = self.is_init() && action.handling() == Handling::Default;
        let forced = match origin {
            Origin::Inside => false,
            Origin::Outside => SigSet::UNBLOCKABLE.contains(signal),
            Origin::Forced => true,
        };
        action.ignores(signal) || (unkillable && !forced)
    }

    fn queue(&self, inner: &mut GroupInner, info: SigInfo, target: Option<&Task>, origin: Origin) -> Result<(), Errno> {
        let signal = info.signal;
        if signal == Signal::KILL {
            for task in inner.threads.iter().filter(|task| task.traced() && task.flags().contains(TaskFlags::KILLED)) {
                task.end_trace_stops();
            }
            inner.begin_exit(ExitStatus::killed(signal));
            return Ok(());
        }
        let limit = self.rlimit(Resource::Sigpending).soft;
        let uid = target.or(inner.threads.first().map(|task| &**task)).map_or(0, |task| task.creds().uid);
        let counter = self.container.queued_signals.of(uid);
        let queued = match target {
            Some(task) => push(&mut task.signals.lock().pending, info, limit, &counter),
            None => push(&mut inner.pending, info, limit, &counter),
        };
        if !queued? {
            return Ok(());
        }
        let Some(taker) = self.choose(inner, signal, target) else { return Ok(()) };
        let action = self.sighand.read().get(signal);
        let fatal = action.handling() == Handling::Default
            // Those that dump core are left to the thread that takes them.
            && signal.default_action() == DefaultAction::Terminate
            && !taker.traced()
            && (!self.is_init() || origin == Origin::Forced)
            && !taker.signals.lock().awaited.contains(signal);
        if fatal {
            inner.begin_exit(ExitStatus::killed(signal));
        } else {
            taker.raise(TaskFlags::SIGNAL);
        }
        Ok(())
    }

    /// Linux's choice: the thread it was sent to, or the first that does not block it and has nothing to do yet.
    fn choose(&self, inner: &GroupInner, signal: Signal, target: Option<&Task>) -> Option<Arc<Task>> {
        if inner.stop.signal.is_some() && !inner.threads.iter().any(|task| task.traced()) {
            // Stopped threads look for themselves when they go on. (Traced ones may run all the same.)
            return None;
        }
        let wants = |task: &Task| {
            let signals = task.signals.lock();
            !signals.blocked.contains(signal) || signals.awaited.contains(signal)
        };
        let mut threads = inner.threads.iter();
        match target {
            Some(target) => threads.find(|task| std::ptr::eq(Arc::as_ptr(task), target) && wants(task)).cloned(),
            None => {
                let idle = inner.threads.iter().find(|task| !task.flags().contains(TaskFlags::SIGNAL) && wants(task));
                idle.or_else(|| threads.find(|task| wants(task))).cloned()
            }
        }
    }

    /// Whether it is the first process of its pid namespace.
    pub fn is_init(&self) -> bool {
        self.pid_ns.local(self.tgid) == 1
    }
}

impl GroupInner {
    /// Begins the end of the process: all threads are told to leave. The first status counts.
    pub(crate) fn begin_exit(&mut self, status: ExitStatus) {
        if self.exiting.is_none() {
            self.exiting = Some(status);
        }
        for task in &self.threads {
            task.raise(TaskFlags::KILLED);
        }
    }

    /// No thread waits for its tracer any more, not even at its exit.
    pub(crate) fn end_trace_stops(&self) {
        self.threads.iter().for_each(|task| task.end_trace_stops());
    }
}

impl ThreadGroup {
    /// Drops pending signals of the process and its threads: they are ignored from now on.
    pub(crate) fn discard_pending(&self, which: SigSet) {
        discard(&mut self.inner.lock(), which);
    }
}

fn discard(inner: &mut GroupInner, which: SigSet) {
    inner.pending.discard(which);
    for task in &inner.threads {
        task.signals.lock().pending.discard(which);
    }
}

/// Queues a signal. False when it is merged with a pending one. Above the limit of the receiver's user, realtime signals are refused, and others
/// lose their information; those of the kernel and of `kill` are marked in any case.
fn push(pending: &mut super::Pending, info: SigInfo, limit: u64, counter: &Arc<AtomicUsize>) -> Result<bool, Errno> {
    let full = counter.load(Ordering::Relaxed) as u64 >= limit;
    // SI_USER is 0, the kernel's codes are positive.
    if full && (info.signal.is_realtime() || info.code < 0) {
        if info.signal.is_realtime() && info.code < 0 {
            return Err(Errno::EAGAIN);
        }
        let pending_already = pending.set().contains(info.signal) && !info.signal.is_realtime();
        pending.push_bare(info.signal);
        return Ok(!pending_already);
    }
    Ok(pending.push(info, Charge::new(counter)))
}

impl Task {
    /// Sends a signal to this thread. No permission check.
    ///
    /// # Errors
    /// As [`ThreadGroup::send_signal`].
    pub fn send_signal(&self, info: SigInfo) -> Result<(), Errno> {
        self.send_signal_from(info, Origin::Inside)
    }

    /// As [`send_signal`](Task::send_signal), for a sender that may be outside of its pid namespace.
    ///
    /// # Errors
    /// As `send_signal`.
    pub fn send_signal_from(&self, info: SigInfo, origin: Origin) -> Result<(), Errno> {
        self.group.send(info, Some(self), origin)
    }

    /// Sends a signal that this thread cannot refuse (a fault of its own): if it is blocked or ignored, the default action is
    /// taken.
    pub fn force_signal(&self, info: SigInfo) {
        let inner = self.group.inner.lock();
        let sighand = self.group.sighand();
        let action = sighand.get(info.signal);
        {
            let mut signals = self.signals.lock();
            let blocked = signals.blocked.contains(info.signal);
            if blocked || action.handling() == Handling::Ignore {
                sighand.set(info.signal, super::SigAction::default());
            }
            signals.blocked = signals.blocked.minus(SigSet(info.signal.bit()));
            signals.forced = signals.forced.with(info.signal);
            let counter = self.container.queued_signals.of(self.creds().uid);
            signals.pending.push(info, Charge::new(&counter));
        }
        self.raise(TaskFlags::SIGNAL);
        drop(inner);
    }

    /// `SIGPIPE` to this thread, as a write to a broken pipe sends it.
    pub fn send_sigpipe(&self) {
        let _ = self.send_signal(SigInfo::user(Signal::PIPE, self.tgid(), self.creds().uid));
    }

    /// Changes the mask of blocked signals, and looks whether that lets a pending one through. Returns the old mask.
    pub(crate) fn set_blocked(&self, mask: SigSet) -> SigSet {
        let inner = self.group.inner.lock();
        let mut signals = self.signals.lock();
        let old = std::mem::replace(&mut signals.blocked, mask.blockable());
        self.recalculate(&inner, &signals);
        old
    }

    /// Sets [`TaskFlags::SIGNAL`] by what is pending and not blocked.
    pub(crate) fn recalculate(&self, inner: &GroupInner, signals: &TaskSignals) {
        let pending = signals.pending.set().union(inner.pending.set());
        if pending.minus(signals.blocked) == SigSet::EMPTY {
            self.clear(TaskFlags::SIGNAL);
        } else {
            self.set_flags(TaskFlags::SIGNAL);
        }
    }

    /// Looks for pending signals anew.
    pub(crate) fn recheck_signals(&self) {
        let inner = self.group.inner.lock();
        let signals = self.signals.lock();
        self.recalculate(&inner, &signals);
    }

    /// Takes a pending signal out of `wanted` (signalfd, `sigtimedwait`), the thread's own first.
    pub fn take_signal(&self, wanted: SigSet) -> Option<SigInfo> {
        let mut inner = self.group.inner.lock();
        let mut signals = self.signals.lock();
        let info = signals.pending.take(wanted).or_else(|| inner.pending.take(wanted));
        self.recalculate(&inner, &signals);
        drop(signals);
        drop(inner);
        let mut info = info?;
        // A deleted timer's signal goes with the timer.
        self.group.timers.delivered(&mut info).then_some(info)
    }

    /// All signals pending for the thread, its own and its process's.
    pub fn pending_signals(&self) -> SigSet {
        let inner = self.group.inner.lock();
        let signals = self.signals.lock();
        signals.pending.set().union(inner.pending.set())
    }

    /// The thread's own pending signals, and those it blocks (/proc/PID/status).
    pub fn own_signals(&self) -> (SigSet, SigSet) {
        let signals = self.signals.lock();
        (signals.pending.set(), signals.blocked)
    }
}

impl PidTable {
    /// Sends a signal to all processes of a process group (a terminal's Ctrl-C). Returns to how many. No permission check.
    pub fn signal_process_group(&self, pgid: Tid, info: SigInfo) -> usize {
        self.broadcast(|| self.process_group(pgid).iter().filter(|group| group.send_signal(info).is_ok()).count())
    }
}

/// What a terminal does with a background process that reads or (with `TOSTOP`) writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Background {
    /// The signal was sent to its process group: the call is to be restarted (`Restart::Sys`).
    Signalled,
    /// It ignores or blocks the signal: reading gives `EIO`, writing proceeds.
    Ignored,
    /// Its process group is orphaned: both give `EIO`.
    Orphaned,
}

impl Task {
    /// `SIGTTIN` or `SIGTTOU` for a process outside the foreground group (`__tty_check_change`, `job_control`).
    pub fn signal_background(self: &Arc<Task>, signal: Signal) -> Background {
        let blocked = self.signals.lock().blocked.contains(signal);
        if blocked || self.group.sighand().get(signal).handling() == Handling::Ignore {
            return Background::Ignored;
        }
        let pgid = self.group.pgid();
        if self.container.pids.is_orphaned(pgid) {
            return Background::Orphaned;
        }
        self.container.pids.signal_process_group(pgid, SigInfo::kernel(signal));
        Background::Signalled
    }
}
