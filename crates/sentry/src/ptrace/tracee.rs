//! [`Tracee`]: what a task is told by its tracer, and what it has to show.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use super::{Event, Stop};
use crate::task::{ExitStatus, SyscallWork, Task, TaskFlags, Tid};
use crate::wait::{PollEvents, WaitQueue};

bitflags::bitflags! {
    /// `PTRACE_O_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Options: u64 {
        const TRACESYSGOOD = 1;
        const TRACEFORK = 1 << 1;
        const TRACEVFORK = 1 << 2;
        const TRACECLONE = 1 << 3;
        const TRACEEXEC = 1 << 4;
        const TRACEVFORKDONE = 1 << 5;
        const TRACEEXIT = 1 << 6;
        const TRACESECCOMP = 1 << 7;
        const EXITKILL = 1 << 20;
    }
}

/// Of every task; empty when it is not traced.
#[derive(Default)]
pub struct Tracee {
    state: Mutex<State>,
    /// Woken when the tracer resumes it or wants something of it.
    pub(super) resumed: WaitQueue,
    /// Woken when it has done what the tracer wanted.
    pub(crate) served: WaitQueue,
}

/// Under the tracee's lock.
#[derive(Default)]
pub(crate) struct State {
    pub tracer: Weak<Task>,
    pub seized: bool,
    pub options: Options,
    /// It is to stop for its tracer (`JOBCTL_TRAP_STOP`: INTERRUPT, or an attach while stopped).
    pub trap: bool,
    /// A seized one is to report a change of job control (`JOBCTL_TRAP_NOTIFY`).
    pub notify: bool,
    /// `PTRACE_LISTEN`: stopped, but open for news.
    pub listening: bool,
    pub stop: Option<Stop>,
    /// A thread that is not the first has ended, and its tracer has not waited for it.
    pub ended: Option<ExitStatus>,
    /// A further `SIGKILL` has come, or its memory is wanted: not even the stop at its exit lasts.
    pub killed_again: bool,
}

impl Tracee {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Makes it look what its tracer wants.
    pub(crate) fn wake(&self) {
        self.resumed.wake(PollEvents::IN);
    }
}

impl State {
    /// Whether it is stopped for its tracer's requests.
    pub fn stopped(&self) -> Option<&Stop> {
        self.stop.as_ref().filter(|stop| stop.resume.is_none() && !self.listening)
    }

    pub fn stopped_mut(&mut self) -> Option<&mut Stop> {
        let listening = self.listening;
        self.stop.as_mut().filter(|stop| stop.resume.is_none() && !listening)
    }

    /// Whether its tracer wants to hear of an event.
    pub fn wants(&self, event: Event) -> bool {
        self.tracer.strong_count() > 0 && event.option().is_some_and(|option| self.options.contains(option))
    }
}

impl Task {
    /// Whether it has a tracer.
    pub fn traced(&self) -> bool {
        self.work().contains(SyscallWork::TRACED)
    }

    pub fn tracer(&self) -> Option<Arc<Task>> {
        if self.traced() { self.ptrace.lock().tracer.upgrade() } else { None }
    }

    /// The tracer's process, 0 if there is none (/proc/PID/status).
    pub fn tracer_pid(&self) -> Tid {
        self.tracer().map_or(0, |tracer| tracer.tgid())
    }

    /// Whether it is in a stop for its tracer.
    pub fn in_trace_stop(&self) -> bool {
        self.traced() && self.ptrace.lock().stop.as_ref().is_some_and(|stop| stop.resume.is_none())
    }

    /// Ends a stop for its tracer, and keeps the later ones short: those for a tracer too that it gets only now.
    pub(crate) fn end_trace_stops(&self) {
        self.ptrace.lock().killed_again = true;
        self.ptrace.wake();
    }

    /// Whether its tracer is told of job control by `PTRACE_EVENT_STOP`.
    pub(crate) fn seized(&self) -> bool {
        self.traced() && self.ptrace.lock().seized
    }

    /// Job control has changed: a seized tracee reports it (`ptrace_trap_notify`).
    pub(crate) fn notify_job_control(&self) {
        if self.seized() {
            self.ptrace.lock().notify = true;
            self.raise(TaskFlags::STOP);
            self.ptrace.wake();
        }
    }
}
