//! null, zero, full and random.

use std::any::Any;

use crate::Errno;
use crate::fs::{File, FileOps, WriteAt, Written};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::task::Cx;

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

/// How many bits of entropy there are, and how many there always are once the generator is seeded.
const RNDGETENTCNT: u32 = 0x8004_5200;
const POOL_BITS: i32 = 256;

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

    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        match (self, command) {
            (MemoryDevice::Random, RNDGETENTCNT) => Step::Ready(cx.mm.write_val(argument, &POOL_BITS).map(|()| 0)),
            _ => Step::err(Errno::ENOTTY),
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
