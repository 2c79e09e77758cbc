//! [`Rate`]: so many lines of a log in so much time, then the number of those left out. For what others can provoke.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub struct Rate {
    most: u32,
    period: Duration,
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Rate {
    /// At most `most` lines in each `period`, the first of which begins now.
    pub fn new(most: u32, period: Duration, now: Instant) -> Rate {
        Rate { most, period, since: now, lines: 0, left_out: 0 }
    }

    /// None if there were enough; else how many were left out before this one.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= self.period {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= self.most {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted() {
        let (start, period) = (Instant::now(), Duration::from_secs(10));
        let mut rate = Rate::new(40, period, start);
        let said = (0..45).filter(|_| rate.take(start).is_some()).count();
        assert_eq!(said, 40);
        assert_eq!((rate.take(start + period), rate.take(start + period)), (Some(5), Some(0)));
    }
}
