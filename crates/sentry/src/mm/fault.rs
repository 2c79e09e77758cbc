//! Faults of the application, and making pages ready for the sentry's own copies: population, copy on write, stack growth.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use platform::{Fault, Prot};

use super::Mm;
use super::access::Stopped;
use super::map::file_pieces;
use super::places::STACK_GUARD;
use super::segment::{Backing, MappedFile, Segment, SegmentFlags};
use super::space::{Pick, State, Trash};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down, uapi};

/// What to do after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOutcome {
    /// Run on: the fault has been dealt with.
    Resume,
    /// Run on there: the thread was inside a patched system-call site.
    MovedTo(u64),
    /// Send this signal (forced).
    Signal { signo: i32, code: i32, addr: u64 },
    /// The container's memory is used up: find some, and run on.
    OutOfMemory,
    /// The stub cannot be made to agree with the map: kill the process.
    Broken,
}

/// How an address is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    Read,
    Write,
    Execute,
    /// By a debugger, whatever the rights (`FOLL_FORCE`).
    ForcedRead,
    ForcedWrite,
}

impl Touch {
    /// Whether the page must be the address space's own.
    pub fn writes(self) -> bool {
        matches!(self, Touch::Write | Touch::ForcedWrite)
    }

    pub fn allowed(self, segment: &Segment) -> bool {
        let prot = segment.prot;
        match self {
            Touch::ForcedRead => true,
            // Shared memory is not written to against its rights: others would see it.
            Touch::ForcedWrite => prot.contains(Prot::WRITE) || !segment.shared(),
            // On x86-64 write implies read, and so does execute without protection keys.
            Touch::Read => !prot.is_empty(),
            Touch::Write => prot.contains(Prot::WRITE),
            Touch::Execute => prot.contains(Prot::EXEC),
        }
    }
}

/// Why a page cannot be made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unready {
    NoMapping,
    NoRight,
    /// The file ends before the page.
    PastEnd,
    OutOfMemory,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// Nothing: the stub's mapping was only late.
    Already,
    Done,
}

const PAGE_FAULT: u64 = 14;
const ERROR_WRITE: u64 = 2;
const ERROR_FETCH: u64 = 16;

/// Memory given to a lazy mapping at a time.
const POPULATE: u64 = 4 << 20;

/// Least growth of the stack.
const STACK_STEP: u64 = 128 << 10;

/// Most bytes copied by one write fault.
const RUN_MAX: u64 = 256 << 10;

/// Of a file's private pages so many are copied at once, around the one that is written: copying sixteen costs less than one fault.
pub(super) const FILE_RUN: u64 = 64 << 10;

/// The same fault so often in a row means that the two sides differ: the mapping is made anew; and then that it cannot be helped.
const REPEAT_REMAP: u32 = 16;
const REPEAT_GIVE_UP: u32 = 64;

impl Mm {
    /// Deals with a fault at instruction `rip`.
    pub fn fault(&self, fault: &Fault, rip: u64) -> FaultOutcome {
        if let Some(to) = self.moved(rip) {
            return FaultOutcome::MovedTo(to);
        }
        let bus = fault.signal == uapi::SIGBUS as i32;
        if fault.trap != PAGE_FAULT && !bus {
            return FaultOutcome::Signal { signo: fault.signal, code: fault.code, addr: fault.addr };
        }
        let touch = match fault.error {
            error if error & ERROR_FETCH != 0 => Touch::Execute,
            error if error & ERROR_WRITE != 0 => Touch::Write,
            _ => Touch::Read,
        };
        let segv = |code: u32| FaultOutcome::Signal { signo: uapi::SIGSEGV as i32, code: code as i32, addr: fault.addr };
        if bus && let Some(outcome) = self.bus_error(fault) {
            return outcome;
        }
        match self.ready(fault.addr, PAGE_SIZE, touch) {
            Ok(Ready::Done) => {
                // It would only come back, too early.
                let mut trash = Trash::new(self);
                self.settle(&mut self.state.write(), &mut trash);
                if self.is_broken() { FaultOutcome::Broken } else { FaultOutcome::Resume }
            }
            Ok(Ready::Already) => self.late(fault),
            Err(Unready::NoMapping) => segv(uapi::SEGV_MAPERR),
            Err(Unready::NoRight) => segv(uapi::SEGV_ACCERR),
            Err(Unready::PastEnd) => {
                FaultOutcome::Signal { signo: uapi::SIGBUS as i32, code: uapi::BUS_ADRERR as i32, addr: fault.addr }
            }
            Err(Unready::OutOfMemory) => FaultOutcome::OutOfMemory,
        }
    }

    /// Waits for the mapping that should be there.
    fn late(&self, fault: &Fault) -> FaultOutcome {
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        self.settle(&mut state, &mut trash);
        if self.is_broken() {
            return FaultOutcome::Broken;
        }
        let posted = self.posted.load(Ordering::Relaxed);
        let same = state.repeated.0 == fault.addr && state.repeated.2 == posted;
        let count = if same { state.repeated.1 + 1 } else { 1 };
        state.repeated = (fault.addr, count, posted);
        if count.is_multiple_of(REPEAT_REMAP)
            && let Some((start, segment)) = state.map.find(fault.addr)
        {
            let segment = segment.clone();
            self.post_map(start, &segment, false);
            self.settle(&mut state, &mut trash);
            state.repeated.2 = self.posted.load(Ordering::Relaxed);
        }
        if count >= REPEAT_GIVE_UP {
            state.repeated = (0, 0, 0);
            return FaultOutcome::Signal { signo: fault.signal, code: fault.code, addr: fault.addr };
        }
        FaultOutcome::Resume
    }

    /// A `SIGBUS` of the host on a mapped page: the memory file is full, or a host file is shorter than the mapping. None: not so.
    fn bus_error(&self, fault: &Fault) -> Option<FaultOutcome> {
        let state = self.state.read();
        let (_, segment) = state.map.find(fault.addr)?;
        match segment.back {
            Backing::Empty => None,
            Backing::Memory(_) => Some(FaultOutcome::OutOfMemory),
            Backing::Host(..) => {
                Some(FaultOutcome::Signal { signo: uapi::SIGBUS as i32, code: uapi::BUS_ADRERR as i32, addr: fault.addr })
            }
        }
    }

    /// Makes at least the page of `addr`, and possibly all of `len` bytes, ready for the sentry's own copies.
    pub(super) fn make_ready(&self, addr: u64, len: u64, touch: Touch) -> Result<(), Stopped> {
        match self.ready(addr, len, touch) {
            Ok(_) => Ok(()),
            Err(Unready::OutOfMemory) => Err(Stopped::Short),
            Err(_) => Err(Stopped::Fault),
        }
    }

    fn ready(&self, addr: u64, len: u64, touch: Touch) -> Result<Ready, Unready> {
        loop {
            let mut trash = Trash::new(self);
            let mut state = self.state.write();
            let Some((start, segment)) = state.map.find(addr) else {
                self.grow_stack(&mut state, addr)?;
                continue;
            };
            if segment.flags.contains(SegmentFlags::SLOTS) && touch.writes() || !touch.allowed(segment) {
                return Err(Unready::NoRight);
            }
            let end = segment.end;
            match (&segment.back, &segment.file) {
                (Backing::Empty, None) => {
                    let from = page_down(addr) / POPULATE * POPULATE;
                    let range = from.max(start)..from.saturating_add(POPULATE).min(end);
                    if end - start == self.untouched_len.load(Ordering::Relaxed) {
                        self.untouched_len.store(0, Ordering::Relaxed);
                    }
                    self.populate_zeros(&mut state, range).map_err(|_| Unready::OutOfMemory)?;
                    return Ok(Ready::Done);
                }
                (Backing::Empty, Some((file, offset))) => {
                    let want = Wanted {
                        range: page_down(addr)..end,
                        file: file.clone(),
                        offset: offset + (page_down(addr) - start),
                        flags: segment.flags,
                    };
                    drop(state);
                    self.map_grown(want)?;
                }
                _ if touch.writes() && segment.cow() => {
                    self.break_cow(&mut state, addr, len, &mut trash)?;
                    return Ok(Ready::Done);
                }
                _ => return Ok(Ready::Already),
            }
        }
    }

    /// Maps what a file has beyond what it had when it was mapped.
    fn map_grown(&self, want: Wanted) -> Result<(), Unready> {
        let len = want.range.end - want.range.start;
        let pieces = file_pieces(&want.file, want.offset, len, want.flags).map_err(|errno| match errno {
            Errno::ENOMEM => Unready::OutOfMemory,
            _ => Unready::PastEnd,
        })?;
        if pieces.iter().all(|piece| piece.len == 0) {
            return Err(Unready::PastEnd);
        }
        let mut state = self.state.write();
        let mut at = want.range.start;
        for piece in pieces {
            // Only where it is still the same mapping with nothing behind it.
            let Some((start, segment)) = state.map.find(at) else { return Ok(()) };
            let same = segment.file.as_ref().is_some_and(|(file, offset)| {
                Arc::ptr_eq(file, &want.file) && offset + (at - start) == want.offset + (at - want.range.start)
            });
            if !same || segment.backed() {
                return Ok(());
            }
            let end = segment.end.min(at.saturating_add(piece.len));
            if end <= at {
                return Ok(());
            }
            let (back, extra) = self.backing_of(piece, end - at, want.flags.contains(SegmentFlags::SHARED));
            let part = Segment { end, back, flags: segment.flags | extra, ..segment.clone() };
            self.post_map(at, &part, false);
            state.map.update(at..end, |start, segment| {
                segment.back = match &part.back {
                    Backing::Memory(from) => Backing::Memory(from + (start - at)),
                    Backing::Host(window, from) => Backing::Host(window.clone(), from + (start - at)),
                    Backing::Empty => Backing::Empty,
                };
                segment.flags |= extra;
            });
            at = end;
        }
        Ok(())
    }

    /// Makes pages around `addr` the address space's own, writable.
    fn break_cow(&self, state: &mut State, addr: u64, len: u64, trash: &mut Trash) -> Result<(), Unready> {
        let page = page_down(addr);
        let Some((start, segment)) = state.map.find(addr) else { return Err(Unready::NoMapping) };
        let end = segment.end;
        if let Backing::Memory(at) = segment.back
            && !segment.flags.contains(SegmentFlags::PATCHED)
            && let Some((from, to)) = self.memory.sole(at + (page - start), at, at + (end - start))
        {
            // The last owner.
            let range = start + (from - at)..start + (to - at);
            let prot = segment.prot;
            state.upgrades.used();
            state.map.update(range.clone(), |_, segment| segment.flags -= SegmentFlags::COW);
            state.heat(page);
            self.post_protect(range, prot);
            self.settle(state, trash);
            return Ok(());
        }
        let segment = segment.clone();
        let mut run = self.run(state, page, end, len);
        if let Backing::Host(..) = segment.back {
            let block = page / FILE_RUN * FILE_RUN;
            run = block.max(start)..run.end.max(block + FILE_RUN).min(end);
        }
        let pick = if state.map.len() < 64 && run.end - run.start <= 2 * PAGE_SIZE { Pick::Any } else { Pick::Own };
        for (from, part, claim) in self.claim(state, run, pick).map_err(|_| Unready::OutOfMemory)? {
            if !self.copy_page_run(start, &segment, from, part, claim.at) {
                self.memory.release(claim.at, part);
                return Err(Unready::OutOfMemory);
            }
            for (old_start, old) in state.map.remove(from..from + part) {
                let new = Segment {
                    back: Backing::Memory(claim.at + (old_start - from)),
                    flags: old.flags - SegmentFlags::COW - SegmentFlags::PATCHED,
                    ..old.clone()
                };
                self.post_map(old_start, &new, true);
                state.map.insert(old_start, new);
                state.limbo.push((old_start, old));
            }
            state.heat(from);
        }
        self.settle(state, trash);
        Ok(())
    }

    fn copy_page_run(&self, start: u64, segment: &Segment, from: u64, len: u64, to: u64) -> bool {
        let (window, base) = match &segment.back {
            Backing::Memory(at) => (self.memory.window(), *at),
            Backing::Host(window, at) => (window, at.saturating_sub(window.offset())),
            Backing::Empty => return true,
        };
        let source = base + (from - start);
        if window.copy_to(source, self.memory.window(), to, len).is_ok() {
            return true;
        }
        // Past the end of a host file the new page stays zero; but the memory file must have room.
        let host = matches!(segment.back, Backing::Host(..));
        for page in (0..len).step_by(PAGE_SIZE as usize) {
            let mut buffer = [0; PAGE_SIZE as usize];
            let read = window.read(source + page, &mut buffer);
            if read.is_err() && !host || self.memory.window().write(to + page, &buffer).is_err() {
                return false;
            }
        }
        true
    }

    /// How much to copy: what is asked for, or, where faults walk upwards, twice as much each time.
    fn run(&self, state: &State, page: u64, end: u64, len: u64) -> Range<u64> {
        let asked = page_down(len.saturating_add(PAGE_SIZE - 1)).max(PAGE_SIZE);
        let before = match state.map.before(page) {
            Some((start, segment)) if segment.end == page && !segment.cow() && !segment.shared() => page - start,
            _ => 0,
        };
        let grown = if asked > PAGE_SIZE { asked } else { before.next_power_of_two().clamp(PAGE_SIZE, RUN_MAX) };
        page..end.min(page.saturating_add(grown.min(RUN_MAX)))
    }

    /// Extends the stack segment above `addr` downwards, if there is one and it may.
    fn grow_stack(&self, state: &mut State, addr: u64) -> Result<(), Unready> {
        let Some((start, segment)) = state.map.at_or_after(addr) else { return Err(Unready::NoMapping) };
        let flags = segment.flags;
        if !flags.contains(SegmentFlags::GROWS_DOWN) || addr < state.places.user.start {
            return Err(Unready::NoMapping);
        }
        let segment = segment.clone();
        let end = if flags.contains(SegmentFlags::STACK) { state.places.stack_top } else { segment.end };
        let lowest = end.saturating_sub(page_down(state.places.stack_limit)).max(state.places.user.start);
        let floor = match state.map.before(start) {
            Some((_, below)) if below.prot.is_empty() => below.end,
            Some((_, below)) => below.end.saturating_add(STACK_GUARD),
            None => state.places.user.start,
        };
        if page_down(addr) < lowest.max(floor) || state.places.is_reserved(&(page_down(addr)..start)) {
            return Err(Unready::NoMapping);
        }
        let from = page_down(addr).min(start.saturating_sub(STACK_STEP)).max(lowest).max(floor);
        for (at, len, claim) in self.claim(state, from..start, Pick::Own).map_err(|_| Unready::OutOfMemory)? {
            let part =
                Segment { end: at + len, back: Backing::Memory(claim.at), flags: flags - SegmentFlags::COW, ..segment.clone() };
            self.post_map(at, &part, claim.warm);
            state.map.insert(at, part);
            if flags.contains(SegmentFlags::LOCKED) {
                state.locked_bytes = state.locked_bytes.saturating_add(len);
            }
        }
        Ok(())
    }
}

/// A part of a file mapping that has nothing behind it.
struct Wanted {
    range: Range<u64>,
    file: Arc<MappedFile>,
    offset: u64,
    flags: SegmentFlags,
}
