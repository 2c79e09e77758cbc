//! [`ByteRing`]: a bounded queue of bytes that grows to what it needs.

use crate::Errno;
use crate::mm::{Sink, Source};

/// First allocation in bytes.
const SMALL: usize = 4096;

/// Bytes in order of arrival, at most `capacity` of them.
pub struct ByteRing {
    bytes: Box<[u8]>,
    head: usize,
    len: usize,
    capacity: usize,
}

impl ByteRing {
    /// An empty queue for at most `capacity` bytes; memory is taken when needed.
    pub fn new(capacity: usize) -> ByteRing {
        ByteRing { bytes: Box::default(), head: 0, len: 0, capacity }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that still fit.
    pub fn free(&self) -> usize {
        self.capacity.saturating_sub(self.len)
    }

    /// Changes the bound. What is in the queue stays, even above it.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Appends up to `max` bytes of `from`, as many as fit. Returns how many.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be taken.
    pub fn fill(&mut self, from: &mut dyn Source, max: usize) -> Result<usize, Errno> {
        let want = max.min(self.free()).min(from.remaining());
        self.reserve(want);
        let mut done = 0;
        while done < want {
            let size = self.bytes.len();
            let at = (self.head + self.len) % size;
            let run = (size - at).min(want - done);
            let Some(place) = self.bytes.get_mut(at..at + run) else { break };
            match from.take(place) {
                Ok(0) => break,
                Ok(n) => {
                    self.len += n;
                    done += n;
                }
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Moves up to `max` bytes into `into`. Returns how many.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be put.
    pub fn drain(&mut self, into: &mut dyn Sink, max: usize) -> Result<usize, Errno> {
        let done = self.copy_out(into, max)?;
        self.skip(done);
        Ok(done)
    }

    /// As [`ByteRing::drain`], but the bytes stay.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be put.
    pub fn copy_out(&self, into: &mut dyn Sink, max: usize) -> Result<usize, Errno> {
        self.copy_out_from(0, into, max)
    }

    /// As [`ByteRing::copy_out`], without the first `from` bytes.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be put.
    pub fn copy_out_from(&self, from: usize, into: &mut dyn Sink, max: usize) -> Result<usize, Errno> {
        let want = max.min(self.len.saturating_sub(from)).min(into.remaining());
        let mut done = 0;
        while done < want {
            let at = (self.head + from + done) % self.bytes.len();
            let run = (self.bytes.len() - at).min(want - done);
            let Some(piece) = self.bytes.get(at..at + run) else { break };
            match into.put(piece) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// Drops the first `n` bytes.
    pub fn skip(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        self.head = if self.len == 0 { 0 } else { (self.head + n) % self.bytes.len() };
    }

    /// Bytes of its memory.
    pub fn memory(&self) -> usize {
        self.bytes.len()
    }

    /// Gives the memory back of an empty queue that has grown beyond `keep` bytes.
    pub fn trim(&mut self, keep: usize) {
        if self.len == 0 && self.bytes.len() > keep {
            self.bytes = Box::default();
            self.head = 0;
        }
    }

    fn reserve(&mut self, more: usize) {
        let need = self.len + more;
        if need <= self.bytes.len() {
            return;
        }
        let size = need.next_power_of_two().max(SMALL);
        let mut bytes = Vec::with_capacity(size);
        let _ = self.copy_out(&mut bytes, usize::MAX);
        bytes.resize(size, 0);
        self.bytes = bytes.into_boxed_slice();
        self.head = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_across_the_wrap() {
        let mut ring = ByteRing::new(5000);
        let (mut next_in, mut next_out) = (0u32, 0u32);
        for round in 0..500 {
            let put: Vec<u8> = (0..round % 977).map(|i| (next_in + i) as u8).collect();
            let n = ring.fill(&mut &put[..], usize::MAX).expect("fill");
            next_in += n as u32;
            let mut got = Vec::new();
            ring.drain(&mut got, (round * 7 % 911) as usize).expect("drain");
            for byte in got {
                assert_eq!(byte, next_out as u8);
                next_out += 1;
            }
            assert!(ring.len() <= 5000);
            assert_eq!(ring.len() as u32, next_in - next_out);
        }
        assert!(next_out > 50_000);
    }
}
