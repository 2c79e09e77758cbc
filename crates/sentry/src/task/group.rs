//! [`ThreadGroup`]: a guest process.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::{ExitStatus, Limit, Resource, Rlimits, Session, Task, Tid, Usage};
use crate::cgroup::Cgroup;
use crate::coredump::Gathering;
use crate::fs::File;
use crate::kernel::Container;
use crate::ns::PidNs;
use crate::signal::{Pending, SigHand, Signal};
use crate::time::ProcessTimers;
use crate::wait::WaitQueue;

/// What the threads of a process share.
pub struct ThreadGroup {
    /// The process number: the tid of its first thread.
    pub tgid: Tid,
    pub container: Arc<Container>,
    /// The pid namespace it lives in.
    pub pid_ns: PidNs,
    pub(super) cgroup: RwLock<Arc<Cgroup>>,
    pub rlimits: RwLock<Rlimits>,
    pub(crate) sighand: RwLock<Arc<SigHand>>,
    pub(crate) inner: Mutex<GroupInner>,
    /// Its place in the process tree; written under the `PidTable`'s lock.
    pub(super) ppid: AtomicI32,
    pub(super) pgid: AtomicI32,
    pub(super) session: RwLock<Arc<Session>>,
    /// Woken when a child stops, continues or ends.
    pub(super) child_changed: WaitQueue,
    /// Woken when the process has ended (pidfds, exec'd processes).
    pub exit_queue: WaitQueue,
    /// Woken when a signal has been queued for it or one of its threads (signalfd).
    pub signal_sent: WaitQueue,
    /// Woken when a stop ends.
    pub(crate) resumed: WaitQueue,
    /// Woken when a thread has gone (exec waits for its siblings).
    pub(super) thread_gone: WaitQueue,
    /// Orphans of descendants come here (`PR_SET_CHILD_SUBREAPER`).
    pub(super) subreaper: AtomicBool,
    /// `PR_SET_DUMPABLE`.
    pub(crate) dumpable: AtomicI32,
    pub(crate) personality: AtomicU64,
    /// /proc/PID/coredump_filter.
    pub(crate) coredump_filter: AtomicU32,
    pub(crate) flags: KeptFlags,
    /// /proc/PID/oom_score_adj.
    pub oom_score_adj: AtomicI32,
    /// It has been waited for: no number is its any more.
    pub(super) reaped: AtomicBool,
    /// Whether it has run exec since it was forked (`setpgid` on a child gives `EACCES`).
    pub(super) has_execed: AtomicBool,
    /// The real user id of the thread that ended last.
    pub(super) last_uid: AtomicU32,
    /// The program it runs (/proc/PID/exe).
    pub exe: Mutex<Option<Arc<File>>>,
    /// POSIX timers and interval timers.
    pub(crate) timers: ProcessTimers,
    /// Monotonic start time in nanoseconds.
    pub start_ns: u64,
    /// Used by its threads that have ended, and by waited-for children.
    pub(super) usage: Mutex<GroupUsage>,
}

/// What `prctl` keeps and reports, and nothing here acts on.
pub(crate) struct KeptFlags {
    /// `PR_MCE_KILL`.
    pub machine_checks: AtomicU32,
    pub thp_disabled: AtomicBool,
    pub io_flusher: AtomicBool,
}

impl KeptFlags {
    /// A child's: a copy.
    pub fn duplicate(&self) -> KeptFlags {
        KeptFlags {
            machine_checks: AtomicU32::new(self.machine_checks.load(Ordering::Relaxed)),
            thp_disabled: AtomicBool::new(self.thp_disabled.load(Ordering::Relaxed)),
            io_flusher: AtomicBool::new(self.io_flusher.load(Ordering::Relaxed)),
        }
    }
}

impl Default for KeptFlags {
    fn default() -> KeptFlags {
        // PR_MCE_KILL_DEFAULT
        KeptFlags {
            machine_checks: AtomicU32::new(2),
            thp_disabled: AtomicBool::new(false),
            io_flusher: AtomicBool::new(false),
        }
    }
}

#[derive(Default)]
pub(super) struct GroupUsage {
    pub ended_threads: Usage,
    pub children: Usage,
}

/// Under the group's lock.
#[derive(Default)]
pub(crate) struct GroupInner {
    /// Live threads, the first one first.
    pub threads: Vec<Arc<Task>>,
    pub pending: Pending,
    /// The process is ending with this status: all threads are being killed.
    pub exiting: Option<ExitStatus>,
    /// It has ended; until it is waited for, a zombie.
    pub ended: Option<ExitStatus>,
    pub stop: StopState,
    /// A thread is replacing the program and kills the others.
    pub execing: Option<Weak<Task>>,
    /// The signal the parent gets at the end (`CLONE`'s low byte), usually `SIGCHLD`.
    pub exit_signal: Option<Signal>,
    /// The thread that forked it, for `PR_SET_PDEATHSIG`.
    pub parent_thread: Weak<Task>,
    /// How its first thread ended, if that was before the others.
    pub leader_status: Option<ExitStatus>,
    pub oom_killed: bool,
    /// A core file is being written, or has been.
    pub core: Option<Arc<Gathering>>,
    /// Threads of a pid namespace's first process that are past their end.
    pub leaving: usize,
    pub on_exit: Vec<OnExit>,
}

/// Called once with the status, on an executor, without locks held.
pub type OnExit = Box<dyn FnOnce(ExitStatus) + Send>;

/// Job control.
#[derive(Default)]
pub(crate) struct StopState {
    /// The signal that stops the process; None: it runs.
    pub signal: Option<Signal>,
    /// Counts stops, so that a thread counts itself once in each.
    pub epoch: u64,
    /// Counts `SIGCONT`s, so that a stop signal taken before one does not stop after it.
    pub continues: u64,
    /// How many threads have stopped.
    pub stopped_threads: usize,
    /// All have: told to the parent.
    pub complete: bool,
    /// `wait` may report the stop, or the continuation, once.
    pub report_stopped: bool,
    pub report_continued: bool,
}

impl ThreadGroup {
    /// The parent's number, 0 outside the container.
    pub fn ppid(&self) -> Tid {
        self.ppid.load(Ordering::Relaxed)
    }

    /// The process group.
    pub fn pgid(&self) -> Tid {
        self.pgid.load(Ordering::Relaxed)
    }

    pub fn session(&self) -> Arc<Session> {
        self.session.read().clone()
    }

    /// Its control group.
    pub fn cgroup(&self) -> Arc<Cgroup> {
        self.cgroup.read().clone()
    }

    /// Puts it into another control group. Returns the old one.
    pub fn set_cgroup(&self, to: Arc<Cgroup>) -> Arc<Cgroup> {
        std::mem::replace(&mut *self.cgroup.write(), to)
    }

    /// The limit of a resource.
    pub fn rlimit(&self, resource: Resource) -> Limit {
        self.rlimits.read().get(resource)
    }

    /// Whether it has run exec since it was forked.
    pub fn has_execed(&self) -> bool {
        self.has_execed.load(Ordering::Relaxed)
    }

    /// What its parent gets at its end.
    pub fn exit_signal(&self) -> Option<Signal> {
        self.inner.lock().exit_signal
    }

    /// Signals that wait for it or one of its threads, with their information (`RLIMIT_SIGPENDING`).
    pub fn queued_signals(&self) -> usize {
        let inner = self.inner.lock();
        inner.threads.iter().fold(inner.pending.len(), |sum, thread| sum + thread.signals.lock().pending.len())
    }

    /// The dispositions.
    pub fn sighand(&self) -> Arc<SigHand> {
        self.sighand.read().clone()
    }

    /// Live threads, the first one first.
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.inner.lock().threads.clone()
    }

    /// The status, once it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.inner.lock().ended
    }

    /// Whether it has been waited for.
    pub fn reaped(&self) -> bool {
        self.reaped.load(Ordering::SeqCst)
    }

    /// Whether job control has stopped it.
    pub fn stopped(&self) -> bool {
        self.inner.lock().stop.complete
    }

    /// Whether it was killed for lack of memory.
    pub fn oom_killed(&self) -> bool {
        self.inner.lock().oom_killed
    }

    /// Calls `then` when the process has ended (at once if it has).
    pub fn on_exit(&self, then: OnExit) {
        let mut inner = self.inner.lock();
        match inner.ended {
            Some(status) => {
                drop(inner);
                then(status);
            }
            None => inner.on_exit.push(then),
        }
    }
}

impl ThreadGroup {
    /// Has its waits for children look again.
    pub(crate) fn wake_waiters(&self) {
        self.child_changed.wake(crate::wait::PollEvents::IN);
    }

    /// The first live thread.
    pub fn leader(&self) -> Option<Arc<Task>> {
        self.inner.lock().threads.first().cloned()
    }

    /// Whether orphans among its descendants become its children (`PR_SET_CHILD_SUBREAPER`).
    pub fn is_subreaper(&self) -> bool {
        self.subreaper.load(Ordering::Relaxed)
    }

    pub(crate) fn set_subreaper(&self, on: bool) {
        self.subreaper.store(on, Ordering::Relaxed);
    }

    /// The real user id (of the first thread; as it was, once ended).
    pub fn uid(&self) -> u32 {
        self.leader().map_or_else(|| self.last_uid.load(Ordering::Relaxed), |task| task.creds().uid)
    }

    /// A user id as its first thread sees it.
    pub fn show_uid(&self, uid: u32) -> u32 {
        self.leader().map_or(uid, |task| task.creds().user_ns.show_uid(uid))
    }

    /// What its threads have used, the ended ones included.
    pub fn own_usage(&self) -> Usage {
        let mut usage = self.usage.lock().ended_threads;
        for task in self.threads() {
            usage.add(&task.usage());
        }
        usage
    }

    /// What its waited-for children have used.
    pub fn children_usage(&self) -> Usage {
        self.usage.lock().children
    }
}
