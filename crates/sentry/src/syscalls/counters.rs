//! Counts of what guests asked for, and of what they did not get.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use platform::ExecutorId;

use super::{Line, Support};
use crate::task::bump;

/// Unsupported calls: counted, and logged once each.
#[derive(Default)]
pub struct Counters {
    unsupported: Mutex<BTreeMap<u64, u64>>,
}

impl Counters {
    /// Counts a call of an unsupported system call.
    pub fn unsupported(&self, line: &Line) {
        let mut counts = self.unsupported.lock();
        let count = counts.entry(line.number).or_insert(0);
        *count += 1;
        if *count > 1 {
            return;
        }
        match line.support {
            // Missing on purpose: programs are expected to do without.
            Support::None(_, note) if !note.is_empty() => {
                tracing::debug!(number = line.number, name = line.name, note, "unsupported system call");
            }
            _ => tracing::warn!(number = line.number, name = line.name, "unsupported system call"),
        }
    }

    /// How often each was called, by number.
    pub fn unsupported_counts(&self) -> BTreeMap<u64, u64> {
        self.unsupported.lock().clone()
    }
}

/// Numbers of system calls are below this; all others are one.
const NUMBERS: usize = 512;
/// More executors than a platform has.
const EXECUTORS: usize = 64;

/// What the tasks of a container have trapped for. Each executor counts in lines of its own; calls that the platform answers by itself are not among them.
pub struct Traps(Box<[OnceLock<Box<Lane>>]>);

/// One executor's, which alone writes there.
#[repr(align(64))]
struct Lane {
    /// By number; the last is for those that Linux has none for.
    calls: [AtomicU64; NUMBERS + 1],
    faults: AtomicU64,
}

impl Default for Traps {
    fn default() -> Traps {
        Traps((0..EXECUTORS).map(|_| OnceLock::new()).collect())
    }
}

impl Traps {
    fn lane(&self, executor: ExecutorId) -> Option<&Lane> {
        let new = || Box::new(Lane { calls: [const { AtomicU64::new(0) }; NUMBERS + 1], faults: AtomicU64::new(0) });
        self.0.get(executor.0).map(|lane| &**lane.get_or_init(new))
    }

    /// Counts a system call. One that a signal has cut short and that is made again counts again.
    pub fn call(&self, executor: ExecutorId, number: u64) {
        let index = usize::try_from(number).map_or(NUMBERS, |number| number.min(NUMBERS));
        if let Some(counter) = self.lane(executor).and_then(|lane| lane.calls.get(index)) {
            bump(counter, 1);
        }
    }

    /// Counts a fault.
    pub fn fault(&self, executor: ExecutorId) {
        if let Some(lane) = self.lane(executor) {
            bump(&lane.faults, 1);
        }
    }

    /// How often each call was made that was made at all; no number: those that there are none for.
    pub fn calls(&self) -> Vec<(Option<u64>, u64)> {
        let count = |index: usize| self.sum(|lane| lane.calls.get(index));
        let numbers = (0..=NUMBERS).map(|index| ((index < NUMBERS).then_some(index as u64), count(index)));
        numbers.filter(|(_, count)| *count > 0).collect()
    }

    pub fn faults(&self) -> u64 {
        self.sum(|lane| Some(&lane.faults))
    }

    fn sum<'a>(&'a self, of: impl Fn(&'a Lane) -> Option<&'a AtomicU64>) -> u64 {
        let counters = self.0.iter().filter_map(|lane| of(lane.get()?));
        counters.fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_all_executors_are_told_together() {
        let traps = Traps::default();
        for executor in [0, 1, 63, 1000].map(ExecutorId) {
            traps.call(executor, 0);
            traps.call(executor, 5);
            traps.call(executor, u64::MAX);
            traps.fault(executor);
        }
        traps.call(ExecutorId(1), 5);
        assert_eq!(traps.calls(), [(Some(0), 3), (Some(5), 4), (None, 3)]);
        assert_eq!(traps.faults(), 3);
    }
}
