//! Making tasks and processes.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use platform::Context;

use super::group::KeptFlags;
use super::pids::Process;
use super::{Activity, Creds, Cx, GroupInner, Rlimits, Scheduling, Session, Shared, Task, TaskFlags, ThreadGroup, Tid};
use crate::Errno;
use crate::cgroup::Cgroup;
use crate::fs::File;
use crate::kernel::{Container, Kernel};
use crate::ns::{Namespaces, PidNs};
use crate::ptrace::Tracee;
use crate::signal::{SigHand, TaskSignals};
use crate::time::ProcessTimers;
use crate::wait::WaitQueue;

/// What a new thread starts with.
pub(super) struct NewTask {
    pub tid: Tid,
    pub group: Arc<ThreadGroup>,
    pub creds: Arc<Creds>,
    pub namespaces: Arc<Namespaces>,
    pub name: Vec<u8>,
    pub signals: TaskSignals,
    pub scheduling: Scheduling,
    pub timer_slack_ns: u64,
}

/// What a new process starts with.
pub(super) struct NewGroup {
    pub tgid: Tid,
    pub cgroup: Arc<Cgroup>,
    pub rlimits: Rlimits,
    pub sighand: Arc<SigHand>,
    pub pgid: Tid,
    pub session: Arc<Session>,
    pub dumpable: i32,
    pub personality: u64,
    pub coredump_filter: u32,
    pub flags: KeptFlags,
    pub oom_score_adj: i32,
    pub exe: Option<Arc<File>>,
    pub pid_ns: PidNs,
    pub inner: GroupInner,
}

impl Task {
    pub(super) fn new(kernel: &Arc<Kernel>, container: &Arc<Container>, new: NewTask) -> Arc<Task> {
        Arc::new(Task {
            tid: AtomicI32::new(new.tid),
            kernel: kernel.clone(),
            container: container.clone(),
            group: new.group,
            creds: RwLock::new(new.creds),
            namespaces: RwLock::new(new.namespaces),
            name: Mutex::new(new.name),
            shared: RwLock::new(None),
            signals: Mutex::new(new.signals),
            flags: AtomicU32::new(if container.cgroup.cpu_max().is_some() { TaskFlags::THROTTLE.bits() } else { 0 }),
            work: AtomicU32::new(0),
            seccomp: Mutex::default(),
            ptrace: Tracee::default(),
            stopped_in: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            in_user: AtomicBool::new(false),
            waker: OnceLock::new(),
            interrupter: Mutex::new(None),
            start_ns: kernel.clock.monotonic().0,
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            parent_death_signal: AtomicI32::new(0),
            timer_slack_ns: AtomicU64::new(new.timer_slack_ns),
            default_slack_ns: new.timer_slack_ns,
            scheduling: Mutex::new(new.scheduling),
            vfork: Mutex::new(None),
            sem_undo: Mutex::new(None),
            past_cpu_ns: AtomicU64::new(0),
            activity: Activity::default(),
        })
    }
}

impl ThreadGroup {
    pub(super) fn new(kernel: &Kernel, container: &Arc<Container>, new: NewGroup) -> Arc<ThreadGroup> {
        Arc::new(ThreadGroup {
            tgid: new.tgid,
            container: container.clone(),
            pid_ns: new.pid_ns,
            cgroup: RwLock::new(new.cgroup),
            rlimits: RwLock::new(new.rlimits),
            sighand: RwLock::new(new.sighand),
            inner: Mutex::new(new.inner),
            ppid: AtomicI32::new(0),
            pgid: AtomicI32::new(new.pgid),
            session: RwLock::new(new.session),
            child_changed: WaitQueue::new(),
            exit_queue: WaitQueue::new(),
            signal_sent: WaitQueue::new(),
            resumed: WaitQueue::new(),
            thread_gone: WaitQueue::new(),
            subreaper: AtomicBool::new(false),
            dumpable: AtomicI32::new(new.dumpable),
            personality: AtomicU64::new(new.personality),
            coredump_filter: AtomicU32::new(new.coredump_filter),
            flags: new.flags,
            oom_score_adj: AtomicI32::new(new.oom_score_adj),
            has_execed: AtomicBool::new(false),
            reaped: AtomicBool::new(false),
            last_uid: AtomicU32::new(0),
            exe: Mutex::new(new.exe),
            timers: ProcessTimers::new(),
            start_ns: kernel.clock.monotonic().0,
            usage: Mutex::default(),
        })
    }
}

/// A process to be started from outside the container: its first one, or an exec'd one.
pub struct NewProcess {
    pub creds: Creds,
    pub rlimits: Rlimits,
    pub shared: Shared,
}

/// Makes a process in a container from outside: a session and group of its own, no parent. It does not run before
/// [`Cx::start`].
///
/// # Errors
/// `EAGAIN` at the container's limit of tasks, `ESRCH` when the container is ending.
pub fn new_process(
    kernel: &Arc<Kernel>,
    container: &Arc<Container>,
    new: NewProcess,
    context: Box<dyn Context>,
) -> Result<Cx, Errno> {
    let mut pids = container.pids.inner.lock();
    pids.admit(container)?;
    let tid = pids.allocate()?;
    container.life.begin(tid);
    let group = ThreadGroup::new(
        kernel,
        container,
        NewGroup {
            tgid: tid,
            cgroup: container.cgroup.clone(),
            rlimits: new.rlimits,
            sighand: SigHand::new(),
            pgid: tid,
            session: Session::new(tid),
            dumpable: 1,
            personality: 0,
            coredump_filter: crate::coredump::DEFAULT_FILTER,
            flags: KeptFlags::default(),
            oom_score_adj: 0,
            exe: None,
            pid_ns: PidNs::ROOT,
            inner: GroupInner::default(),
        },
    );
    let task = Task::new(
        kernel,
        container,
        NewTask {
            tid,
            group: group.clone(),
            creds: Arc::new(new.creds),
            namespaces: container.namespaces.clone(),
            name: b"nacre".to_vec(),
            signals: TaskSignals::default(),
            scheduling: Scheduling::default(),
            timer_slack_ns: 50_000,
        },
    );
    group.inner.lock().threads.push(task.clone());
    pids.processes.insert(tid, Process { group, leader: task.clone(), children: Vec::new() });
    pids.tasks.insert(tid, task.clone());
    drop(pids);
    Ok(Cx::new(task, new.shared, context))
}

impl Cx {
    /// Lets the task run: its registers are set.
    pub fn start(self) {
        let kernel = self.task.kernel.clone();
        kernel.scheduler.spawn(move |executor| super::run(self, executor));
    }

    /// Shows others the memory, descriptors and directories that the task has now.
    pub(crate) fn share_again(&mut self) {
        *self.task.shared.write() = Some(Shared { mm: self.mm.clone(), files: self.files.clone(), fs: self.fs.clone() });
    }

    /// Lets others see and interrupt the context that the task has now.
    pub(super) fn publish(&mut self) {
        self.share_again();
        *self.task.interrupter.lock() = Some(self.context.interrupter());
        self.task.prefer();
        self.set_identity();
    }

    /// Tells the platform what the stub may answer alone.
    pub(crate) fn set_identity(&mut self) {
        let creds = self.creds();
        self.context.set_identity(&platform::Identity {
            pid: self.local(self.task.tgid()) as u32,
            tid: self.local(self.task.tid()) as u32,
            ppid: self.local(self.task.group.ppid()) as u32,
            uid: creds.user_ns.show_uid(creds.uid),
            euid: creds.user_ns.show_uid(creds.euid),
            gid: creds.user_ns.show_gid(creds.gid),
            egid: creds.user_ns.show_gid(creds.egid),
            enabled: self.may_answer_in_stub(),
        });
    }

    /// Moves the task to other namespaces.
    pub(crate) fn set_namespaces(&mut self, namespaces: Namespaces) {
        *self.task.namespaces.write() = Arc::new(namespaces);
    }

    /// Sets new credentials.
    pub(crate) fn set_creds(&mut self, creds: Creds) {
        *self.task.creds.write() = Arc::new(creds);
        self.set_identity();
    }
}
