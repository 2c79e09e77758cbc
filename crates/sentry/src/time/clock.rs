//! [`Clock`]: the host's clocks, or a virtual one for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A point on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonoTime(pub u64);

impl MonoTime {
    /// The far future: a deadline that never comes.
    pub const NEVER: MonoTime = MonoTime(u64::MAX);

    /// `ns` nanoseconds later (saturating).
    pub fn after(self, ns: u64) -> MonoTime {
        MonoTime(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to this point; 0 when it is in the past.
    pub fn since(self, earlier: MonoTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where the kernel reads time.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The host's clocks, by its vDSO.
    Host,
    /// A clock that only tests advance: nanoseconds since "boot"; real time is 1,700,000,000 s later.
    Virtual(Arc<AtomicU64>),
}

impl Clock {
    /// `CLOCK_MONOTONIC`.
    pub fn monotonic(&self) -> MonoTime {
        match self {
            Clock::Host => MonoTime(hostcall::time::monotonic_ns()),
            Clock::Virtual(now) => MonoTime(now.load(Ordering::SeqCst)),
        }
    }

    /// `CLOCK_REALTIME` in nanoseconds since 1970.
    pub fn realtime_ns(&self) -> u64 {
        match self {
            Clock::Host => hostcall::time::realtime_ns(),
            Clock::Virtual(now) => 1_700_000_000_000_000_000 + now.load(Ordering::SeqCst),
        }
    }

    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub fn boottime_ns(&self) -> u64 {
        match self {
            Clock::Host => hostcall::time::boottime_ns(),
            Clock::Virtual(now) => now.load(Ordering::SeqCst),
        }
    }
}
