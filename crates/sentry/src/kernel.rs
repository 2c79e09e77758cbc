//! [`Kernel`]: what all tasks of a sandbox share, and [`Container`], what those of one container share.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use platform::Platform;

use crate::executor::Scheduler;
use crate::mm::MemoryFile;
use crate::syscalls::Counters;
use crate::task::PidTable;
use crate::time::Clock;

/// The sandbox's kernel. Passed to whoever needs it; there is no global one.
pub struct Kernel {
    pub platform: Arc<dyn Platform>,
    pub scheduler: Arc<Scheduler>,
    pub clock: Clock,
    /// Monotonic time at boot, for uptime.
    pub boot_ns: u64,
    pub counters: Counters,
    pub containers: Mutex<BTreeMap<String, Arc<Container>>>,
}

impl Kernel {
    /// A kernel with `executors` run queues.
    pub fn new(platform: Arc<dyn Platform>, clock: Clock, executors: usize) -> Arc<Kernel> {
        let scheduler = Scheduler::new(platform.clone(), clock.clone(), executors);
        Arc::new(Kernel {
            platform,
            scheduler,
            boot_ns: clock.monotonic().0,
            clock,
            counters: Counters::default(),
            containers: Mutex::new(BTreeMap::new()),
        })
    }
}

/// A container: its processes, its memory and its names.
pub struct Container {
    pub id: String,
    /// Process and thread numbers, as its processes see them.
    pub pids: PidTable,
    /// Application memory and tmpfs pages.
    pub memory: Arc<MemoryFile>,
    pub uts: Mutex<Uts>,
    /// Most tasks at a time (`pids` limit), if limited.
    pub max_tasks: Option<usize>,
}

/// The names that `uname` reports.
#[derive(Debug, Clone)]
pub struct Uts {
    pub hostname: String,
    pub domainname: String,
}
