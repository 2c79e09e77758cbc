//! [`CgroupNamespace`]: which control group shows as the root.

use std::sync::Arc;

use super::UserNs;

/// A container has one control group, so all namespaces of this kind show the same.
pub struct CgroupNamespace {
    pub id: u64,
    pub owner: UserNs,
}

impl CgroupNamespace {
    pub fn new(id: u64, owner: UserNs) -> Arc<CgroupNamespace> {
        Arc::new(CgroupNamespace { id, owner })
    }
}
