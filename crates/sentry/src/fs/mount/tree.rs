//! [`Tree`]: a change of a namespace's tree, under the lock of all that could be affected; adding mounts, and copying them.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::namespace::Points;
use super::propagation::{Part, Receiver};
use super::{Mount, MountNamespace, PropagationType};
use crate::Errno;
use crate::fs::{Dentry, FileKind, Path};

/// How much of a tree is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// One mount.
    One,
    /// Those below it too, but for unbindable ones (bind mounts).
    Recursive,
    /// All (a new namespace).
    Everything,
}

/// A change in progress.
pub struct Tree<'a> {
    pub(super) namespace: &'a Arc<MountNamespace>,
    points: Option<MutexGuard<'a, Points>>,
    /// Told of a change at the end, without the lock.
    touched: Vec<Arc<MountNamespace>>,
    /// Dropped at the end, without the lock.
    gone: Vec<Arc<Mount>>,
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        self.points = None;
        self.gone.clear();
        for namespace in self.touched.drain(..) {
            namespace.touch();
        }
    }
}

/// Puts a mount on a place. Whoever calls this keeps the table of mount points.
pub(super) fn link(mount: &Arc<Mount>, at: &Path) {
    *mount.place.write() = Some((Arc::downgrade(&at.mount), at.dentry.clone()));
    at.dentry.add_mount();
    at.mount.children.write().push((at.dentry.clone(), mount.clone()));
}

/// Takes a mount off its place. Returns the parent's reference.
pub(super) fn unlink(mount: &Arc<Mount>) -> Option<Arc<Mount>> {
    let (parent, dentry) = mount.place.write().take()?;
    dentry.remove_mount();
    let parent = parent.upgrade()?;
    let mut children = parent.children.write();
    let at = children.iter().position(|(_, child)| Arc::ptr_eq(child, mount))?;
    Some(children.remove(at).1)
}

/// Whether `mount` can stand at a place.
///
/// # Errors
/// `ENOTDIR`, `ENOENT`.
pub(super) fn fits(mount: &Mount, at: &Path) -> Result<(), Errno> {
    // Links to what a process has open come and go (d80b065bb172).
    if at.dentry.kind() == FileKind::Symlink && at.mount.fs.name() == "proc" {
        return Err(Errno::ENOENT);
    }
    if mount.root.is_dir() != at.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    if at.dentry.is_attached() { Ok(()) } else { Err(Errno::ENOENT) }
}

impl<'a> Tree<'a> {
    pub(super) fn new(namespace: &'a Arc<MountNamespace>) -> Tree<'a> {
        let points = Some(namespace.topology.points.lock());
        Tree { namespace, points, touched: Vec::new(), gone: Vec::new() }
    }

    /// Whether a mount is in this namespace.
    pub fn has(&self, mount: &Mount) -> bool {
        mount.is_in(self.namespace)
    }

    /// `EINVAL` unless the mount is in this namespace.
    pub(super) fn check(&self, mount: &Mount) -> Result<(), Errno> {
        if self.has(mount) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    pub(super) fn touch(&mut self, mount: &Mount) {
        let Some(namespace) = mount.namespace() else { return };
        if !self.touched.iter().any(|other| Arc::ptr_eq(other, &namespace)) {
            self.touched.push(namespace);
        }
    }

    /// Drops a mount when the lock is no longer held.
    pub(super) fn later(&mut self, mount: Option<Arc<Mount>>) {
        self.gone.extend(mount);
    }

    pub(super) fn put(&mut self, mount: &Arc<Mount>, at: &Path) {
        link(mount, at);
        if let Some(points) = &mut self.points {
            points.add(&at.dentry, mount);
        }
    }

    pub(super) fn take(&mut self, mount: &Arc<Mount>) {
        if let Some(point) = mount.mount_point()
            && let Some(points) = &mut self.points
        {
            points.remove(&point.dentry, mount);
        }
        let gone = unlink(mount);
        self.later(gone);
    }

    /// The mounts on a dentry, in all namespaces.
    pub(super) fn mounts_on(&self, dentry: &Arc<Dentry>) -> Vec<Arc<Mount>> {
        self.points.as_ref().map(|points| points.on(dentry)).unwrap_or_default()
    }

    /// Mounts something new: the top of a tree that is mounted nowhere. What is mounted on `at` by now is covered.
    ///
    /// # Errors
    /// `EINVAL` if `at` is not in this namespace; `ENOTDIR`, `ENOENT`, `ENOSPC`.
    pub fn add(&mut self, mount: &Arc<Mount>, at: &Path) -> Result<(), Errno> {
        let at = at.clone().descend();
        self.check(&at.mount)?;
        fits(mount, &at)?;
        self.attach(mount, &at)
    }

    /// Mounts `path` once more at `at`.
    ///
    /// # Errors
    /// `EINVAL` if either is not in this namespace, or `path` is on an unbindable mount or hides locked ones; as [`Tree::add`].
    pub fn bind(&mut self, path: &Path, at: &Path, depth: Depth) -> Result<(), Errno> {
        let at = at.clone().descend();
        if !at.dentry.is_attached() {
            return Err(Errno::ENOENT);
        }
        let top = self.bound(path, depth)?;
        self.check(&at.mount)?;
        fits(&top, &at)?;
        self.attach(&top, &at)
    }

    /// A tree of its own that shows what `path` shows (`open_tree` with `OPEN_TREE_CLONE`).
    ///
    /// # Errors
    /// As [`Tree::bind`].
    pub fn bind_detached(&mut self, path: &Path, depth: Depth) -> Result<Arc<MountNamespace>, Errno> {
        let top = self.bound(path, depth)?;
        self.namespace.admit(top.subtree().len())?;
        Ok(self.namespace.anonymous(top))
    }

    /// A mount as a tree of its own (`fsmount`).
    pub fn detached(&mut self, mount: Arc<Mount>) -> Arc<MountNamespace> {
        self.namespace.anonymous(mount)
    }

    fn bound(&mut self, path: &Path, depth: Depth) -> Result<Arc<Mount>, Errno> {
        if path.mount.is_unbindable() {
            return Err(Errno::EINVAL);
        }
        let anonymous = path.mount.namespace().is_some_and(|namespace| namespace.is_anonymous());
        if !anonymous {
            self.check(&path.mount)?;
        }
        let hides = |child: &Arc<Mount>| {
            child.is_locked() && child.mount_point().is_some_and(|point| path.dentry.is_ancestor_of(&point.dentry))
        };
        if depth == Depth::One && path.mount.children().iter().any(hides) {
            return Err(Errno::EINVAL);
        }
        let pairs = self.copy(path, depth)?;
        let top = pairs.into_iter().next().map(|(_, copy)| copy).ok_or(Errno::EINVAL)?;
        top.locked.store(false, std::sync::atomic::Ordering::Relaxed);
        Ok(top)
    }

    /// Copies the part of a tree below a place; each copy takes the same part in propagation. Returns originals and copies, the top first.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub(super) fn copy(&mut self, from: &Path, depth: Depth) -> Result<Vec<(Arc<Mount>, Arc<Mount>)>, Errno> {
        self.copy_as(from, depth, Part::Peer)
    }

    /// As [`Tree::copy`]; `part` is what each copy is to its original.
    pub(super) fn copy_as(&mut self, from: &Path, depth: Depth, part: Part) -> Result<Vec<(Arc<Mount>, Arc<Mount>)>, Errno> {
        let clone = |mount: &Arc<Mount>, root: &Arc<Dentry>| {
            let copy = Mount::bind(&Path { mount: mount.clone(), dentry: root.clone() });
            match part {
                Part::Peer => copy.join(mount),
                Part::Slave => copy.follow(mount),
                Part::SharedSlave => {
                    copy.follow(mount);
                    copy.set_propagation(PropagationType::Shared);
                }
            }
            copy.propagation.lock().unbindable = mount.is_unbindable();
            copy.locked.store(mount.is_locked(), std::sync::atomic::Ordering::Relaxed);
            copy
        };
        let mut pairs = vec![(from.mount.clone(), clone(&from.mount, &from.dentry))];
        let mut at = 0;
        while depth != Depth::One
            && let Some((old, new)) = pairs.get(at).cloned()
        {
            at += 1;
            for child in old.children() {
                let Some(point) = child.mount_point() else { continue };
                let skipped = depth == Depth::Recursive && child.is_unbindable();
                if skipped || !new.root.is_ancestor_of(&point.dentry) {
                    continue;
                }
                let copy = clone(&child, child.root());
                self.put(&copy, &Path { mount: new.clone(), dentry: point.dentry });
                pairs.push((child, copy));
                if pairs.len() > super::namespace::MOUNT_MAX {
                    return Err(Errno::ENOSPC);
                }
            }
        }
        Ok(pairs)
    }

    /// Mounts `top` at `at`, and copies of it wherever that propagates to (Linux's `attach_recursive_mnt`).
    pub(super) fn attach(&mut self, top: &Arc<Mount>, at: &Path) -> Result<(), Errno> {
        let copies = self.propagate(top, at)?;
        let covered = at.mount.child_at(&at.dentry);
        self.place(top, at, covered);
        for (parent, copy) in copies {
            if parent.namespace().is_some_and(|theirs| theirs.owner() != self.namespace.owner()) {
                copy.lock_tree();
            }
            let at = Path { mount: parent, dentry: at.dentry.clone() };
            let covered = at.mount.child_at(&at.dentry);
            self.place(&copy, &at, covered);
        }
        Ok(())
    }

    /// Puts a tree on a place; what was `covered` there stands on its root now.
    fn place(&mut self, top: &Arc<Mount>, at: &Path, covered: Option<Arc<Mount>>) {
        if let Some(covered) = covered {
            self.take(&covered);
            let mut root = top.root_path();
            // Where the tree has something on its own root, on top of that.
            root = root.descend();
            self.put(&covered, &root);
        }
        self.put(top, at);
        if let Some(namespace) = at.mount.namespace()
            && !top.is_in(&namespace)
        {
            for mount in top.subtree() {
                if let Some(old) = mount.namespace() {
                    if Arc::ptr_eq(&old, &namespace) {
                        continue;
                    }
                    old.delist(&mount);
                }
                namespace.enlist_one(&mount);
            }
        }
        self.touch(&at.mount);
    }

    /// Makes the copies of `top` that its being mounted at `at` leads to: each with the mount that it goes on.
    fn propagate(&mut self, top: &Arc<Mount>, at: &Path) -> Result<Vec<(Arc<Mount>, Arc<Mount>)>, Errno> {
        let tree = top.subtree();
        let joins = !top.is_in(self.namespace);
        if joins && let Some(namespace) = at.mount.namespace() {
            namespace.admit(tree.len())?;
        }
        if !at.mount.is_shared() {
            return Ok(Vec::new());
        }
        let receivers = at.mount.receivers(|mount| receives(mount, at));
        for receiver in &receivers {
            if let Some(namespace) = receiver.mount.namespace() {
                namespace.admit(tree.len().saturating_mul(receivers.len()))?;
            }
        }
        for mount in &tree {
            mount.set_propagation(PropagationType::Shared);
        }
        let mut copies: Vec<(Arc<Mount>, Arc<Mount>)> = Vec::with_capacity(receivers.len());
        for Receiver { mount, of, part } in receivers {
            let source = of.and_then(|of| copies.get(of)).map_or(top, |(_, copy)| copy).clone();
            let pairs = self.copy_as(&source.root_path(), Depth::Everything, part)?;
            let copy = pairs.into_iter().next().map(|(_, copy)| copy).ok_or(Errno::EINVAL)?;
            copy.locked.store(false, std::sync::atomic::Ordering::Relaxed);
            copies.push((mount, copy));
        }
        Ok(copies)
    }

    /// Changes how a mount (with `Depth::Recursive`: and those below it) takes part in propagation.
    ///
    /// # Errors
    /// `EINVAL` if it is not in this namespace.
    pub fn set_propagation(&mut self, mount: &Arc<Mount>, to: PropagationType, depth: Depth) -> Result<(), Errno> {
        self.check_or_anonymous(mount)?;
        let mounts = if depth == Depth::One { vec![mount.clone()] } else { mount.subtree() };
        for mount in &mounts {
            mount.set_propagation(to);
        }
        self.touch(mount);
        Ok(())
    }

    /// Sets a mount's own flags.
    ///
    /// # Errors
    /// As [`Mount::change_flags`].
    pub fn change_flags(&mut self, mount: &Arc<Mount>, flags: super::MountFlags) -> Result<(), Errno> {
        mount.change_flags(flags)?;
        self.touch(mount);
        Ok(())
    }

    /// `EINVAL` unless the mount is in this namespace or in an anonymous one.
    pub fn check_or_anonymous(&self, mount: &Mount) -> Result<(), Errno> {
        match mount.namespace() {
            Some(namespace) if namespace.is_anonymous() || Arc::ptr_eq(&namespace, self.namespace) => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Whether something that is mounted at `at` shows on `mount` too.
pub(super) fn receives(mount: &Arc<Mount>, at: &Path) -> bool {
    Arc::ptr_eq(&mount.super_block, &at.mount.super_block)
        && mount.namespace().is_some()
        && mount.root.is_ancestor_of(&at.dentry)
}
