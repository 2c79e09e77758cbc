//! `madvise`: giving pages up, and flags.

use std::ops::Range;
use std::sync::Arc;

use platform::Prot;

use super::fault::Touch;
use super::map::checked_range;
use super::segment::{Backing, Segment, SegmentFlags};
use super::space::{State, Trash};
use super::{MappedFile, Mm};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down, page_up};

/// Largest range that is zeroed in place when it is emptied again and again; others are punched.
const ZERO_MAX: u64 = 64 << 10;

/// What becomes of memory that is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    Refused,
    Emptied,
}

impl Mm {
    /// `MADV_DONTNEED`: private anonymous pages read as zeros from now on, private file pages as the file again.
    ///
    /// # Errors
    /// `EINVAL`, also where something is locked and that is not wanted (what comes before is done); `ENOMEM` when part of the range is not mapped (the
    /// rest is done).
    pub fn dont_need(&self, addr: u64, len: u64, locked: Locked) -> Result<(), Errno> {
        let asked = checked_range(addr, len)?;
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        let refused = match locked {
            Locked::Refused => first_locked(&state, &asked),
            Locked::Emptied => None,
        };
        let range = asked.start..refused.unwrap_or(asked.end);
        if range.is_empty() {
            return Err(Errno::EINVAL);
        }
        if state.places.is_reserved(&range) {
            return Err(Errno::ENOMEM);
        }
        let whole = state.map.covers(range.clone());
        let mut own: Vec<(u64, u64)> = Vec::new();
        let mut others: Vec<Range<u64>> = Vec::new();
        for (start, segment) in state.map.overlapping(range.clone()) {
            let part = start.max(range.start)..segment.end.min(range.end);
            let Backing::Memory(at) = segment.back else { continue };
            if segment.shared() || segment.flags.contains(SegmentFlags::SLOTS) || segment.flags.contains(SegmentFlags::PATCHED)
            {
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
        match refused {
            Some(_) => Err(Errno::EINVAL),
            None if whole => Ok(()),
            None => Err(Errno::ENOMEM),
        }
    }

    /// Whether anything in the range is locked.
    pub fn has_locked(&self, addr: u64, len: u64) -> bool {
        first_locked(&self.state.read(), &(addr..addr.saturating_add(len))).is_some()
    }

    /// Whether new mappings are locked (`MCL_FUTURE`).
    pub fn locks_future(&self) -> bool {
        self.state.read().lock_future
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

impl Mm {
    /// Sets or clears `flag` in the range; only private anonymous memory can be wiped on fork.
    ///
    /// # Errors
    /// `EINVAL` (does not fit), `ENOMEM` (not all mapped; the rest is done).
    pub fn set_flag(&self, addr: u64, len: u64, flag: SegmentFlags, on: bool) -> Result<(), Errno> {
        let range = checked_range(addr, len)?;
        let mut state = self.state.write();
        let fits = |segment: &Segment| segment.file.is_none() && !segment.shared();
        if flag == SegmentFlags::WIPE_ON_FORK && on && !state.map.overlapping(range.clone()).all(|(_, segment)| fits(segment)) {
            return Err(Errno::EINVAL);
        }
        let whole = state.map.covers(range.clone());
        state.map.update(range, |_, segment| segment.flags.set(flag, on));
        if whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Pages of a file's bytes in `range` are no longer the file's: they are mapped anew from the file when they are touched, or are past
    /// its end. Private copies go too (`unmap_mapping_range` with `even_cows`).
    pub(super) fn forget_file_range(&self, identity: u64, range: &Range<u64>) {
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        let mut parts: Vec<Range<u64>> = Vec::new();
        for (start, segment) in state.map.iter() {
            let Some((file, offset)) = &segment.file else { continue };
            let (from, to) = (range.start.max(*offset), range.end.min(offset + (segment.end - start)));
            if from < to && segment.backed() && file.mappable.identity() == identity {
                parts.push(start + (from - offset)..start + (to - offset));
            }
        }
        if parts.is_empty() {
            return;
        }
        for part in parts {
            self.unpatch_for_write(&mut state, &part, Prot::WRITE, &mut trash);
            for (start, segment) in state.map.remove(part.clone()) {
                let empty = Segment { back: Backing::Empty, flags: segment.flags - SegmentFlags::COW, ..segment.clone() };
                state.map.insert(start, empty);
                state.limbo.push((start, segment));
            }
            self.post_unmap(part);
        }
        self.settle(&mut state, &mut trash);
    }

    /// Whether all of the range is mapped.
    pub fn is_mapped(&self, addr: u64, len: u64) -> bool {
        checked_range(addr, len).is_ok_and(|range| self.state.read().map.covers(range))
    }

    /// `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE`: makes all pages ready.
    ///
    /// # Errors
    /// `EINVAL` (rights), `ENOMEM` (not mapped), `EFAULT` (past a file's end).
    pub fn populate(&self, addr: u64, len: u64, write: bool) -> Result<(), Errno> {
        let range = checked_range(addr, len)?;
        let touch = if write { Touch::Write } else { Touch::Read };
        let mut at = range.start;
        while at < range.end {
            let (end, ready) = {
                let state = self.state.read();
                let (_, segment) = state.map.find(at).ok_or(Errno::ENOMEM)?;
                if write && !segment.prot.contains(Prot::WRITE) || segment.prot.is_empty() {
                    return Err(Errno::EINVAL);
                }
                (segment.end.min(range.end), segment.backed() && !(write && segment.cow()))
            };
            if ready {
                at = end;
            } else {
                self.make_ready(at, range.end - at, touch).map_err(|stopped| self.told(stopped))?;
            }
        }
        Ok(())
    }

    /// `mlock` and `munlock`: marks the range, for accounting.
    ///
    /// # Errors
    /// `ENOMEM` (not all mapped, or more than `limit` bytes locked).
    pub fn lock(&self, addr: u64, len: u64, on: bool, limit: u64) -> Result<(), Errno> {
        let start = page_down(addr);
        let end = addr.checked_add(len).and_then(page_up).ok_or(Errno::EINVAL)?;
        let range = start..end;
        if range.is_empty() {
            return Ok(());
        }
        let mut state = self.state.write();
        let mut change = 0;
        let mut whole = state.map.covers(range.clone());
        for (start, segment) in state.map.overlapping(range.clone()) {
            // Where slots are there is nothing for the guest.
            if segment.flags.contains(SegmentFlags::SLOTS) {
                whole = false;
            } else if segment.flags.contains(SegmentFlags::LOCKED) != on {
                change += segment.end.min(range.end) - start.max(range.start);
            }
        }
        if on && state.locked_bytes + change > limit {
            return Err(Errno::ENOMEM);
        }
        mark_locked(&mut state, range, on);
        if whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `mlockall` (`now`, `future`) and `munlockall` (neither).
    ///
    /// # Errors
    /// `ENOMEM` (more than `limit` bytes).
    pub fn lock_all(&self, now: bool, future: bool, limit: u64) -> Result<(), Errno> {
        let mut state = self.state.write();
        if now && state.map.bytes() > limit {
            return Err(Errno::ENOMEM);
        }
        if now || !future {
            mark_locked(&mut state, 0..u64::MAX, now);
        }
        state.lock_future = future;
        Ok(())
    }

    /// Which pages from `addr` on are in memory (`mincore`): fills `present` with 1 or 0.
    ///
    /// # Errors
    /// `ENOMEM` (not mapped).
    pub fn present(&self, addr: u64, present: &mut [u8]) -> Result<(), Errno> {
        let state = self.state.read();
        let end = addr.checked_add(present.len() as u64 * PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let mut at = addr;
        let mut rest = present;
        while at < end {
            let (start, segment) = state.map.find(at).ok_or(Errno::ENOMEM)?;
            let stop = segment.end.min(end);
            let (now, later) = rest.split_at_mut_checked(((stop - at) / PAGE_SIZE) as usize).ok_or(Errno::ENOMEM)?;
            let answered = match &segment.back {
                Backing::Empty => Err(hostcall::MemoryFault),
                Backing::Memory(from) => self.memory.window().present(from + (at - start), now),
                Backing::Host(window, from) => window.present((from + (at - start)).saturating_sub(window.offset()), now),
            };
            match answered {
                Ok(()) => now.iter_mut().for_each(|byte| *byte &= 1),
                Err(_) => now.fill(0),
            }
            rest = later;
            at = stop;
        }
        Ok(())
    }

    /// The files of shared mappings in the range, for `msync`.
    ///
    /// # Errors
    /// `ENOMEM` (not all mapped), `EBUSY` (locked, and `invalidate`).
    pub fn shared_files(&self, addr: u64, len: u64, invalidate: bool) -> Result<Vec<Arc<MappedFile>>, Errno> {
        let range = checked_range(addr, len)?;
        let state = self.state.read();
        let mut files: Vec<Arc<MappedFile>> = Vec::new();
        for (_, segment) in state.map.overlapping(range.clone()) {
            if invalidate && segment.flags.contains(SegmentFlags::LOCKED) {
                return Err(Errno::EBUSY);
            }
            if let Some((file, _)) = segment.file.as_ref().filter(|_| segment.shared())
                && !files.iter().any(|other| Arc::ptr_eq(other, file))
            {
                files.push(file.clone());
            }
        }
        if state.map.covers(range) { Ok(files) } else { Err(Errno::ENOMEM) }
    }
}

/// Where in the range the first locked mapping begins.
fn first_locked(state: &State, range: &Range<u64>) -> Option<u64> {
    let mut segments = state.map.overlapping(range.clone());
    segments.find(|(_, segment)| segment.flags.contains(SegmentFlags::LOCKED)).map(|(start, _)| start.max(range.start))
}

/// Marks what the guest has mapped in the range, and counts it. Slots are not the guest's, and are not locked.
fn mark_locked(state: &mut State, range: Range<u64>, on: bool) {
    let (mut more, mut less) = (0, 0);
    state.map.update(range, |start, segment| {
        if segment.flags.contains(SegmentFlags::SLOTS) || segment.flags.contains(SegmentFlags::LOCKED) == on {
            return;
        }
        segment.flags.set(SegmentFlags::LOCKED, on);
        *(if on { &mut more } else { &mut less }) += segment.end - start;
    });
    state.locked_bytes = (state.locked_bytes + more).saturating_sub(less);
}
