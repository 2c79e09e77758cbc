//! [`Listing`]: what a directory had in it, and what was said of its entries by the way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use gofer::protocol::{FileKind as HostKind, Packed, PackedEntry};

use super::Tree;

/// Most entries of one directory that are known at a time.
const MAX_ENTRIES: usize = 32 << 10;

/// What the gofer said, and how long it is true.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// The tree's count of changes when it was asked.
    pub seen: u64,
    pub valid_until: u64,
}

/// Names of a directory, without `.` and `..`, in its order.
pub(super) struct Listing {
    pub entries: Packed,
    pub told: Told,
    /// Other names are not there.
    pub whole: bool,
    /// The entries by name.
    sorted: OnceLock<Box<[u32]>>,
    /// The place after the one found last, in that order.
    hint: AtomicUsize,
}

/// A part of a directory, as it was asked for.
pub(super) struct Part {
    pub entries: Packed,
    /// Nothing comes after it.
    pub end: bool,
    /// The host's position after it.
    pub after: Option<u64>,
    pub told: Told,
}

impl Part {
    pub(super) fn new(entries: Packed, end: bool, told: Told) -> Part {
        let after = entries.last().map(|entry| entry.next);
        Part { entries, end, after, told }
    }
}

impl Listing {
    pub(super) fn new(entries: Packed, told: Told) -> Arc<Listing> {
        Arc::new(Listing { entries, told, whole: false, sorted: OnceLock::new(), hint: AtomicUsize::new(0) })
    }

    /// All names of a directory.
    pub(super) fn whole(entries: Packed, told: Told) -> Arc<Listing> {
        Arc::new(Listing { entries, told, whole: true, sorted: OnceLock::new(), hint: AtomicUsize::new(0) })
    }

    /// This and what comes after it, if that is not too much.
    pub(super) fn with(&self, more: &Listing) -> Option<Arc<Listing>> {
        if self.len() + more.len() > MAX_ENTRIES {
            return None;
        }
        let mut entries = self.entries.clone();
        entries.extend(&more.entries);
        // As true as the older part.
        Some(Listing::new(entries, self.told))
    }

    pub(super) fn empty() -> Arc<Listing> {
        Listing::new(Packed::default(), Told { seen: 0, valid_until: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where a name is; looked for at `hint` first.
    pub(super) fn find(&self, name: &[u8], hint: usize) -> Option<usize> {
        if self.name(hint) == Some(name) {
            return Some(hint);
        }
        let sorted = self.sorted();
        let next = self.hint.load(Ordering::Relaxed);
        let at = match sorted.get(next) {
            Some(at) if self.name(*at as usize) == Some(name) => next,
            _ => sorted.binary_search_by(|at| self.name(*at as usize).cmp(&Some(name))).ok()?,
        };
        self.hint.store(at + 1, Ordering::Relaxed);
        sorted.get(at).map(|at| *at as usize)
    }

    fn name(&self, at: usize) -> Option<&[u8]> {
        self.entries.get(at).map(|entry| entry.name)
    }

    fn sorted(&self) -> &[u32] {
        self.sorted.get_or_init(|| {
            let mut sorted: Vec<u32> = (0..u32::try_from(self.len()).unwrap_or(u32::MAX)).collect();
            sorted.sort_unstable_by(|a, b| self.name(*a as usize).cmp(&self.name(*b as usize)));
            sorted.into()
        })
    }

    /// The entries that come after a name when they are sorted by name.
    pub(super) fn after_by_name(&self, name: &[u8]) -> impl Iterator<Item = PackedEntry<'_>> {
        let sorted = self.sorted();
        let from = sorted.partition_point(|at| self.name(*at as usize) <= Some(name));
        sorted.iter().skip(from).filter_map(|at| self.entries.get(*at as usize))
    }
}

/// Whether an entry is a directory.
pub(super) fn is_directory(entry: &PackedEntry<'_>) -> bool {
    entry.kind == Some(HostKind::Directory)
}

impl Tree {
    /// What will be said now.
    pub(super) fn told_now(&self) -> Told {
        Told { seen: self.seen(), valid_until: self.valid_until() }
    }

    /// Whether it can still be taken for the truth: nothing was changed here since (of a file that went meanwhile nobody would know), and the time is not over.
    pub(super) fn is_true(&self, told: Told) -> bool {
        self.seen() == told.seen && self.is_before(told.valid_until)
    }
}
