//! [`IpcNamespace`]: who shares System V IPC objects and POSIX message queues.

use std::sync::Arc;

use super::UserNs;
use crate::ipc::IpcObjects;

/// What is named by keys and numbers, not by paths, hangs here.
pub struct IpcNamespace {
    pub id: u64,
    pub owner: UserNs,
    pub objects: Arc<IpcObjects>,
}

impl IpcNamespace {
    pub fn new(id: u64, owner: UserNs) -> Arc<IpcNamespace> {
        Arc::new(IpcNamespace { id, owner, objects: Arc::default() })
    }
}
