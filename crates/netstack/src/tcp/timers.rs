//! What time brings: retransmission, probes, delayed acknowledgements, and the end of patience.

use super::segment::Segment;
use super::{Coalesce, Connection, Events, Failure, Phase};
use crate::{MILLISECOND, Ns, SECOND};

/// Times that data is sent in vain (`tcp_retries2`), and by whom nobody waits for (`tcp_orphan_retries`).
const RETRIES: u32 = 15;
const ORPHAN_RETRIES: u32 = 8;
const LONGEST: Ns = 120 * SECOND;

impl Connection {
    /// When [`Connection::due`] is to be called, if ever.
    pub fn deadline(&self) -> Option<Ns> {
        let keep = self.keep_alive_at();
        [self.retransmit.at, self.probe.at, self.ack_at, self.cork_at, self.end_at, keep].into_iter().flatten().min()
    }

    fn keep_alive_at(&self) -> Option<Ns> {
        let keep = self.settings.keep_alive?;
        // While something is on its way, retransmission finds out as well.
        let quiet = self.una == self.max && self.ring.is_empty();
        let alive = matches!(self.phase, Phase::Established | Phase::CloseWait | Phase::FinWait1 | Phase::FinWait2);
        (quiet && alive).then(|| self.keep.at.unwrap_or(0).max(self.last_heard + keep.idle))
    }

    /// Does what is due. The caller transmits afterwards, and first of all what [`Connection::probe`] gives.
    pub fn due(&mut self, now: Ns) -> Events {
        let passed = |at: Option<Ns>| at.is_some_and(|at| at <= now);
        if passed(self.end_at) {
            return self.end(None);
        }
        if passed(self.ack_at) {
            (self.ack_at, self.ack_now) = (None, true);
        }
        // `transmit` looks at the cork itself.
        if passed(self.retransmit.at) {
            return self.retransmit_due(now);
        }
        Events::empty()
    }

    /// How long an answer has been waited for.
    fn waited(&self, now: Ns) -> Ns {
        self.waiting_since.map_or(0, |since| now.saturating_sub(since))
    }

    /// `timeout`, after `count` in vain, but not beyond the end of the program's patience, of which `waited` has passed
    /// (`tcp_clamp_rto_to_user_timeout`).
    fn clamped(&self, timeout: Ns, count: u32, waited: Ns) -> Ns {
        match self.settings.user_timeout {
            most if most > 0 && count > 0 => timeout.min(most.saturating_sub(waited).max(MILLISECOND)),
            _ => timeout,
        }
    }

    fn gives_up(&self, now: Ns, count: u32) -> bool {
        if self.settings.user_timeout > 0 && self.phase != Phase::SynSent {
            return self.waited(now) >= self.settings.user_timeout;
        }
        match self.phase {
            Phase::SynSent | Phase::SynReceived => count > self.settings.syn_retries,
            _ if self.orphan => count > ORPHAN_RETRIES,
            _ => count > RETRIES,
        }
    }

    /// How long to wait for an answer.
    pub(super) fn patience(&self, now: Ns) -> Ns {
        let count = self.retransmit.count;
        self.clamped(self.rtt.timeout(count), count, self.waited(now))
    }

    fn retransmit_due(&mut self, now: Ns) -> Events {
        self.retransmit.at = None;
        if self.una == self.max {
            // The link was full: `transmit` tries again.
            return Events::empty();
        }
        self.retransmit.count += 1;
        if self.gives_up(now, self.retransmit.count) {
            return self.end(Some(Failure::TimedOut));
        }
        if self.waited(now) < self.rtt.timeout(0) && self.phase != Phase::SynSent {
            // Too early to be a loss: the link refused what should have gone.
            self.retransmit.count -= 1;
            self.retransmit.at = Some(now + self.rtt.timeout(0));
            return Events::empty();
        }
        if self.retransmit.count == 1 && !matches!(self.phase, Phase::SynSent | Phase::SynReceived) {
            self.congestion.timed_out(super::seq::distance(self.una, self.max));
        }
        self.recovery = None;
        self.sacked.clear();
        self.duplicates = 0;
        self.timing = None;
        self.next = self.una;
        Events::empty()
    }

    /// The peer's window is closed and nothing else will tell when it opens.
    pub(super) fn arm_probe(&mut self, now: Ns) {
        if self.probe.at.is_none() {
            let timeout = self.rtt.timeout(self.probe.count).min(LONGEST);
            let silent = now.saturating_sub(self.last_heard);
            self.probe.at = Some(now + self.clamped(timeout, self.probe.count, silent));
        }
    }

    /// A probe that is due: a segment which the peer must answer. If it has not for too long the connection ends, and the segment, if any, tells
    /// the peer so.
    pub fn probe(&mut self, now: Ns) -> (Option<Segment>, Events) {
        if self.probe.at.is_some_and(|at| at <= now) {
            self.probe.at = None;
            self.probe.count += 1;
            let silent = now.saturating_sub(self.last_heard);
            let user = self.settings.user_timeout;
            let dead = if user > 0 { silent >= user } else { self.probe.count > RETRIES && silent > 60 * SECOND };
            if dead || (self.orphan && self.probe.count > ORPHAN_RETRIES) {
                return (None, self.end(Some(Failure::TimedOut)));
            }
            let segment = self.header(now, self.una.wrapping_sub(1));
            return (Some(segment), Events::empty());
        }
        let (Some(at), Some(keep)) = (self.keep_alive_at(), self.settings.keep_alive) else { return (None, Events::empty()) };
        if at > now {
            return (None, Events::empty());
        }
        // `TCP_USER_TIMEOUT` takes the place of the count (`tcp_keepalive_timer`).
        let over = match self.settings.user_timeout {
            0 => self.keep.count >= keep.count,
            most => self.keep.count > 0 && now.saturating_sub(self.last_heard) >= most,
        };
        if over {
            let reset = self.reset();
            return (Some(reset), self.end(Some(Failure::TimedOut)));
        }
        self.keep.count += 1;
        self.keep.at = Some(now + keep.interval);
        (Some(self.header(now, self.una.wrapping_sub(1))), Events::empty())
    }

    /// Whether short segments are held back for now.
    pub fn is_corked(&self) -> bool {
        self.settings.coalesce == Coalesce::Cork || self.more
    }
}
