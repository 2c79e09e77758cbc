//! null, zero, full and random.

use std::any::Any;

use crate::Errno;
use crate::fs::{File, FileOps, WriteAt, Written};
use crate::mm::{Sink, Source};
use crate::step::Step;

/// `mem(4)`'s simple devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryDevice {
    Null,
    Zero,
    Full,
    Random,
}

/// Bytes made at a time.
const CHUNK: usize = 4096;

/// Most bytes of a single read: the caller's loop goes on after a yield.
const READ_MAX: usize = 1 << 20;

impl MemoryDevice {
    fn read_some(self, into: &mut dyn Sink) -> Result<usize, Errno> {
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        let total = into.remaining().min(READ_MAX);
        while done < total {
            let n = CHUNK.min(total - done);
            let Some(part) = chunk.get_mut(..n) else { break };
            if self == MemoryDevice::Random {
                hostcall::random::fill(part)?;
            }
            match into.put(part) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

impl FileOps for MemoryDevice {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(match self {
            MemoryDevice::Null => Ok(0),
            _ => self.read_some(into),
        })
    }

    fn write<'a>(&'a self, _file: &'a File, _at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        match self {
            MemoryDevice::Full => Step::err(Errno::ENOSPC),
            _ => Step::ok(Written { bytes: from.remaining(), end: 0 }),
        }
    }

    /// `lseek` succeeds (and means nothing).
    fn seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
