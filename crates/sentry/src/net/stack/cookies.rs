//! [`Cookies`]: first numbers by which connections are known of which nothing is kept, while too many are half open (`tcp_syncookies`).
//!
//! A cookie is two bits of the time, two of the peer's largest segment, and 28 of a keyed hash over both, the addresses and the peer's first
//! number. Who did not get it guesses it once in 2^28 segments for each such pair that would do.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Pair;
use crate::time::MonoTime;

/// How long the time in a cookie stands still. It is good for one to two of these.
const PERIOD_NS: u64 = 64_000_000_000;
/// Largest segments that can be told (as Linux's `msstab`); a peer gets the largest that it has asked for.
const SEGMENTS: [u16; 4] = [536, 1220, 1440, 1460];
const HASH: u32 = 0x0fff_ffff;

#[derive(Default)]
pub struct Cookies {
    keys: RandomState,
    /// When the last was given, in nanoseconds; 0 is never.
    last: AtomicU64,
}

impl Cookies {
    /// The first number for a connection whose peer starts with `irs` and asked for segments of so many bytes.
    pub fn give(&self, pair: &Pair, irs: u32, mss: u16, now: MonoTime) -> u32 {
        self.last.store(now.0.max(1), Ordering::Relaxed);
        let segments = SEGMENTS.iter().rposition(|segment| *segment <= mss).unwrap_or(0);
        self.value(pair, irs, segments as u32, now.0 / PERIOD_NS)
    }

    /// The peer's largest segment, if `cookie` was given to it not long ago.
    pub fn check(&self, pair: &Pair, irs: u32, cookie: u32, now: MonoTime) -> Option<u16> {
        let last = self.last.load(Ordering::Relaxed);
        if last == 0 || now.0.saturating_sub(last) > 2 * PERIOD_NS {
            return None;
        }
        let period = now.0 / PERIOD_NS;
        let segments = cookie >> 28 & 3;
        let given = [Some(period), period.checked_sub(1)].into_iter().flatten();
        let good = given.into_iter().any(|period| self.value(pair, irs, segments, period) == cookie);
        SEGMENTS.get(segments as usize).copied().filter(|_| good)
    }

    fn value(&self, pair: &Pair, irs: u32, segments: u32, period: u64) -> u32 {
        let hash = self.keys.hash_one((pair, irs, segments, period)) as u32;
        (period as u32) << 30 | segments << 28 | (hash & HASH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address::Endpoint;

    #[test]
    fn a_cookie_is_good_for_its_connection_and_for_a_while() {
        let end = |ip: &str, port| Endpoint::new(ip.parse().expect("address"), port);
        let (near, far) = (end("10.0.0.1", 80), end("10.0.0.2", 1000));
        let cookies = Cookies::default();
        let at = |seconds: u64| MonoTime(seconds * 1_000_000_000);
        assert_eq!(cookies.check(&(near, far), 7, 0, at(1)), None, "none was given");
        for (mss, told) in [(88, 536), (1300, 1220), (1452, 1440), (65_495, 1460)] {
            let cookie = cookies.give(&(near, far), 7, mss, at(100));
            assert_eq!(cookies.check(&(near, far), 7, cookie, at(100)), Some(told));
            assert_eq!(cookies.check(&(near, far), 7, cookie, at(160)), Some(told));
            assert_eq!(cookies.check(&(near, far), 7, cookie, at(200)), None, "too old");
            assert_eq!(cookies.check(&(near, far), 8, cookie, at(100)), None);
            assert_eq!(cookies.check(&(near, end("10.0.0.3", 1000)), 7, cookie, at(100)), None);
            for bit in 0..32 {
                assert_eq!(cookies.check(&(near, far), 7, cookie ^ 1 << bit, at(100)), None, "bit {bit}");
            }
        }
    }
}
