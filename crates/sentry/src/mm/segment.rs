//! [`SegmentMap`]: what is where in an address space.
//!
//! A [`Segment`] is a range that is alike in everything: rights, flags, file, and what is behind it, contiguously. The guest's VMAs
//! (/proc/PID/maps) are neighbouring segments that differ only in what is behind them.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use hostcall::Window;
use platform::Prot;
use smallvec::SmallVec;

use super::Mappable;

bitflags::bitflags! {
    /// What a mapping is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct SegmentFlags: u32 {
        /// `MAP_SHARED`.
        const SHARED = 1;
        /// `MAP_GROWSDOWN`, and the main stack.
        const GROWS_DOWN = 2;
        /// `MAP_NORESERVE`: gets memory when it is touched.
        const NORESERVE = 4;
        /// `mlock`ed, for accounting.
        const LOCKED = 8;
        /// Rights that `mprotect` may give (`VM_MAYREAD` …).
        const MAY_READ = 0x10;
        const MAY_WRITE = 0x20;
        const MAY_EXEC = 0x40;
        /// `MADV_DONTFORK`.
        const DONT_FORK = 0x80;
        /// `MADV_WIPEONFORK`.
        const WIPE_ON_FORK = 0x100;
        /// `MADV_HUGEPAGE`.
        const HUGE = 0x200;
        /// The heap (`brk`), for /proc/PID/maps.
        const HEAP = 0x400;
        /// The main stack, for /proc/PID/maps.
        const STACK = 0x800;
        /// Pages are shared copy-on-write: the stub's mapping is without the write right.
        const COW = 0x1000;
        /// Slots of patched text: ours, not shown and not the guest's to change.
        const SLOTS = 0x2000;
        /// Text with patched system-call sites: behind it is our copy, not the file.
        const PATCHED = 0x4000;
        /// `MADV_DONTDUMP`.
        const DONT_DUMP = 0x8000;
    }
}

impl SegmentFlags {
    /// Those that make a difference to the guest.
    fn visible(self) -> SegmentFlags {
        self - SegmentFlags::COW - SegmentFlags::PATCHED
    }
}

/// A file in an address space.
pub struct MappedFile {
    pub mappable: Arc<dyn Mappable>,
    /// The open file, for those who know files (/proc/PID/maps shows its path); it stays open as long as it is mapped.
    pub file: Arc<dyn Any + Send + Sync>,
}

/// What is behind a segment.
#[derive(Clone)]
pub(super) enum Backing {
    /// Nothing yet.
    Empty,
    /// Pages of the container's memory file from this offset on; the segment holds a reference to them.
    Memory(u64),
    /// A host file from this offset on.
    Host(Arc<Window>, u64),
}

impl Backing {
    pub fn advance(&self, by: u64) -> Backing {
        match self {
            Backing::Empty => Backing::Empty,
            Backing::Memory(at) => Backing::Memory(at + by),
            Backing::Host(window, at) => Backing::Host(window.clone(), at + by),
        }
    }

    fn continues(&self, before: &Backing, len: u64) -> bool {
        match (before, self) {
            (Backing::Empty, Backing::Empty) => true,
            (Backing::Memory(a), Backing::Memory(b)) => a + len == *b,
            (Backing::Host(x, a), Backing::Host(y, b)) => Arc::ptr_eq(x, y) && a + len == *b,
            _ => false,
        }
    }
}

/// A range that is alike in everything.
#[derive(Clone)]
pub(super) struct Segment {
    pub end: u64,
    pub prot: Prot,
    pub flags: SegmentFlags,
    /// The file and the offset of the first byte in it.
    pub file: Option<(Arc<MappedFile>, u64)>,
    pub back: Backing,
}

impl Segment {
    pub fn shared(&self) -> bool {
        self.flags.contains(SegmentFlags::SHARED)
    }

    pub fn cow(&self) -> bool {
        self.flags.contains(SegmentFlags::COW)
    }

    /// The rights that the stub's mapping has.
    pub fn installed(&self) -> Prot {
        if self.cow() { self.prot - Prot::WRITE } else { self.prot }
    }

    pub fn backed(&self) -> bool {
        !matches!(self.back, Backing::Empty)
    }

    /// Whether the two are one VMA for the guest; `self` starts where `before`, which starts at `start`, ends.
    pub fn same_vma(&self, start: u64, before: &Segment) -> bool {
        self.prot == before.prot
            && self.flags.visible() == before.flags.visible()
            && match (&before.file, &self.file) {
                (None, None) => true,
                (Some((a, at)), Some((b, bt))) => Arc::ptr_eq(a, b) && at + (before.end - start) == *bt,
                _ => false,
            }
    }

    fn continues(&self, start: u64, before: &Segment) -> bool {
        self.flags == before.flags && self.same_vma(start, before) && self.back.continues(&before.back, before.end - start)
    }

    /// The part from `by` bytes after the start.
    fn tail(&self, by: u64) -> Segment {
        Segment {
            file: self.file.as_ref().map(|(file, at)| (file.clone(), at + by)),
            back: self.back.advance(by),
            ..self.clone()
        }
    }
}

/// The segments of an address space, by their start.
#[derive(Default, Clone)]
pub(super) struct SegmentMap {
    map: BTreeMap<u64, Segment>,
    /// Bytes mapped, `SLOTS` excepted.
    bytes: u64,
}

impl SegmentMap {
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The segment that holds `addr`, and its start.
    pub fn find(&self, addr: u64) -> Option<(u64, &Segment)> {
        let (&start, segment) = self.map.range(..=addr).next_back()?;
        (segment.end > addr).then_some((start, segment))
    }

    /// The first segment that ends above `addr`.
    pub fn at_or_after(&self, addr: u64) -> Option<(u64, &Segment)> {
        self.find(addr).or_else(|| self.map.range(addr..).next().map(|(&start, segment)| (start, segment)))
    }

    /// The last segment that starts below `addr`.
    pub fn before(&self, addr: u64) -> Option<(u64, &Segment)> {
        self.map.range(..addr).next_back().map(|(&start, segment)| (start, segment))
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &Segment)> {
        self.map.iter().map(|(&start, segment)| (start, segment))
    }

    /// Segments that overlap the range, whole.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Segment)> {
        let from = self.find(range.start).map_or(range.start, |(start, _)| start);
        self.map.range(from..range.end.max(from)).map(|(&start, segment)| (start, segment))
    }

    /// Whether every byte of the range is mapped.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.find(at) {
                Some((_, segment)) => at = segment.end,
                None => return false,
            }
        }
        true
    }

    pub fn is_free(&self, range: Range<u64>) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// Makes `addr` a boundary.
    fn split(&mut self, addr: u64) {
        let Some((&start, segment)) = self.map.range_mut(..addr).next_back() else { return };
        if segment.end > addr {
            let tail = segment.tail(addr - start);
            segment.end = addr;
            self.map.insert(addr, tail);
        }
    }

    /// Takes everything in the range out.
    pub fn remove(&mut self, range: Range<u64>) -> SmallVec<[(u64, Segment); 4]> {
        let mut removed = SmallVec::new();
        if range.is_empty() {
            return removed;
        }
        self.split(range.start);
        self.split(range.end);
        while let Some((&start, _)) = self.map.range(range.clone()).next() {
            let Some(segment) = self.map.remove(&start) else { break };
            self.count(start, &segment, false);
            removed.push((start, segment));
        }
        removed
    }

    /// Adds a segment where nothing is, merging it with its neighbours.
    pub fn insert(&mut self, start: u64, segment: Segment) {
        if start >= segment.end {
            return;
        }
        self.count(start, &segment, true);
        let end = segment.end;
        self.map.insert(start, segment);
        self.merge(end);
        self.merge(start);
    }

    /// Changes what is in the range (splitting as needed, merging afterwards): `change` sees each part with its start.
    pub fn update(&mut self, range: Range<u64>, mut change: impl FnMut(u64, &mut Segment)) {
        self.split(range.start);
        self.split(range.end);
        let mut starts: SmallVec<[u64; 8]> = SmallVec::new();
        for (&start, segment) in self.map.range_mut(range.clone()) {
            change(start, segment);
            starts.push(start);
        }
        self.merge(range.end);
        for start in starts.into_iter().rev() {
            self.merge(start);
        }
    }

    /// Joins the segments on both sides of `at` if they are alike.
    fn merge(&mut self, at: u64) {
        let Some(next) = self.map.get(&at) else { return };
        let Some((&start, before)) = self.map.range(..at).next_back() else { return };
        if before.end == at && next.continues(start, before) {
            let end = next.end;
            self.map.remove(&at);
            if let Some(before) = self.map.get_mut(&start) {
                before.end = end;
            }
        }
    }

    fn count(&mut self, start: u64, segment: &Segment, more: bool) {
        if !segment.flags.contains(SegmentFlags::SLOTS) {
            let len = segment.end - start;
            self.bytes = if more { self.bytes + len } else { self.bytes.saturating_sub(len) };
        }
    }

    /// Takes everything out.
    pub fn take(&mut self) -> impl Iterator<Item = (u64, Segment)> {
        self.bytes = 0;
        std::mem::take(&mut self.map).into_iter()
    }
}
