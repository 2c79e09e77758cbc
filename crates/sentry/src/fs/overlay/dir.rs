//! Listing an overlay's directories: both layers, merged.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::copy_up;
use super::names::Entry;
use super::node::Node;
use crate::Errno;
use crate::fs::{DirEntry, File, FileKind, FileOps, OpenFlags};
use crate::step::{BoxFuture, Step};

/// A directory's entries at one time, without `.` and `..`.
pub(super) type Listing = Vec<(u64, FileKind, Box<[u8]>)>;

/// A directory that [`OpenDir`] lists.
pub(super) trait Lister: Send + Sync + 'static {
    /// Its own inode number.
    fn own_ino(&self) -> u64;

    /// All names.
    fn list(&self) -> BoxFuture<'_, Result<Listing, Errno>>;
}

impl Lister for Node {
    fn own_ino(&self) -> u64 {
        self.known_ino().unwrap_or(1)
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, Errno>> {
        Box::pin(self.all_names())
    }
}

impl Node {
    /// All names: the lower directory's that are not hidden, then those made here.
    async fn all_names(&self) -> Result<Listing, Errno> {
        let mut listing = Listing::new();
        if let Some(lower) = &self.lower {
            let ops = lower.clone().open_data(OpenFlags::empty()).await?;
            let file = copy_up::open(lower, ops, OpenFlags::empty());
            let mut emit = |entry: DirEntry<'_>| {
                if !matches!(entry.name, b"." | b"..") {
                    listing.push((entry.ino, entry.kind, entry.name.into()));
                }
                true
            };
            file.ops.read_dir(&file, 0, &mut emit).await?;
        }
        let names = self.names.lock();
        listing.retain(|(_, _, name)| names.get(name).is_none());
        for (name, entry) in names.iter() {
            if let Entry::Node { node, .. } = entry {
                listing.push((node.known_ino().unwrap_or(1), node.kind_of(), name.into()));
            }
        }
        Ok(listing)
    }
}

/// An open directory. The entries are read when listing begins, and again after a rewind.
pub(super) struct OpenDir<N> {
    node: Arc<N>,
    listing: Mutex<Option<Arc<Listing>>>,
}

impl<N: Lister> OpenDir<N> {
    pub(super) fn new(node: Arc<N>) -> OpenDir<N> {
        OpenDir { node, listing: Mutex::default() }
    }

    /// Positions 0 and 1 are `.` and `..`; the rest are places in the listing.
    fn emit(&self, listing: &Listing, from: u64, emit: &mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send)) {
        let ino = self.node.own_ino();
        for (position, name) in [(0, b".".as_slice()), (1, b"..".as_slice())] {
            if from <= position && !emit(DirEntry { ino, kind: FileKind::Directory, name, next: position + 1 }) {
                return;
            }
        }
        let first = usize::try_from(from.saturating_sub(2)).unwrap_or(usize::MAX);
        for (at, (ino, kind, name)) in listing.iter().enumerate().skip(first) {
            if !emit(DirEntry { ino: *ino, kind: *kind, name, next: at as u64 + 3 }) {
                return;
            }
        }
    }
}

impl<N: Lister> FileOps for OpenDir<N> {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, _into: &'a mut dyn crate::mm::Sink) -> Step<'a, Result<usize, Errno>> {
        Step::err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn read_dir<'a>(
        &'a self,
        _file: &'a File,
        from: u64,
        emit: &'a mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send),
    ) -> Step<'a, Result<(), Errno>> {
        if from > 0
            && let Some(listing) = self.listing.lock().clone()
        {
            self.emit(&listing, from, emit);
            return Step::ok(());
        }
        Step::wait(async move {
            let listing = Arc::new(self.node.list().await?);
            *self.listing.lock() = Some(listing.clone());
            self.emit(&listing, from, emit);
            Ok(())
        })
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        Step::ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
