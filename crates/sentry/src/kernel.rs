//! [`Kernel`]: what all tasks of a sandbox share, and [`Container`], what those of one container share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use platform::Platform;

use crate::cgroup::Cgroup;
use crate::executor::{IoPool, Reactor, Scheduler};
use crate::fs::dev::loops::LoopDevices;
use crate::fs::gofer::{FdCache, Services};
use crate::fs::tmpfs::TmpFs;
use crate::ipc::Ipc;
use crate::ipc::futex::FutexTable;
use crate::ipc::tty::Terminals;
use crate::mm::MemoryFile;
use crate::net::NetNamespace;
use crate::ns::{IpcNamespace, Namespaces, Uts, UtsNamespace};
use crate::signal::QueuedSignals;
use crate::syscalls::{Counters, Traps};
use crate::task::{Bandwidth, ContainerLife, Counts, LoadAverage, PidTable, Task, ThreadGroup, Usage, Victims};
use crate::time::Clock;
use crate::wait::WaitQueue;

/// The sandbox's kernel. Passed to whoever needs it; there is no global one.
pub struct Kernel {
    pub platform: Arc<dyn Platform>,
    pub scheduler: Arc<Scheduler>,
    pub clock: Clock,
    /// Monotonic time at boot, for uptime.
    pub boot_ns: u64,
    /// The machine that guests see.
    pub machine: Machine,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    pub counters: Counters,
    pub futexes: FutexTable,
    /// Woken when a task has passed a memory barrier.
    pub barriers: WaitQueue,
    /// Waits for host descriptors; set by boot.
    pub reactor: OnceLock<Arc<Reactor>>,
    /// What all trees of host files share. Boot starts the pool's threads.
    pub host_files: Services,
    /// What all containers of the sandbox share of pipes, sockets and locks.
    pub ipc: Ipc,
    /// The sandbox's network; its containers start in it.
    pub net: Arc<NetNamespace>,
    pub containers: Mutex<BTreeMap<String, Arc<Container>>>,
}

impl Kernel {
    /// A kernel with `executors` run queues.
    pub fn new(platform: Arc<dyn Platform>, clock: Clock, executors: usize, machine: Machine) -> Arc<Kernel> {
        let scheduler = Scheduler::new(platform.clone(), clock.clone(), executors);
        Arc::new(Kernel {
            net: NetNamespace::new(clock.clone(), scheduler.timers().clone(), machine.memory_bytes),
            platform,
            scheduler,
            boot_ns: clock.monotonic().0,
            host_files: Services { pool: IoPool::new(), fds: FdCache::new(), clock: clock.clone() },
            clock,
            machine,
            boot_id: random_uuid(),
            counters: Counters::default(),
            futexes: FutexTable::default(),
            barriers: WaitQueue::new(),
            reactor: OnceLock::new(),
            ipc: Ipc::default(),
            containers: Mutex::new(BTreeMap::new()),
        })
    }
}

/// What guests see of the host's hardware.
#[derive(Debug, Clone)]
pub struct Machine {
    pub cpus: usize,
    pub memory_bytes: u64,
    /// What the host has, whatever the sandbox may use of it.
    pub host_memory_bytes: u64,
    /// The lines of one CPU in /proc/cpuinfo, without `processor`.
    pub cpu_model: String,
}

/// A random UUID (version 4) in text.
pub fn random_uuid() -> String {
    let mut bytes = [0; 16];
    // Without random bytes from the host the sandbox would not have started; zeros are a valid, if poor, answer.
    let _ = hostcall::random::fill(&mut bytes);
    let n = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{n:032x}");
    let part = |range| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

/// A container: its processes, its memory and its names.
pub struct Container {
    pub id: String,
    /// Process and thread numbers, as its processes see them. Containers of a pod may share a table: see [`Container::tasks`].
    pub pids: Arc<PidTable>,
    /// Application memory and tmpfs pages.
    pub memory: Arc<MemoryFile>,
    /// What its first processes start with.
    pub namespaces: Arc<Namespaces>,
    /// What it may have at most.
    pub limits: Limits,
    /// The root of its control groups.
    pub cgroup: Arc<Cgroup>,
    /// Signals that are queued for its users.
    pub queued_signals: QueuedSignals,
    /// Its pseudo-terminals (devpts).
    pub terminals: Arc<Terminals>,
    pub loops: LoopDevices,
    /// What its ended tasks have used and done.
    pub ended: Mutex<Ended>,
    /// What its tasks have trapped for.
    pub traps: Traps,
    /// The most CPU time that was told of: user, system.
    told_cpu_ns: [AtomicU64; 2],
    /// Where writes to its root go, if that is memory: as large as the limit of memory.
    pub writable_layer: OnceLock<Weak<TmpFs>>,
    /// Processes killed for lack of memory, and those that are going.
    pub oom_kills: AtomicU64,
    pub oom: Victims,
    /// How many logins there were (/proc/PID/sessionid).
    pub logins: AtomicU32,
    pub load: LoadAverage,
    /// Whether its processes run, are paused, or are gone; and who is told.
    pub life: ContainerLife,
    /// What it may use of the CPUs.
    pub bandwidth: Bandwidth,
}

/// Namespaces of another container of the pod that a new one starts in.
#[derive(Default)]
pub struct SharedNamespaces {
    pub pid: Option<Arc<PidTable>>,
    pub ipc: Option<Arc<IpcNamespace>>,
    pub uts: Option<Arc<UtsNamespace>>,
}

impl Container {
    /// An empty container, in namespaces that are new where `shared` has none.
    pub fn new(
        id: String,
        memory: Arc<MemoryFile>,
        uts: Uts,
        net: Arc<NetNamespace>,
        limits: Limits,
        shared: SharedNamespaces,
    ) -> Arc<Container> {
        if let Some(pids) = &shared.pid {
            pids.share();
        }
        let container = Arc::new(Container {
            id,
            pids: shared.pid.unwrap_or_default(),
            memory,
            namespaces: Namespaces::first(uts, net, shared.ipc, shared.uts),
            cgroup: Cgroup::root(limits.memory(), limits.tasks()),
            limits,
            queued_signals: QueuedSignals::default(),
            terminals: Terminals::new(),
            loops: LoopDevices::default(),
            ended: Mutex::default(),
            traps: Traps::default(),
            told_cpu_ns: Default::default(),
            writable_layer: OnceLock::new(),
            oom_kills: AtomicU64::new(0),
            oom: Victims::default(),
            logins: AtomicU32::new(0),
            load: LoadAverage::default(),
            life: ContainerLife::default(),
            bandwidth: Bandwidth::default(),
        });
        // A loop device's file may lead back to the container.
        let weak = Arc::downgrade(&container);
        container.life.on_exit(Box::new(move |_| {
            if let Some(container) = weak.upgrade() {
                container.loops.clear();
            }
        }));
        container
    }
}

/// What a container may have at most. The runtime may change it while the container runs.
#[derive(Debug)]
pub struct Limits {
    /// [`Limits::NONE`]: as much as there is.
    memory: AtomicU64,
    tasks: AtomicU64,
}

impl Limits {
    /// A limit that is none.
    pub const NONE: u64 = agent_api::Limits::NONE;

    pub fn new(memory: Option<u64>, tasks: Option<usize>) -> Limits {
        let tasks = tasks.map_or(Limits::NONE, |most| most as u64);
        Limits { memory: AtomicU64::new(memory.unwrap_or(Limits::NONE)), tasks: AtomicU64::new(tasks) }
    }

    /// Most memory in bytes, if limited. Its memory file's size is what keeps it.
    pub fn memory(&self) -> Option<u64> {
        Some(self.memory.load(Ordering::Relaxed)).filter(|&most| most != Limits::NONE)
    }

    /// Most tasks at a time, if limited.
    pub fn tasks(&self) -> Option<usize> {
        let most = Some(self.tasks.load(Ordering::Relaxed)).filter(|&most| most != Limits::NONE);
        most.map(|most| usize::try_from(most).unwrap_or(usize::MAX))
    }

    pub fn set_memory(&self, most: u64) {
        self.memory.store(most, Ordering::Relaxed);
    }

    pub fn set_tasks(&self, most: u64) {
        self.tasks.store(most, Ordering::Relaxed);
    }
}

/// What a container's ended tasks have used and done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ended {
    pub usage: Usage,
    pub counts: Counts,
}

impl Container {
    /// Bytes of memory it finds in the machine: its limit, or all there is.
    pub fn memory_bytes(&self, machine: &Machine) -> u64 {
        self.limits.memory().unwrap_or(machine.memory_bytes)
    }

    /// Its live threads, by number.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        let mut tasks = self.pids.tasks();
        tasks.retain(|task| std::ptr::eq(&*task.container, self));
        tasks
    }

    /// Its processes, by number, zombies included.
    pub fn processes(&self) -> Vec<Arc<ThreadGroup>> {
        let mut processes = self.pids.processes();
        processes.retain(|process| std::ptr::eq(&*process.container, self));
        processes
    }

    /// CPU time and counts of all its tasks since it began. A task that ends meanwhile is missed, but CPU time never goes back.
    pub fn activity(&self) -> Ended {
        let mut all = *self.ended.lock();
        for task in self.tasks() {
            all.usage.add(&task.usage());
            all.counts.add(&task.activity.counts());
        }
        for (now, told) in [&mut all.usage.user_ns, &mut all.usage.system_ns].into_iter().zip(&self.told_cpu_ns) {
            *now = (*now).max(told.fetch_max(*now, Ordering::Relaxed));
        }
        all
    }
}
