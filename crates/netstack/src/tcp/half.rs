//! A connection before it is one, and after it was.

use super::{
    Connection, DEFAULT_MSS, Events, LEAST_MSS, Phase, Ports, Settings, Start, WINDOW_SCALE, seq, timestamp, timestamp_offset,
};
use crate::tcp::segment::{Flags, Segment};
use crate::{Ns, SECOND};

/// Low bits of a cookie's timestamp: a window's scale, or [`NO_SCALE`], and whether selective acknowledgements are understood.
const OPTION_BITS: u32 = 0x1f;
const NO_SCALE: u32 = 0xf;
const SACK_BIT: u32 = 0x10;
/// Longest time between repeated SYN-ACKs.
const SLOWEST: Ns = 32 * SECOND;

/// A SYN has come; the third segment of the handshake has not.
#[derive(Debug, Clone)]
pub struct HalfOpen {
    start: Start,
    /// What the SYN said.
    irs: u32,
    peer_mss: u16,
    scale: Option<u8>,
    sack: bool,
    timestamp: Option<u32>,
    /// The window in our SYN-ACK.
    window: u16,
    asked_mss: u16,
    /// When the SYN-ACK is sent again, and how often it was.
    pub again_at: Ns,
    pub retries: u32,
}

impl HalfOpen {
    /// Of a SYN for a listener whose connections get `settings`.
    pub fn new(start: Start, syn: &Segment, settings: &Settings) -> HalfOpen {
        HalfOpen {
            start,
            irs: syn.seq,
            peer_mss: HalfOpen::peer_mss(syn),
            scale: syn.window_scale,
            sack: syn.sack_permitted,
            timestamp: syn.timestamps.map(|(value, _)| value),
            window: settings.window.min(65_535) as u16,
            asked_mss: settings.asked_mss(start.path_mss),
            again_at: start.now + SECOND,
            retries: 0,
        }
    }

    /// The SYN-ACK.
    pub fn reply(&self, now: Ns) -> Segment {
        let offset = timestamp_offset(self.start.iss);
        Segment {
            source: self.start.ports.near,
            destination: self.start.ports.far,
            seq: self.start.iss,
            ack: self.irs.wrapping_add(1),
            flags: Flags::SYN | Flags::ACK,
            window: self.window,
            mss: Some(self.asked_mss),
            window_scale: self.scale.map(|_| WINDOW_SCALE),
            sack_permitted: self.sack,
            timestamps: self.timestamp.map(|value| (timestamp(now, offset), value)),
            ..Segment::default()
        }
    }

    /// The SYN-ACK of a connection that is not kept: the options agreed on are in its timestamp, so there are none without
    /// (`cookie_init_timestamp`). The first number is a cookie, which tells the rest.
    pub fn cookie_reply(&self, now: Ns) -> Segment {
        let reply = self.reply(now);
        let Some((value, recent)) = reply.timestamps else {
            return Segment { window_scale: None, sack_permitted: false, ..reply };
        };
        let bits = self.scale.map_or(NO_SCALE, u32::from) | if self.sack { SACK_BIT } else { 0 };
        let with_bits = (value & !OPTION_BITS) | bits;
        // Not in the future: time would run backwards afterwards.
        let with_bits = if seq::before(value, with_bits) { with_bits.wrapping_sub(OPTION_BITS + 1) } else { with_bits };
        Segment { timestamps: Some((with_bits, recent)), ..reply }
    }

    /// What was not kept, by the third segment, which brings the cookie back: `start` has it as its first number.
    pub fn of_cookie(start: Start, peer_mss: u16, third: &Segment, settings: &Settings) -> HalfOpen {
        let bits = third.timestamps.map_or(NO_SCALE, |(_, echo)| echo & OPTION_BITS);
        HalfOpen {
            irs: third.seq.wrapping_sub(1),
            peer_mss: peer_mss.max(LEAST_MSS),
            scale: Some((bits & NO_SCALE) as u8).filter(|scale| u32::from(*scale) != NO_SCALE),
            sack: bits & SACK_BIT != 0,
            // Nobody knows when the SYN-ACK went: it measures nothing.
            retries: 1,
            ..HalfOpen::new(start, third, settings)
        }
    }

    /// What the peer asks for in its SYN as its largest segment.
    pub fn peer_mss(syn: &Segment) -> u16 {
        syn.mss.unwrap_or(DEFAULT_MSS).max(LEAST_MSS)
    }

    /// The SYN-ACK has not been answered. Says whether to send it again (`tcp_synack_retries` is 5).
    pub fn is_late(&mut self, now: Ns) -> bool {
        self.retries += 1;
        self.again_at = now + (SECOND << self.retries.min(5)).min(SLOWEST);
        self.retries <= 5
    }

    /// Whether the same SYN has come again.
    pub fn is_same(&self, syn: &Segment) -> bool {
        syn.seq == self.irs
    }

    /// Whether a reset is meant for it.
    pub fn is_reset_by(&self, segment: &Segment) -> bool {
        segment.has(Flags::RST) && segment.seq == self.irs.wrapping_add(1)
    }

    /// Whether `segment` completes the handshake.
    pub fn is_completed_by(&self, segment: &Segment) -> bool {
        let next = self.irs.wrapping_add(1);
        segment.has(Flags::ACK)
            && !segment.flags.intersects(Flags::SYN | Flags::RST)
            && segment.ack == self.start.iss.wrapping_add(1)
            && seq::distance(next, segment.seq) <= u32::from(self.window)
            && !seq::before(segment.seq, next)
    }

    /// The connection, to which the completing segment is to be shown next.
    pub fn complete(self, now: Ns, settings: Settings) -> Connection {
        let mut connection = Connection::new(self.start, settings, Phase::SynReceived);
        connection.max = self.start.iss.wrapping_add(1);
        connection.next = connection.max;
        connection.peer_says(self.irs, self.peer_mss, self.scale, self.sack, self.timestamp, now);
        connection.edge = connection.expected.wrapping_add(u32::from(self.window));
        // Karn: a repeated SYN-ACK measures nothing.
        if self.retries == 0 {
            connection.rtt.measured(now.saturating_sub(self.start.now));
        }
        connection
    }
}

/// What answers for a connection that has ended in order, for a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWait {
    pub(super) ports: Ports,
    pub(super) next: u32,
    pub(super) expected: u32,
    /// The peer's latest, and our offset.
    pub(super) timestamp: Option<(u32, u32)>,
}

/// What a segment means to a connection in TIME-WAIT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Late {
    Nothing,
    /// An acknowledgement is due.
    Answer(Segment),
    /// It may make way for the new connection that the SYN asks for, which starts after this sequence number.
    MakeWay(u32),
    /// The peer has ended it.
    Gone,
}

impl TimeWait {
    pub fn arrives(&self, segment: &Segment, payload: usize, now: Ns) -> Late {
        if segment.has(Flags::RST) {
            // RFC 1337: a reset does not cut it short, unless it is exactly in place.
            return if segment.seq == self.expected { Late::Gone } else { Late::Nothing };
        }
        let newer = match (segment.timestamps, self.timestamp) {
            (Some((value, _)), Some((recent, _))) => seq::before(recent, value),
            _ => false,
        };
        if segment.has(Flags::SYN) && !segment.has(Flags::ACK) && (newer || seq::before(self.expected, segment.seq)) {
            return Late::MakeWay(self.next);
        }
        if segment.length(payload) == 0 && segment.seq == self.expected {
            return Late::Nothing;
        }
        Late::Answer(Segment {
            source: self.ports.near,
            destination: self.ports.far,
            seq: self.next,
            ack: self.expected,
            flags: Flags::ACK,
            window: 0,
            timestamps: self.timestamp.map(|(recent, offset)| (timestamp(now, offset), recent)),
            ..Segment::default()
        })
    }
}

impl Connection {
    /// Takes over what the peer's SYN said.
    pub(super) fn peer_says(&mut self, irs: u32, mss: u16, scale: Option<u8>, sack: bool, timestamp: Option<u32>, now: Ns) {
        self.expected = irs.wrapping_add(1);
        self.edge = self.expected;
        self.peer_mss = mss.max(LEAST_MSS);
        self.scaled = scale.is_some();
        self.scale = scale.unwrap_or(0);
        self.sack = sack;
        self.timestamps = timestamp.is_some();
        self.timestamp_recent = timestamp.unwrap_or(0);
        self.timestamp_recent_at = now;
        self.update_mss();
    }

    /// Both sides have agreed.
    pub(super) fn established(&mut self, now: Ns) -> Events {
        self.phase = if self.fin { Phase::FinWait1 } else { Phase::Established };
        self.retransmit.count = 0;
        self.last_heard = now;
        Events::CONNECTED
    }
}
