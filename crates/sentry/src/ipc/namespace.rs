//! [`IpcNamespace`]: what `ipc_namespaces(7)` isolates: System V objects and POSIX message queues.

use std::sync::{Arc, OnceLock};

use super::mqueue::MqueueFs;
use super::sysv::{MessageQueues, SemaphoreSets, SharedSegments};
use crate::task::Task;
use crate::time::Clock;

/// The System V objects that a group of processes sees.
#[derive(Default)]
pub struct IpcNamespace {
    pub shm: SharedSegments,
    pub sem: SemaphoreSets,
    pub msg: MessageQueues,
    /// POSIX message queues, made when first asked for.
    mqueues: OnceLock<Arc<MqueueFs>>,
}

impl IpcNamespace {
    /// Its POSIX message queues.
    pub fn mqueues(&self, clock: &Clock) -> Arc<MqueueFs> {
        self.mqueues.get_or_init(|| MqueueFs::new(clock.clone())).clone()
    }
}

impl Task {
    /// The namespace that the task's calls work on.
    pub fn ipc_namespace(&self) -> Arc<IpcNamespace> {
        self.container.ipc.clone()
    }
}
