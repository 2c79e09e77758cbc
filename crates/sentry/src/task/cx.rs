//! [`Cx`]: a task's own side, passed to every handler.

use std::sync::Arc;

use platform::{Context, ExecutorId, Syscall, XState};

use super::oom::Shortage;
use super::{Creds, ExitStatus, Resource, Shared, Task, ThreadGroup, Tid};
use crate::Errno;
use crate::fs::{FdTable, File, FsContext};
use crate::kernel::Kernel;
use crate::mm::Mm;
use crate::signal::{LastFault, SigInfo};
use crate::syscalls::Restart;
use crate::time::MonoTime;
use crate::wait::{Deadline, PollEvents, Share, Sleep, Wait, WaitError, WaitFor, WaitQueue, wait_for};

/// A running task.
pub struct Cx {
    pub task: Arc<Task>,
    pub mm: Arc<Mm>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
    pub context: Box<dyn Context>,
    /// The absolute deadline of the current call, kept over its restarts.
    deadline: Option<MonoTime>,
    /// The executor it runs on.
    pub(crate) executor: ExecutorId,
    pub(crate) last_fault: LastFault,
    /// Set by `exit`: the thread ends when the call returns.
    pub(crate) exit: Option<ExitStatus>,
    /// Set by a seccomp filter: the process ends by this signal when the call returns.
    pub(crate) fatal: Option<SigInfo>,
    /// A system call that was cut short, and may have to be run again.
    pub(super) cut_short: Option<CutShort>,
    /// The kind of restart that the current call is.
    pub(super) rerun: Option<Restart>,
    /// Where memory was short last.
    pub(super) shortage: Shortage,
}

/// A system call that was cut short.
pub(super) struct CutShort {
    pub call: Syscall,
    pub restart: Restart,
}

impl Cx {
    pub fn new(task: Arc<Task>, shared: Shared, context: Box<dyn Context>) -> Cx {
        Cx {
            task,
            mm: shared.mm,
            files: shared.files,
            fs: shared.fs,
            context,
            deadline: None,
            executor: ExecutorId(0),
            last_fault: LastFault::default(),
            exit: None,
            fatal: None,
            cut_short: None,
            rerun: None,
            shortage: Shortage::default(),
        }
    }

    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.task.kernel
    }

    pub fn creds(&self) -> Arc<Creds> {
        self.task.creds()
    }

    /// The live thread of a number, as the caller sees numbers.
    pub fn find_task(&self, tid: Tid) -> Option<Arc<Task>> {
        self.task.container.pids.task(self.task.group.pid_ns.global(tid)?)
    }

    /// The process of a number, also a zombie, as the caller sees numbers.
    pub fn find_process(&self, pid: Tid) -> Option<Arc<ThreadGroup>> {
        self.task.container.pids.process(self.task.group.pid_ns.global(pid)?)
    }

    /// The process that a thread's or process's number belongs to, also a zombie, as the caller sees numbers.
    pub fn find_process_of(&self, tid: Tid) -> Option<Arc<ThreadGroup>> {
        self.task.container.pids.process_of(self.task.group.pid_ns.global(tid)?)
    }

    /// A number of the container as the caller sees it; 0 where it does not.
    pub fn local(&self, number: Tid) -> Tid {
        self.task.group.pid_ns.local(number)
    }

    /// The open file of a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn file(&self, fd: i32) -> Result<Arc<File>, Errno> {
        self.files.get(fd)
    }

    /// One past the largest descriptor number (`RLIMIT_NOFILE`).
    pub fn fd_limit(&self) -> usize {
        usize::try_from(self.task.rlimit(Resource::Nofile).soft).unwrap_or(usize::MAX)
    }

    /// The extended processor state.
    ///
    /// # Errors
    /// `ESRCH` when the thread is gone; its next switch reports that.
    pub(crate) async fn xstate(&mut self) -> Result<XState, Errno> {
        let (context, executor) = (&mut self.context, self.executor);
        std::future::poll_fn(|poll| context.poll_xstate(poll, executor)).await.map_err(|_| Errno::ESRCH)
    }

    /// The call that is to be run again, by its number.
    pub(crate) fn cut_short(&self) -> Option<(u64, Restart)> {
        self.cut_short.as_ref().map(|cut| (cut.call.number, cut.restart))
    }

    pub(crate) fn set_cut_short(&mut self, cut: Option<(Syscall, Restart)>) {
        self.cut_short = cut.map(|(call, restart)| CutShort { call, restart });
    }

    /// Monotonic time now.
    pub fn now(&self) -> MonoTime {
        self.task.kernel.clock.monotonic()
    }

    /// The deadline of this call: `timeout_ns` from now, or, when the call is being restarted, what it was the first time. None is
    /// no deadline.
    pub fn deadline(&mut self, timeout_ns: Option<u64>) -> MonoTime {
        match (timeout_ns, self.deadline) {
            (None, _) => MonoTime::NEVER,
            (Some(_), Some(kept)) => kept,
            (Some(timeout_ns), None) => {
                let deadline = self.now().after(timeout_ns);
                self.deadline = Some(deadline);
                deadline
            }
        }
    }

    /// Forgets the deadline: a new call begins.
    pub fn clear_deadline(&mut self) {
        self.deadline = None;
    }

    /// Waits for `attempt` to give a value; it is tried now and after each event of `queues`. Interruptible.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait<'a, T, F>(
        &'a self,
        queues: &'a [(&'a WaitQueue, PollEvents)],
        deadline: MonoTime,
        attempt: F,
    ) -> impl Future<Output = Result<T, WaitError>> + Send + use<'a, T, F>
    where
        T: Send,
        F: FnMut() -> Option<T> + Unpin + Send,
    {
        wait_for(self.task.waiting(Sleep::Interruptible, Share::All, deadline), queues, attempt)
    }
}

impl Task {
    /// The parameters of a wait by this task.
    pub fn waiting(&self, sleep: Sleep, share: Share, deadline: MonoTime) -> Wait<'_> {
        let deadline = Deadline { at: deadline, clock: &self.kernel.clock, timers: self.kernel.scheduler.timers() };
        Wait { who: self, sleep, share, deadline: (deadline.at != MonoTime::NEVER).then_some(deadline) }
    }

    /// Waits so that only a fatal signal ends the wait early; see [`wait_for`].
    pub fn wait_killable<'a, T, F>(&'a self, queues: &'a [(&'a WaitQueue, PollEvents)], attempt: F) -> WaitFor<'a, F>
    where
        F: FnMut() -> Option<T> + Unpin,
    {
        wait_for(self.waiting(Sleep::Killable, Share::All, MonoTime::NEVER), queues, attempt)
    }
}
