//! Moving mounts: `MS_MOVE`, `move_mount(2)`, `pivot_root(2)`.

use std::sync::Arc;

use super::Mount;
use super::tree::Tree;
use crate::Errno;
use crate::fs::Path;

/// Where a moved mount goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moving {
    /// On top of what is at the place.
    OnTop,
    /// Under the mount that is at the place (`MOVE_MOUNT_BENEATH`).
    Beneath,
}

impl Tree<'_> {
    /// Moves the mount whose root `from` is: from its place, or from nowhere (a tree in an anonymous namespace).
    ///
    /// # Errors
    /// `EINVAL` where `mount(2)` and `move_mount(2)` say so; `ELOOP` below itself; `ENOENT`, `ENOSPC`.
    pub fn move_mount(&mut self, from: &Path, to: &Path, moving: Moving) -> Result<(), Errno> {
        let mount = from.mounted_here()?;
        let to = match moving {
            Moving::OnTop => to.clone().descend(),
            Moving::Beneath => self.beneath(to)?,
        };
        if !to.dentry.is_attached() {
            return Err(Errno::ENOENT);
        }
        self.check(&to.mount)?;
        let place = mount.mount_point();
        let anonymous = mount.namespace().filter(|namespace| namespace.is_anonymous());
        match &anonymous {
            Some(_) if place.is_some() => return Err(Errno::EINVAL),
            Some(_) => {}
            None => self.check(mount)?,
        }
        if anonymous.is_none() && place.is_none() || mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        if mount.root.is_dir() != to.dentry.is_dir() {
            return Err(Errno::EINVAL);
        }
        if place.as_ref().is_some_and(|place| place.mount.is_shared()) {
            return Err(Errno::EINVAL);
        }
        if to.mount.is_shared() && mount.subtree().iter().any(|mount| mount.is_unbindable()) {
            return Err(Errno::EINVAL);
        }
        if mount.is_ancestor_of(&to.mount) {
            return Err(Errno::ELOOP);
        }
        self.touch(mount);
        if place.is_some() {
            self.take(mount);
        }
        // What cannot stand there goes back.
        if let Err(errno) = self.attach(mount, &to) {
            if let Some(place) = place {
                self.put(mount, &place);
            }
            return Err(errno);
        }
        if let Some(anonymous) = anonymous {
            anonymous.give_up();
        }
        Ok(())
    }

    /// The place of the mount that `to` is the root of: what comes there goes under it.
    fn beneath(&self, to: &Path) -> Result<Path, Errno> {
        let mount = to.mounted_here()?;
        let place = mount.mount_point().ok_or(Errno::EINVAL)?;
        self.check(mount)?;
        // The place must not itself receive what is mounted on the parent, or it would be there twice.
        let parent_sends = place.mount.group().zip(mount.group()).is_some_and(|(a, b)| Arc::ptr_eq(&a, &b));
        if mount.is_locked() || parent_sends || Arc::ptr_eq(&mount.top(), &place.mount) {
            return Err(Errno::EINVAL);
        }
        Ok(place)
    }

    /// `MOVE_MOUNT_SET_GROUP`: `to` takes the part in propagation that `from` has.
    ///
    /// # Errors
    /// `EINVAL` unless both are roots of mounts of one file system, `from` shows no less than `to`, and `to` is private.
    pub fn set_group(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let (from, to) = (from.mounted_here()?, to.mounted_here()?);
        self.check(from)?;
        self.check(to)?;
        let takes_part = from.is_shared() || from.master().is_some();
        let free = !to.is_shared() && to.master().is_none();
        let shows = Arc::ptr_eq(&from.super_block, &to.super_block) && from.root.is_ancestor_of(&to.root);
        let hidden = from
            .children()
            .iter()
            .any(|child| child.is_locked() && child.mount_point().is_some_and(|point| to.root.is_ancestor_of(&point.dentry)));
        if !takes_part || !free || !shows || hidden {
            return Err(Errno::EINVAL);
        }
        to.join(from);
        self.touch(to);
        Ok(())
    }

    /// `pivot_root(2)`: `new` becomes the root of the namespace's tree, and `root` (the caller's root directory) goes to `old`.
    ///
    /// # Errors
    /// `EINVAL`, `EBUSY`, `ENOENT`.
    pub fn pivot_root(&mut self, root: &Path, new: &Path, old: &Path) -> Result<(), Errno> {
        let old = old.clone().descend();
        let (new_mount, root_mount) = (&new.mount, &root.mount);
        let parent_shared = |mount: &Arc<Mount>| mount.mount_point().is_some_and(|point| point.mount.is_shared());
        if old.mount.is_shared() || parent_shared(new_mount) || parent_shared(root_mount) {
            return Err(Errno::EINVAL);
        }
        self.check(root_mount)?;
        self.check(new_mount)?;
        if new_mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        if !new.dentry.is_attached() || !old.dentry.is_attached() {
            return Err(Errno::ENOENT);
        }
        if Arc::ptr_eq(new_mount, root_mount) || Arc::ptr_eq(&old.mount, root_mount) {
            return Err(Errno::EBUSY);
        }
        root.mounted_here()?;
        new.mounted_here()?;
        let root_place = root_mount.mount_point().ok_or(Errno::EINVAL)?;
        new_mount.mount_point().ok_or(Errno::EINVAL)?;
        if !old.is_below(new) || !new.is_below(root) {
            return Err(Errno::EINVAL);
        }
        self.take(new_mount);
        self.take(root_mount);
        if root_mount.is_locked() {
            new_mount.locked.store(true, std::sync::atomic::Ordering::Relaxed);
            root_mount.locked.store(false, std::sync::atomic::Ordering::Relaxed);
        }
        self.put(root_mount, &old);
        self.put(new_mount, &root_place);
        self.touch(new_mount);
        Ok(())
    }
}

impl Path {
    /// The mount whose root this place is.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn mounted_here(&self) -> Result<&Arc<Mount>, Errno> {
        if Arc::ptr_eq(&self.dentry, self.mount.root()) { Ok(&self.mount) } else { Err(Errno::EINVAL) }
    }
}
