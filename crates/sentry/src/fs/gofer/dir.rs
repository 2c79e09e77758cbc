//! [`GoferDir`]: an open directory.
//!
//! The positions guests see count entries; the host's own, which may be any numbers, are kept for the start of each batch. Only one
//! batch is kept, so a directory of any size takes little memory.

use std::any::Any;
use std::sync::Arc;

use gofer::protocol::Durability;
use parking_lot::Mutex;

use super::inode::Body;
use super::listing::{Listing, Part};
use super::scan::Order;
use super::{GoferInode, attr};
use crate::Errno;
use crate::fs::{DirEntry, File, FileKind, FileOps};
use crate::step::Step;

/// Bytes of entries asked for at a time.
pub(super) const BATCH_BYTES: u32 = 64 << 10;

/// Most batches of one directory.
const MAX_BATCHES: usize = 1 << 20;

/// Positions before the first host entry: `.` and `..`.
const DOTS: u64 = 2;

/// An open directory.
pub(super) struct GoferDir {
    inode: Arc<GoferInode>,
    state: Mutex<State>,
}

/// What is known of the entries, counted from 0 without `.` and `..`.
struct State {
    /// Some entries, from number `first` on.
    batch: Arc<Listing>,
    first: u64,
    /// Where batches start: number, and the host's position. The last is where the next begins.
    starts: Vec<(u64, u64)>,
    /// The number of entries, once the end was seen.
    end: Option<u64>,
}

impl State {
    fn new() -> State {
        State { batch: Listing::empty(), first: 0, starts: vec![(0, 0)], end: None }
    }

    /// Whether the batch is all there is.
    fn is_whole(&self) -> bool {
        self.first == 0 && self.end == Some(self.batch.len() as u64)
    }

    /// A directory known whole.
    fn whole(listing: Arc<Listing>) -> State {
        State { end: Some(listing.len() as u64), batch: listing, ..State::new() }
    }
}

enum Next {
    /// Entries from that number on, and the number of the first.
    Batch(Arc<Listing>, u64),
    /// To be asked for: number and host position of the start.
    Ask(u64, u64),
    End,
}

impl GoferDir {
    pub(super) fn new(inode: Arc<GoferInode>) -> Arc<dyn FileOps> {
        Arc::new(GoferDir { state: Mutex::new(State::new()), inode })
    }

    /// What comes at `number`.
    fn next(&self, number: &mut u64) -> Next {
        let state = self.state.lock();
        if state.end.is_some_and(|end| *number >= end) {
            return Next::End;
        }
        if number.checked_sub(state.first).is_some_and(|skip| skip < state.batch.len() as u64) {
            return Next::Batch(state.batch.clone(), state.first);
        }
        let at = state.starts.partition_point(|(start, _)| start <= number);
        let (start, position) = at.checked_sub(1).and_then(|at| state.starts.get(at)).copied().unwrap_or_default();
        let behind = state.first == start && !state.batch.entries.is_empty();
        match state.starts.get(at) {
            // That batch is shorter than it was: names were removed.
            Some(&(later, position)) if behind => {
                *number = later;
                Next::Ask(later, position)
            }
            _ => Next::Ask(start, position),
        }
    }

    /// Asks for the batch that starts at entry `start`, the host's `position`.
    async fn fetch(&self, start: u64, position: u64) -> Result<(), Errno> {
        let detail = self.inode.tree.detail();
        let part = match (start, position) {
            (0, 0) => self.inode.ask_listing(detail, Order::Listed).await?,
            _ => self.inode.ask_entries(position, detail).await?,
        };
        let Part { entries: mut listing, end, after, told } = part;
        let mut state = self.state.lock();
        // Rewound meanwhile: the answer is to a question of before.
        if state.starts.binary_search(&(start, position)).is_err() {
            return Ok(());
        }
        let at = state.starts.partition_point(|(known, _)| *known <= start);
        match (state.starts.get(at), after) {
            (Some((later, _)), Some(_)) if !end => listing.truncate(usize::try_from(later - start).unwrap_or(usize::MAX)),
            (None, Some(after)) if !end => {
                if state.starts.len() >= MAX_BATCHES {
                    return Err(Errno::EIO);
                }
                state.starts.push((start.saturating_add(listing.len() as u64), after));
            }
            _ => {
                state.end = Some(start.saturating_add(listing.len() as u64));
                state.starts.truncate(at);
            }
        }
        let whole = state.end == Some(listing.len() as u64) && start == 0;
        let listing = match listing.is_empty() && !whole {
            true => None,
            false if whole => Some(Listing::whole(listing, told)),
            false => Some(Listing::new(listing, told)),
        };
        let old = listing.map(|listing| std::mem::replace(&mut state.batch, listing));
        if old.is_some() {
            state.first = start;
        }
        let batch = state.batch.clone();
        drop(state);
        drop(old);
        self.inode.listed(batch, start);
        Ok(())
    }

    /// All names, if they need not be asked for.
    fn whole(&self) -> Option<Arc<Listing>> {
        let Body::Directory(children) = &self.inode.body else { return None };
        if let Some(listing) = children.listing.lock().clone() {
            return Some(listing);
        }
        self.inode.take_ready()
    }

    fn dot(&self, at: u64) -> DirEntry<'static> {
        let own = self.inode.ino();
        match at {
            0 => DirEntry { ino: own, kind: FileKind::Directory, name: b".", next: 1 },
            _ => {
                let ino = self.inode.parent_ino().unwrap_or(own);
                DirEntry { ino, kind: FileKind::Directory, name: b"..", next: DOTS }
            }
        }
    }

    /// Emits what is known from `from` on. Returns the position reached, if more is to be asked for.
    fn emit_known(&self, mut from: u64, emit: &mut Emit<'_>) -> Option<(u64, u64, u64)> {
        while from < DOTS {
            let entry = self.dot(from);
            from = entry.next;
            if !emit(entry) {
                return None;
            }
        }
        loop {
            let mut number = from - DOTS;
            let (batch, first) = match self.next(&mut number) {
                Next::End => return None,
                Next::Ask(start, position) => return Some((number.saturating_add(DOTS), start, position)),
                Next::Batch(batch, first) => (batch, first),
            };
            let skip = usize::try_from(number - first).unwrap_or(usize::MAX);
            for (_, entry) in batch.entries.from(skip) {
                from = from.saturating_add(1);
                let kind = entry.kind.map_or(FileKind::Regular, attr::kind);
                if !emit(DirEntry { ino: entry.ino, kind, name: entry.name, next: from }) {
                    return None;
                }
            }
        }
    }
}

type Emit<'a> = dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send + 'a;

impl FileOps for GoferDir {
    fn seekable(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, _file: &'a File, _offset: u64, _into: &'a mut dyn crate::mm::Sink) -> Step<'a, Result<usize, Errno>> {
        Step::err(Errno::EISDIR)
    }

    fn read_dir<'a>(
        &'a self,
        _file: &'a File,
        from: u64,
        emit: &'a mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send),
    ) -> Step<'a, Result<(), Errno>> {
        if from == 0 {
            // Anew: rewinddir(3).
            let state = self.whole().map_or_else(State::new, State::whole);
            let old = std::mem::replace(&mut *self.state.lock(), state);
            drop(old);
        }
        let whole = self.state.lock().is_whole();
        if whole {
            self.emit_known(from, emit);
            return Step::ok(());
        }
        Step::wait(async move {
            let mut from = from;
            while let Some((reached, start, position)) = self.emit_known(from, emit) {
                from = reached;
                self.fetch(start, position).await?;
            }
            Ok(())
        })
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        Step::wait(async {
            let held = self.inode.held().await?;
            self.inode.tree.client.fsync(held.handle(), Durability::All).await
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
