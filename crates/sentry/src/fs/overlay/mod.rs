//! overlay: a writable tree over a read-only one, with the changes in memory. [`layers`] is the other kind, with the changes in a directory.
//!
//! The lower layer is any tree of inodes; it is never written to. The upper layer is not a tree: each changed file has a tmpfs node without a name (its
//! *upper*), and each directory has, in memory, the names that were made or removed in it. So renaming a lower directory moves one name (Linux's overlayfs
//! gives `EXDEV`), and hard links of lower files stay together when one of them is changed.
//!
//! A [`Node`] stands for a lower inode, found again by that inode's identity: a lower file system gives the same inode for the same file while
//! somebody holds it. Nodes with changes are held by [`Shared::nodes`] until their last name is gone.
//!
//! *Copying up* is done in two steps: attributes (with extended ones) at the first change of any kind, data at the first open for writing. Files that
//! are open for reading keep the lower data, and mappings do not move, as on Linux. Inode numbers do not change.
//!
//! Locking: a node's `copying` (async) is held while it is copied up; `names` and `Shared::nodes` are leaves.

mod copy_up;
mod dir;
pub mod layers;
mod names;
mod node;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::tmpfs::TmpFs;
use super::{FileSystem, Inode, StatFs};
use crate::Errno;
use crate::step::Step;
use node::Node;

/// `OVERLAYFS_SUPER_MAGIC`.
const MAGIC: u64 = 0x794c_7630;

/// Inode numbers of files that are not in the lower layer start here: beyond what host file systems use.
const FIRST_INO: u64 = 1 << 44;

/// An overlay.
pub struct Overlay {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

/// What its nodes share.
struct Shared {
    upper: Arc<TmpFs>,
    dev: u64,
    /// The lower root's device number, in whose place ours is shown. Others below keep theirs: inode numbers are theirs too.
    lower_dev: Option<u64>,
    next_ino: AtomicU64,
    /// Nodes by the address of their lower inode, which they hold.
    nodes: Mutex<HashMap<usize, Held>>,
}

enum Held {
    Weakly(Weak<Node>),
    /// With changes that must not be lost.
    Firmly(Arc<Node>),
}

impl Overlay {
    /// An overlay with `dev` as its device number.
    pub fn new(lower: Arc<dyn FileSystem>, upper: Arc<TmpFs>, dev: u64) -> Arc<Overlay> {
        let lower_dev = match lower.root().metadata() {
            Step::Ready(Ok(metadata)) => Some(metadata.dev),
            _ => None,
        };
        let next_ino = AtomicU64::new(FIRST_INO);
        let shared = Arc::new(Shared { upper, dev, lower_dev, next_ino, nodes: Mutex::default() });
        let root = shared.node(lower.root());
        Arc::new(Overlay { shared, root })
    }
}

impl Shared {
    /// The node of a lower inode.
    fn node(self: &Arc<Shared>, lower: Arc<dyn Inode>) -> Arc<Node> {
        let key = address(&lower);
        let mut nodes = self.nodes.lock();
        let known = match nodes.get(&key) {
            Some(Held::Weakly(node)) => node.upgrade(),
            Some(Held::Firmly(node)) => Some(node.clone()),
            None => None,
        };
        known.unwrap_or_else(|| {
            let node = Node::over(self.clone(), lower);
            nodes.insert(key, Held::Weakly(Arc::downgrade(&node)));
            node
        })
    }

    /// Keeps a node with changes.
    fn hold(&self, lower: &Arc<dyn Inode>, node: Arc<Node>) {
        self.nodes.lock().insert(address(lower), Held::Firmly(node));
    }

    /// Lets a node go when the last that uses it does: it has no name any more.
    fn release(&self, lower: &Arc<dyn Inode>, node: &Arc<Node>) {
        let old = self.nodes.lock().insert(address(lower), Held::Weakly(Arc::downgrade(node)));
        drop(old);
    }

    /// A node is gone.
    fn remove(&self, lower: &Arc<dyn Inode>) {
        let mut nodes = self.nodes.lock();
        let gone = matches!(nodes.get(&address(lower)), Some(Held::Weakly(node)) if node.strong_count() == 0);
        if gone {
            nodes.remove(&address(lower));
        }
    }

    /// The device number shown for something on `lower` in the lower layer.
    fn device(&self, lower: u64) -> u64 {
        if self.lower_dev == Some(lower) { self.dev } else { lower }
    }

    fn new_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }
}

fn address(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>().addr()
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // They hold what holds them.
        let nodes = std::mem::take(&mut *self.shared.nodes.lock());
        drop(nodes);
    }
}

impl FileSystem for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    /// The upper layer's space, as on Linux.
    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        match self.shared.upper.stat_fs() {
            Step::Ready(stat) => Step::Ready(stat.map(|stat| StatFs { magic: MAGIC, fsid: self.shared.dev, ..stat })),
            wait => wait,
        }
    }

    fn stack_depth(&self) -> usize {
        1
    }

    /// Names change only through us. (If the lower tree changes under a mounted overlay, what is seen is undefined, as on Linux.)
    fn name_ttl_ns(&self) -> u64 {
        u64::MAX
    }
}

#[cfg(test)]
mod tests;
