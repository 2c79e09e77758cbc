//! [`Activity`]: whether a task runs or sleeps, and what it has done so far, for /proc and getrusage(2).
//!
//! Only the task itself writes here, so plain loads and stores are enough.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::wait::Sleep;

/// Microseconds of work beyond which the CPU's clock alone is not believed.
const LONG_US: u64 = 1000;

thread_local! {
    /// When this executor last looked at its CPU time (ticks), and what that was (nanoseconds): not long before it takes up a task.
    static LOOKED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// What a task does and has done.
#[derive(Default)]
pub struct Activity {
    /// 0: runs; else 1 + the kind of [`Sleep`].
    sleeping: AtomicU8,
    /// Waits that were not over at once.
    switches: AtomicU64,
    /// The CPU's ticks when its executor took it up, and all that its executor has spent on it.
    taken_up: AtomicU64,
    served: AtomicU64,
    /// Turns taken away from it.
    yields: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
}

/// A copy of the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
}

impl Counts {
    /// Adds another task's counts.
    pub fn add(&mut self, other: &Counts) {
        self.voluntary_switches = self.voluntary_switches.saturating_add(other.voluntary_switches);
        self.involuntary_switches = self.involuntary_switches.saturating_add(other.involuntary_switches);
        self.reads = self.reads.saturating_add(other.reads);
        self.read_bytes = self.read_bytes.saturating_add(other.read_bytes);
        self.writes = self.writes.saturating_add(other.writes);
        self.written_bytes = self.written_bytes.saturating_add(other.written_bytes);
    }
}

/// Adds to a counter that only one thread writes.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Activity {
    /// The task begins to wait, or (None) goes on.
    pub fn set_sleep(&self, how: Option<Sleep>) {
        let state = match how {
            None => 0,
            Some(Sleep::Interruptible) => 1,
            Some(Sleep::Killable | Sleep::Uninterruptible) => 2,
        };
        if state != 0 {
            bump(&self.switches, 1);
        }
        self.sleeping.store(state, Ordering::Relaxed);
    }

    /// How it waits; None: it runs or could run.
    pub fn sleep(&self) -> Option<Sleep> {
        match self.sleeping.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Sleep::Interruptible),
            _ => Some(Sleep::Killable),
        }
    }

    /// Its executor is about to work for it.
    pub fn take_up(&self) {
        let now = hostcall::time::ticks();
        if now.saturating_sub(LOOKED.get().0) > LONG_US * hostcall::time::ticks_of_us() {
            LOOKED.set((now, hostcall::time::own_cpu_ns()));
        }
        let _ = hostcall::time::take_slept();
        self.taken_up.store(now, Ordering::Relaxed);
    }

    /// Its executor lets it run, or wait. What that has slept meanwhile does not count, nor, if it was long, when the host gave its CPU to others.
    pub fn put_down(&self) {
        let passed = hostcall::time::ticks().saturating_sub(self.taken_up.load(Ordering::Relaxed));
        let mut worked = passed.saturating_sub(hostcall::time::take_slept());
        let rate = hostcall::time::ticks_of_us();
        if worked > LONG_US * rate {
            let used_us = hostcall::time::own_cpu_ns().saturating_sub(LOOKED.get().1) / 1000;
            worked = worked.min(used_us.saturating_mul(rate));
        }
        bump(&self.served, worked);
    }

    /// System time: what executors have spent on it, in nanoseconds.
    pub fn system_ns(&self) -> u64 {
        hostcall::time::ns_of_ticks(self.served.load(Ordering::Relaxed))
    }

    /// Its executor gave others a turn.
    pub fn yielded(&self) {
        bump(&self.yields, 1);
    }

    /// A read ended with so many bytes.
    pub fn count_read(&self, bytes: u64) {
        bump(&self.reads, 1);
        bump(&self.read_bytes, bytes);
    }

    /// A write ended with so many bytes.
    pub fn count_write(&self, bytes: u64) {
        bump(&self.writes, 1);
        bump(&self.written_bytes, bytes);
    }

    pub fn counts(&self) -> Counts {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            voluntary_switches: value(&self.switches),
            involuntary_switches: value(&self.yields),
            reads: value(&self.reads),
            read_bytes: value(&self.read_bytes),
            writes: value(&self.writes),
            written_bytes: value(&self.written_bytes),
        }
    }
}
