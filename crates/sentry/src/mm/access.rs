//! Copies to and from guest memory, and atomics on it.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Mm, Ranges};
use crate::Errno;

/// What a futex word is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FutexKey {
    /// An address in an address space.
    Private { mm: u64, addr: u64 },
    /// An offset in a file or in shared memory.
    Shared { object: u64, offset: u64 },
}

impl Mm {
    /// Copies from guest memory.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read(&self, _addr: u64, _into: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    /// Copies to guest memory.
    ///
    /// # Errors
    /// `EFAULT`; then a first part may have been written.
    pub fn write(&self, _addr: u64, _from: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    /// As [`Mm::read`], but says how much was copied before a fault.
    ///
    /// # Errors
    /// `EFAULT`, when nothing was.
    pub fn read_some(&self, _addr: u64, _into: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::EFAULT)
    }

    /// As [`Mm::write`], but says how much was copied before a fault.
    ///
    /// # Errors
    /// `EFAULT`, when nothing was.
    pub fn write_some(&self, _addr: u64, _from: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EFAULT)
    }

    /// Fills guest memory with zeros.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn zero(&self, _addr: u64, _len: u64) -> Result<(), Errno> {
        Err(Errno::EFAULT)
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
    pub fn read_cstr(&self, _addr: u64, _max: usize) -> Result<Vec<u8>, Errno> {
        Err(Errno::EFAULT)
    }

    /// Reads `count` iovecs, as `readv` does: lengths are cut to Linux's largest transfer.
    ///
    /// # Errors
    /// `EINVAL` (more than 1024, a length that is negative), `EFAULT`.
    pub fn read_ranges(&self, _iov: u64, _count: u64) -> Result<Ranges, Errno> {
        Err(Errno::EFAULT)
    }

    /// Loads a futex word.
    ///
    /// # Errors
    /// `EINVAL` if not aligned, `EFAULT`.
    pub fn load_u32(&self, _addr: u64) -> Result<u32, Errno> {
        Err(Errno::EFAULT)
    }

    /// Atomically replaces a futex word if it equals `expected`. Returns what was there.
    ///
    /// # Errors
    /// `EINVAL` if not aligned, `EFAULT`.
    pub fn compare_exchange_u32(&self, _addr: u64, _expected: u32, _new: u32) -> Result<u32, Errno> {
        Err(Errno::EFAULT)
    }

    /// What a futex at `addr` is known by; `shared`: without `FUTEX_PRIVATE_FLAG`.
    ///
    /// # Errors
    /// `EINVAL` if not aligned, `EFAULT`.
    pub fn futex_key(&self, _addr: u64, _shared: bool) -> Result<FutexKey, Errno> {
        Err(Errno::EFAULT)
    }
}
