//! Job control between processes: telling parents of stops, process groups and sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::pids::Pids;
use super::{Session, Task, TaskFlags, ThreadGroup, Tid, ticks};
use crate::Errno;
use crate::signal::{After, Handling, SigFlags, SigInfo, Signal, cld};
use crate::wait::{PollEvents, Share, Sleep};

/// What a parent is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopChange {
    Stopped(Signal),
    Continued,
}

/// Tells the parent that a child has stopped or continued, if `report` says so: `SIGCHLD` unless `SA_NOCLDSTOP`, and its waits. They find what
/// `report` makes known when the signal is queued, and not before. Without locks held.
pub(crate) fn notify_parent_of_stop(group: &ThreadGroup, change: StopChange, report: impl FnOnce() -> bool) {
    let pids = group.container.pids.inner.lock();
    if !report() {
        return;
    }
    let Some(parent) = pids.process(group.ppid()) else { return };
    let (code, status) = match change {
        StopChange::Stopped(signal) => (cld::STOPPED, signal.number()),
        StopChange::Continued => (cld::CONTINUED, Signal::CONT.number()),
    };
    let action = parent.sighand().get(Signal::CHLD);
    let wanted = action.handling() != Handling::Ignore && !action.flags().contains(SigFlags::NOCLDSTOP);
    let info = wanted.then(|| {
        let usage = group.own_usage();
        let (user, system) = (ticks(usage.user_ns), ticks(usage.system_ns));
        SigInfo::child(code, parent.pid_ns.local(group.tgid), parent.show_uid(group.uid()), status, user, system)
    });
    let told = Told::of(&pids, parent, info);
    drop(pids);
    told.finish();
}

/// A parent or tracer that has a child's signal queued, under the lock that waits look under: so none finds the change before the signal is there.
#[must_use]
pub(super) struct Told {
    group: Arc<ThreadGroup>,
    after: Option<After>,
}

impl Told {
    pub(super) fn of(_table: &Pids, group: Arc<ThreadGroup>, info: Option<SigInfo>) -> Told {
        let after = info.map(|info| group.send_in_table(info));
        Told { group, after }
    }

    /// Wakes its waits. Without locks held.
    pub(super) fn finish(self) {
        if let Some(after) = self.after {
            self.group.follow_up(after);
        }
        self.group.wake_waiters();
    }
}

/// Whether a task may run user code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MustStop {
    No,
    /// Its process is stopped, or its container paused.
    Wait,
    /// It has something to show its tracer: the group stop that is in effect, by its signal, or that it was asked to stop.
    Trap(Option<Signal>),
}

impl Task {
    /// The one predicate: whether the task may not run user code now, and why.
    fn must_stop(&self) -> MustStop {
        if self.container.life.paused() || self.group.cgroup().is_frozen() {
            return MustStop::Wait;
        }
        let inner = self.group.inner.lock();
        let signal = inner.stop.signal;
        if !self.traced() {
            return if signal.is_some() { MustStop::Wait } else { MustStop::No };
        }
        let state = self.ptrace.lock();
        let new_stop = signal.is_some() && self.stopped_in.load(Ordering::Relaxed) != inner.stop.epoch;
        let asked = (state.trap || state.notify) && (state.seized || signal.is_some());
        if new_stop || asked { MustStop::Trap(signal) } else { MustStop::No }
    }

    /// Counts this thread as stopped, once in each stop; the last one completes it.
    fn count_stopped(&self) {
        let mut inner = self.group.inner.lock();
        let stop = &mut inner.stop;
        if stop.signal.is_none() || self.stopped_in.swap(stop.epoch, Ordering::Relaxed) == stop.epoch {
            return;
        }
        stop.stopped_threads += 1;
        self.group.complete_stop(inner);
    }
}

impl super::Cx {
    /// Stops as long as the process is stopped or the container paused, or until the tracer lets it go on. Killable.
    pub(super) async fn stop_here(&mut self) {
        let task = self.task.clone();
        task.clear(TaskFlags::STOP);
        loop {
            match task.must_stop() {
                MustStop::No => break,
                MustStop::Trap(signal) => {
                    {
                        let mut state = task.ptrace.lock();
                        (state.trap, state.notify) = (false, false);
                    }
                    task.count_stopped();
                    self.trace_job_control(signal).await;
                }
                MustStop::Wait => {
                    task.count_stopped();
                    let wake = task.waiting(Sleep::Killable, Share::All, crate::time::MonoTime::NEVER);
                    let queues = [(&task.group.resumed, PollEvents::IN), (&task.container.life.resumed, PollEvents::IN)];
                    let epoch = task.group.inner.lock().stop.epoch;
                    let again =
                        || (task.must_stop() != MustStop::Wait || task.group.inner.lock().stop.epoch != epoch).then_some(());
                    let _ = crate::wait::wait_for(wake, &queues, again).await;
                }
            }
            if task.flags().contains(TaskFlags::KILLED) {
                return;
            }
        }
        // A trap without a reason left.
        {
            let mut state = task.ptrace.lock();
            (state.trap, state.notify) = (false, false);
        }
        task.recheck_signals();
    }
}

impl ThreadGroup {
    /// Begins a stop by `signal`, unless a `SIGCONT` has come since it was taken.
    pub(super) fn begin_stop(&self, signal: Signal, continues: u64) {
        let mut inner = self.inner.lock();
        if inner.exiting.is_some() || inner.stop.continues != continues {
            return;
        }
        if inner.stop.signal.is_none() {
            inner.stop.signal = Some(signal);
            inner.stop.epoch += 1;
            inner.stop.stopped_threads = 0;
            inner.stop.report_continued = false;
        } else {
            // Traced threads run on although the process is stopped, and stop anew.
            for task in inner.threads.iter().filter(|task| task.traced()) {
                task.stopped_in.store(0, Ordering::Relaxed);
            }
        }
        for task in &inner.threads {
            task.raise(TaskFlags::STOP);
        }
    }

    /// Completes a stop when all threads have stopped, and tells the parent.
    pub(super) fn complete_stop(&self, mut inner: parking_lot::MutexGuard<'_, super::GroupInner>) {
        let live = inner.threads.len();
        let stop = &mut inner.stop;
        let Some(signal) = stop.signal else { return };
        if stop.complete || stop.stopped_threads < live || live == 0 {
            return;
        }
        stop.complete = true;
        let epoch = stop.epoch;
        // A parent that traces it has been told by each thread.
        let tracer = inner.threads.iter().find(|task| task.is_leader()).and_then(|leader| leader.tracer());
        let told = tracer.is_some_and(|tracer| tracer.tgid() == self.ppid());
        drop(inner);
        // A `SIGCONT` may have come by now.
        let report = || {
            let stop = &mut self.inner.lock().stop;
            let holds = stop.complete && stop.epoch == epoch;
            stop.report_stopped |= holds;
            holds
        };
        if told {
            report();
        } else {
            notify_parent_of_stop(self, StopChange::Stopped(signal), report);
        }
    }

    /// Sets a process's group (`setpgid`). `caller` is the calling process.
    ///
    /// # Errors
    /// As setpgid(2).
    pub fn set_process_group(caller: &ThreadGroup, target: Tid, pgid: Tid) -> Result<(), Errno> {
        let pids = caller.container.pids.inner.lock();
        let group = pids.process(target).ok_or(Errno::ESRCH)?;
        let is_child = group.ppid() == caller.tgid;
        if target != caller.tgid && !is_child {
            return Err(Errno::ESRCH);
        }
        let sid = caller.session.read().sid;
        if group.session.read().sid != sid {
            return Err(Errno::EPERM);
        }
        if is_child && target != caller.tgid && group.has_execed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
        if group.session.read().sid == target {
            return Err(Errno::EPERM);
        }
        if pgid != target && !pids.members(pgid).any(|member| member.session.read().sid == sid) {
            return Err(Errno::EPERM);
        }
        group.pgid.store(pgid, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the process the leader of a new session and group (`setsid`).
    ///
    /// # Errors
    /// `EPERM` when it leads a process group already.
    pub fn new_session(&self) -> Result<Tid, Errno> {
        let pids = self.container.pids.inner.lock();
        if pids.members(self.tgid).next().is_some() || self.session.read().sid == self.tgid {
            return Err(Errno::EPERM);
        }
        *self.session.write() = Session::new(self.tgid);
        self.pgid.store(self.tgid, Ordering::Relaxed);
        Ok(self.tgid)
    }
}
