//! A kernel for unit tests: the scripted platform, a virtual clock, one executor, no host.
//!
//! ```ignore
//! let machine = Machine::new();
//! let process = machine.start(|u| async move {
//!     let child = u.spawn(nr::FORK, [], Role::Program, |u| async move { u.syscall(nr::EXIT_GROUP, [7]).await; }).await;
//!     assert_eq!(u.syscall(nr::WAIT4, [child as u64, 0, 0, 0]).await, child);
//! });
//! assert_eq!(machine.finish(&process), ExitStatus::Exited(0));
//! ```
//! A failed assertion in a script fails the test. Time passes only while everybody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use platform::scripted::{Role, ScriptedPlatform, User};
use platform::{ExecutorId, Platform, Registers};

use crate::fs::pseudo::Tree;
use crate::fs::{FdTable, FileSystem, FsContext, Inode, Mount, MountFlags, Path, StatFs};
use crate::kernel::{self, Container, Kernel, Limits, SharedNamespaces};
use crate::mm::{MemoryFile, Mm};
use crate::ns::Uts;
use crate::step::Step;
use crate::task::{Creds, ExitStatus, NewProcess, Rlimits, Shared, ThreadGroup, new_process};
use crate::time::Clock;

/// Numbers of system calls that tests use.
pub mod nr {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const MMAP: u64 = 9;
    pub const MUNMAP: u64 = 11;
    pub const RT_SIGACTION: u64 = 13;
    pub const RT_SIGPROCMASK: u64 = 14;
    pub const SCHED_YIELD: u64 = 24;
    pub const PAUSE: u64 = 34;
    pub const NANOSLEEP: u64 = 35;
    pub const ALARM: u64 = 37;
    pub const GETPID: u64 = 39;
    pub const CLONE: u64 = 56;
    pub const FORK: u64 = 57;
    pub const VFORK: u64 = 58;
    pub const EXIT: u64 = 60;
    pub const WAIT4: u64 = 61;
    pub const KILL: u64 = 62;
    pub const GETPPID: u64 = 110;
    pub const SETPGID: u64 = 109;
    pub const SETSID: u64 = 112;
    pub const RT_SIGTIMEDWAIT: u64 = 128;
    pub const RT_SIGSUSPEND: u64 = 130;
    pub const SIGALTSTACK: u64 = 131;
    pub const PRCTL: u64 = 157;
    pub const GETTID: u64 = 186;
    pub const TKILL: u64 = 200;
    pub const FUTEX: u64 = 202;
    pub const CLOCK_GETTIME: u64 = 228;
    pub const CLOCK_NANOSLEEP: u64 = 230;
    pub const EXIT_GROUP: u64 = 231;
}

/// A kernel with one container.
pub struct Machine {
    pub kernel: Arc<Kernel>,
    pub platform: Arc<ScriptedPlatform>,
    pub container: Arc<Container>,
}

const EXECUTOR: ExecutorId = ExecutorId(0);

impl Default for Machine {
    fn default() -> Machine {
        Machine::new()
    }
}

impl Machine {
    pub fn new() -> Machine {
        Machine::with_max_tasks(None)
    }

    /// With a `pids` limit.
    pub fn with_max_tasks(max_tasks: Option<usize>) -> Machine {
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let platform = ScriptedPlatform::new(now.clone());
        let machine = kernel::Machine { cpus: 2, memory_bytes: 1 << 30, host_memory_bytes: 1 << 30, cpu_model: String::new() };
        let kernel = Kernel::new(platform.clone(), Clock::Virtual(now), 1, machine);
        let memory = hostcall::memory::anonymous_file("test").expect("a memory file");
        let memory = MemoryFile::new(memory).expect("a memory file");
        let uts = Uts { hostname: "test".into(), domainname: "(none)".into() };
        let container = Container::new(
            "test".into(),
            memory,
            uts,
            kernel.net.clone(),
            Limits::new(None, max_tasks),
            SharedNamespaces::default(),
        );
        kernel.containers.lock().insert("test".into(), container.clone());
        Machine { kernel, platform, container }
    }

    /// Starts a process as root. The first one is the container's init.
    pub fn start<F, Fut>(&self, script: F) -> Arc<ThreadGroup>
    where
        F: Fn(User) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.start_as(Creds::root(), script)
    }

    pub fn start_as<F, Fut>(&self, creds: Creds, script: F) -> Arc<ThreadGroup>
    where
        F: Fn(User) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let entry = self.platform.script(Role::Program, script);
        let mm = Mm::new(self.platform.clone() as Arc<dyn Platform>, self.container.memory.clone()).expect("an address space");
        let mut context = mm.space().new_context().expect("a context");
        *context.registers_mut() = Registers::at_entry(entry, 0x7000_0000_0000);
        let root = self.root();
        let shared = Shared { mm, files: FdTable::new(), fs: FsContext::new(root.clone(), root, 0o022) };
        let new = NewProcess { creds, rlimits: Rlimits::default(), shared };
        let cx = new_process(&self.kernel, &self.container, new, context).expect("a process");
        let group = cx.task.group.clone();
        cx.start();
        group
    }

    /// A new, empty file system's root.
    pub fn root(&self) -> Path {
        Mount::new(Arc::new(EmptyFs), "none", MountFlags::empty(), &self.kernel.clock).root_path()
    }

    /// Runs until nothing is left to do at all: all tasks are gone, or wait for each other.
    pub fn run(&self) {
        self.run_until(|| false);
    }

    /// Runs until `done`, or until nothing is left to do. Returns whether it is done.
    pub fn run_until(&self, mut done: impl FnMut() -> bool) -> bool {
        let scheduler = &self.kernel.scheduler;
        loop {
            while scheduler.round(EXECUTOR) > 0 {
                if done() {
                    return true;
                }
            }
            if done() {
                return true;
            }
            let deadline = scheduler.timers().earliest().map(|at| at.0);
            if deadline.is_none() && !self.platform.computing() {
                return false;
            }
            self.platform.park(EXECUTOR, deadline);
        }
    }

    /// Runs until a process has ended. Panics when it never does.
    pub fn finish(&self, process: &ThreadGroup) -> ExitStatus {
        self.run_until(|| process.ended().is_some());
        process.ended().unwrap_or_else(|| panic!("process {} waits for ever at {} ns", process.tgid, self.now_ns()))
    }

    /// Runs everything to its end: all tasks must be gone then.
    pub fn drain(&self) {
        self.run();
        assert_eq!(self.container.pids.count(), 0, "tasks are left that wait for ever");
        assert_eq!(self.platform.contexts(), 0, "contexts are left");
    }

    /// Virtual time.
    pub fn now_ns(&self) -> u64 {
        self.kernel.clock.monotonic().0
    }

    /// Lets time pass.
    pub fn advance(&self, ns: u64) {
        if let Clock::Virtual(now) = &self.kernel.clock {
            now.fetch_add(ns, Ordering::SeqCst);
        }
    }
}

/// Runs one process as init to its end.
pub fn run_script<F, Fut>(script: F) -> ExitStatus
where
    F: Fn(User) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let machine = Machine::new();
    let process = machine.start(script);
    let status = machine.finish(&process);
    machine.drain();
    status
}

struct EmptyFs;

impl FileSystem for EmptyFs {
    fn name(&self) -> &'static str {
        "empty"
    }

    fn root(&self) -> Arc<dyn Inode> {
        Tree::new(1).into_root()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, crate::Errno>> {
        Step::ok(StatFs::default())
    }

    fn name_ttl_ns(&self) -> u64 {
        u64::MAX
    }
}

/// Guest memory for a script: one anonymous mapping of `len` bytes.
pub async fn map_memory(u: &User, len: u64) -> u64 {
    // PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS
    let addr = u.syscall(nr::MMAP, [0, len, 3, 0x22, u64::MAX, 0]).await;
    assert!(addr > 0, "mmap: {addr}");
    addr as u64
}
