//! [`Tunables`]: the limits of objects that root may change below /proc/sys, for the whole sandbox.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{inotify, leases, pipe};

/// A number that can be changed.
pub struct Tunable {
    value: AtomicU64,
    /// What it may be set to. Upper bounds keep what a guest can make the sentry hold finite.
    pub range: RangeInclusive<u64>,
}

impl Tunable {
    pub const fn new(value: u64, range: RangeInclusive<u64>) -> Tunable {
        Tunable { value: AtomicU64::new(value), range }
    }

    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    /// The same as a number of things.
    pub fn count(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(usize::MAX)
    }

    /// Sets it; false outside its range.
    pub fn set(&self, value: u64) -> bool {
        let fits = self.range.contains(&value);
        if fits {
            self.value.store(value, Ordering::Relaxed);
        }
        fits
    }
}

/// The sandbox's tunable limits.
pub struct Tunables {
    /// `fs.lease-break-time`, in seconds.
    pub lease_break: Tunable,
    /// `fs.pipe-max-size`, in bytes.
    pub pipe_size: Tunable,
    /// `fs.inotify.max_queued_events`.
    pub inotify_events: Tunable,
    /// `fs.inotify.max_user_instances`.
    pub inotify_instances: Tunable,
    /// `fs.inotify.max_user_watches`.
    pub inotify_watches: Tunable,
}

impl Default for Tunables {
    fn default() -> Tunables {
        Tunables {
            lease_break: Tunable::new(leases::BREAK_TIME_SEC, 0..=i32::MAX as u64),
            pipe_size: Tunable::new(pipe::MAX_CAPACITY as u64, 4096..=1 << 26),
            inotify_events: Tunable::new(inotify::MAX_QUEUED_EVENTS as u64, 0..=1 << 20),
            inotify_instances: Tunable::new(inotify::MAX_USER_INSTANCES as u64, 0..=1 << 16),
            inotify_watches: Tunable::new(inotify::MAX_USER_WATCHES as u64, 0..=1 << 20),
        }
    }
}
