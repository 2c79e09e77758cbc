//! [`Mount`]: a file system attached to the tree.
//!
//! A mount holds the mounts on its own dentries, so a tree of mounts is held by its root mount; a process's [`FsContext`](super::FsContext) holds that.
//! Mounts of one file system (bind mounts, copies of a tree for a new namespace) share its [`SuperBlock`]: its dentries.
//!
//! Locking: `children` and `place` are leaves, of one mount at a time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::dentry::DentryCache;
use super::{Dentry, FileSystem, Path};
use crate::Errno;
use crate::step::Step;
use crate::time::Clock;

bitflags::bitflags! {
    /// A mount's own options, `MS_*` values.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        const RDONLY = 1;
        const NOSUID = 2;
        const NODEV = 4;
        const NOEXEC = 8;
        const NOATIME = 1024;
        const NODIRATIME = 2048;
        const RELATIME = 1 << 21;
        const STRICTATIME = 1 << 24;
    }
}

impl MountFlags {
    /// As /proc/mounts shows them.
    pub fn options(self) -> String {
        let mut text = String::from(if self.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
        let names = [
            (MountFlags::NOSUID, ",nosuid"),
            (MountFlags::NODEV, ",nodev"),
            (MountFlags::NOEXEC, ",noexec"),
            (MountFlags::NOATIME, ",noatime"),
            (MountFlags::NODIRATIME, ",nodiratime"),
        ];
        for (flag, name) in names {
            if self.contains(flag) {
                text.push_str(name);
            }
        }
        if !self.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME) {
            text.push_str(",relatime");
        }
        text
    }
}

/// A mounted file system's names, shared by its mounts.
pub struct SuperBlock {
    fs: Arc<dyn FileSystem>,
    root: Arc<Dentry>,
}

impl Drop for SuperBlock {
    fn drop(&mut self) {
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
    source: Vec<u8>,
    /// Where it is mounted; None at the top of a tree.
    place: RwLock<Option<(Weak<Mount>, Arc<Dentry>)>>,
    children: RwLock<Vec<(Arc<Dentry>, Arc<Mount>)>>,
}

/// One line of a mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    pub id: u64,
    pub parent: u64,
    /// The part of the file system that is mounted.
    pub root: Vec<u8>,
    pub target: Vec<u8>,
    pub mount_options: String,
    pub fs_options: String,
    pub fs_name: &'static str,
    pub source: Vec<u8>,
    pub dev: u64,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(20);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An unnamed device number (major 0), one for each file system made.
pub fn next_device() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(32);
    super::dev::device_number(0, NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Mount {
    /// A file system, mounted nowhere yet: the top of a tree, or to be put somewhere by [`Mount::attach`].
    pub fn new(fs: Arc<dyn FileSystem>, source: impl Into<Vec<u8>>, flags: MountFlags, clock: &Clock) -> Arc<Mount> {
        let cache = DentryCache::new(fs.name_ttl_ns(), clock.clone());
        let root = Dentry::root(fs.root(), cache);
        let super_block = Arc::new(SuperBlock { fs, root: root.clone() });
        Mount::of(super_block, root, source.into(), flags)
    }

    fn of(super_block: Arc<SuperBlock>, root: Arc<Dentry>, source: Vec<u8>, flags: MountFlags) -> Arc<Mount> {
        Arc::new(Mount {
            fs: super_block.fs.clone(),
            id: next_id(),
            super_block,
            root,
            flags: AtomicU32::new(flags.bits()),
            source,
            place: RwLock::default(),
            children: RwLock::default(),
        })
    }

    /// The same part of a file system once more (a bind mount of `path`), with the same options.
    pub fn bind(path: &Path) -> Arc<Mount> {
        let from = &path.mount;
        Mount::of(from.super_block.clone(), path.dentry.clone(), from.source.clone(), from.flags())
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    pub fn has(&self, flag: MountFlags) -> bool {
        self.flags().contains(flag)
    }

    /// # Errors
    /// `EROFS`.
    pub fn writable(&self) -> Result<(), Errno> {
        if self.has(MountFlags::RDONLY) { Err(Errno::EROFS) } else { Ok(()) }
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

    /// Puts this mount on a place. A directory can be mounted only on a directory, other things only on other things.
    ///
    /// # Errors
    /// `ENOTDIR`, `EISDIR`; `ENOENT` if the place was removed; `EBUSY` if the mount is somewhere already.
    pub fn attach(self: &Arc<Mount>, at: &Path) -> Result<(), Errno> {
        match (self.root.is_dir(), at.dentry.is_dir()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            _ => {}
        }
        if !at.dentry.is_attached() {
            return Err(Errno::ENOENT);
        }
        {
            let mut place = self.place.write();
            if place.is_some() {
                return Err(Errno::EBUSY);
            }
            *place = Some((Arc::downgrade(&at.mount), at.dentry.clone()));
        }
        at.dentry.add_mount();
        at.mount.children.write().push((at.dentry.clone(), self.clone()));
        Ok(())
    }

    /// Takes this mount (and those below it) off its place.
    ///
    /// # Errors
    /// `EINVAL` at the top of a tree.
    pub fn detach(self: &Arc<Mount>) -> Result<(), Errno> {
        let place = self.place.write().take();
        let (parent, dentry) = place.ok_or(Errno::EINVAL)?;
        dentry.remove_mount();
        if let Some(parent) = parent.upgrade() {
            parent.children.write().retain(|(_, mount)| !Arc::ptr_eq(mount, self));
        }
        Ok(())
    }

    /// What is mounted on a dentry of this mount.
    pub(super) fn child_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        let children = self.children.read();
        children.iter().rev().find(|(at, _)| Arc::ptr_eq(at, dentry)).map(|(_, mount)| mount.clone())
    }

    /// The mounts on this one.
    pub fn children(&self) -> Vec<Arc<Mount>> {
        self.children.read().iter().map(|(_, mount)| mount.clone()).collect()
    }

    /// Copies the part of the tree below `from` (bind mounts with `MS_REC`).
    ///
    /// # Errors
    /// As [`Mount::attach`].
    pub fn copy_below(from: &Path) -> Result<Arc<Mount>, Errno> {
        let top = Mount::bind(from);
        let mut todo = vec![(from.mount.clone(), top.clone())];
        while let Some((old, new)) = todo.pop() {
            for child in old.children() {
                let Some(point) = child.mount_point() else { continue };
                if !new.root.is_ancestor_of(&point.dentry) {
                    continue;
                }
                let copy = Mount::bind(&child.root_path());
                copy.attach(&Path { mount: new.clone(), dentry: point.dentry })?;
                todo.push((child, copy));
            }
        }
        Ok(top)
    }

    /// The mount table of the tree with this top, as seen from `root`.
    pub fn table(self: &Arc<Mount>, root: &Path) -> Vec<MountInfo> {
        let mut lines = Vec::new();
        let mut todo = vec![self.clone()];
        while let Some(mount) = todo.pop() {
            let parent = mount.mount_point().map_or(mount.id, |point| point.mount.id);
            let dev = match mount.root.inode().metadata() {
                Step::Ready(Ok(metadata)) => metadata.dev,
                _ => 0,
            };
            lines.push(MountInfo {
                id: mount.id,
                parent,
                root: mount.root.path_in_fs(),
                target: mount.root_path().name_from(root),
                mount_options: mount.flags().options(),
                fs_options: mount.fs.options(),
                fs_name: mount.fs.name(),
                source: mount.source.clone(),
                dev,
            });
            todo.extend(mount.children().into_iter().rev());
        }
        lines
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for (dentry, _) in self.children.get_mut() {
            dentry.remove_mount();
        }
    }
}
