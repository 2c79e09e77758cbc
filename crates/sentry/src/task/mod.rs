//! Tasks and thread groups: guest threads and processes.
//!
//! [`Task`] is what others may know and do about a guest thread; [`Cx`] is the thread's own side: its processor context, and its memory,
//! descriptors and directories, which only it may exchange. Handlers of system calls get `&mut Cx`.
//!
//! Locking: see docs/locks-and-waits.md. `PidTable` before a thread group before a task's own locks; none is held across an await.

mod activity;
mod bandwidth;
mod call;
mod clone;
mod creds;
mod cx;
mod exec;
mod exec_creds;
mod exit;
mod flags;
mod group;
pub(crate) mod jobs;
mod life;
mod load;
mod new;
mod oom;
mod pids;
mod reap;
mod rlimits;
mod run;
mod session;
mod status;
mod trace_output;
mod work;

pub(crate) use activity::bump;
pub use activity::{Activity, Counts};
pub use bandwidth::{Bandwidth, CpuMax, Throttling};
pub(crate) use call::dispatch;
pub use clone::{CloneArgs, CloneFlags};
pub use creds::{Capability, Creds, Login};
pub use cx::Cx;
pub use exec_creds::exec_creds;
pub use exit::abandon;
pub use flags::TaskFlags;
pub(crate) use group::GroupInner;
pub use group::{OnExit, ThreadGroup};
pub use life::ContainerLife;
pub use load::LoadAverage;
pub use new::{NewProcess, new_process};
pub use oom::Victims;
pub use pids::PidTable;
pub(crate) use pids::Tracing;
pub use reap::{Change, Found, WaitOptions, Which};
pub use rlimits::{Limit, Resource, Rlimits};
pub use run::run;
pub use session::{ControllingTerminal, Session};
pub use status::{ExitStatus, Usage, ticks};
pub use work::SyscallWork;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use parking_lot::{Mutex, RwLock};
use platform::Interrupter;

use crate::fs::{FdTable, FsContext};
use crate::ipc::sysv::UndoList;
use crate::kernel::{Container, Kernel};
use crate::mm::Mm;
use crate::ns::Namespaces;
use crate::ptrace::Tracee;
use crate::seccomp::Seccomp;
use crate::signal::TaskSignals;
use crate::wait::{Interrupt, Sleep};

/// A process or thread number in its container.
pub type Tid = i32;

/// A guest thread.
pub struct Task {
    tid: AtomicI32,
    pub kernel: Arc<Kernel>,
    pub container: Arc<Container>,
    pub group: Arc<ThreadGroup>,
    pub creds: RwLock<Arc<Creds>>,
    namespaces: RwLock<Arc<Namespaces>>,
    /// The name (`comm`), at most 15 bytes.
    pub name: Mutex<Vec<u8>>,
    /// Copies of what [`Cx`] owns, for others to look at (`/proc`, kill, …). None after exit.
    pub shared: RwLock<Option<Shared>>,
    pub(crate) signals: Mutex<TaskSignals>,
    flags: AtomicU32,
    /// [`SyscallWork`].
    work: AtomicU32,
    pub(crate) seccomp: Mutex<Seccomp>,
    pub(crate) ptrace: Tracee,
    /// The group stop that it has been counted in (`StopState::epoch`).
    stopped_in: AtomicU64,
    /// It has left its process.
    gone: AtomicBool,
    /// Set while the context is (about to be) in user mode, and needs an interrupt to come out.
    in_user: AtomicBool,
    waker: OnceLock<Waker>,
    interrupter: Mutex<Option<Arc<dyn Interrupter>>>,
    /// Monotonic start time in nanoseconds.
    pub start_ns: u64,
    /// `set_tid_address`, `CLONE_CHILD_CLEARTID`; 0: none.
    pub(crate) clear_child_tid: AtomicU64,
    /// `set_robust_list`; 0: none.
    pub(crate) robust_list: AtomicU64,
    /// `PR_SET_PDEATHSIG`; 0: none.
    pub(crate) parent_death_signal: AtomicI32,
    /// `PR_SET_TIMERSLACK`, in nanoseconds.
    pub(crate) timer_slack_ns: AtomicU64,
    /// What 0 sets it to: its parent's when it was made.
    pub(crate) default_slack_ns: u64,
    pub(crate) scheduling: Mutex<Scheduling>,
    /// Whoever waits for the end of a vfork.
    pub(super) vfork: Mutex<Option<Arc<clone::Vfork>>>,
    /// Adjustments of semaphores at its end (`SEM_UNDO`), shared by `CLONE_SYSVSEM`.
    pub(crate) sem_undo: Mutex<Option<Arc<UndoList>>>,
    /// CPU time of contexts that this task no longer has (before an exec), in nanoseconds.
    past_cpu_ns: AtomicU64,
    /// Whether it sleeps, and what it has done.
    pub activity: Activity,
}

/// How the task wants to be scheduled. CPUs and positive nice values are passed on to the host; the rest is kept and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheduling {
    pub nice: i32,
    /// `SCHED_*`.
    pub policy: u32,
    pub priority: u32,
    /// One bit for each CPU.
    pub affinity: u64,
    pub reset_on_fork: bool,
    /// `ioprio_set`.
    pub io_priority: u32,
    pub memory: MemoryPolicy,
}

impl Scheduling {
    fn wish(&self) -> platform::Wish {
        let nice = if self.policy == SCHED_IDLE { 19 } else { self.nice.clamp(0, 19) };
        platform::Wish { nice: nice as u8, cpus: self.affinity }
    }
}

pub(crate) const SCHED_IDLE: u32 = 5;

/// `set_mempolicy`: a mode with its flags, and a mask of nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    pub mode: u32,
    pub nodes: u64,
}

impl Default for Scheduling {
    fn default() -> Scheduling {
        Scheduling {
            nice: 0,
            policy: 0,
            priority: 0,
            affinity: u64::MAX,
            reset_on_fork: false,
            io_priority: 0,
            memory: MemoryPolicy::default(),
        }
    }
}

/// A task's memory, descriptors and directories.
#[derive(Clone)]
pub struct Shared {
    pub mm: Arc<Mm>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
}

impl Task {
    /// The thread's number. (Exec by another thread than the first changes it.)
    pub fn tid(&self) -> Tid {
        self.tid.load(Ordering::Relaxed)
    }

    /// The process's number.
    pub fn tgid(&self) -> Tid {
        self.group.tgid
    }

    /// Whether it is its process's first thread.
    pub fn is_leader(&self) -> bool {
        self.tid() == self.group.tgid
    }

    /// Makes the task look at its flags soon: ends its wait or its stay in user mode. Set the flags first.
    pub fn kick(&self) {
        self.wake();
        if self.in_user.load(Ordering::SeqCst)
            && let Some(interrupter) = &*self.interrupter.lock()
        {
            interrupter.interrupt();
        }
    }

    /// Has its future polled, and nothing more.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Sets flags and kicks the task.
    pub fn raise(&self, flags: TaskFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::SeqCst);
        self.kick();
    }

    /// Sets flags of the running task itself.
    pub(crate) fn set_flags(&self, flags: TaskFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::SeqCst);
    }

    pub(crate) fn clear(&self, flags: TaskFlags) {
        self.flags.fetch_and(!flags.bits(), Ordering::SeqCst);
    }

    pub fn flags(&self) -> TaskFlags {
        TaskFlags::from_bits_retain(self.flags.load(Ordering::SeqCst))
    }

    /// Whether it is in user mode, or about to be: as [`kick`](Task::kick) sees it.
    pub(crate) fn in_user_now(&self) -> bool {
        self.in_user.load(Ordering::SeqCst)
    }

    /// Whether it runs application code just now.
    pub fn in_user(&self) -> bool {
        self.in_user.load(Ordering::Relaxed)
    }

    /// Whether it has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Whether it has ended; its number may still be seen (a zombie).
    pub fn has_ended(&self) -> bool {
        let inner = self.group.inner.lock();
        inner.ended.is_some() || (self.is_leader() && inner.leader_status.is_some())
    }

    /// The current credentials.
    pub fn creds(&self) -> Arc<Creds> {
        self.creds.read().clone()
    }

    /// The namespaces it is in.
    pub fn namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.read().clone()
    }

    /// The limit of a resource.
    pub fn rlimit(&self, resource: Resource) -> Limit {
        self.group.rlimit(resource)
    }

    /// What it has used.
    pub fn usage(&self) -> Usage {
        let voluntary_switches = self.activity.counts().voluntary_switches;
        Usage { user_ns: self.user_ns(), system_ns: self.activity.system_ns(), voluntary_switches, ..Usage::default() }
    }

    /// Has the host run it as it wishes.
    pub(crate) fn prefer(&self) {
        let wish = self.scheduling.lock().wish();
        if let Some(interrupter) = &*self.interrupter.lock() {
            interrupter.prefer(wish);
        }
    }

    /// CPU time used, in nanoseconds.
    pub fn cpu_time_ns(&self) -> u64 {
        self.user_ns().saturating_add(self.activity.system_ns())
    }

    /// Of that, in user mode.
    fn user_ns(&self) -> u64 {
        let now = self.interrupter.lock().as_ref().map_or(0, |interrupter| interrupter.cpu_time_ns());
        self.past_cpu_ns.load(Ordering::Relaxed).saturating_add(now)
    }
}

impl Interrupt for Task {
    fn interrupted(&self) -> bool {
        self.flags().intersects(TaskFlags::INTERRUPTS)
    }

    fn killed(&self) -> bool {
        self.flags().contains(TaskFlags::KILLED)
    }

    fn sleeps(&self, how: Option<Sleep>) {
        self.activity.set_sleep(how);
    }
}
