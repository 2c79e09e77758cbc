//! `mremap`: the same pages at another address, or of another size.

use std::ops::Range;
use std::sync::Arc;

use platform::Prot;

use super::map::MAY_ALL;
use super::segment::{Backing, MappedFile, Segment, SegmentFlags};
use super::space::{State, Trash};
use super::{MapRequest, Mm, Pages, Piece, Placement};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_up};

/// A change of a mapping's place or size.
#[derive(Debug, Clone, Copy)]
pub struct Remap {
    pub addr: u64,
    pub old_len: u64,
    pub new_len: u64,
    pub to: RemapTo,
    /// `MREMAP_DONTUNMAP`: the old range stays, empty.
    pub keep_old: bool,
    /// `RLIMIT_AS`.
    pub limit: u64,
}

/// Where it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemapTo {
    Stay,
    Anywhere,
    Fixed(u64),
}

impl Mm {
    /// Moves, grows or shrinks what maps the file `seen` (None: no file). Returns the new address; None when something else is mapped there by now, and
    /// nothing was done.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT` (not one mapping), `ENOMEM`.
    pub fn remap(&self, request: &Remap, seen: Option<&Arc<MappedFile>>) -> Result<Option<u64>, Errno> {
        let &Remap { addr, to, keep_old, .. } = request;
        let old_len = page_up(request.old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_up(request.new_len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        if !addr.is_multiple_of(PAGE_SIZE) || keep_old && old_len != new_len {
            return Err(Errno::EINVAL);
        }
        let old = addr..addr.checked_add(old_len).ok_or(Errno::EINVAL)?;
        if let RemapTo::Fixed(new) = to {
            let end = new.checked_add(new_len).ok_or(Errno::EINVAL)?;
            if !new.is_multiple_of(PAGE_SIZE) || new < old.end && addr < end {
                return Err(Errno::EINVAL);
            }
        }
        if old_len == 0 {
            return self.duplicate_shared(addr, new_len, request, seen);
        }
        let kept = addr..addr + old_len.min(new_len);
        let Some(growth) = Growth::prepare(self, &kept, new_len, seen)? else { return Ok(None) };
        if to == RemapTo::Stay || to == RemapTo::Anywhere && !keep_old {
            if new_len < old_len {
                self.unmap(kept.end, old_len - new_len)?;
            }
            if new_len <= old_len || self.grow_in_place(&growth, &kept, new_len, request.limit)? {
                return Ok(Some(addr));
            }
            if to == RemapTo::Stay {
                return Err(Errno::ENOMEM);
            }
        }
        self.relocate(&growth, kept, old.end, new_len, request)
    }

    /// `old_len` of 0: a second mapping of the same shared pages.
    fn duplicate_shared(
        &self,
        addr: u64,
        len: u64,
        &Remap { to, limit, .. }: &Remap,
        seen: Option<&Arc<MappedFile>>,
    ) -> Result<Option<u64>, Errno> {
        let (request, pieces) = {
            let state = self.state.read();
            let (start, segment) = state.map.find(addr).ok_or(Errno::EFAULT)?;
            if !maps(segment, seen) {
                return Ok(None);
            }
            if !segment.shared() || to == RemapTo::Stay {
                return Err(Errno::EINVAL);
            }
            let placement = match to {
                RemapTo::Fixed(at) => Placement::Fixed(at),
                _ => Placement::Hint(0),
            };
            let file = segment.file.as_ref().map(|(file, offset)| (file.clone(), offset + (addr - start)));
            // Shared memory has no end of its own here beyond which to map.
            let pieces = match file {
                Some(_) => None,
                None => Some(self.pieces_of(&state, addr..addr.checked_add(len).ok_or(Errno::EINVAL)?)?),
            };
            (MapRequest { placement, len, prot: segment.prot, flags: segment.flags, file, limit }, pieces)
        };
        match pieces {
            Some(pieces) => self.map_pieces(&request, pieces),
            None => self.map(&request),
        }
        .map(Some)
    }

    /// The pages of a range of shared memory, which must be one mapping.
    fn pieces_of(&self, state: &State, range: Range<u64>) -> Result<Vec<Piece>, Errno> {
        one_mapping(state, range.clone()).map_err(|_| Errno::EINVAL)?;
        let piece = |(start, segment): (u64, &Segment)| {
            let (from, to) = (start.max(range.start), segment.end.min(range.end));
            let Backing::Memory(at) = segment.back else { return Err(Errno::EINVAL) };
            let at = at + (from - start);
            self.memory.retain(at, to - from);
            let pages = Pages::new(self.memory.clone(), at, to - from);
            Ok(Piece { window: self.memory.window().clone(), offset: at, len: to - from, pages: Some(pages) })
        };
        state.map.overlapping(range.clone()).map(piece).collect()
    }

    fn grow_in_place(&self, growth: &Growth, kept: &Range<u64>, new_len: u64, limit: u64) -> Result<bool, Errno> {
        let tail = kept.end..kept.start.checked_add(new_len).ok_or(Errno::EINVAL)?;
        {
            let state = self.state.read();
            if !state.places.allows(&tail) || !state.map.is_free(tail.clone()) {
                return Ok(false);
            }
        }
        match self.map(&growth.request(Placement::FixedNoReplace(tail.start), tail.end - tail.start, limit)) {
            Ok(_) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Moves `kept`; what is behind it, up to `old_end`, goes. None: it is no longer what `growth` was made of, and nothing has become of it.
    fn relocate(
        &self,
        growth: &Growth,
        kept: Range<u64>,
        old_end: u64,
        new_len: u64,
        request: &Remap,
    ) -> Result<Option<u64>, Errno> {
        // A reservation of the new place; it is replaced below.
        let placement = match request.to {
            RemapTo::Fixed(at) => Placement::Fixed(at),
            _ => Placement::Hint(0),
        };
        let reserve = MapRequest { limit: request.limit, ..MapRequest::anonymous(placement, new_len, Prot::empty()) };
        let new = self.map(&reserve)?;
        let len = kept.end - kept.start;
        let moved = match self.move_pages(growth, kept, old_end, new, request.keep_old) {
            Ok(true) if new_len > len => {
                self.map(&growth.request(Placement::Fixed(new + len), new_len - len, u64::MAX)).map(|_| true)
            }
            other => other,
        };
        match moved {
            Ok(true) => Ok(Some(new)),
            Ok(false) => self.unmap(new, new_len).map(|()| None),
            Err(errno) => {
                let _ = self.unmap(new, new_len);
                Err(errno)
            }
        }
    }

    /// False: it is no longer what `growth` was made of.
    fn move_pages(&self, growth: &Growth, old: Range<u64>, old_end: u64, new: u64, keep_old: bool) -> Result<bool, Errno> {
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        if !growth.is_of(&state, &old) {
            return Ok(false);
        }
        // Under the same lock as the move: once it is free, another thread may get it.
        if old.end < old_end {
            self.unmap_in(&mut state, old.end..old_end, &mut trash)?;
        }
        self.unpatch(&mut state, &old, &mut trash);
        let target = new..new + (old.end - old.start);
        // The reservation has nothing behind it.
        let reserved = state.take_out(target);
        state.limbo.extend(reserved);
        let segments = state.map.remove(old.clone());
        for (start, segment) in segments {
            let at = new + (start - old.start);
            let moved = Segment { end: at + (segment.end - start), ..segment.clone() };
            self.post_map(at, &moved, false);
            state.map.insert(at, moved);
            if keep_old {
                // Locked is what has moved (`move_vma`).
                let flags = segment.flags - SegmentFlags::COW - SegmentFlags::LOCKED;
                let empty = Segment { back: Backing::Empty, flags, ..segment };
                state.map.insert(start, empty);
            }
        }
        state.gap_opened(old.end);
        self.post_unmap(old);
        self.settle(&mut state, &mut trash);
        Ok(true)
    }
}

/// What the part beyond the old size is made of.
struct Growth {
    prot: Prot,
    flags: SegmentFlags,
    /// The file, and the offset of the first byte beyond.
    file: Option<(Arc<MappedFile>, u64)>,
}

impl Growth {
    /// None: it is not the file `seen` that is mapped there.
    fn prepare(mm: &Mm, kept: &Range<u64>, new_len: u64, seen: Option<&Arc<MappedFile>>) -> Result<Option<Growth>, Errno> {
        let state = mm.state.read();
        let (start, segment) = one_mapping(&state, kept.clone())?;
        if !maps(segment, seen) {
            return Ok(None);
        }
        if kept.start.checked_add(new_len).is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(Some(Growth::of(start, segment, kept.end)))
    }

    /// What would go on at `end`.
    fn of(start: u64, segment: &Segment, end: u64) -> Growth {
        let file = segment.file.as_ref().map(|(file, offset)| (file.clone(), offset + (end - start)));
        let flags = segment.flags
            & (MAY_ALL
                | SegmentFlags::SHARED
                | SegmentFlags::NORESERVE
                | SegmentFlags::LOCKED
                | SegmentFlags::HUGE
                | SegmentFlags::DONT_FORK
                | SegmentFlags::WIPE_ON_FORK
                | SegmentFlags::DONT_DUMP);
        Growth { prot: segment.prot, flags, file }
    }

    /// Whether `kept` is still the mapping that it was made of.
    fn is_of(&self, state: &State, kept: &Range<u64>) -> bool {
        let Ok((start, segment)) = one_mapping(state, kept.clone()) else { return false };
        let now = Growth::of(start, segment, kept.end);
        let same_file = match (&now.file, &self.file) {
            (None, None) => true,
            (Some((file, offset)), Some((seen, seen_offset))) => Arc::ptr_eq(file, seen) && offset == seen_offset,
            _ => false,
        };
        same_file && now.prot == self.prot && now.flags == self.flags
    }

    fn request(&self, placement: Placement, len: u64, limit: u64) -> MapRequest {
        MapRequest { placement, len, prot: self.prot, flags: self.flags, file: self.file.clone(), limit }
    }
}

/// Whether a segment is a mapping of this file, or (None) of none.
fn maps(segment: &Segment, file: Option<&Arc<MappedFile>>) -> bool {
    match (&segment.file, file) {
        (Some((mapped, _)), Some(file)) => Arc::ptr_eq(mapped, file),
        (None, None) => true,
        _ => false,
    }
}

/// The first segment of the range, which must be all one VMA.
fn one_mapping(state: &State, range: Range<u64>) -> Result<(u64, &Segment), Errno> {
    let first = state.map.find(range.start).ok_or(Errno::EFAULT)?;
    let mut last = first;
    while last.1.end < range.end {
        let next = state.map.find(last.1.end).ok_or(Errno::EFAULT)?;
        if !next.1.same_vma(last.0, last.1) || next.1.flags.contains(SegmentFlags::SLOTS) {
            return Err(Errno::EFAULT);
        }
        last = next;
    }
    Ok(first)
}
