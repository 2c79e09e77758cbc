//! Changing what is mapped: mmap, munmap, mprotect, mremap, brk.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use platform::Prot;

use super::segment::{Backing, Segment, SegmentFlags};
use super::space::{MAP_COUNT_MAX, Pick, State, Trash};
use super::{Access, MappedFile, Mm, Piece};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_up};

/// Private writable file mappings up to this size are copied at once: they are data segments, and nearly every page of them will be written. A page
/// costs half a microsecond so, and a write fault twenty.
const COPY_WHOLE_MAX: u64 = 2 << 20;

/// Anonymous mappings beyond this size get memory as they are touched; with `MAP_NORESERVE`, beyond the second.
const LAZY_MIN: u64 = 16 << 30;
const LAZY_NORESERVE_MIN: u64 = 64 << 20;

/// Where `MAP_32BIT` places mappings (`find_start_end`).
const LOW: Range<u64> = 0x4000_0000..0x8000_0000;

/// Where a mapping is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// At this address if it is free, or elsewhere.
    Hint(u64),
    /// Within 31 bits (`MAP_32BIT`): at this address if it is free, or elsewhere.
    Low(u64),
    /// There, over whatever is there (`MAP_FIXED`).
    Fixed(u64),
    /// There, or `EEXIST` (`MAP_FIXED_NOREPLACE`).
    FixedNoReplace(u64),
}

/// A mapping to be made.
pub struct MapRequest {
    pub placement: Placement,
    /// In bytes; rounded up to pages.
    pub len: u64,
    pub prot: Prot,
    pub flags: SegmentFlags,
    /// The file and an offset in it.
    pub file: Option<(Arc<MappedFile>, u64)>,
    /// Most bytes the address space may have (`RLIMIT_AS`).
    pub limit: u64,
}

impl MapRequest {
    /// Private anonymous memory that any `mprotect` may change.
    pub fn anonymous(placement: Placement, len: u64, prot: Prot) -> MapRequest {
        MapRequest { placement, len, prot, flags: MAY_ALL, file: None, limit: u64::MAX }
    }
}

/// The rights of a private mapping.
pub(super) const MAY_ALL: SegmentFlags = SegmentFlags::MAY_READ.union(SegmentFlags::MAY_WRITE).union(SegmentFlags::MAY_EXEC);

/// Whether a new segment's orders are given at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Post {
    Now,
    Later,
}

/// The pages that a mapping gets.
enum Content {
    /// Zeros, now or (lazily) later.
    Zeros,
    Lazy,
    Pieces(Vec<Piece>),
}

impl Mm {
    /// Makes a mapping. Returns its address.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM`, `EEXIST`, `EPERM` (below the lowest address), and those of the file.
    pub fn map(&self, request: &MapRequest) -> Result<u64, Errno> {
        let len =
            page_up(request.len).filter(|&len| len > 0).ok_or(if request.len == 0 { Errno::EINVAL } else { Errno::ENOMEM })?;
        let content = self.content(request, len)?;
        self.map_content(request, len, content)
    }

    /// A further mapping of pages that are there.
    pub(super) fn map_pieces(&self, request: &MapRequest, pieces: Vec<Piece>) -> Result<u64, Errno> {
        self.map_content(request, request.len, Content::Pieces(pieces))
    }

    fn map_content(&self, request: &MapRequest, len: u64, content: Content) -> Result<u64, Errno> {
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        let start = place(&mut state, request.placement, len)?;
        let range = start..start + len;
        let fixed = matches!(request.placement, Placement::Fixed(_));
        let replaced_bytes: u64 = if fixed { mapped_in(&state, &range) } else { 0 };
        if state.map.bytes() - replaced_bytes + len > request.limit || state.map.len() >= MAP_COUNT_MAX {
            return Err(Errno::ENOMEM);
        }
        let mut flags = request.flags;
        if state.lock_future {
            flags |= SegmentFlags::LOCKED;
        }
        let segment = Segment { end: range.end, prot: request.prot, flags, file: request.file.clone(), back: Backing::Empty };
        if fixed {
            self.unpatch(&mut state, &range, &mut trash);
        }
        let stale = fixed && self.replace(&mut state, &range, &content);
        let adopt = self.may_adopt(&state, &segment);
        let post = if adopt { Post::Later } else { Post::Now };
        if let Err(errno) = self.fill(&mut state, range.clone(), segment, content, post) {
            // What was replaced is gone from the map already: it must go from the stub too.
            let partial = state.map.remove(range.clone());
            state.limbo.extend(partial);
            self.post_unmap(range);
            self.settle(&mut state, &mut trash);
            return Err(errno);
        }
        if flags.contains(SegmentFlags::LOCKED) {
            state.locked_bytes = state.locked_bytes.saturating_add(len);
        }
        if adopt {
            self.adopt_patches(&mut state, &range);
            self.post_all(&state, range.clone());
        }
        if stale {
            self.settle(&mut state, &mut trash);
        } else {
            self.settle_if_much(&mut state, &mut trash);
        }
        state.peak_bytes = state.peak_bytes.max(state.map.bytes());
        Ok(start)
    }

    /// What will be behind a mapping. Calls the file, so no lock is held.
    fn content(&self, request: &MapRequest, len: u64) -> Result<Content, Errno> {
        let Some((file, offset)) = &request.file else {
            let lazy = request.prot.is_empty()
                || len >= LAZY_MIN
                || request.flags.contains(SegmentFlags::NORESERVE) && len >= LAZY_NORESERVE_MIN
                || len == self.untouched_len.load(Ordering::Relaxed);
            // Shared memory must exist before a fork can share it.
            let lazy = lazy && !(request.flags.contains(SegmentFlags::SHARED) && len < LAZY_MIN);
            return Ok(if lazy { Content::Lazy } else { Content::Zeros });
        };
        offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
        file_pieces(file, *offset, len, request.flags).map(Content::Pieces)
    }

    /// Takes out what a fixed mapping replaces. Returns whether the guest could see old contents if the new mapping came late.
    fn replace(&self, state: &mut State, range: &Range<u64>, content: &Content) -> bool {
        let mut stale = false;
        for (start, segment) in state.take_out(range.clone()) {
            let same = match (&segment.back, content) {
                (Backing::Empty, _) => true,
                (Backing::Host(window, at), Content::Pieces(pieces)) => pieces.iter().any(|piece| {
                    Arc::ptr_eq(&piece.window, window)
                        && piece.offset.wrapping_sub(range.start) == at.wrapping_sub(start)
                        && segment.end - range.start <= piece.len
                }),
                _ => false,
            };
            if segment.backed() {
                stale |= !same;
                state.limbo.push((start, segment));
            }
        }
        stale
    }

    /// Inserts a segment over a free range with its content, and orders it mapped.
    fn fill(&self, state: &mut State, range: Range<u64>, segment: Segment, content: Content, post: Post) -> Result<(), Errno> {
        let put = |state: &mut State, at: u64, end: u64, back: Backing, extra: SegmentFlags, warm: bool| {
            let part = Segment {
                end,
                back,
                flags: segment.flags | extra,
                file: segment.file.as_ref().map(|(file, offset)| (file.clone(), offset + (at - range.start))),
                ..segment.clone()
            };
            if post == Post::Now {
                self.post_map(at, &part, warm);
            }
            state.map.insert(at, part);
        };
        match content {
            Content::Lazy => {
                if state.limbo.iter().any(|(start, old)| *start < range.end && old.end > range.start) {
                    self.post_unmap(range.clone());
                }
                put(state, range.start, range.end, Backing::Empty, SegmentFlags::empty(), false);
            }
            Content::Zeros => {
                let pick = if segment.flags.contains(SegmentFlags::HEAP) { Pick::Own } else { Pick::Any };
                for (at, len, claim) in self.claim(state, range.clone(), pick)? {
                    put(state, at, at + len, Backing::Memory(claim.at), SegmentFlags::empty(), claim.warm);
                }
            }
            Content::Pieces(pieces) => {
                let len: u64 = pieces.iter().map(|piece| piece.len).sum();
                let len = len.min(range.end - range.start);
                let private_write = !segment.shared() && segment.prot.contains(Prot::WRITE);
                if private_write && len > 0 && len <= COPY_WHOLE_MAX {
                    self.copy_whole(state, range.start, len, &pieces, put)?;
                } else {
                    let mut at = range.start;
                    for piece in pieces {
                        let end = range.end.min(at.saturating_add(piece.len));
                        if end <= at {
                            continue;
                        }
                        let (back, extra) = self.backing_of(piece, end - at, segment.shared());
                        put(state, at, end, back, extra, false);
                        at = end;
                    }
                }
                if range.start + len < range.end {
                    // Past the end of the file: SIGBUS, or what the file has grown by then.
                    if state.limbo.iter().any(|(start, old)| *start < range.end && old.end > range.start + len) {
                        self.post_unmap(range.start + len..range.end);
                    }
                    put(state, range.start + len, range.end, Backing::Empty, SegmentFlags::empty(), false);
                }
            }
        }
        Ok(())
    }

    /// Copies the first `len` bytes of `pieces` into new pages.
    fn copy_whole(
        &self,
        state: &mut State,
        start: u64,
        len: u64,
        pieces: &[Piece],
        mut put: impl FnMut(&mut State, u64, u64, Backing, SegmentFlags, bool),
    ) -> Result<(), Errno> {
        for (at, part, claim) in self.claim(state, start..start + len, Pick::Any)? {
            let mut base = start;
            for piece in pieces {
                let from = base.max(at);
                let to = (base + piece.len).min(at + part);
                if from < to {
                    let source = piece.offset + (from - base) - piece.window.offset();
                    // A file cut short meanwhile leaves zeros, as Linux's page cache would.
                    if piece.window.copy_to(source, self.memory.window(), claim.at + (from - at), to - from).is_err() {
                        self.copy_pages(piece, source, claim.at + (from - at), to - from);
                    }
                }
                base += piece.len;
            }
            put(state, at, at + part, Backing::Memory(claim.at), SegmentFlags::empty(), true);
        }
        Ok(())
    }

    fn copy_pages(&self, piece: &Piece, source: u64, to: u64, len: u64) {
        for page in (0..len).step_by(PAGE_SIZE as usize) {
            let _ = piece.window.copy_to(source + page, self.memory.window(), to + page, PAGE_SIZE.min(len - page));
        }
    }

    /// What a piece is to a mapping: our own pages with a reference, or a host file.
    pub(super) fn backing_of(&self, piece: Piece, len: u64, shared: bool) -> (Backing, SegmentFlags) {
        let cow = if shared { SegmentFlags::empty() } else { SegmentFlags::COW };
        match piece.pages {
            Some(mut pages) if Arc::ptr_eq(&piece.window, self.memory.window()) => {
                pages.truncate(len);
                (Backing::Memory(pages.into_raw().0), cow)
            }
            _ => (Backing::Host(piece.window, piece.offset), cow),
        }
    }

    /// Removes what is mapped in the range.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM` (too many segments).
    pub fn unmap(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let range = checked_range(addr, len)?;
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        if state.places.is_reserved(&range) {
            return Err(Errno::EINVAL);
        }
        self.unmap_in(&mut state, range, &mut trash)
    }

    pub(super) fn unmap_in(&self, state: &mut State, range: Range<u64>, trash: &mut Trash) -> Result<(), Errno> {
        if state.map.len() >= MAP_COUNT_MAX && splits(state, &range) {
            return Err(Errno::ENOMEM);
        }
        self.unpatch(state, &range, trash);
        let removed = state.take_out(range.clone());
        if removed.is_empty() {
            return Ok(());
        }
        let mut backed: Option<Range<u64>> = None;
        for (start, segment) in removed {
            if segment.backed() {
                backed = Some(backed.map_or(start, |range| range.start)..segment.end);
                state.limbo.push((start, segment));
            }
        }
        state.gap_opened(range.end);
        if let Some(backed) = backed {
            self.post_unmap(backed);
            self.settle(state, trash);
        }
        Ok(())
    }

    /// `mprotect`.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM` (not all mapped), `EACCES`.
    pub fn protect(&self, addr: u64, len: u64, prot: Prot) -> Result<(), Errno> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        let range = addr..addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        if !state.places.allows(&range) {
            return Err(Errno::ENOMEM);
        }
        self.unpatch_for_write(&mut state, &range, prot, &mut trash);
        // As Linux: what comes before a hole or a refusal is changed.
        let (end, result) = protectable(&state, &range, prot);
        if splits(&state, &(addr..end)) && state.map.len() >= MAP_COUNT_MAX {
            return Err(Errno::ENOMEM);
        }
        self.protect_in(&mut state, addr..end, prot, &mut trash)?;
        result
    }

    /// `mprotect` with `PROT_GROWSDOWN`: from the start of the mapping that grows down.
    ///
    /// # Errors
    /// As [`Mm::protect`]; `EINVAL` when it does not grow down.
    pub fn protect_from_start(&self, addr: u64, len: u64, prot: Prot) -> Result<(), Errno> {
        let start = {
            let state = self.state.read();
            let (start, segment) = state.map.find(addr).ok_or(Errno::ENOMEM)?;
            if !segment.flags.contains(SegmentFlags::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            start
        };
        self.protect(start, addr.saturating_add(len).saturating_sub(start), prot)
    }

    fn protect_in(&self, state: &mut State, range: Range<u64>, prot: Prot, trash: &mut Trash) -> Result<(), Errno> {
        let mut less = false;
        let mut orders: Vec<(Range<u64>, Prot)> = Vec::new();
        let mut open: Vec<Range<u64>> = Vec::new();
        // A write right that is given back may be left to the first write: often it is taken away again before.
        let mut later: Vec<Range<u64>> = Vec::new();
        let lazy_write = state.upgrades.lazy();
        for (start, segment) in state.map.overlapping(range.clone()) {
            let part = start.max(range.start)..segment.end.min(range.end);
            if segment.prot == prot {
                continue;
            }
            if !segment.backed() {
                if segment.file.is_none() && !prot.is_empty() && !is_lazy(segment, &part) {
                    open.push(part);
                }
                continue;
            }
            let mut then = Segment { prot, ..segment.clone() };
            if !then.cow() && segment.prot == Prot::READ && prot == Prot::READ | Prot::WRITE && lazy_write && !segment.shared()
            {
                then.flags |= SegmentFlags::COW;
                later.push(part.clone());
            }
            let now = then.installed();
            if now == segment.installed() {
                continue;
            }
            less |= !now.contains(segment.installed());
            match orders.last_mut() {
                Some((last, last_prot)) if last.end == part.start && *last_prot == now => last.end = part.end,
                _ => orders.push((part, now)),
            }
        }
        state.map.update(range, |_, segment| segment.prot = prot);
        for part in later {
            state.map.update(part, |_, segment| segment.flags |= SegmentFlags::COW);
        }
        for (part, prot) in orders {
            self.post_protect(part, prot);
        }
        for part in open {
            self.populate_zeros(state, part)?;
        }
        if less {
            self.settle(state, trash);
        }
        Ok(())
    }

    /// Gives an anonymous range without memory its memory.
    pub(super) fn populate_zeros(&self, state: &mut State, range: Range<u64>) -> Result<(), Errno> {
        let parts = self.claim(state, range, Pick::Own)?;
        for (at, len, claim) in parts {
            state.map.update(at..at + len, |start, segment| {
                segment.back = Backing::Memory(claim.at + (start - at));
                segment.flags -= SegmentFlags::COW;
            });
            for (start, segment) in state.map.overlapping(at..at + len) {
                let part = Segment {
                    end: segment.end.min(at + len),
                    back: Backing::Memory(claim.at + (start.max(at) - at)),
                    ..segment.clone()
                };
                self.post_map(start.max(at), &part, claim.warm);
            }
        }
        Ok(())
    }

    /// `brk`: returns the new break, or the old one if it cannot be moved. `limit`: most bytes of data and heap.
    pub fn brk(&self, to: u64, limit: u64, space_limit: u64) -> u64 {
        let (start, old) = {
            let state = self.state.read();
            (state.places.brk_start, state.places.brk)
        };
        let grown = to.saturating_sub(start);
        let (Some(old_end), Some(end)) = (page_up(old), page_up(to)) else { return old };
        if to < start || grown > limit {
            return old;
        }
        if end > old_end {
            if limit != u64::MAX && self.data_bytes().saturating_add(end - old_end) > limit {
                return old;
            }
            let guard = end.saturating_add(PAGE_SIZE);
            if !self.state.read().map.is_free(old_end..guard) {
                return old;
            }
            let request = MapRequest {
                flags: MAY_ALL | SegmentFlags::HEAP,
                limit: space_limit,
                ..MapRequest::anonymous(Placement::FixedNoReplace(old_end), end - old_end, Prot::READ | Prot::WRITE)
            };
            if self.map(&request).is_err() {
                return old;
            }
        } else if end < old_end && self.unmap(end, old_end - end).is_err() {
            return old;
        }
        self.state.write().places.brk = to;
        to
    }
}

/// Pieces for a file mapping: pages of a shared writable file are made, everything else is read.
pub(super) fn file_pieces(file: &MappedFile, offset: u64, len: u64, flags: SegmentFlags) -> Result<Vec<Piece>, Errno> {
    let size = page_up(file.mappable.size()).unwrap_or(u64::MAX);
    let len = len.min(size.saturating_sub(offset));
    if len == 0 {
        return Ok(Vec::new());
    }
    let access = if flags.contains(SegmentFlags::SHARED | SegmentFlags::MAY_WRITE) { Access::Write } else { Access::Read };
    file.mappable.pieces(offset, len, access)
}

/// Whether a segment without memory stays so until it is touched.
fn is_lazy(segment: &Segment, part: &Range<u64>) -> bool {
    let len = part.end - part.start;
    len >= LAZY_MIN || segment.flags.contains(SegmentFlags::NORESERVE) && len >= LAZY_NORESERVE_MIN
}

/// Bytes of the range that are mapped.
fn mapped_in(state: &State, range: &Range<u64>) -> u64 {
    state.map.overlapping(range.clone()).map(|(start, segment)| segment.end.min(range.end) - start.max(range.start)).sum()
}

/// Whether an operation on the range makes more segments.
fn splits(state: &State, range: &Range<u64>) -> bool {
    [range.start, range.end].iter().any(|&at| state.map.find(at).is_some_and(|(start, _)| start != at))
}

/// How far `mprotect` gets, and its result.
fn protectable(state: &State, range: &Range<u64>, prot: Prot) -> (u64, Result<(), Errno>) {
    let mut at = range.start;
    while at < range.end {
        let Some((_, segment)) = state.map.find(at) else { return (at, Err(Errno::ENOMEM)) };
        if segment.flags.contains(SegmentFlags::SLOTS) {
            return (at, Err(Errno::ENOMEM));
        }
        if !may(segment.flags).contains(prot) {
            return (at, Err(Errno::EACCES));
        }
        at = segment.end;
    }
    (range.end, Ok(()))
}

/// The rights `mprotect` may give.
pub(super) fn may(flags: SegmentFlags) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::READ, flags.contains(SegmentFlags::MAY_READ));
    prot.set(Prot::WRITE, flags.contains(SegmentFlags::MAY_WRITE));
    prot.set(Prot::EXEC, flags.contains(SegmentFlags::MAY_EXEC));
    prot
}

/// A page-aligned, non-empty range (as munmap's).
pub(super) fn checked_range(addr: u64, len: u64) -> Result<Range<u64>, Errno> {
    let len = page_up(len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    Ok(addr..end)
}

fn place(state: &mut State, placement: Placement, len: u64) -> Result<u64, Errno> {
    let span = |at: u64| at.checked_add(len).map(|end| at..end).ok_or(Errno::ENOMEM);
    let free = |state: &State, hint: u64| {
        let range = span(page_up(hint).filter(|&at| at > 0)?).ok()?;
        (state.places.allows(&range) && state.map.is_free(range.clone())).then_some(range)
    };
    match placement {
        Placement::Hint(hint) => match free(state, hint) {
            Some(range) => Ok(range.start),
            None => state.find_gap(len).ok_or(Errno::ENOMEM),
        },
        Placement::Low(hint) => match free(state, hint).filter(|range| range.end <= LOW.end) {
            Some(range) => Ok(range.start),
            None => state.gap_above(LOW, len).ok_or(Errno::ENOMEM),
        },
        Placement::Fixed(at) | Placement::FixedNoReplace(at) => {
            if !at.is_multiple_of(PAGE_SIZE) {
                return Err(Errno::EINVAL);
            }
            let range = span(at)?;
            if at < state.places.user.start {
                return Err(Errno::EPERM);
            }
            if !state.places.allows(&range) {
                return Err(Errno::ENOMEM);
            }
            if matches!(placement, Placement::FixedNoReplace(_)) && !state.map.is_free(range) {
                return Err(Errno::EEXIST);
            }
            Ok(at)
        }
    }
}
