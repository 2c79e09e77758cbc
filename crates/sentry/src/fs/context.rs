//! [`FsContext`]: a process's directories, umask and view of the mounts.

use std::sync::Arc;

use parking_lot::RwLock;

use super::{Mount, MountInfo, Path};

/// What `CLONE_FS` shares.
pub struct FsContext {
    inner: RwLock<Inner>,
}

#[derive(Clone)]
struct Inner {
    root: Path,
    cwd: Path,
    umask: u32,
    /// The top of the tree of mounts: keeps it alive.
    tree: Arc<Mount>,
}

impl FsContext {
    pub fn new(root: Path, cwd: Path, umask: u32) -> Arc<FsContext> {
        let tree = root.mount.top();
        Arc::new(FsContext { inner: RwLock::new(Inner { root, cwd, umask, tree }) })
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        self.inner.read().root.clone()
    }

    pub fn cwd(&self) -> Path {
        self.inner.read().cwd.clone()
    }

    pub fn umask(&self) -> u32 {
        self.inner.read().umask
    }

    /// Root, working directory and umask at one time.
    pub fn snapshot(&self) -> (Path, Path, u32) {
        let inner = self.inner.read();
        (inner.root.clone(), inner.cwd.clone(), inner.umask)
    }

    pub fn set_root(&self, root: Path) {
        let old = std::mem::replace(&mut self.inner.write().root, root);
        drop(old);
    }

    pub fn set_cwd(&self, cwd: Path) {
        let old = std::mem::replace(&mut self.inner.write().cwd, cwd);
        drop(old);
    }

    /// Sets the umask (0o777 bits). Returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        std::mem::replace(&mut self.inner.write().umask, umask & 0o777)
    }

    /// A copy (fork, unshare).
    pub fn duplicate(&self) -> Arc<FsContext> {
        Arc::new(FsContext { inner: RwLock::new(self.inner.read().clone()) })
    }

    /// The mount table, as seen from the root directory.
    pub fn mounts(&self) -> Vec<MountInfo> {
        let (tree, root) = {
            let inner = self.inner.read();
            (inner.tree.clone(), inner.root.clone())
        };
        tree.table(&root)
    }
}
