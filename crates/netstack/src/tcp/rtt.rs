//! [`Rtt`]: how long an answer takes, and how long to wait for one (RFC 6298, with Linux's limits).

use crate::{MILLISECOND, Ns, SECOND};

const FIRST: Ns = SECOND;
const LEAST: Ns = 200 * MILLISECOND;
const MOST: Ns = 120 * SECOND;

#[derive(Debug, Clone, Copy, Default)]
pub struct Rtt {
    /// Smoothed time and its variation; 0 before the first measurement.
    pub smoothed: Ns,
    pub variation: Ns,
    pub least: Ns,
}

impl Rtt {
    pub fn measured(&mut self, time: Ns) {
        let time = time.max(1000);
        self.least = if self.least == 0 { time } else { self.least.min(time) };
        if self.smoothed == 0 {
            (self.smoothed, self.variation) = (time, time / 2);
            return;
        }
        self.variation = (self.variation * 3 + self.smoothed.abs_diff(time)) / 4;
        self.smoothed = (self.smoothed * 7 + time) / 8;
    }

    /// The time to wait after `backoff` waits in vain.
    pub fn timeout(&self, backoff: u32) -> Ns {
        let base = if self.smoothed == 0 { FIRST } else { (self.smoothed + 4 * self.variation).clamp(LEAST, MOST) };
        base.saturating_mul(1 << backoff.min(10)).min(MOST)
    }
}
