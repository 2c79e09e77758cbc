//! Where `read` puts bytes and `write` takes them from: guest memory or the sentry's own.

use hostcall::{Errno, WindowSlice};
use smallvec::SmallVec;

use super::Mm;
use super::fault::Touch;

/// A place for bytes, filled from its start.
pub trait Sink: Send {
    /// Bytes that still fit.
    fn remaining(&self) -> usize;

    /// Appends as much of `bytes` as fits. Returns how much.
    ///
    /// # Errors
    /// `EFAULT`, when nothing could be put.
    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno>;

    /// Lets `fill` write straight into at most `max` bytes of memory (host I/O); it returns how many bytes it wrote. Where that
    /// is not possible, returns None and nothing happens.
    fn put_direct(
        &mut self,
        max: usize,
        fill: &mut dyn FnMut(&[WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        let _ = (max, fill);
        None
    }
}

/// Bytes to take, from their start.
pub trait Source: Send {
    /// Bytes not yet taken.
    fn remaining(&self) -> usize;

    /// Takes as many bytes as `into` holds or are left. Returns how many.
    ///
    /// # Errors
    /// `EFAULT`, when nothing could be taken.
    fn take(&mut self, into: &mut [u8]) -> Result<usize, Errno>;

    /// As [`Sink::put_direct`]: lets `drain` read straight from at most `max` bytes.
    fn take_direct(
        &mut self,
        max: usize,
        drain: &mut dyn FnMut(&[WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        let _ = (max, drain);
        None
    }
}

/// A list of guest ranges (address, length in bytes), as of `iovec`s.
pub type Ranges = SmallVec<[(u64, usize); 4]>;

/// Guest memory to be written.
pub struct UserSink<'a> {
    mm: &'a Mm,
    ranges: Ranges,
    short: bool,
}

/// Guest memory to be read.
pub struct UserSource<'a> {
    mm: &'a Mm,
    ranges: Ranges,
    short: bool,
}

impl<'a> UserSink<'a> {
    pub fn new(mm: &'a Mm, addr: u64, len: usize) -> UserSink<'a> {
        UserSink::from_ranges(mm, SmallVec::from_iter([(addr, len)]))
    }

    pub fn from_ranges(mm: &'a Mm, ranges: Ranges) -> UserSink<'a> {
        UserSink { mm, ranges, short: false }
    }

    /// Whether it stopped because the container's memory is used up.
    pub fn was_short(&self) -> bool {
        self.short
    }
}

impl<'a> UserSource<'a> {
    pub fn new(mm: &'a Mm, addr: u64, len: usize) -> UserSource<'a> {
        UserSource::from_ranges(mm, SmallVec::from_iter([(addr, len)]))
    }

    pub fn from_ranges(mm: &'a Mm, ranges: Ranges) -> UserSource<'a> {
        UserSource { mm, ranges, short: false }
    }

    /// Whether it stopped because the container's memory is used up.
    pub fn was_short(&self) -> bool {
        self.short
    }
}

/// Takes `n` bytes off the start of `ranges`.
fn advance(ranges: &mut Ranges, mut n: usize) {
    let mut gone = 0;
    for (addr, len) in ranges.iter_mut() {
        let step = n.min(*len);
        *addr = addr.wrapping_add(step as u64);
        *len -= step;
        n -= step;
        if *len > 0 {
            break;
        }
        gone += 1;
    }
    ranges.drain(..gone);
}

fn total(ranges: &Ranges) -> usize {
    ranges.iter().fold(0, |sum, (_, len)| sum.saturating_add(*len))
}

impl Sink for UserSink<'_> {
    fn remaining(&self) -> usize {
        total(&self.ranges)
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while let Some(&(addr, len)) = self.ranges.first() {
            let Some(now) = bytes.get(..len.min(bytes.len())) else { break };
            let copied = self.mm.write_upto(addr, now);
            let n = match self.mm.transferred(copied, &mut self.short) {
                Ok(n) => n,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            };
            advance(&mut self.ranges, n);
            done += n;
            let short = n < now.len();
            bytes = bytes.get(n..).unwrap_or_default();
            if short || bytes.is_empty() {
                break;
            }
        }
        Ok(done)
    }

    fn put_direct(
        &mut self,
        max: usize,
        fill: &mut dyn FnMut(&[WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        let result = self.mm.direct(&self.ranges, max, Touch::Write, &mut self.short, fill)?;
        if let Ok(n) = result {
            advance(&mut self.ranges, n);
        }
        Some(result)
    }
}

impl Source for UserSource<'_> {
    fn remaining(&self) -> usize {
        total(&self.ranges)
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while let Some(&(addr, len)) = self.ranges.first() {
            let end = into.len().min(done + len);
            let Some(now) = into.get_mut(done..end) else { break };
            let copied = self.mm.read_upto(addr, now);
            let n = match self.mm.transferred(copied, &mut self.short) {
                Ok(n) => n,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            };
            let short = n < now.len();
            advance(&mut self.ranges, n);
            done += n;
            if short || done == into.len() {
                break;
            }
        }
        Ok(done)
    }

    fn take_direct(
        &mut self,
        max: usize,
        drain: &mut dyn FnMut(&[WindowSlice<'_>]) -> Result<usize, Errno>,
    ) -> Option<Result<usize, Errno>> {
        let result = self.mm.direct(&self.ranges, max, Touch::Read, &mut self.short, drain)?;
        if let Ok(n) = result {
            advance(&mut self.ranges, n);
        }
        Some(result)
    }
}

impl Sink for Vec<u8> {
    /// A vector grows as needed.
    fn remaining(&self) -> usize {
        usize::MAX - self.len()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

/// A sink of at most `room` bytes.
pub struct Buffer {
    pub bytes: Vec<u8>,
    pub room: usize,
}

impl Sink for Buffer {
    fn remaining(&self) -> usize {
        self.room.saturating_sub(self.bytes.len())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let n = bytes.len().min(self.remaining());
        self.bytes.extend_from_slice(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }
}

impl Source for &[u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        let n = into.len().min(self.len());
        let (now, later) = self.split_at(n);
        for (to, from) in into.iter_mut().zip(now) {
            *to = *from;
        }
        *self = later;
        Ok(n)
    }
}
