//! What a connection has to send.

use super::segment::{Flags, LONGEST_HEADER, Segment};
use super::seq::{before, distance, later, until};
use super::{Coalesce, Connection, Phase, WINDOW_SCALE};
use crate::{MILLISECOND, Ns};

/// Most bytes of one packet, the longest headers taken off: what a GSO frame may carry.
pub(super) const GSO_MOST: u32 = 65_535 - 40 - LONGEST_HEADER as u32;
/// How long `TCP_CORK` holds a short segment back.
const CORK: Ns = 200 * MILLISECOND;
/// Waiting for room in the link.
const LINK_FULL: Ns = 2 * MILLISECOND;

/// A segment to be sent; with more than `mss` bytes it is to be cut by the link (GSO).
#[derive(Debug)]
pub struct Outgoing<'a> {
    pub segment: Segment,
    pub payload: [&'a [u8]; 2],
    pub mss: u32,
}

impl Outgoing<'_> {
    pub fn bytes(&self) -> usize {
        self.payload.iter().map(|part| part.len()).sum()
    }
}

/// What is the next to go.
enum Next {
    Nothing,
    /// Bytes, and whether they go again.
    Bytes {
        seq: u32,
        len: u32,
        again: bool,
    },
    /// In vain: a timer must look after it.
    WindowClosed,
}

impl Connection {
    /// Sends all that may be sent now, by `send`, which says whether the link took it.
    pub fn transmit(&mut self, now: Ns, send: &mut dyn FnMut(&Outgoing<'_>) -> bool) {
        self.send_what_may(now, send);
        // A cork that holds nothing, or not any more, must not stay as a deadline: it would be due for ever.
        if self.cork_at.is_some_and(|at| at <= now) {
            (self.cork_at, self.more) = (None, false);
        } else if self.owes_fin() || distance(self.next, self.fin_seq()) == 0 {
            self.cork_at = None;
        }
    }

    fn send_what_may(&mut self, now: Ns, send: &mut dyn FnMut(&Outgoing<'_>) -> bool) {
        match self.phase {
            Phase::Closed => return,
            Phase::SynSent | Phase::SynReceived => {
                self.send_syn(now, send);
                return;
            }
            _ => {}
        }
        loop {
            let (seq, len, again) = match self.choose(now) {
                Next::Bytes { seq, len, again } => (seq, len, again),
                Next::WindowClosed => {
                    self.arm_probe(now);
                    break;
                }
                Next::Nothing => break,
            };
            let fin = self.owes_fin() && seq.wrapping_add(len) == self.fin_seq();
            let last = seq.wrapping_add(len) == self.fin_seq();
            let mut segment = self.header(now, seq);
            segment.flags.set(Flags::PSH, last && len > 0);
            segment.flags.set(Flags::FIN, fin);
            if let Some(urgent) = self.urgent.filter(|urgent| before(seq, *urgent)) {
                segment.flags |= Flags::URG;
                segment.urgent = distance(seq, urgent).min(u16::MAX.into()) as u16;
            }
            let payload = self.ring.get(distance(self.data_start(), seq) as usize, len as usize);
            if !send(&Outgoing { segment, payload, mss: self.mss }) {
                self.retransmit.at = Some(self.retransmit.at.map_or(now + LINK_FULL, |at| at.min(now + LINK_FULL)));
                return;
            }
            self.counts.segments_sent += 1;
            self.acknowledged_ours();
            let end = seq.wrapping_add(len).wrapping_add(u32::from(fin));
            if again {
                self.counts.retransmits += 1;
                self.refilled = end;
            } else {
                if before(self.next, self.max) {
                    self.counts.retransmits += 1;
                } else if self.timing.is_none() && self.recovery.is_none() {
                    self.timing = Some((end, now));
                }
                self.next = end;
                self.max = later(self.max, end);
            }
            self.waiting_since = self.waiting_since.or(Some(now));
            if self.retransmit.at.is_none() {
                self.retransmit.at = Some(now + self.patience(now));
            }
        }
        if self.ack_now {
            let segment = self.header(now, self.next_or_max());
            if send(&Outgoing { segment, payload: [&[], &[]], mss: self.mss }) {
                self.counts.segments_sent += 1;
                self.acknowledged_ours();
            } else {
                self.ack_at = Some(now + LINK_FULL);
                self.ack_now = false;
            }
        }
    }

    /// A pure acknowledgement carries the number after all that was ever sent.
    fn next_or_max(&self) -> u32 {
        later(self.next, self.max)
    }

    fn acknowledged_ours(&mut self) {
        (self.ack_now, self.ack_at, self.unacked) = (false, None, 0);
    }

    fn send_syn(&mut self, now: Ns, send: &mut dyn FnMut(&Outgoing<'_>) -> bool) {
        if self.next != self.iss {
            return;
        }
        let answers = self.phase == Phase::SynReceived;
        let window = self.settings.window.min(65_535) as u32;
        let segment = Segment {
            source: self.ports.near,
            destination: self.ports.far,
            seq: self.iss,
            ack: if answers { self.expected } else { 0 },
            flags: if answers { Flags::SYN | Flags::ACK } else { Flags::SYN },
            window: window as u16,
            mss: Some(self.settings.asked_mss(self.path_mss)),
            window_scale: (!answers || self.scaled).then_some(WINDOW_SCALE),
            sack_permitted: !answers || self.sack,
            timestamps: (!answers || self.timestamps).then(|| (self.timestamp(now), self.timestamp_recent)),
            ..Segment::default()
        };
        if send(&Outgoing { segment, payload: [&[], &[]], mss: self.mss }) {
            self.counts.segments_sent += 1;
        }
        self.next = self.iss.wrapping_add(1);
        self.max = later(self.max, self.next);
        if answers {
            self.edge = self.expected.wrapping_add(window);
        }
        if self.timing.is_none() {
            self.timing = Some((self.next, now));
        }
        self.waiting_since = self.waiting_since.or(Some(now));
        self.retransmit.at = Some(now + self.rtt.timeout(self.retransmit.count));
    }

    /// A header with our acknowledgement and window.
    pub(super) fn header(&mut self, now: Ns, seq: u32) -> Segment {
        let window = self.advertise();
        Segment {
            source: self.ports.near,
            destination: self.ports.far,
            seq,
            ack: self.expected,
            flags: Flags::ACK,
            window,
            timestamps: self.timestamps.then(|| (self.timestamp(now), self.timestamp_recent)),
            sack: if self.sack && !self.reorder.is_empty() { self.reorder.blocks(self.expected) } else { Default::default() },
            ..Segment::default()
        }
    }

    /// The window to tell: it never shrinks, and does not grow by crumbs (RFC 9293, 3.8.6.2.2).
    fn advertise(&mut self) -> u16 {
        let limit = self.window_limit();
        let could = limit.saturating_sub(self.unread).min(1 << 29) as u32;
        let open = distance(self.expected, self.edge);
        let worth = (2 * self.mss).min(limit as u32 / 2);
        let window = if could > open && could - open >= worth { could } else { open };
        let scale = if self.scaled { WINDOW_SCALE } else { 0 };
        // Rounded down, else it would grow by crumbs; what was told before is taken all the same.
        let told = (window >> scale).min(u16::MAX.into()) as u16;
        let edge = self.expected.wrapping_add(u32::from(told) << scale);
        self.edge = later(self.edge, edge);
        told
    }

    /// Bytes that are on their way, as far as is known.
    fn pipe(&self) -> u32 {
        let sacked = |from: u32, to: u32| -> u32 {
            let inside = self.sacked.iter().map(|(a, b)| distance(later(*a, from), if before(to, *b) { to } else { *b }));
            inside.sum()
        };
        if self.recovery.is_none() {
            return distance(self.una, self.next).saturating_sub(sacked(self.una, self.next));
        }
        if !self.sack {
            return distance(self.una, self.max).saturating_sub(self.duplicates.saturating_mul(self.mss));
        }
        // What lies before the last block and was not sent again is lost.
        let high = self.sacked.last().map_or(self.una, |(_, end)| *end);
        let refilled = distance(self.una, self.refilled).saturating_sub(sacked(self.una, self.refilled));
        refilled + distance(later(high, self.refilled), self.max)
    }

    fn choose(&mut self, now: Ns) -> Next {
        let allowed = self.congestion.window.saturating_sub(self.pipe());
        if let Some(hole) = self.hole(allowed) {
            return hole;
        }
        let end = self.fin_seq();
        let pending = distance(self.next, end);
        let fin_left = self.owes_fin() && until(self.next, end);
        if pending == 0 {
            // A FIN alone needs no window.
            return if fin_left { Next::Bytes { seq: self.next, len: 0, again: false } } else { Next::Nothing };
        }
        let idle = self.una == self.max || self.next == self.una;
        let window = distance(self.next, self.una.wrapping_add(self.window));
        if window == 0 {
            return if idle { Next::WindowClosed } else { Next::Nothing };
        }
        // The link does not correct the place of urgent data in each piece.
        let packet = if self.urgent.is_some() { self.mss } else { GSO_MOST };
        let most = pending.min(window).min(allowed).min(packet);
        let full = most / self.mss * self.mss;
        let len = if most == pending && pending <= GSO_MOST {
            // The last short one goes along only if it need not wait.
            let short = pending - full;
            if short > 0 && !fin_left && self.must_wait(now, full > 0 || !idle) { full } else { most }
        } else if full > 0 {
            full
        } else if most == window && (idle || window >= self.max_window / 2) {
            // A small window: what fits, if nothing is on its way that might open it.
            most
        } else {
            0
        };
        match len {
            // Nothing is on its way, and the congestion window is less than a segment: one goes all the same.
            0 if idle && allowed < self.mss && !self.holds(now) => {
                Next::Bytes { seq: self.next, len: pending.min(window).min(self.mss), again: false }
            }
            0 => Next::Nothing,
            len => Next::Bytes { seq: self.next, len, again: false },
        }
    }

    /// Whether a short segment waits for more bytes.
    fn must_wait(&mut self, now: Ns, busy: bool) -> bool {
        if before(self.next, self.max) {
            return false;
        }
        if self.holds(now) {
            return true;
        }
        self.settings.coalesce == Coalesce::Nagle && busy
    }

    /// Whether a cork holds it; it does so for a while only.
    fn holds(&mut self, now: Ns) -> bool {
        if self.settings.coalesce != Coalesce::Cork && !self.more {
            self.cork_at = None;
            return false;
        }
        let until = *self.cork_at.get_or_insert(now + CORK);
        if now < until {
            return true;
        }
        self.cork_at = None;
        self.more = false;
        false
    }

    /// In recovery: the next bytes that are lost.
    fn hole(&self, allowed: u32) -> Option<Next> {
        self.recovery?;
        let seq = later(self.refilled, self.una);
        let limit = if allowed == 0 { return None } else { allowed };
        if !self.sack {
            // NewReno: one segment for each partial acknowledgement.
            let len = self.mss.min(distance(seq, self.fin_seq()));
            let due = seq == self.una && before(seq, self.max);
            return due.then_some(Next::Bytes { seq, len, again: true });
        }
        let mut seq = seq;
        for (start, end) in &self.sacked {
            if before(seq, *start) {
                let packet = if self.urgent.is_some() { self.mss } else { GSO_MOST / self.mss * self.mss };
                let len = distance(seq, *start).min(distance(seq, self.fin_seq())).min(packet);
                let len = if len > limit { (limit / self.mss).max(1) * self.mss } else { len };
                return Some(Next::Bytes { seq, len, again: true });
            }
            seq = later(seq, *end);
        }
        // Entered without a block: the first segment is what is missing.
        let first = self.sacked.is_empty() && seq == self.una && before(seq, self.max);
        first.then(|| Next::Bytes { seq, len: self.mss.min(distance(seq, self.fin_seq())), again: true })
    }
}
