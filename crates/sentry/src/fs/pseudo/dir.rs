//! [`DirInode`]: a directory whose entries are looked up by code.

use std::any::Any;
use std::sync::Arc;

use super::Identity;
use crate::Errno;
use crate::fs::{DirEntry, File, FileKind, FileOps, Inode, Metadata, NewInode, OpenFlags, Ownership, Timestamp};
use crate::step::Step;
use crate::task::Cx;

/// An entry in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: Vec<u8>,
    pub kind: FileKind,
    /// Its place in the order, which must stay when others come and go, so that a reader who stops in between misses nothing.
    /// None: its index.
    pub place: Option<u64>,
}

impl Listed {
    pub fn new(name: impl Into<Vec<u8>>, kind: FileKind) -> Listed {
        Listed { name: name.into(), kind, place: None }
    }

    /// An entry among others that come and go.
    pub fn at(place: u64, name: impl Into<Vec<u8>>, kind: FileKind) -> Listed {
        Listed { name: name.into(), kind, place: Some(place) }
    }
}

/// What a made-up directory holds.
pub trait Directory: Send + Sync + 'static {
    fn identity(&self) -> Identity;

    /// # Errors
    /// `ENOENT` if there is no such name.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno>;

    /// All names, in a stable order, with rising places.
    fn list(&self) -> Vec<Listed>;

    /// What stat says. Links are counted as on a disk: programs take a directory's subdirectories (a process's threads) from there.
    fn metadata(&self) -> Metadata {
        let subdirectories = self.list().iter().filter(|entry| entry.kind == FileKind::Directory).count();
        let metadata = self.identity().metadata(FileKind::Directory, Timestamp::default());
        Metadata { nlink: metadata.nlink.saturating_add(u32::try_from(subdirectories).unwrap_or(u32::MAX)), ..metadata }
    }
}

/// The inode of a [`Directory`].
pub struct DirInode<D>(pub D);

impl<D: Directory> DirInode<D> {
    pub fn make(directory: D) -> Arc<dyn Inode> {
        Arc::new(DirInode(directory))
    }
}

impl<D: Directory> Inode for DirInode<D> {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(self.0.metadata())
    }

    /// Asked for at each step of a path: without the listing that `metadata` counts.
    fn ownership(&self) -> Option<Ownership> {
        Some(Ownership::from(&self.0.identity().metadata(FileKind::Directory, Timestamp::default())))
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::Ready(self.0.lookup(name))
    }

    /// As procfs, where looking a new name up fails before it could be made.
    fn create<'a>(&'a self, _name: &'a [u8], _new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::err(Errno::ENOENT)
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::ok(Arc::new(OpenDir { directory: self }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenDir<D> {
    directory: Arc<DirInode<D>>,
}

impl<D: Directory> FileOps for OpenDir<D> {
    fn seekable(&self) -> bool {
        true
    }

    /// Positions 0 and 1 are `.` and `..`; the rest are places in the listing and two.
    fn read_dir<'a>(
        &'a self,
        _file: &'a File,
        from: u64,
        emit: &'a mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send),
    ) -> Step<'a, Result<(), Errno>> {
        let identity = self.directory.0.identity();
        let dots = [Listed::new(".", FileKind::Directory), Listed::new("..", FileKind::Directory)];
        let entries = dots.into_iter().chain(self.directory.0.list());
        for (index, entry) in entries.enumerate() {
            let at = entry.place.map_or(index as u64, |place| place.saturating_add(2));
            if at < from {
                continue;
            }
            let ino = Identity::named(identity.dev, 0, (identity.ino, &entry.name)).ino;
            if !emit(DirEntry { ino, kind: entry.kind, name: &entry.name, next: at.saturating_add(1) }) {
                break;
            }
        }
        Step::ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
