//! `madvise`: giving pages up, and flags.

use std::ops::Range;

use super::map::checked_range;
use super::segment::{Backing, Segment, SegmentFlags};
use super::space::{State, Trash};
use super::Mm;
use crate::Errno;

/// Largest range that is zeroed in place when it is emptied again and again; others are punched.
const ZERO_MAX: u64 = 64 << 10;

impl Mm {
    /// `MADV_DONTNEED`: private anonymous pages read as zeros from now on, private file pages as the file again.
    ///
    /// # Errors
    /// `EINVAL`; `ENOMEM` when part of the range is not mapped (the rest is done).
    pub fn dont_need(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let range = checked_range(addr, len)?;
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        if state.places.is_reserved(&range) {
            return Err(Errno::ENOMEM);
        }
        let whole = state.map.covers(range.clone());
        let mut own: Vec<(u64, u64)> = Vec::new();
        let mut others: Vec<Range<u64>> = Vec::new();
        for (start, segment) in state.map.overlapping(range.clone()) {
            let part = start.max(range.start)..segment.end.min(range.end);
            let Backing::Memory(at) = segment.back else { continue };
            if segment.shared() || segment.flags.contains(SegmentFlags::SLOTS) || segment.flags.contains(SegmentFlags::PATCHED) {
                continue;
            }
            let at = at + (part.start - start);
            if segment.file.is_some() || segment.cow() {
                others.push(part);
            } else {
                own.push((at, part.end - part.start));
            }
        }
        let again = state.emptied.contains(&(range.start, range.end));
        if !again {
            state.emptied.rotate_right(1);
            if let Some(first) = state.emptied.first_mut() {
                *first = (range.start, range.end);
            }
        }
        for (at, len) in own {
            if again && len <= ZERO_MAX {
                self.memory.zero_present(at, len);
            } else {
                self.memory.punch(at, len);
            }
        }
        let stale = !others.is_empty();
        for part in others {
            self.renew(&mut state, part)?;
        }
        if stale {
            self.settle(&mut state, &mut trash);
        }
        if whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Puts new zero pages (or, for a file mapping, nothing, to be mapped from the file when touched) in the place of shared ones.
    fn renew(&self, state: &mut State, range: Range<u64>) -> Result<(), Errno> {
        let old = state.map.remove(range);
        for (start, segment) in old {
            let end = segment.end;
            let fresh = Segment { back: Backing::Empty, flags: segment.flags - SegmentFlags::COW, ..segment.clone() };
            state.map.insert(start, fresh);
            let file = segment.file.is_some();
            let empty = segment.prot.is_empty();
            state.limbo.push((start, segment));
            if file || empty {
                self.post_unmap(start..end);
            } else if let Err(errno) = self.populate_zeros(state, start..end) {
                self.post_unmap(start..end);
                return Err(errno);
            }
        }
        Ok(())
    }
}
