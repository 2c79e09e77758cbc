//! Staying awake for a moment before sleeping, where a wake-up usually comes so soon.
//!
//! To wake a CPU that idles costs 20 to 50 microseconds in a virtual machine, more than many system calls. A thread that dozes looks, lets others have its CPU
//! (`sched_yield`) and looks again, for as long as that costs at most; a few dozes in vain, and it sleeps at once until a sleep was short again.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::tally::{self, Counted};
use crate::time::monotonic_ns;

/// Longest doze, and how short a sleep says that one would have paid (the wake-up is part of it). In nanoseconds.
const LONGEST_NS: u64 = 50_000;
const SHORT_SLEEP_NS: u64 = 100_000;
/// How many dozes in a row may be in vain.
const PATIENCE: u32 = 4;

/// What one thread remembers of its dozes and sleeps. Atomic only so that its owner may be shared.
#[derive(Debug, Default)]
pub struct Doze {
    patience: AtomicU32,
}

impl Doze {
    /// Dozes, if that has paid lately, until `look` finds something or `until_ns` of the monotonic clock.
    pub fn until<T>(&self, until_ns: Option<u64>, look: impl FnMut() -> Option<T>) -> Option<T> {
        self.at_most(LONGEST_NS, until_ns, look)
    }

    fn at_most<T>(&self, longest_ns: u64, until_ns: Option<u64>, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let patience = self.patience.load(Relaxed);
        if patience == 0 {
            return None;
        }
        let longest = monotonic_ns().saturating_add(longest_ns);
        let end = until_ns.map_or(longest, |until| until.min(longest));
        loop {
            if let Some(found) = look() {
                self.patience.store(PATIENCE, Relaxed);
                return Some(found);
            }
            if monotonic_ns() >= end {
                self.patience.store(patience - 1, Relaxed);
                return None;
            }
            tally::count(Counted::Yield);
            std::thread::yield_now();
        }
    }

    /// The thread has slept for so long.
    pub fn slept(&self, ns: u64) {
        if ns < SHORT_SLEEP_NS {
            self.patience.store(PATIENCE, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_woken_soon_dozes_until_that_was_in_vain_a_few_times() {
        let doze = Doze::default();
        assert_eq!(doze.until(None, || Some(1)), None, "it has not paid yet");
        doze.slept(SHORT_SLEEP_NS);
        assert_eq!(doze.until(None, || Some(2)), None, "nor would it have");
        doze.slept(SHORT_SLEEP_NS - 1);
        let mut looks = 0;
        let third = || {
            looks += 1;
            (looks == 3).then_some(looks)
        };
        // However busy the machine is.
        assert_eq!(doze.at_most(u64::MAX, None, third), Some(3));
        for _ in 0..PATIENCE {
            let mut looked = false;
            let in_vain = || {
                looked = true;
                None::<u32>
            };
            assert_eq!(doze.until(None, in_vain), None);
            assert!(looked);
        }
        assert_eq!(doze.until(None, || Some(4)), None, "it sleeps at once");
    }

    #[test]
    fn a_doze_ends_with_the_time() {
        let doze = Doze::default();
        doze.slept(0);
        assert_eq!(doze.until(Some(0), || None::<u32>), None);
    }
}
