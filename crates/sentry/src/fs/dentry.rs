//! [`Dentry`]: a name in a directory, and the cache of names.

use std::sync::Arc;

use super::Inode;

/// A name that leads to an inode.
pub struct Dentry {
    inode: Arc<dyn Inode>,
}

impl Dentry {
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }
}
