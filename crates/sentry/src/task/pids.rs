//! [`PidTable`]: the process and thread numbers of a container, and its tree of processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Task, ThreadGroup, Tid};

/// Numbers to tasks and processes.
#[derive(Default)]
pub struct PidTable {
    pub(super) inner: Mutex<Pids>,
}

/// Under the table's lock.
#[derive(Default)]
pub(super) struct Pids {
    pub last: Tid,
    /// Live threads.
    pub tasks: BTreeMap<Tid, Arc<Task>>,
    /// Processes, zombies included.
    pub processes: BTreeMap<Tid, Process>,
}

/// A process in the tree.
pub(super) struct Process {
    pub group: Arc<ThreadGroup>,
    pub children: Vec<Tid>,
}

impl PidTable {
    /// The live thread of a number.
    pub fn task(&self, tid: Tid) -> Option<Arc<Task>> {
        self.inner.lock().tasks.get(&tid).cloned()
    }

    /// The process of a number, also a zombie.
    pub fn process(&self, tgid: Tid) -> Option<Arc<ThreadGroup>> {
        self.inner.lock().processes.get(&tgid).map(|process| process.group.clone())
    }

    /// All live threads, by number.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.inner.lock().tasks.values().cloned().collect()
    }

    /// All processes, by number.
    pub fn processes(&self) -> Vec<Arc<ThreadGroup>> {
        self.inner.lock().processes.values().map(|process| process.group.clone()).collect()
    }

    /// The processes of a process group.
    pub fn process_group(&self, pgid: Tid) -> Vec<Arc<ThreadGroup>> {
        let inner = self.inner.lock();
        inner.processes.values().filter(|process| process.group.pgid() == pgid).map(|process| process.group.clone()).collect()
    }

    /// The first process.
    pub fn init(&self) -> Option<Arc<ThreadGroup>> {
        self.process(1)
    }

    /// Live threads at this time.
    pub fn count(&self) -> usize {
        self.inner.lock().tasks.len()
    }
}
