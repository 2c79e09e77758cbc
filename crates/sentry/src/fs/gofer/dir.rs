//! Listing directories of the host.

use std::any::Any;
use std::sync::Arc;

use gofer::protocol::ReadDirDetail;
use parking_lot::Mutex;

use super::node::{Node, kind_of};
use crate::Errno;
use crate::fs::{DirEntry, File, FileKind, FileOps};
use crate::step::Step;

/// Bytes of entries asked for at a time.
const BATCH: u32 = 64 << 10;

/// A directory's entries at one time, without `.` and `..`.
pub(super) type Listing = Vec<(u64, FileKind, Box<[u8]>)>;

/// An open directory. The entries are read when listing begins, and again after a rewind.
pub(super) struct OpenDir {
    node: Arc<Node>,
    listing: Mutex<Option<Arc<Listing>>>,
}

impl OpenDir {
    pub(super) fn new(node: Arc<Node>) -> OpenDir {
        OpenDir { node, listing: Mutex::default() }
    }

    async fn read(&self) -> Result<Arc<Listing>, Errno> {
        let mut listing = Listing::new();
        let mut from = 0;
        loop {
            let client = &self.node.shared.client;
            let entries = client.read_dir(self.node.handle(), from, BATCH, ReadDirDetail::Names).await?;
            let Some(last) = entries.last() else { break };
            from = last.next;
            for entry in &entries {
                let kind = entry.kind.map_or(FileKind::Regular, kind_of);
                listing.push((self.node.guest_ino(entry.ino), kind, entry.name.as_bytes().into()));
            }
        }
        let listing = Arc::new(listing);
        self.node.keep_listing(&listing);
        Ok(listing)
    }

    /// Positions 0 and 1 are `.` and `..`; the rest are places in the listing.
    fn emit(&self, listing: &Listing, from: u64, emit: &mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send)) {
        let ino = self.node.ino();
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

impl FileOps for OpenDir {
    fn read<'a>(
        &'a self,
        _file: &'a File,
        _offset: u64,
        _into: &'a mut dyn crate::mm::Sink,
    ) -> Step<'a, Result<usize, Errno>> {
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
        let known = if from == 0 { self.node.listing() } else { self.listing.lock().clone() };
        if let Some(listing) = known {
            self.emit(&listing, from, emit);
            *self.listing.lock() = Some(listing);
            return Step::ok(());
        }
        Step::wait(async move {
            let listing = self.read().await?;
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
