//! Where `read` puts bytes and `write` takes them from: guest memory or the sentry's own.

use hostcall::{Errno, WindowSlice};
use smallvec::SmallVec;

use super::Mm;

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
    pub mm: &'a Mm,
    pub ranges: Ranges,
}

/// Guest memory to be read.
pub struct UserSource<'a> {
    pub mm: &'a Mm,
    pub ranges: Ranges,
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
