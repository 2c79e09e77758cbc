//! What an arriving segment does (RFC 9293, 3.10.7).

use super::segment::{Flags, Segment};
use super::seq::{before, distance, later, until};
use super::{Connection, DEFAULT_MSS, DELAYED_ACK, Events, Failure, Phase};
use crate::{MILLISECOND, Ns, SECOND};

/// A timestamp so old that it means nothing any more (RFC 7323, 5.5).
const TIMESTAMP_AGE: Ns = 24 * 24 * 3600 * SECOND;
/// Challenge ACKs in a second (RFC 5961, 7).
const CHALLENGES: u32 = 10;
/// Most blocks of the peer's that are remembered.
const BLOCKS: usize = 64;

impl Connection {
    /// A segment has come. In-order bytes go to `deliver`; the caller transmits afterwards.
    pub fn arrives(&mut self, now: Ns, segment: &Segment, payload: &[u8], deliver: &mut dyn FnMut(&[u8])) -> Events {
        self.counts.segments_received += 1;
        match self.phase {
            Phase::Closed | Phase::TimeWait => Events::ANSWER_RESET,
            Phase::SynSent => self.in_syn_sent(now, segment),
            _ => self.synchronised(now, segment, payload, deliver),
        }
    }

    fn in_syn_sent(&mut self, now: Ns, segment: &Segment) -> Events {
        let acked = segment.has(Flags::ACK);
        if acked && (until(segment.ack, self.iss) || before(self.max, segment.ack)) {
            return Events::ANSWER_RESET;
        }
        if segment.has(Flags::RST) {
            return if acked { self.end(Some(Failure::Refused)) } else { Events::empty() };
        }
        if !segment.has(Flags::SYN) {
            return Events::empty();
        }
        let timestamp = segment.timestamps.map(|(value, _)| value);
        let mss = segment.mss.unwrap_or(DEFAULT_MSS);
        self.peer_says(segment.seq, mss, segment.window_scale, segment.sack_permitted, timestamp, now);
        self.window = segment.window.into();
        self.max_window = self.window;
        self.window_seq = segment.seq;
        self.window_ack = segment.ack;
        if !acked {
            // Both have called each other at the same time: the SYN goes again, with an ACK.
            self.phase = Phase::SynReceived;
            self.next = self.iss;
            return Events::empty();
        }
        self.una = self.iss.wrapping_add(1);
        self.next = later(self.next, self.una);
        if let Some((_, echo)) = segment.timestamps
            && self.retransmit.count == 0
        {
            self.measure_echo(now, echo);
        } else if let (Some((_, sent)), 0) = (self.timing.take(), self.retransmit.count) {
            self.rtt.measured(now.saturating_sub(sent));
        }
        (self.retransmit.at, self.waiting_since) = (None, None);
        self.ack_now = true;
        self.established(now)
    }

    fn synchronised(&mut self, now: Ns, segment: &Segment, payload: &[u8], deliver: &mut dyn FnMut(&[u8])) -> Events {
        let reset = segment.has(Flags::RST);
        if self.timestamps && !reset {
            match segment.timestamps {
                Some((value, _)) if before(value, self.timestamp_recent) => {
                    if now.saturating_sub(self.timestamp_recent_at) < TIMESTAMP_AGE {
                        self.challenge(now);
                        return Events::empty();
                    }
                }
                Some(_) => {}
                None => return Events::empty(),
            }
        }
        let length = segment.length(payload.len());
        if !self.acceptable(segment.seq, length) {
            if !reset {
                // A SYN-ACK that came again, a probe, or an attack: our view of things is the answer.
                if length == 0 { self.challenge(now) } else { self.ack_now = true }
            }
            return Events::empty();
        }
        if reset {
            if segment.seq != self.expected {
                self.challenge(now);
                return Events::empty();
            }
            let failure = if self.phase == Phase::SynReceived { Failure::Refused } else { Failure::Reset };
            return self.end(Some(failure));
        }
        if segment.has(Flags::SYN) {
            self.challenge(now);
            // The other SYN of a simultaneous connect carries the acknowledgement.
            if self.phase != Phase::SynReceived {
                return Events::empty();
            }
        }
        if !segment.has(Flags::ACK) {
            return Events::empty();
        }
        let mut events = Events::empty();
        if self.phase == Phase::SynReceived {
            if !before(self.iss, segment.ack) || before(self.max, segment.ack) {
                return Events::ANSWER_RESET;
            }
            (self.window_seq, self.window_ack) = (segment.seq, segment.ack);
            events |= self.established(now);
        }
        if before(self.max, segment.ack) {
            self.challenge(now);
            return events;
        }
        // Older than all that may be on its way: whoever has only guessed a number in the window (RFC 5961, 5.2).
        let reach = u64::from(self.max_window).min(self.counts.bytes_acked) as u32;
        if before(segment.ack, self.una.wrapping_sub(reach)) {
            self.challenge(now);
            return events;
        }
        if let Some((value, _)) = segment.timestamps
            && self.timestamps
            && until(segment.seq, self.expected)
        {
            (self.timestamp_recent, self.timestamp_recent_at) = (value, now);
        }
        self.last_heard = now;
        self.keep.count = 0;
        events |= self.acknowledges(now, segment, payload.len());
        if matches!(self.phase, Phase::Closed | Phase::TimeWait) {
            return events;
        }
        events | self.takes(now, segment, payload, deliver)
    }

    /// Whether a part of it lies in the window.
    fn acceptable(&self, seq: u32, length: u32) -> bool {
        let window = distance(self.expected, self.edge);
        let end = seq.wrapping_add(length);
        if length == 0 {
            return until(self.expected, seq) && distance(self.expected, seq) <= window.max(1);
        }
        before(self.expected, end) && (until(seq, self.expected) || distance(self.expected, seq) < window)
    }

    /// An acknowledgement that a well-behaved peer needs, and a blind attacker must not get many of.
    fn challenge(&mut self, now: Ns) {
        let (since, count) = self.challenges;
        if now.saturating_sub(since) >= SECOND {
            self.challenges = (now, 1);
        } else if count < CHALLENGES {
            self.challenges = (since, count + 1);
        } else {
            return;
        }
        self.ack_now = true;
    }

    fn measure_echo(&mut self, now: Ns, echo: u32) {
        let sent = self.timestamp(now).wrapping_sub(echo);
        // Milliseconds are too coarse for a short way, but enough for the time-out's least.
        if echo != 0 && sent < 600_000 {
            self.rtt.measured(u64::from(sent) * MILLISECOND);
        }
    }

    fn acknowledges(&mut self, now: Ns, segment: &Segment, payload: usize) -> Events {
        let mut events = Events::empty();
        let ack = segment.ack;
        if before(ack, self.una) {
            return events;
        }
        let news = self.remember_sacks(segment);
        let window = u32::from(segment.window) << self.scale;
        let same_window = window == self.window;
        if before(self.window_seq, segment.seq) || (self.window_seq == segment.seq && until(self.window_ack, ack)) {
            if window > self.window {
                events |= Events::WRITABLE;
            }
            (self.window, self.window_seq, self.window_ack) = (window, segment.seq, ack);
            self.max_window = self.max_window.max(window);
            if window > 0 {
                (self.probe.at, self.probe.count) = (None, 0);
            }
        }
        if ack == self.una {
            let flight = before(self.una, self.max);
            if flight && payload == 0 && same_window && !segment.has(Flags::FIN) && (news || !self.sack) {
                self.duplicate(segment);
            }
            return events;
        }
        events | self.advance(now, segment)
    }

    /// Something new was acknowledged.
    fn advance(&mut self, now: Ns, segment: &Segment) -> Events {
        let ack = segment.ack;
        let fin_acked = self.owes_fin() && ack == self.fin_seq().wrapping_add(1);
        let bytes = distance(self.data_start(), ack).saturating_sub(u32::from(fin_acked));
        let in_use = distance(self.una, self.max) + self.mss >= self.congestion.window;
        self.ring.skip(bytes as usize);
        self.una = ack;
        self.next = later(self.next, ack);
        self.urgent = self.urgent.filter(|urgent| before(ack, *urgent));
        self.counts.bytes_acked += u64::from(bytes);
        self.sacked.retain(|(_, end)| before(ack, *end));
        match (self.timing, segment.timestamps) {
            (Some((seq, sent)), _) if until(seq, ack) => {
                self.rtt.measured(now.saturating_sub(sent));
                self.timing = None;
            }
            (None, Some((_, echo))) if self.retransmit.count == 0 => self.measure_echo(now, echo),
            _ => {}
        }
        self.duplicates = 0;
        match self.recovery {
            Some(point) if until(point, ack) => {
                self.recovery = None;
                self.sacked.clear();
            }
            // A partial acknowledgement: the next hole is lost too.
            Some(_) => self.refilled = later(self.refilled, ack),
            None if in_use => self.congestion.acknowledged(bytes, now, self.rtt.smoothed),
            None => {}
        }
        self.retransmit.count = 0;
        let outstanding = before(ack, self.max);
        self.waiting_since = outstanding.then_some(now);
        self.retransmit.at = outstanding.then(|| now + self.rtt.timeout(0));
        let mut events = if bytes > 0 { Events::WRITABLE } else { Events::empty() };
        if fin_acked {
            match self.phase {
                Phase::FinWait1 => {
                    self.phase = Phase::FinWait2;
                    self.end_at = self.orphan.then_some(now + self.settings.fin_timeout);
                }
                Phase::Closing => {
                    self.phase = Phase::TimeWait;
                    events |= Events::TIME_WAIT;
                }
                Phase::LastAck => events |= self.end(None),
                _ => {}
            }
        }
        events
    }

    /// Keeps what the peer has beyond what it acknowledges. Says whether something was new.
    fn remember_sacks(&mut self, segment: &Segment) -> bool {
        if !self.sack {
            return false;
        }
        let mut news = false;
        for &(start, end) in &segment.sack {
            // Only what was sent and is not acknowledged; the rest is a lie or a duplicate's report (RFC 2883).
            if !before(start, end) || before(start, later(self.una, segment.ack)) || before(self.max, end) {
                continue;
            }
            if self.sacked.iter().any(|(a, b)| until(*a, start) && until(end, *b)) {
                continue;
            }
            news = true;
            let (mut first, mut last) = (start, end);
            self.sacked.retain(|(a, b)| {
                let apart = before(*b, first) || before(last, *a);
                if !apart {
                    first = if before(*a, first) { *a } else { first };
                    last = later(last, *b);
                }
                apart
            });
            if self.sacked.len() < BLOCKS {
                let at = self.sacked.iter().position(|(a, _)| before(first, *a)).unwrap_or(self.sacked.len());
                self.sacked.insert(at, (first, last));
            }
        }
        news
    }

    /// The peer misses something: after three such answers it is taken for lost.
    fn duplicate(&mut self, segment: &Segment) {
        self.duplicates += 1;
        let beyond: u32 = self.sacked.iter().map(|(a, b)| distance(*a, *b)).sum();
        let lost = self.duplicates >= 3 || (self.sack && beyond > 3 * self.mss);
        if self.recovery.is_none() && lost && self.next == self.max {
            self.congestion.lost(distance(self.una, self.max));
            self.recovery = Some(self.max);
            self.refilled = segment.ack;
            self.timing = None;
        }
    }

    /// Takes the bytes and the FIN.
    fn takes(&mut self, now: Ns, segment: &Segment, payload: &[u8], deliver: &mut dyn FnMut(&[u8])) -> Events {
        let mut events = Events::empty();
        let syn = u32::from(segment.has(Flags::SYN));
        let mut seq = segment.seq.wrapping_add(syn);
        if segment.has(Flags::FIN) {
            self.fin_at = self.fin_at.or(Some(seq.wrapping_add(payload.len() as u32)));
        }
        let known = distance(seq, self.expected).min(payload.len() as u32);
        let mut bytes = payload.get(known as usize..).unwrap_or_default();
        if known > 0 && bytes.is_empty() && !segment.has(Flags::FIN) {
            // Seen before: the peer has missed our acknowledgement.
            self.ack_now = true;
            return events;
        }
        if segment.has(Flags::URG) && segment.urgent != 0 {
            // It points behind the byte (RFC 6093, 3.1).
            let at = seq.wrapping_add(u32::from(segment.urgent) - 1);
            if !before(at, self.expected) && self.peer_urgent.is_none_or(|known| before(known, at)) {
                self.peer_urgent = Some(at);
                events |= Events::URGENT;
            }
        }
        seq = seq.wrapping_add(known);
        let room = distance(seq, self.edge) as usize;
        if bytes.len() > room {
            // A probe of a closed window, or a peer that takes it for wider: both must hear what it is.
            self.ack_now = true;
        }
        bytes = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        if self.fin_received {
            bytes = &[];
        }
        if !bytes.is_empty() && seq == self.expected {
            let mut total = bytes.len() as u32;
            deliver(bytes);
            total += if self.reorder.is_empty() {
                0
            } else {
                self.ack_now = true;
                self.reorder.advance(total, deliver)
            };
            self.expected = self.expected.wrapping_add(total);
            self.unread += total as usize;
            self.counts.bytes_received += u64::from(total);
            events |= Events::READABLE;
            self.acknowledge_soon(now, total);
        } else if !bytes.is_empty() {
            self.reorder.insert(distance(self.expected, seq), bytes);
            self.ack_now = true;
        }
        if self.fin_at == Some(self.expected) && !self.fin_received {
            self.fin_received = true;
            // Nothing comes after it.
            self.forget_out_of_order();
            self.expected = self.expected.wrapping_add(1);
            self.edge = later(self.edge, self.expected);
            self.ack_now = true;
            events |= Events::FIN;
            self.phase = match self.phase {
                Phase::Established => Phase::CloseWait,
                Phase::FinWait1 => Phase::Closing,
                Phase::FinWait2 => {
                    events |= Events::TIME_WAIT;
                    Phase::TimeWait
                }
                other => other,
            };
        } else if segment.has(Flags::FIN) && self.fin_received {
            self.ack_now = true;
        }
        events
    }

    /// At once for every second full segment, and while the connection is young; else in a while.
    fn acknowledge_soon(&mut self, now: Ns, bytes: u32) {
        self.unacked += bytes;
        if self.unacked >= 2 * self.mss || self.quick > 0 {
            self.quick = self.quick.saturating_sub(1);
            self.ack_now = true;
        } else {
            self.ack_at = self.ack_at.or(Some(now + DELAYED_ACK));
        }
    }
}
