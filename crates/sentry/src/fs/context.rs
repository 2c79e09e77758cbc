//! [`FsContext`]: a process's directories, umask and view of the mounts.

use std::sync::Arc;

use parking_lot::RwLock;

use super::{MountInfo, MountNamespace, Path};
use crate::Errno;
use crate::ns::UserNs;

/// What `CLONE_FS` shares.
pub struct FsContext {
    inner: RwLock<Inner>,
}

#[derive(Clone)]
struct Inner {
    root: Path,
    cwd: Path,
    umask: u32,
    /// The tree of mounts that they are in.
    namespace: Arc<MountNamespace>,
}

impl FsContext {
    pub fn new(root: Path, cwd: Path, umask: u32) -> Arc<FsContext> {
        let namespace = root.mount.namespace().unwrap_or_else(|| MountNamespace::new(&root.mount.top()));
        Arc::new(FsContext { inner: RwLock::new(Inner { root, cwd, umask, namespace }) })
    }

    /// The mount namespace. (Processes with one `FsContext` have one: leaving it takes a context of one's own.)
    pub fn namespace(&self) -> Arc<MountNamespace> {
        self.inner.read().namespace.clone()
    }

    /// Moves to a copy of the mount namespace (`CLONE_NEWNS`); the directories are the same ones in it.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn unshare_mounts(&self, owner: UserNs) -> Result<(), Errno> {
        let Inner { mut root, mut cwd, umask, namespace } = self.inner.read().clone();
        let namespace = namespace.duplicate(&mut [&mut root, &mut cwd], owner)?;
        let old = std::mem::replace(&mut *self.inner.write(), Inner { root, cwd, umask, namespace });
        drop(old);
        Ok(())
    }

    /// Enters a mount namespace (`setns`): root and working directory are its root.
    ///
    /// # Errors
    /// `EINVAL` if its tree is gone.
    pub fn enter_mounts(&self, namespace: Arc<MountNamespace>) -> Result<(), Errno> {
        let root = namespace.entry().ok_or(Errno::EINVAL)?;
        let umask = self.umask();
        let inner = Inner { cwd: root.clone(), root, umask, namespace };
        let old = std::mem::replace(&mut *self.inner.write(), inner);
        drop(old);
        Ok(())
    }

    /// The root directory was `from` and is `to` now (`pivot_root`); so is a working directory there.
    pub fn replace_root(&self, from: &Path, to: &Path) {
        let mut inner = self.inner.write();
        let mut old = Vec::new();
        if inner.root == *from {
            old.push(std::mem::replace(&mut inner.root, to.clone()));
        }
        if inner.cwd == *from {
            old.push(std::mem::replace(&mut inner.cwd, to.clone()));
        }
        drop(inner);
        drop(old);
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
        let (namespace, root) = {
            let inner = self.inner.read();
            (inner.namespace.clone(), inner.root.clone())
        };
        namespace.table(&root)
    }
}
