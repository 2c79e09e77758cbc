//! [`ContainerLife`]: whether a container's processes run, are paused, are being killed, or are gone.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::trace_output::TraceOutput;
use super::{ExitStatus, OnExit, TaskFlags, Tid};
use crate::kernel::Container;
use crate::wait::{PollEvents, WaitQueue};

/// The life of a container as a whole.
#[derive(Default)]
pub struct ContainerLife {
    /// The number of its first process; 0 before there is one.
    first: AtomicI32,
    paused: AtomicBool,
    /// Its first process has ended, and everything in it is being killed: no new tasks.
    ending: AtomicBool,
    /// Tasks that have left the tables and still have others to tell.
    pub(super) leaving: AtomicUsize,
    state: Mutex<State>,
    /// Woken when a pause ends.
    pub(super) resumed: WaitQueue,
    /// Print each system call (`--strace`).
    pub strace: AtomicBool,
    strace_output: Mutex<Option<TraceOutput>>,
}

#[derive(Default)]
struct State {
    init_status: Option<ExitStatus>,
    exited: Option<ExitStatus>,
    on_exit: Vec<OnExit>,
}

impl ContainerLife {
    pub fn paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Where traces of system calls go; None: the log.
    pub fn set_strace_output(&self, output: Option<OwnedFd>) {
        *self.strace_output.lock() = output.map(TraceOutput::new);
    }

    /// Writes one line of a trace.
    pub fn trace(&self, line: &str) {
        match &mut *self.strace_output.lock() {
            Some(output) => output.write(line),
            None => tracing::info!(target: "strace", "{line}"),
        }
    }

    /// A process is made in it from outside; the first one is the container's own.
    pub(super) fn begin(&self, tgid: Tid) {
        let _ = self.first.compare_exchange(0, tgid, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The number of its own process.
    pub(super) fn first(&self) -> Tid {
        self.first.load(Ordering::SeqCst)
    }

    /// Whether its first process has ended.
    pub fn ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Its first process's status, once all its tasks are gone.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.state.lock().exited
    }

    /// Calls `then` when all tasks are gone, with the first process's status (at once if they are).
    pub fn on_exit(&self, then: OnExit) {
        let mut state = self.state.lock();
        match state.exited {
            Some(status) => {
                drop(state);
                then(status);
            }
            None => state.on_exit.push(then),
        }
    }

    pub(super) fn init_ended(&self, status: ExitStatus) {
        self.state.lock().init_status = Some(status);
        self.ending.store(true, Ordering::SeqCst);
    }

    /// The last task is gone.
    pub(super) fn emptied(&self) {
        let mut state = self.state.lock();
        let Some(status) = state.init_status else { return };
        if state.exited.replace(status).is_some() {
            return;
        }
        let waiting = std::mem::take(&mut state.on_exit);
        drop(state);
        for then in waiting {
            then(status);
        }
    }
}

impl Container {
    /// Stops all its tasks, until [`resume`](Container::resume). They stop within a moment.
    pub fn pause(&self) {
        self.life.paused.store(true, Ordering::SeqCst);
        for task in self.tasks() {
            task.raise(TaskFlags::STOP);
        }
    }

    /// Lets its tasks go on.
    pub fn resume(&self) {
        self.oom.begin_again();
        self.life.paused.store(false, Ordering::SeqCst);
        self.life.resumed.wake(PollEvents::IN);
    }
}
