//! [`FsContext`]: a process's directories, umask and view of the mounts.

use std::sync::Arc;

use parking_lot::RwLock;

use super::Path;

/// What `CLONE_FS` shares.
pub struct FsContext {
    inner: RwLock<Inner>,
}

#[derive(Clone)]
struct Inner {
    root: Path,
    cwd: Path,
    umask: u32,
}

impl FsContext {
    pub fn new(root: Path, cwd: Path, umask: u32) -> Arc<FsContext> {
        Arc::new(FsContext { inner: RwLock::new(Inner { root, cwd, umask }) })
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

    pub fn set_root(&self, root: Path) {
        self.inner.write().root = root;
    }

    pub fn set_cwd(&self, cwd: Path) {
        self.inner.write().cwd = cwd;
    }

    /// Sets the umask (0o777 bits). Returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        std::mem::replace(&mut self.inner.write().umask, umask & 0o777)
    }

    /// A copy (fork, unshare).
    pub fn duplicate(&self) -> Arc<FsContext> {
        Arc::new(FsContext { inner: RwLock::new(self.inner.read().clone()) })
    }
}
