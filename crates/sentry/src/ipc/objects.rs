//! [`IpcObjects`]: what an IPC namespace holds: System V objects and POSIX message queues.

use std::sync::{Arc, OnceLock};

use super::limits::IpcLimits;
use super::mqueue::MqueueFs;
use super::sysv::{MessageQueues, SemaphoreSets, SharedSegments};
use crate::task::Task;
use crate::time::Clock;

/// The objects that the processes of one IPC namespace see.
#[derive(Default)]
pub struct IpcObjects {
    pub limits: Arc<IpcLimits>,
    pub shm: SharedSegments,
    pub sem: SemaphoreSets,
    pub msg: MessageQueues,
    /// POSIX message queues, made when first asked for.
    mqueues: OnceLock<Arc<MqueueFs>>,
}

impl IpcObjects {
    /// Its POSIX message queues.
    pub fn mqueues(&self, clock: &Clock) -> Arc<MqueueFs> {
        self.mqueues.get_or_init(|| MqueueFs::new(clock.clone(), self.limits.clone())).clone()
    }
}

impl Task {
    /// What the task's calls work on.
    pub fn ipc_objects(&self) -> Arc<IpcObjects> {
        self.namespaces().ipc.objects.clone()
    }
}
