//! Mounts: file systems attached to a tree, and the trees (mount namespaces).
//!
//! A [`Mount`] holds the mounts on its own dentries; a tree is held by its root, and that by its [`MountNamespace`]. Mounts of one file system
//! (bind mounts, copies of a tree for a new namespace) share its [`SuperBlock`]: its dentries. All changes of trees are made through a
//! [`Tree`] (`tree`, `umount`, `moves`), which holds the lock of all namespaces that could affect each other; `propagation` has the peer groups by which
//! a change in one place is repeated in others, `info` the mount tables.
//!
//! Locking: a namespace's topology lock (held by [`Tree`]) before `Mount::place`, `Mount::children` and `Mount::propagation`, which walks read without
//! it and which are leaves, of one mount at a time.

mod flags;
mod info;
mod moves;
mod namespace;
mod propagation;
mod tree;
mod umount;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::dentry::DentryCache;
use super::{Dentry, FileSystem, Path};
use crate::Errno;
use crate::time::Clock;
pub use flags::MountFlags;
pub use info::MountInfo;
pub use moves::Moving;
pub use namespace::MountNamespace;
use propagation::Propagation;
pub use propagation::PropagationType;
pub use tree::{Depth, Tree};
pub use umount::Umount;

/// A mounted file system's names, shared by its mounts.
pub struct SuperBlock {
    fs: Arc<dyn FileSystem>,
    root: Arc<Dentry>,
    read_only: AtomicBool,
    /// Regular files that are open for writing, through any mount.
    writers: AtomicUsize,
}

impl SuperBlock {
    pub fn read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Makes the whole file system read-only, or writable.
    ///
    /// # Errors
    /// `EBUSY` while a file is open for writing; `EROFS` if it cannot be writable.
    pub fn set_read_only(&self, read_only: bool) -> Result<(), Errno> {
        if !read_only && self.fs.read_only() {
            return Err(Errno::EROFS);
        }
        if read_only && self.writers.load(Ordering::Acquire) > 0 {
            return Err(Errno::EBUSY);
        }
        self.read_only.store(read_only, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for SuperBlock {
    fn drop(&mut self) {
        self.root.cache().marks.unmounted();
        self.root.prune();
    }
}

/// A mounted file system (or a part of one).
pub struct Mount {
    pub fs: Arc<dyn FileSystem>,
    id: u64,
    super_block: Arc<SuperBlock>,
    root: Arc<Dentry>,
    flags: AtomicU32,
    /// Flags that a less privileged namespace must not take away.
    locked_flags: AtomicU32,
    /// Whether it must stay where it is: it came from a more privileged namespace.
    locked: AtomicBool,
    source: Vec<u8>,
    /// Where it is mounted; None at the top of a tree.
    place: RwLock<Option<(Weak<Mount>, Arc<Dentry>)>>,
    children: RwLock<Vec<(Arc<Dentry>, Arc<Mount>)>>,
    /// The namespace whose tree it is in.
    namespace: RwLock<Weak<MountNamespace>>,
    propagation: Mutex<Propagation>,
    /// Regular files that are open for writing through it.
    writers: AtomicUsize,
    /// Counts walks into it, for `MNT_EXPIRE`.
    entered: AtomicU32,
    /// What `entered` was when `MNT_EXPIRE` marked it; `u32::MAX`: it is not marked.
    expiry_mark: AtomicU32,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(20);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Unique mount ids start here, so that nobody takes one kind for the other (as Linux's `MNT_UNIQUE_ID_OFFSET`).
const UNIQUE_ID_OFFSET: u64 = 1 << 31;

/// An unnamed device number (major 0), one for each file system made.
pub fn next_device() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(32);
    super::dev::device_number(0, NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Mount {
    /// A file system, mounted nowhere yet: the top of a tree, or to be put somewhere.
    pub fn new(fs: Arc<dyn FileSystem>, source: impl Into<Vec<u8>>, flags: MountFlags, clock: &Clock) -> Arc<Mount> {
        let cache = DentryCache::new(fs.name_ttl_ns(), clock.clone());
        let root = Dentry::root(fs.root(), cache);
        let read_only = AtomicBool::new(fs.read_only());
        let super_block = SuperBlock { fs, root: root.clone(), read_only, writers: AtomicUsize::new(0) };
        Mount::of(Arc::new(super_block), root, source.into(), flags)
    }

    fn of(super_block: Arc<SuperBlock>, root: Arc<Dentry>, source: Vec<u8>, flags: MountFlags) -> Arc<Mount> {
        Arc::new(Mount {
            fs: super_block.fs.clone(),
            id: next_id(),
            super_block,
            root,
            flags: AtomicU32::new(flags.bits()),
            locked_flags: AtomicU32::new(0),
            locked: AtomicBool::new(false),
            source,
            place: RwLock::default(),
            children: RwLock::default(),
            namespace: RwLock::default(),
            propagation: Mutex::default(),
            writers: AtomicUsize::new(0),
            entered: AtomicU32::new(0),
            expiry_mark: AtomicU32::new(u32::MAX),
        })
    }

    /// The same part of a file system once more, with the same options, private and mounted nowhere.
    pub fn bind(path: &Path) -> Arc<Mount> {
        let from = &path.mount;
        let copy = Mount::of(from.super_block.clone(), path.dentry.clone(), from.source.clone(), from.flags());
        copy.locked_flags.store(from.locked_flags.load(Ordering::Relaxed), Ordering::Relaxed);
        copy
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// The id that is never used again.
    pub fn unique_id(&self) -> u64 {
        self.id + UNIQUE_ID_OFFSET
    }

    pub fn super_block(&self) -> &Arc<SuperBlock> {
        &self.super_block
    }

    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Sets the flags as a user may.
    ///
    /// # Errors
    /// `EPERM` for flags that a more privileged namespace set; `EBUSY` for read-only while a file is open for writing.
    pub fn change_flags(&self, flags: MountFlags) -> Result<(), Errno> {
        self.may_change_flags(flags)?;
        self.set_flags(flags);
        Ok(())
    }

    /// Whether [`Mount::change_flags`] would work.
    ///
    /// # Errors
    /// As there.
    pub fn may_change_flags(&self, flags: MountFlags) -> Result<(), Errno> {
        let locked = MountFlags::from_bits_retain(self.locked_flags.load(Ordering::Relaxed));
        if !flags.contains(locked - MountFlags::ATIME) {
            return Err(Errno::EPERM);
        }
        if locked.intersects(MountFlags::ATIME) && (flags ^ self.flags()).intersects(MountFlags::ATIME) {
            return Err(Errno::EPERM);
        }
        let closes = flags.contains(MountFlags::RDONLY) && !self.has(MountFlags::RDONLY);
        if closes && self.writers.load(Ordering::Acquire) > 0 {
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    pub fn has(&self, flag: MountFlags) -> bool {
        self.flags().contains(flag)
    }

    /// # Errors
    /// `EROFS`.
    pub fn writable(&self) -> Result<(), Errno> {
        if self.has(MountFlags::RDONLY) || self.super_block.read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// A regular file was opened for writing.
    pub(super) fn add_writer(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
        self.super_block.writers.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove_writer(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
        self.super_block.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// The mounted root.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// The root as a place.
    pub fn root_path(self: &Arc<Mount>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> Option<Path> {
        let place = self.place.read();
        let (mount, dentry) = place.as_ref()?;
        Some(Path { mount: mount.upgrade()?, dentry: dentry.clone() })
    }

    /// The mount at the top of the tree.
    pub fn top(self: &Arc<Mount>) -> Arc<Mount> {
        let mut mount = self.clone();
        while let Some(point) = mount.mount_point() {
            mount = point.mount;
        }
        mount
    }

    /// The namespace that it is in; None once it is unmounted, or before it is mounted.
    pub fn namespace(&self) -> Option<Arc<MountNamespace>> {
        self.namespace.read().upgrade()
    }

    fn is_in(&self, namespace: &Arc<MountNamespace>) -> bool {
        std::ptr::eq(self.namespace.read().as_ptr(), Arc::as_ptr(namespace))
    }

    /// Whether a more privileged namespace wants it to stay.
    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// The tree below goes to a less privileged namespace: what restricts stays, and all but the top stays where it is (Linux's `lock_mnt_tree`).
    fn lock_tree(self: &Arc<Mount>) {
        let restricting = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        for mount in self.subtree() {
            let locked = mount.flags() & restricting | MountFlags::ATIME;
            mount.locked_flags.fetch_or(locked.bits(), Ordering::Relaxed);
            mount.locked.store(!Arc::ptr_eq(&mount, self), Ordering::Relaxed);
        }
    }

    /// What is mounted on a dentry of this mount.
    pub(super) fn child_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        let children = self.children.read();
        let child = children.iter().rev().find(|(at, _)| Arc::ptr_eq(at, dentry)).map(|(_, mount)| mount.clone());
        if let Some(child) = &child {
            child.entered.fetch_add(1, Ordering::Relaxed);
        }
        child
    }

    /// The mounts on this one.
    pub fn children(&self) -> Vec<Arc<Mount>> {
        self.children.read().iter().map(|(_, mount)| mount.clone()).collect()
    }

    /// This mount and all below it, parents first.
    pub fn subtree(self: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut found = Vec::new();
        let mut todo = vec![self.clone()];
        while let Some(mount) = todo.pop() {
            todo.extend(mount.children().into_iter().rev());
            found.push(mount);
        }
        found
    }

    /// Whether `other` is this mount or is mounted below it.
    pub fn is_ancestor_of(self: &Arc<Mount>, other: &Arc<Mount>) -> bool {
        let mut at = Some(other.clone());
        while let Some(mount) = at {
            if Arc::ptr_eq(&mount, self) {
                return true;
            }
            at = mount.mount_point().map(|point| point.mount);
        }
        false
    }

    /// Marks it for `MNT_EXPIRE`. Returns whether it was marked, and nobody has walked into it but for this call.
    pub fn expire(&self) -> bool {
        let entered = self.entered.load(Ordering::Relaxed);
        let mark = self.expiry_mark.swap(entered, Ordering::Relaxed);
        mark != u32::MAX && entered == mark.wrapping_add(1)
    }

    /// Puts this mount on a place, for trees that have no namespace yet or whose propagation does not matter (a container's own mounts).
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOENT` if the place was removed; `EBUSY` if the mount is somewhere already.
    pub fn attach(self: &Arc<Mount>, at: &Path) -> Result<(), Errno> {
        tree::fits(self, at)?;
        if self.place.read().is_some() {
            return Err(Errno::EBUSY);
        }
        tree::link(self, at);
        if let Some(namespace) = at.mount.namespace() {
            namespace.enlist(self);
        }
        Ok(())
    }

    /// Takes this mount off its place; those below stay on it.
    ///
    /// # Errors
    /// `EINVAL` at the top of a tree.
    pub fn detach(self: &Arc<Mount>) -> Result<(), Errno> {
        if self.place.read().is_none() {
            return Err(Errno::EINVAL);
        }
        drop(tree::unlink(self));
        Ok(())
    }
}

impl Drop for Mount {
    /// Mounts on this one go one after the other, not one inside the other: a guest decides how high they are stacked.
    fn drop(&mut self) {
        Propagation::forget(self.propagation.get_mut());
        let mut todo = std::mem::take(self.children.get_mut());
        while let Some((dentry, mount)) = todo.pop() {
            dentry.remove_mount();
            if let Some(mut mount) = Arc::into_inner(mount) {
                todo.append(mount.children.get_mut());
            }
        }
    }
}
