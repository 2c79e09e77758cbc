//! Memory files: giving pages back to the host, and asking which are there.

use std::os::fd::AsFd;

use crate::tally::{self, Counted};
use crate::window::MemoryFault;
use crate::{Errno, Window};

/// Frees the file's pages in the range; they read as zeros from then on.
///
/// # Errors
/// The host's `fallocate(PUNCH_HOLE)` errors.
pub fn punch(fd: impl AsFd, offset: u64, len: u64) -> Result<(), Errno> {
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    tally::count(Counted::Fallocate);
    Ok(rustix::fs::fallocate(fd, flags, offset, len)?)
}

/// Bytes of memory or disk that the file takes up.
///
/// # Errors
/// The host's `fstat` errors.
pub fn allocated_bytes(fd: impl AsFd) -> Result<u64, Errno> {
    tally::count(Counted::Fstat);
    let stat = rustix::fs::fstat(fd)?;
    Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
}

impl Window {
    /// Which pages of [at, at + 4096 * present.len()) are in memory (`mincore`): bit 0 of each byte.
    ///
    /// # Errors
    /// [`MemoryFault`] when the range is not inside the window or not page-aligned.
    pub fn present(&self, at: u64, present: &mut [u8]) -> Result<(), MemoryFault> {
        let len = present.len().checked_mul(4096).ok_or(MemoryFault)?;
        let slice = self.slice(at, len)?;
        tally::count(Counted::Mincore);
        // SAFETY: the range is mapped (checked by `slice`), and the vector has a byte for each of its pages.
        let done = unsafe { libc::mincore(slice.iovec().iov_base, len, present.as_mut_ptr()) };
        if done == 0 { Ok(()) } else { Err(MemoryFault) }
    }
}

/// A new, empty file in memory (`memfd`), closed on exec.
///
/// # Errors
/// The host's.
pub fn anonymous_file(name: &str) -> Result<std::os::fd::OwnedFd, Errno> {
    Ok(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?)
}
