//! The state of an address space, the orders that keep the platform's side equal to it, and what must wait for them.
//!
//! The order of freeing is: out of the map, order posted, settled, and only then may pages be reused or a host file be closed
//! (the stub maps files by descriptor number). What has been taken out waits in the limbo for the next [`Mm::settle`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use platform::{MapFlags, MapOrder, PlatformError, Prot};
use smallvec::SmallVec;

use super::memory_file::{CHUNK, Touched};
use super::patch::{Chunk, Original, Place};
use super::places::STACK_GUARD;
use super::segment::{Backing, Segment, SegmentFlags, SegmentMap};
use super::{MemoryFile, Mm, Places};
use crate::Errno;
use crate::wait::PollEvents;

/// Most segments (`vm.max_map_count`, with room for the stub's own mappings).
pub(super) const MAP_COUNT_MAX: usize = 65_000;

/// So many things in limbo are settled without another reason.
const LIMBO_MAX: usize = 32;

/// Pages that are copied eagerly in a fork.
const HOT_MAX: usize = 32;

/// What an address space consists of.
pub(super) struct State {
    pub map: SegmentMap,
    pub places: Places,
    /// Chunks of the memory file for each `CHUNK` of addresses.
    pub arenas: BTreeMap<u64, SmallVec<[u32; 2]>>,
    pub limbo: Vec<Segment2>,
    /// Pages that were broken after a fork: likely to be written after the next.
    pub hot: Vec<u64>,
    /// No hole of more than `.1` bytes lies above `.0` (and below the mmap base).
    gap_hint: (u64, u64),
    /// The last fault that needed nothing but waiting, how often in a row, and the number of orders then.
    pub repeated: (u64, u32, u64),
    /// Ranges that were lately emptied by `MADV_DONTNEED`.
    pub emptied: [(u64, u64); 4],
    pub locked_bytes: u64,
    /// `mlockall(MCL_FUTURE)`.
    pub lock_future: bool,
    pub patching: bool,
    pub upgrades: Upgrades,
    /// What was behind patched text, by its address.
    pub originals: BTreeMap<u64, Original>,
    /// Text that was patched before patching was turned off: threads may still be in its slots.
    pub retired: Vec<(Place, Arc<Chunk>)>,
    /// There are slots somewhere, or have been.
    pub had_slots: bool,
    pub peak_bytes: u64,
}

/// Whether `mprotect`'s giving of a write right is worth an order at once, learnt from whether writes follow.
#[derive(Default)]
pub(super) struct Upgrades {
    given: u32,
    used: u32,
}

impl Upgrades {
    /// Whether the next one waits for the first write. Where writes follow usually, one in 16 still does, to learn.
    pub fn lazy(&mut self) -> bool {
        self.given += 1;
        if self.given >= 64 {
            self.given /= 2;
            self.used /= 2;
        }
        self.used * 2 < self.given || self.given.is_multiple_of(16)
    }

    /// A write followed.
    pub fn used(&mut self) {
        self.used = (self.used + 1).min(self.given);
    }
}

/// A segment that was taken out, and its start.
pub(super) type Segment2 = (u64, Segment);

impl State {
    pub fn new(places: Places) -> State {
        State {
            gap_hint: (places.mmap_base, 0),
            map: SegmentMap::default(),
            places,
            arenas: BTreeMap::new(),
            limbo: Vec::new(),
            hot: Vec::new(),
            repeated: (0, 0, 0),
            emptied: [(0, 0); 4],
            locked_bytes: 0,
            lock_future: false,
            patching: true,
            upgrades: Upgrades::default(),
            originals: BTreeMap::new(),
            retired: Vec::new(),
            had_slots: false,
            peak_bytes: 0,
        }
    }

    /// The highest hole of `len` bytes below the mmap base, or else the lowest above it.
    pub fn find_gap(&mut self, len: u64) -> Option<u64> {
        let base = self.places.mmap_base;
        let (mut top, mut largest) = if len > self.gap_hint.1 { self.gap_hint } else { (base, 0) };
        top = top.min(base);
        let found = loop {
            let Some(want) = top.checked_sub(len).filter(|&start| start >= self.places.user.start) else { break None };
            if let Some(reserved) = self.places.reserved_in(&(want..top)) {
                top = reserved.start;
                continue;
            }
            match self.map.before(top) {
                Some((start, segment)) => {
                    // `top` may lie inside the segment, or the stack below it needs its distance.
                    let end = segment.end;
                    if end <= want {
                        break Some(want);
                    }
                    largest = largest.max(top.saturating_sub(end));
                    top = if segment.flags.contains(SegmentFlags::GROWS_DOWN) {
                        start.saturating_sub(STACK_GUARD)
                    } else {
                        start
                    };
                }
                None => break Some(want),
            }
        };
        if let Some(start) = found {
            self.gap_hint = (start + len, largest);
            return Some(start);
        }
        self.gap_above(base..self.places.user.end, len)
    }

    /// The lowest gap in the range.
    pub fn gap_above(&self, within: Range<u64>, len: u64) -> Option<u64> {
        let mut at = within.start;
        loop {
            let end = at.checked_add(len).filter(|&end| end <= within.end.min(self.places.user.end))?;
            if let Some(reserved) = self.places.reserved_in(&(at..end)) {
                at = reserved.end;
            } else if let Some((start, segment)) = self.map.at_or_after(at) {
                let guard = if segment.flags.contains(SegmentFlags::GROWS_DOWN) { STACK_GUARD } else { 0 };
                if start.saturating_sub(guard) >= end {
                    return Some(at);
                }
                at = segment.end;
            } else {
                return Some(at);
            }
        }
    }

    /// Takes out what is mapped in the range; it no longer counts as locked.
    pub fn take_out(&mut self, range: Range<u64>) -> SmallVec<[Segment2; 4]> {
        let removed = self.map.remove(range);
        let locked = removed.iter().filter(|(_, segment)| segment.flags.contains(SegmentFlags::LOCKED));
        let locked: u64 = locked.map(|(start, segment)| segment.end - start).sum();
        self.locked_bytes = self.locked_bytes.saturating_sub(locked);
        removed
    }

    /// A hole has come into being that ends at `end`.
    pub fn gap_opened(&mut self, end: u64) {
        if end > self.gap_hint.0 {
            self.gap_hint = (self.places.mmap_base, 0);
        }
    }

    /// Remembers a page that was copied on write.
    pub fn heat(&mut self, page: u64) {
        if !self.hot.contains(&page) {
            if self.hot.len() >= HOT_MAX {
                self.hot.remove(0);
            }
            self.hot.push(page);
        }
    }
}

/// What can be let go of after a settle, outside the state lock: pages, files. Declare it before taking the lock.
pub(super) struct Trash {
    memory: Arc<MemoryFile>,
    untouched_len: Arc<AtomicU64>,
    pub segments: Vec<Segment2>,
}

impl Trash {
    pub fn new(mm: &Mm) -> Trash {
        Trash { memory: mm.memory.clone(), untouched_len: mm.untouched_len.clone(), segments: Vec::new() }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        // Neighbouring pages are freed in one go.
        let mut run: Option<(u64, u64)> = None;
        for (start, segment) in self.segments.drain(..) {
            let Backing::Memory(at) = segment.back else { continue };
            let len = segment.end - start;
            run = match run {
                Some((from, to)) if to == at => Some((from, at + len)),
                Some((from, to)) => {
                    self.memory.release(from, to - from);
                    Some((at, at + len))
                }
                None => Some((at, at + len)),
            };
        }
        if let Some((from, to)) = run
            && self.memory.release(from, to - from) == Touched::No
        {
            self.untouched_len.store(to - from, Ordering::Relaxed);
        }
    }
}

/// How to find pages for a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// Warm pages from anywhere are welcome.
    Any,
    /// In the address space's own chunks, so that neighbours merge.
    Own,
}

impl Mm {
    /// Allocates pages for a range: parts with their claims.
    pub(super) fn claim(
        &self,
        state: &mut State,
        range: Range<u64>,
        pick: Pick,
    ) -> Result<SmallVec<[(u64, u64, super::memory_file::Claim); 1]>, Errno> {
        let mut parts = SmallVec::new();
        let len = range.end - range.start;
        let natural = |state: &State, addr: u64, end: u64| {
            let arenas = state.arenas.get(&(addr / CHUNK))?;
            arenas.iter().find_map(|&chunk| self.memory.claim(u64::from(chunk) * CHUNK + addr % CHUNK, end - addr))
        };
        if pick == Pick::Any
            && let Some(claim) = self.memory.claim_warm(len)
        {
            parts.push((range.start, len, claim));
            return Ok(parts);
        }
        let (first, last) = (range.start / CHUNK, (range.end - 1) / CHUNK);
        if first != last && (first..=last).all(|window| !state.arenas.contains_key(&window)) {
            let count = u32::try_from(last - first + 1).map_err(|_| Errno::ENOMEM)?;
            let chunk = self.memory.take_chunks(count).ok_or(Errno::ENOMEM)?;
            for (window, chunk) in (first..=last).zip(chunk..) {
                state.arenas.entry(window).or_default().push(chunk);
            }
        }
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / CHUNK + 1) * CHUNK);
            let claim = match natural(state, at, end) {
                Some(claim) => claim,
                None => {
                    let fresh = self.memory.take_chunks(1).and_then(|chunk| {
                        state.arenas.entry(at / CHUNK).or_default().push(chunk);
                        self.memory.claim(u64::from(chunk) * CHUNK + at % CHUNK, end - at)
                    });
                    let Some(claim) = fresh else {
                        for (_, len, claim) in parts {
                            self.memory.release(claim.at, len);
                        }
                        return Err(Errno::ENOMEM);
                    };
                    claim
                }
            };
            parts.push((at, end - at, claim));
            at = end;
        }
        Ok(parts)
    }

    /// Orders a segment to be mapped as it is now, if there is anything behind it.
    pub(super) fn post_map(&self, start: u64, segment: &Segment, warm: bool) {
        let (window, offset) = match &segment.back {
            Backing::Empty => return,
            Backing::Memory(at) => (self.memory.window(), *at),
            Backing::Host(window, at) => (window, *at),
        };
        let mut flags = MapFlags::empty();
        if warm {
            flags |= MapFlags::POPULATE;
        }
        if segment.flags.contains(SegmentFlags::HUGE)
            || matches!(segment.back, Backing::Memory(_)) && segment.end - start >= 2 << 20
        {
            flags |= MapFlags::HUGE;
        }
        let order = MapOrder {
            addr: start,
            len: segment.end - start,
            prot: segment.installed(),
            flags,
            file: std::os::fd::AsFd::as_fd(&**window),
            offset,
        };
        self.posted.fetch_add(1, Ordering::Relaxed);
        self.ordered(self.space.map(&order));
    }

    pub(super) fn post_unmap(&self, range: Range<u64>) {
        self.ordered(self.space.unmap(range.start, range.end - range.start));
    }

    pub(super) fn post_protect(&self, range: Range<u64>, prot: Prot) {
        self.posted.fetch_add(1, Ordering::Relaxed);
        self.ordered(self.space.protect(range.start, range.end - range.start, prot));
    }

    /// A stub that is dead is noticed by its contexts; an order that it refused leaves the two sides unequal, and is the process's end.
    fn ordered(&self, result: Result<(), PlatformError>) {
        match result {
            Ok(()) | Err(PlatformError::Dead(_)) => {}
            Err(error) => {
                tracing::warn!("{error}");
                self.broken.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Waits until all orders are performed. What was in limbo can go.
    pub(super) fn settle(&self, state: &mut State, trash: &mut Trash) {
        self.ordered(self.space.settle());
        trash.segments.append(&mut state.limbo);
    }

    /// Settles if much is in limbo.
    pub(super) fn settle_if_much(&self, state: &mut State, trash: &mut Trash) {
        if state.limbo.len() > LIMBO_MAX {
            self.settle(state, trash);
        }
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        let mut trash = Trash::new(self);
        let state = self.state.get_mut();
        let segments: Vec<Segment2> = state.map.take().collect();
        trash.segments.append(&mut state.limbo);
        trash.segments.extend(segments);
        for (start, original) in std::mem::take(&mut state.originals) {
            let segment = Segment {
                end: original.end,
                prot: Prot::empty(),
                flags: SegmentFlags::empty(),
                file: None,
                back: original.back,
            };
            trash.segments.push((start, segment));
        }
        // The stub may be used again: nothing of ours may stay mapped in it.
        let mut at = state.places.user.start;
        let mut reserved = state.places.reserved.clone();
        reserved.sort_by_key(|range| range.start);
        let arenas = std::mem::take(&mut state.arenas);
        let end = state.places.user.end;
        if trash.segments.iter().any(|(_, segment)| segment.backed()) {
            let ends = reserved.iter().map(|range| (range.start, range.end)).chain([(end, end)]);
            for (to, next) in ends {
                if at < to {
                    let _ = self.space.unmap(at, to - at);
                }
                at = at.max(next);
            }
            let _ = self.space.settle();
        }
        drop(trash);
        for chunk in arenas.into_values().flatten() {
            self.memory.give_chunk(chunk);
        }
        self.released.store(true, Ordering::Release);
        self.memory.spaces_gone().wake(PollEvents::IN);
    }
}
