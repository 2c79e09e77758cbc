//! The six raw arguments of a system call, decoded as C would.

use hostcall::Errno;

/// Arguments as they came in the registers: hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// Argument `n` (0..=5) as an unsigned long or a pointer.
    pub fn u64(&self, n: usize) -> u64 {
        self.0.get(n).copied().unwrap_or(0)
    }

    /// As a long.
    pub fn i64(&self, n: usize) -> i64 {
        self.u64(n) as i64
    }

    /// As an int: the upper half of the register is ignored.
    pub fn i32(&self, n: usize) -> i32 {
        self.u64(n) as i32
    }

    /// As an unsigned int.
    pub fn u32(&self, n: usize) -> u32 {
        self.u64(n) as u32
    }

    /// As a size, cut to Linux's largest single transfer (`MAX_RW_COUNT`).
    pub fn io_len(&self, n: usize) -> usize {
        self.u64(n).min(0x7fff_f000) as usize
    }

    /// A pointer that may be null.
    pub fn opt_ptr(&self, n: usize) -> Option<u64> {
        Some(self.u64(n)).filter(|&ptr| ptr != 0)
    }

    /// A sigset size argument, which must be 8.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn sigset_size(&self, n: usize) -> Result<(), Errno> {
        if self.u64(n) == 8 { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
