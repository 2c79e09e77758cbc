//! [`IpcNamespace`]: who shares System V IPC objects and POSIX message queues.

use std::sync::Arc;

use super::UserNs;

/// What is named by keys and numbers, not by paths, hangs here.
pub struct IpcNamespace {
    pub id: u64,
    pub owner: UserNs,
}

impl IpcNamespace {
    pub fn new(id: u64, owner: UserNs) -> Arc<IpcNamespace> {
        Arc::new(IpcNamespace { id, owner })
    }
}
