//! [`Path`]: a place in the tree of mounts.

use std::sync::Arc;

use super::dentry::DentryCache;
use super::{Dentry, FileKind, FileSystem, Inode, Mount, MountFlags, StatFs};
use crate::Errno;
use crate::step::Step;
use crate::time::Clock;

/// A dentry in a mount.
#[derive(Clone)]
pub struct Path {
    pub mount: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.dentry, &other.dentry) && Arc::ptr_eq(&self.mount, &other.mount)
    }
}

impl Path {
    /// The inode there.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    /// A place in no tree, for an object that has none; `name` is what links to it show.
    pub fn disconnected(inode: Arc<dyn Inode>, name: &[u8]) -> Path {
        let cache = DentryCache::new(u64::MAX, Clock::Host);
        let root = Dentry::root(inode.clone(), cache);
        let mount = Mount::new(Arc::new(Nowhere { inode }), name, MountFlags::empty(), &Clock::Host);
        Path { mount, dentry: root }
    }

    /// A place beside the tree for a file without a name that was made in this directory (`O_TMPFILE`).
    pub(super) fn unnamed(&self, inode: Arc<dyn Inode>) -> Path {
        Path { mount: self.mount.clone(), dentry: self.dentry.unnamed(inode) }
    }

    /// What is mounted here, on top.
    pub(super) fn descend(mut self) -> Path {
        while self.dentry.is_mounted() {
            let Some(mount) = self.mount.child_at(&self.dentry) else { break };
            self.dentry = mount.root().clone();
            self.mount = mount;
        }
        self
    }

    /// The absolute name as seen from `root` (/proc/PID/fd): ` (deleted)` is added for a removed file, and a place outside `root` has its
    /// name from the top.
    pub fn name_from(&self, root: &Path) -> Vec<u8> {
        let (mut name, _) = self.reach(root);
        if !self.dentry.is_attached() {
            name.extend_from_slice(b" (deleted)");
        }
        name
    }

    /// The absolute name as `getcwd(2)` shows it: a place outside `root` is marked.
    pub fn name_seen_from(&self, root: &Path) -> Vec<u8> {
        match self.reach(root) {
            (name, Reach::Inside) => name,
            (name, Reach::Outside) => [b"(unreachable)".as_slice(), &name].concat(),
        }
    }

    /// The absolute name, unless the place is outside `root`.
    pub(super) fn name_below(&self, root: &Path) -> Option<Vec<u8>> {
        match self.reach(root) {
            (name, Reach::Inside) => Some(name),
            (_, Reach::Outside) => None,
        }
    }

    /// Whether this is `root` or can be reached from it.
    pub(super) fn is_below(&self, root: &Path) -> bool {
        self.name_below(root).is_some()
    }

    /// The absolute name, and whether it leads from `root` here.
    fn reach(&self, root: &Path) -> (Vec<u8>, Reach) {
        // Collected from the end.
        let mut parts: Vec<Box<[u8]>> = Vec::new();
        let mut at = self.clone();
        let reach = loop {
            if at == *root {
                break Reach::Inside;
            }
            if Arc::ptr_eq(&at.dentry, at.mount.root()) {
                match at.mount.mount_point() {
                    Some(point) => at = point,
                    None => break Reach::Outside,
                }
                continue;
            }
            let Some(parent) = at.dentry.parent() else { break Reach::Outside };
            parts.push(at.dentry.name());
            at.dentry = parent;
        };
        let mut name = Vec::new();
        for part in parts.iter().rev() {
            name.push(b'/');
            name.extend_from_slice(part);
        }
        if name.is_empty() {
            name.push(b'/');
        }
        (name, reach)
    }
}

/// Whether a place is below a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Inside,
    Outside,
}

impl Dentry {
    /// The name from the file system's own root.
    pub(super) fn path_in_fs(self: &Arc<Dentry>) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = self.clone();
        while let Some(parent) = at.parent() {
            parts.push(at.name());
            at = parent;
        }
        let mut name = Vec::new();
        for part in parts.iter().rev() {
            name.push(b'/');
            name.extend_from_slice(part);
        }
        if name.is_empty() { b"/".to_vec() } else { name }
    }
}

/// The file system of objects without a place.
struct Nowhere {
    inode: Arc<dyn Inode>,
}

impl FileSystem for Nowhere {
    fn name(&self) -> &'static str {
        "none"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.inode.clone()
    }

    /// As Linux's internal file systems.
    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        let magic = match self.inode.kind() {
            FileKind::Socket => 0x534f_434b,
            FileKind::Fifo => 0x5049_5045,
            _ => 0x0904_1934,
        };
        Step::ok(StatFs { magic, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn name_ttl_ns(&self) -> u64 {
        u64::MAX
    }
}
