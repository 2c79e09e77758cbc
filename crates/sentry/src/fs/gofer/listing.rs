//! [`Listing`]: what a directory had in it, and what was said of its entries by the way.

use std::sync::{Arc, OnceLock};

use gofer::protocol::{Attr, DirEntry, Name};

use super::{Tree, attr};
use crate::fs::FileKind;

/// Most entries of one directory that are known at a time.
const MAX_ENTRIES: usize = 32 << 10;

/// An entry of a directory.
#[derive(Clone)]
pub(super) struct Listed {
    pub ino: u64,
    pub kind: FileKind,
    pub name: Name,
    pub attr: Option<Box<Attr>>,
}

/// What the gofer said, and how long it is true.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// The tree's count of changes when it was asked.
    pub seen: u64,
    pub valid_until: u64,
}

/// Names of a directory, without `.` and `..`, in its order.
pub(super) struct Listing {
    pub entries: Vec<Listed>,
    pub told: Told,
    /// Other names are not there.
    pub whole: bool,
    /// The entries by name.
    sorted: OnceLock<Box<[u32]>>,
}

/// A part of a directory, as it was asked for.
pub(super) struct Part {
    pub entries: Vec<Listed>,
    /// Nothing comes after it.
    pub end: bool,
    /// The host's position after it.
    pub after: Option<u64>,
    pub told: Told,
}

impl Part {
    pub(super) fn new(entries: Vec<DirEntry>, end: bool, told: Told) -> Part {
        let after = entries.last().map(|entry| entry.next);
        let listed = |entry: DirEntry| Listed {
            ino: entry.ino,
            kind: entry.kind.map_or(FileKind::Regular, attr::kind),
            name: entry.name,
            attr: entry.attr.map(Box::new),
        };
        Part { entries: entries.into_iter().map(listed).collect(), end, after, told }
    }
}

impl Listing {
    pub(super) fn new(entries: Vec<Listed>, told: Told) -> Arc<Listing> {
        Arc::new(Listing { entries, told, whole: false, sorted: OnceLock::new() })
    }

    /// All names of a directory.
    pub(super) fn whole(entries: Vec<Listed>, told: Told) -> Arc<Listing> {
        Arc::new(Listing { entries, told, whole: true, sorted: OnceLock::new() })
    }

    /// This and what comes after it, if that is not too much.
    pub(super) fn with(&self, more: &Listing) -> Option<Arc<Listing>> {
        if self.len() + more.len() > MAX_ENTRIES {
            return None;
        }
        // As true as the older part.
        Some(Listing::new(self.entries.iter().chain(&more.entries).cloned().collect(), self.told))
    }

    pub(super) fn empty() -> Arc<Listing> {
        Listing::new(Vec::new(), Told { seen: 0, valid_until: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where a name is; looked for at `hint` first.
    pub(super) fn find(&self, name: &[u8], hint: usize) -> Option<usize> {
        let is = |at: usize| self.entries.get(at).is_some_and(|entry| entry.name.as_bytes() == name);
        if is(hint) {
            return Some(hint);
        }
        let name_at = |at: &u32| self.entries.get(*at as usize).map_or(&[][..], |entry| entry.name.as_bytes());
        let sorted = self.sorted();
        let at = sorted.binary_search_by(|at| name_at(at).cmp(name)).ok()?;
        sorted.get(at).map(|at| *at as usize)
    }

    fn sorted(&self) -> &[u32] {
        let name_at = |at: &u32| self.entries.get(*at as usize).map_or(&[][..], |entry| entry.name.as_bytes());
        self.sorted.get_or_init(|| {
            let mut sorted: Vec<u32> = (0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX)).collect();
            sorted.sort_unstable_by(|a, b| name_at(a).cmp(name_at(b)));
            sorted.into()
        })
    }

    /// The entries that come after a name when they are sorted by name.
    pub(super) fn after_by_name(&self, name: &[u8]) -> impl Iterator<Item = &Listed> {
        let name_at = |at: &u32| self.entries.get(*at as usize).map_or(&[][..], |entry| entry.name.as_bytes());
        let sorted = self.sorted();
        let from = sorted.partition_point(|at| name_at(at) <= name);
        sorted.iter().skip(from).filter_map(|at| self.entries.get(*at as usize))
    }
}

impl Tree {
    /// What will be said now.
    pub(super) fn told_now(&self) -> Told {
        Told { seen: self.seen(), valid_until: self.valid_until() }
    }

    /// Whether it can still be taken for the truth: nothing was changed here since (of a file that went meanwhile nobody would know), and the time is not over.
    pub(super) fn is_true(&self, told: Told) -> bool {
        self.seen() == told.seen && (told.valid_until == u64::MAX || self.now_ns() < told.valid_until)
    }
}
