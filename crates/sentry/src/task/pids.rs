//! [`PidTable`]: the process and thread numbers of a container.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Task, Tid};

/// Numbers to tasks.
#[derive(Default)]
pub struct PidTable {
    tasks: Mutex<BTreeMap<Tid, Weak<Task>>>,
}

impl PidTable {
    /// The task of a number.
    pub fn task(&self, tid: Tid) -> Option<Arc<Task>> {
        self.tasks.lock().get(&tid)?.upgrade()
    }

    /// All tasks, by number.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().values().filter_map(Weak::upgrade).collect()
    }
}
