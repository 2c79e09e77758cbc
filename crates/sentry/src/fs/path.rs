//! [`Path`]: a place in the tree of mounts.

use std::sync::Arc;

use super::Inode;

/// A dentry in a mount.
#[derive(Clone)]
pub struct Path {
    pub mount: Arc<super::Mount>,
    pub dentry: Arc<super::Dentry>,
}

impl Path {
    /// The inode there.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }
}
