//! [`Timespec`]: time as guests write it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Errno;

/// `struct timespec`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timespec {
    pub sec: i64,
    pub nsec: i64,
}

impl Timespec {
    /// In nanoseconds, saturating.
    ///
    /// # Errors
    /// `EINVAL` when it is negative or has a billion nanoseconds.
    pub fn ns(&self) -> Result<u64, Errno> {
        let sec = u64::try_from(self.sec).map_err(|_| Errno::EINVAL)?;
        let nsec = u64::try_from(self.nsec).ok().filter(|&n| n < 1_000_000_000).ok_or(Errno::EINVAL)?;
        Ok(sec.saturating_mul(1_000_000_000).saturating_add(nsec))
    }

    pub fn from_ns(ns: u64) -> Timespec {
        Timespec { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as i64 }
    }
}
