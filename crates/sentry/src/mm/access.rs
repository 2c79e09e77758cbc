//! Copies to and from guest memory, and atomics on it.
//!
//! A copy translates its address under the read lock to a place in the sentry's mapping of the memory file (or of a host file) and copies
//! there, at most [`HOLD_MAX`] bytes per acquisition. Rights are checked as the hardware would. What is not ready (copy on write, lazy
//! memory, stack growth) is made ready under the write lock and tried again.

use hostcall::{MemoryFault, Window, WindowSlice};
use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::fault::Touch;
use super::segment::{Backing, SegmentFlags};
use super::space::State;
use super::{Mm, Ranges};
use crate::Errno;

/// Most bytes copied per acquisition of the lock.
const HOLD_MAX: u64 = 64 << 10;

/// Most bytes of host I/O per acquisition.
const DIRECT_MAX: u64 = 256 << 10;

/// Largest transfer (`MAX_RW_COUNT`).
const RW_MAX: usize = 0x7fff_f000;

/// Most iovecs (`UIO_MAXIOV`).
const IOV_MAX: u64 = 1024;

/// So often a page is made ready before a copy gives up (another thread may undo it each time).
const TRIES: usize = 100;

/// What a futex word is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FutexKey {
    /// An address in an address space.
    Private { mm: u64, addr: u64 },
    /// An offset in a file or in shared memory.
    Shared { object: u64, offset: u64 },
}

/// The object number of the memory file in futex keys; files' identities are others.
const MEMORY_OBJECT: u64 = u64::MAX;

/// Where an address is in the sentry.
struct Spot<'a> {
    window: &'a Window,
    at: u64,
    len: u64,
}

enum Missing {
    Fault,
    NotReady,
}

/// Why a copy went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Nothing is there, or it is not allowed.
    Fault,
    /// The container's memory is used up.
    Short,
}

/// How many bytes a copy has done, and why no more.
pub(super) type Copied = (u64, Result<(), Stopped>);

impl Mm {
    fn spot<'a>(&'a self, state: &'a State, addr: u64, len: u64, touch: Touch) -> Result<Spot<'a>, Missing> {
        let (start, segment) = state.map.find(addr).ok_or(Missing::NotReady)?;
        if !touch.allowed(segment) || segment.flags.contains(SegmentFlags::SLOTS) {
            return Err(Missing::Fault);
        }
        if touch.writes() && segment.cow() {
            return Err(Missing::NotReady);
        }
        let skip = addr - start;
        let len = len.min(segment.end - addr);
        match &segment.back {
            Backing::Empty => Err(Missing::NotReady),
            Backing::Memory(at) => Ok(Spot { window: self.memory.window(), at: at + skip, len }),
            Backing::Host(window, at) => {
                Ok(Spot { at: (at + skip).checked_sub(window.offset()).ok_or(Missing::Fault)?, window, len })
            }
        }
    }

    /// Calls `copy` on each contiguous part of the range (window, place in it, length, bytes done before). Returns how many bytes
    /// were done before the first fault.
    fn each(
        &self,
        addr: u64,
        len: u64,
        touch: Touch,
        mut copy: impl FnMut(&Window, u64, u64, u64) -> Result<(), MemoryFault>,
    ) -> Copied {
        let mut done = 0;
        let mut tries = 0;
        while done < len {
            let Some(at) = addr.checked_add(done) else { return (done, Err(Stopped::Fault)) };
            let mut held = 0;
            let state = self.state.read();
            let missing = loop {
                let left = (len - done).min(HOLD_MAX - held);
                if left == 0 {
                    break None;
                }
                match self.spot(&state, at + held, left, touch) {
                    Ok(spot) => {
                        if copy(spot.window, spot.at, spot.len, done).is_err() {
                            drop(state);
                            return (done, Err(self.copy_fault(at + held)));
                        }
                        held += spot.len;
                        done += spot.len;
                        tries = 0;
                    }
                    Err(missing) => break Some(missing),
                }
            };
            drop(state);
            match missing {
                None => {}
                Some(Missing::Fault) => return (done, Err(Stopped::Fault)),
                Some(Missing::NotReady) => {
                    tries += 1;
                    let Some(at) = addr.checked_add(done).filter(|_| tries <= TRIES) else {
                        return (done, Err(Stopped::Fault));
                    };
                    if let Err(stopped) = self.make_ready(at, len - done, touch) {
                        return (done, Err(stopped));
                    }
                }
            }
        }
        (done, Ok(()))
    }

    /// A copy hit memory that is not there: the memory file is full, or a host file is short.
    fn copy_fault(&self, addr: u64) -> Stopped {
        match self.state.read().map.find(addr) {
            Some((_, segment)) if matches!(segment.back, Backing::Memory(_)) => Stopped::Short,
            _ => Stopped::Fault,
        }
    }

    /// What a call of the address space's own is told. (Those that copy for others, such as debuggers, do not come here: it is not this process's call
    /// that found no memory.)
    pub(super) fn told(&self, stopped: Stopped) -> Errno {
        if stopped == Stopped::Short {
            self.count_shortage();
        }
        Errno::EFAULT
    }

    /// As [`Mm::told`], for a transfer, which remembers that there was no memory.
    fn noted(&self, stopped: Stopped, short: &mut bool) -> Errno {
        *short |= stopped == Stopped::Short;
        self.told(stopped)
    }

    /// How much a transfer of the address space's own has copied; an error only where that is nothing.
    pub(super) fn transferred(&self, copied: Copied, short: &mut bool) -> Result<usize, Errno> {
        if let Err(stopped) = copied.1 {
            self.noted(stopped, short);
        }
        some(copied)
    }

    /// Copies from guest memory.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.read_upto(addr, into).1.map_err(|stopped| self.told(stopped))
    }

    pub(super) fn read_upto(&self, addr: u64, into: &mut [u8]) -> Copied {
        self.each(addr, into.len() as u64, Touch::Read, |window, at, len, done| {
            let part = into.get_mut(done as usize..(done + len) as usize).ok_or(MemoryFault)?;
            window.read(at, part)
        })
    }

    /// Copies to guest memory.
    ///
    /// # Errors
    /// `EFAULT`; then a first part may have been written.
    pub fn write(&self, addr: u64, from: &[u8]) -> Result<(), Errno> {
        self.write_upto(addr, from).1.map_err(|stopped| self.told(stopped))
    }

    pub(super) fn write_upto(&self, addr: u64, from: &[u8]) -> Copied {
        self.each(addr, from.len() as u64, Touch::Write, |window, at, len, done| {
            let part = from.get(done as usize..(done + len) as usize).ok_or(MemoryFault)?;
            window.write(at, part)
        })
    }

    /// As [`Mm::read`], for another process's call; says how much was copied before a fault.
    ///
    /// # Errors
    /// `EFAULT`, when nothing was.
    pub fn read_some(&self, addr: u64, into: &mut [u8]) -> Result<usize, Errno> {
        some(self.read_upto(addr, into))
    }

    /// As [`Mm::write`], for another process's call; says how much was copied before a fault.
    ///
    /// # Errors
    /// `EFAULT`, when nothing was.
    pub fn write_some(&self, addr: u64, from: &[u8]) -> Result<usize, Errno> {
        some(self.write_upto(addr, from))
    }

    /// Copies from guest memory as a debugger does: rights do not matter, and text shows without patches. Says how much there was.
    ///
    /// # Errors
    /// `EFAULT`, when there was nothing.
    pub fn read_forced(&self, addr: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let copied = self.each(addr, into.len() as u64, Touch::ForcedRead, |window, at, len, done| {
            let part = into.get_mut(done as usize..(done + len) as usize).ok_or(MemoryFault)?;
            window.read(at, part)
        });
        let n = some(copied)?;
        self.show_unpatched(addr, into.get_mut(..n).unwrap_or_default());
        Ok(n)
    }

    /// Copies to guest memory as a debugger does: private pages without the write right are made the address space's own. Says how much was
    /// copied.
    ///
    /// # Errors
    /// `EFAULT`, when nothing was: nothing is mapped, or shared memory may not be written.
    pub fn write_forced(&self, addr: u64, from: &[u8]) -> Result<usize, Errno> {
        let end = addr.checked_add(from.len() as u64).ok_or(Errno::EFAULT)?;
        if self.patched_in(addr..end) {
            self.disable_patching();
        }
        some(self.each(addr, from.len() as u64, Touch::ForcedWrite, |window, at, len, done| {
            let part = from.get(done as usize..(done + len) as usize).ok_or(MemoryFault)?;
            window.write(at, part)
        }))
    }

    /// Fills guest memory with zeros.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn zero(&self, addr: u64, len: u64) -> Result<(), Errno> {
        self.each(addr, len, Touch::Write, |window, at, len, _| window.zero(at, len)).1.map_err(|stopped| self.told(stopped))
    }

    /// Reads a value.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_val<T: FromBytes + IntoBytes>(&self, addr: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a value.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_val<T: IntoBytes + Immutable>(&self, addr: u64, value: &T) -> Result<(), Errno> {
        self.write(addr, value.as_bytes())
    }

    /// Reads a string up to its NUL (which is not returned), at most `max` bytes with it.
    ///
    /// # Errors
    /// `EFAULT`; `ENAMETOOLONG` when there is no NUL within `max`.
    pub fn read_cstr(&self, addr: u64, max: usize) -> Result<Vec<u8>, Errno> {
        const STEP: usize = 128;
        let mut text = Vec::new();
        while text.len() < max {
            let at = addr.checked_add(text.len() as u64).ok_or(Errno::EFAULT)?;
            let mut chunk = [0; STEP];
            let want = (STEP - (at % STEP as u64) as usize).min(max - text.len());
            let n = match self.read_upto(at, chunk.get_mut(..want).unwrap_or_default()) {
                (0, Err(stopped)) => return Err(self.told(stopped)),
                (n, _) => n as usize,
            };
            let got = chunk.get(..n).unwrap_or_default();
            if let Some(end) = got.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(got.get(..end).unwrap_or_default());
                return Ok(text);
            }
            text.extend_from_slice(got);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads `count` iovecs, as `readv` does: lengths are cut to Linux's largest transfer.
    ///
    /// # Errors
    /// `EINVAL` (more than 1024, a length that is negative), `EFAULT`.
    pub fn read_ranges(&self, iov: u64, count: u64) -> Result<Ranges, Errno> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let mut raw: SmallVec<[[u64; 2]; 8]> = SmallVec::from_elem([0; 2], count as usize);
        self.read(iov, raw.as_mut_slice().as_mut_bytes())?;
        let mut left = RW_MAX;
        let mut ranges = Ranges::new();
        for [addr, len] in raw {
            if len > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            let len = left.min(usize::try_from(len).unwrap_or(usize::MAX));
            left -= len;
            if len > 0 {
                ranges.push((addr, len));
            }
        }
        Ok(ranges)
    }

    /// Loads a futex word.
    ///
    /// # Errors
    /// `EINVAL` if not aligned, `EFAULT`.
    pub fn load_u32(&self, addr: u64) -> Result<u32, Errno> {
        let mut value = 0;
        self.word(addr, Touch::Read, |window, at| {
            value = window.load_u32(at)?;
            Ok(())
        })?;
        Ok(value)
    }

    /// Atomically replaces a futex word if it equals `expected`. Returns what was there.
    ///
    /// # Errors
    /// `EINVAL` if not aligned, `EFAULT`.
    pub fn compare_exchange_u32(&self, addr: u64, expected: u32, new: u32) -> Result<u32, Errno> {
        let mut seen = 0;
        self.word(addr, Touch::Write, |window, at| {
            seen = window.compare_exchange_u32(at, expected, new)?;
            Ok(())
        })?;
        Ok(seen)
    }

    fn word(&self, addr: u64, touch: Touch, mut act: impl FnMut(&Window, u64) -> Result<(), MemoryFault>) -> Result<(), Errno> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        self.each(addr, 4, touch, |window, at, _, _| act(window, at)).1.map_err(|stopped| self.told(stopped))
    }

    /// What a futex at `addr` is known by; `shared`: without `FUTEX_PRIVATE_FLAG`.
    ///
    /// # Errors
    /// `EINVAL` if not aligned, `EFAULT`.
    pub fn futex_key(&self, addr: u64, shared: bool) -> Result<FutexKey, Errno> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let private = FutexKey::Private { mm: self.id, addr };
        if !shared {
            return if addr < self.platform.layout().user.end { Ok(private) } else { Err(Errno::EFAULT) };
        }
        for _ in 0..TRIES {
            {
                let state = self.state.read();
                if let Some((start, segment)) = state.map.find(addr) {
                    if segment.prot.is_empty() {
                        return Err(Errno::EFAULT);
                    }
                    if !segment.flags.contains(SegmentFlags::SHARED) {
                        return Ok(private);
                    }
                    match (&segment.file, &segment.back) {
                        (Some((file, offset)), _) => {
                            let offset = offset + (addr - start);
                            return Ok(FutexKey::Shared { object: file.mappable.identity(), offset });
                        }
                        (None, Backing::Memory(at)) => {
                            return Ok(FutexKey::Shared { object: MEMORY_OBJECT, offset: at + (addr - start) });
                        }
                        _ => {}
                    }
                }
            }
            self.make_ready(addr, 4, Touch::Read).map_err(|stopped| self.told(stopped))?;
        }
        Err(Errno::EFAULT)
    }

    /// Lets `act` do host I/O straight on guest memory: at most `max` bytes from the start of `ranges`. None where nothing is ready. `short` is set when
    /// there was no memory.
    pub(super) fn direct(
        &self,
        ranges: &Ranges,
        max: usize,
        touch: Touch,
        short: &mut bool,
        act: &mut dyn FnMut(&[WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        let (first, first_len) = *ranges.iter().find(|(_, len)| *len > 0)?;
        for _ in 0..TRIES {
            let state = self.state.read();
            let mut slices: SmallVec<[WindowSlice<'_>; 4]> = SmallVec::new();
            let mut left = DIRECT_MAX.min(max as u64);
            'ranges: for &(addr, len) in ranges {
                let (mut at, mut len) = (addr, len as u64);
                while len > 0 && left > 0 {
                    let Ok(spot) = self.spot(&state, at, len.min(left), touch) else { break 'ranges };
                    let Ok(slice) = spot.window.slice(spot.at, spot.len as usize) else { break 'ranges };
                    slices.push(slice);
                    len -= spot.len;
                    left -= spot.len;
                    match at.checked_add(spot.len) {
                        Some(next) => at = next,
                        None => break 'ranges,
                    }
                }
            }
            if !slices.is_empty() {
                let result = act(&slices);
                drop(slices);
                drop(state);
                if result == Err(Errno::EFAULT) {
                    self.noted(self.copy_fault(first), short);
                }
                return Some(result);
            }
            drop(slices);
            drop(state);
            if let Err(stopped) = self.make_ready(first, first_len.min(max) as u64, touch) {
                return Some(Err(self.noted(stopped, short)));
            }
        }
        Some(Err(Errno::EFAULT))
    }
}

fn some((done, result): Copied) -> Result<usize, Errno> {
    match result {
        Err(_) if done == 0 => Err(Errno::EFAULT),
        _ => Ok(done as usize),
    }
}
