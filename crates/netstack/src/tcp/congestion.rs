//! [`Congestion`]: how much may be on its way: slow start, CUBIC (RFC 9438), and the halving after a loss (RFC 5681, 6675).

use crate::{Ns, SECOND};

/// Segments at the start (RFC 6928).
const INITIAL: u32 = 10;
/// CUBIC's constants: the scale of its growth in segments per second cubed, and what is left after a loss.
const SCALE: f64 = 0.4;
const LEFT: f64 = 0.7;
/// Largest window in bytes.
const MOST: u32 = 1 << 30;

#[derive(Debug, Clone)]
pub struct Congestion {
    /// Bytes that may be on their way.
    pub window: u32,
    /// Below this it doubles every round trip.
    pub threshold: u32,
    mss: u32,
    /// The window at the last loss in segments, and when growth from it began.
    peak: f64,
    epoch: Option<Ns>,
    /// Seconds from the epoch to the peak.
    to_peak: f64,
    /// Bytes acknowledged since the window last grew, in the linear part.
    credit: u32,
}

impl Congestion {
    pub fn new(mss: u32) -> Congestion {
        Congestion { window: INITIAL * mss, threshold: u32::MAX, mss, peak: 0.0, epoch: None, to_peak: 0.0, credit: 0 }
    }

    pub fn set_mss(&mut self, mss: u32) {
        self.window = (self.window / self.mss.max(1)).max(1).saturating_mul(mss);
        self.mss = mss;
    }

    /// `bytes` were acknowledged in order, while the window was in full use.
    pub fn acknowledged(&mut self, bytes: u32, now: Ns, rtt: Ns) {
        if self.window < self.threshold {
            self.window = self.window.saturating_add(bytes.min(self.window)).min(MOST);
            return;
        }
        let segments = f64::from(self.window) / f64::from(self.mss);
        let start = *self.epoch.get_or_insert(now);
        if start == now {
            self.peak = self.peak.max(segments);
            self.to_peak = ((self.peak - segments) / SCALE).max(0.0).cbrt();
        }
        let seconds = (now.saturating_sub(start).saturating_add(rtt)) as f64 / SECOND as f64;
        let target = self.peak + SCALE * (seconds - self.to_peak).powi(3);
        // Never slower than Reno would: one segment for each window.
        self.credit = self.credit.saturating_add(bytes);
        if self.credit >= self.window {
            self.credit = 0;
            self.window = self.window.saturating_add(self.mss);
        }
        if target > segments {
            let step = ((target - segments) / segments * f64::from(bytes)).min(f64::from(bytes) / 2.0);
            self.window = self.window.saturating_add(step as u32);
        }
        self.window = self.window.min(MOST);
    }

    /// A segment was lost, `flight` bytes were on their way.
    pub fn lost(&mut self, flight: u32) {
        let segments = f64::from(self.window) / f64::from(self.mss);
        self.peak = if segments < self.peak { segments * (1.0 + LEFT) / 2.0 } else { segments };
        self.epoch = None;
        self.credit = 0;
        let left = (f64::from(flight.min(self.window)) * LEFT) as u32;
        self.threshold = left.max(2 * self.mss);
        self.window = self.threshold;
    }

    /// Nothing came back in time: start over, slowly.
    pub fn timed_out(&mut self, flight: u32) {
        self.lost(flight);
        self.window = self.mss;
    }
}
