//! Fork: sharing all pages, copy on write.

use std::ops::Range;
use std::sync::Arc;

use platform::Prot;
use smallvec::SmallVec;

use super::Mm;
use super::segment::{Backing, Segment, SegmentFlags};
use super::space::{Pick, State, Trash};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down};

impl Mm {
    /// A copy of this address space. `sp` is the forking thread's stack pointer: its page is copied at once, as are pages that were written
    /// after the last fork.
    ///
    /// The parent's lock is held from the write protection to the end, so no page changes while it becomes shared.
    ///
    /// # Errors
    /// `ENOMEM`, `EAGAIN`.
    pub fn fork(&self, sp: u64) -> Result<Arc<Mm>, Errno> {
        let places = self.state.read().places.clone();
        let child = Mm::with_state(self.platform.clone(), self.memory.clone(), State::new(places))?;
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        state.heat(page_down(sp));
        let hot = hot_ranges(&state.hot);
        let (shared, eager) = divide(&state, &hot);
        let mut protected = false;
        for range in shared {
            state.map.update(range, |start, segment| {
                if !segment.cow() && segment.prot.contains(Prot::WRITE) {
                    self.post_protect(start..segment.end, segment.prot - Prot::WRITE);
                    protected = true;
                }
                segment.flags |= SegmentFlags::COW;
            });
        }
        if protected {
            self.settle(&mut state, &mut trash);
        }
        let mut copy = child.state.write();
        copy.places = state.places.clone();
        copy.hot = state.hot.clone();
        copy.patching = state.patching;
        copy.had_slots = state.had_slots;
        copy.retired = state.retired.clone();
        copy.originals = self.share_originals(&state.originals);
        copy.peak_bytes = state.map.bytes();
        for (start, segment) in state.map.iter() {
            if segment.flags.contains(SegmentFlags::DONT_FORK) {
                continue;
            }
            let mut segment = Segment { flags: segment.flags - SegmentFlags::LOCKED, ..segment.clone() };
            if segment.flags.contains(SegmentFlags::WIPE_ON_FORK) {
                segment.back = Backing::Empty;
                segment.flags -= SegmentFlags::COW;
            }
            let Backing::Memory(at) = segment.back else {
                child.post_map(start, &segment, false);
                copy.map.insert(start, segment);
                continue;
            };
            for (range, how) in parts(start..segment.end, &eager) {
                let offset = at + (range.start - start);
                let file = segment.file.as_ref().map(|(file, from)| (file.clone(), from + (range.start - start)));
                let part = Segment { end: range.end, file, ..segment.clone() };
                match how {
                    Part::Shared => {
                        self.memory.retain(offset, range.end - range.start);
                        let part = Segment { back: Backing::Memory(offset), ..part };
                        child.post_map(range.start, &part, false);
                        copy.map.insert(range.start, part);
                    }
                    Part::Copied => child.copy_in(&mut copy, range, offset, &part)?,
                }
            }
        }
        drop(copy);
        drop(state);
        Ok(child)
    }

    /// Inserts a private copy of our pages at `from` into this (the child's) address space.
    fn copy_in(&self, state: &mut State, range: Range<u64>, from: u64, like: &Segment) -> Result<(), Errno> {
        let start = range.start;
        for (at, len, claim) in self.claim(state, range, Pick::Any)? {
            let window = self.memory.window();
            if window.copy_to(from + (at - start), window, claim.at, len).is_err() {
                self.memory.release(claim.at, len);
                return Err(Errno::ENOMEM);
            }
            let file = like.file.as_ref().map(|(file, from)| (file.clone(), from + (at - start)));
            let part = Segment {
                end: at + len,
                back: Backing::Memory(claim.at),
                flags: like.flags - SegmentFlags::COW,
                file,
                ..like.clone()
            };
            self.post_map(at, &part, true);
            state.map.insert(at, part);
        }
        Ok(())
    }
}

/// Hot pages as ranges.
fn hot_ranges(pages: &[u64]) -> Vec<Range<u64>> {
    let mut pages = pages.to_vec();
    pages.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for page in pages {
        match ranges.last_mut() {
            Some(last) if last.end == page => last.end = page + PAGE_SIZE,
            _ => ranges.push(page..page + PAGE_SIZE),
        }
    }
    ranges
}

/// The private pages of the parent: what becomes copy-on-write, and what is copied (hot, and the parent's alone).
fn divide(state: &State, hot: &[Range<u64>]) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let (mut shared, mut eager): (Vec<Range<u64>>, Vec<Range<u64>>) = (Vec::new(), Vec::new());
    for (start, segment) in state.map.iter() {
        if segment.shared() || !matches!(segment.back, Backing::Memory(_)) {
            continue;
        }
        if segment.cow() || !segment.prot.contains(Prot::WRITE) || segment.flags.contains(SegmentFlags::DONT_FORK) {
            shared.push(start..segment.end);
            continue;
        }
        for (range, how) in parts(start..segment.end, hot) {
            match how {
                Part::Shared => shared.push(range),
                Part::Copied => eager.push(range),
            }
        }
    }
    shared.retain(|range| !range.is_empty());
    (shared, eager)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Shared,
    Copied,
}

/// Cuts `range` into what lies inside and outside of the (sorted) `copied` ranges.
fn parts(range: Range<u64>, copied: &[Range<u64>]) -> SmallVec<[(Range<u64>, Part); 4]> {
    let mut parts = SmallVec::new();
    let mut at = range.start;
    let first = copied.partition_point(|other| other.end <= range.start);
    for other in copied.iter().skip(first).take_while(|other| other.start < range.end) {
        let start = other.start.max(at);
        let end = other.end.min(range.end);
        if at < start {
            parts.push((at..start, Part::Shared));
        }
        if start < end {
            parts.push((start..end, Part::Copied));
        }
        at = end;
    }
    if at < range.end {
        parts.push((at..range.end, Part::Shared));
    }
    parts
}
