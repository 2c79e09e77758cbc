//! TCP, one connection at a time (RFC 9293), without addresses, locks or timers of its own.
//!
//! [`Connection`] is fed segments ([`Connection::arrives`], in `receive`) and asked for what it wants to send ([`Connection::transmit`]); it tells
//! when it wants to be looked at again ([`Connection::deadline`]). Bytes that came in order are handed out at once and counted as unread until
//! the caller says otherwise, so the window is right wherever they are kept. [`HalfOpen`] and [`TimeWait`] are what a connection is before
//! and after: a few words each.
//!
//! What it does: window scaling and timestamps (RFC 7323), selective acknowledgements both ways (2018, with recovery in the manner of 6675),
//! CUBIC (9438), retransmission times (6298), delayed acknowledgements, Nagle's algorithm, zero-window probes, keepalive, challenge ACKs (5961).
//! Not there: ECN, fast open, RACK.

mod congestion;
mod half;
mod receive;
mod reorder;
mod ring;
mod rtt;
pub mod segment;
pub mod seq;
mod timers;
mod transmit;

#[cfg(test)]
mod tests;

pub use half::{HalfOpen, Late, TimeWait};
pub use segment::{Flags, Segment};
pub use transmit::Outgoing;

use crate::{MILLISECOND, Ns, SECOND};
use congestion::Congestion;
use reorder::Reorder;
use ring::Ring;
use rtt::Rtt;
use seq::before;
use transmit::GSO_MOST;

/// The scale of our own windows.
const WINDOW_SCALE: u8 = 7;
/// The least segment a peer may ask for: smaller ones are a way to make us work (`TCP_MIN_MSS`).
const LEAST_MSS: u16 = 88;
/// Without an option.
const DEFAULT_MSS: u16 = 536;
/// Bytes that timestamps take of each segment.
const TIMESTAMPS: u32 = 12;
/// The first window in bytes, as Linux's. It grows with what is read, so that a connection which nobody reads cannot hold more.
const FIRST_WINDOW: usize = 65_535;
/// Acknowledgements that go at once at the start, and when the program asks for them.
const QUICK: u32 = 8;
/// How long an acknowledgement may wait for data to go with.
const DELAYED_ACK: Ns = 40 * MILLISECOND;

/// RFC 9293's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// Why a connection ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Refused,
    Reset,
    TimedOut,
}

bitflags::bitflags! {
    /// What has happened, for whoever holds the connection.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Events: u8 {
        /// It is there.
        const CONNECTED = 0x01;
        /// Bytes have been handed out.
        const READABLE = 0x02;
        /// There is more room to send.
        const WRITABLE = 0x04;
        /// The peer sends no more.
        const FIN = 0x08;
        /// It is over: [`Connection::failure`] says whether by an error.
        const CLOSED = 0x10;
        /// Both sides are done; what is left is [`Connection::time_wait`].
        const TIME_WAIT = 0x20;
        /// The segment belongs to nothing that is or was: a reset is the answer.
        const ANSWER_RESET = 0x40;
        /// The peer has told of urgent data: [`Connection::urgent_ahead`].
        const URGENT = 0x80;
    }
}

/// Probes of a quiet connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    pub idle: Ns,
    pub interval: Ns,
    pub count: u32,
}

/// When short segments wait for more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coalesce {
    /// While something is on its way (Nagle).
    #[default]
    Nagle,
    /// Never (`TCP_NODELAY`).
    Never,
    /// For up to 200 ms (`TCP_CORK`, `MSG_MORE`).
    Cork,
}

/// What the program has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub coalesce: Coalesce,
    pub keep_alive: Option<KeepAlive>,
    /// How long sent data may stay without an answer; 0: as long as retries last (`TCP_USER_TIMEOUT`).
    pub user_timeout: Ns,
    /// Repeated SYNs (`TCP_SYNCNT`).
    pub syn_retries: u32,
    /// Most bytes that may wait to be read, once the program has shown that it reads as many.
    pub window: usize,
    /// So many of these even before it has read any: it waits until they are there (`SO_RCVLOWAT`).
    pub least_window: usize,
    /// How long the side that closed waits for the other's FIN once nobody holds it (`tcp_fin_timeout`, `TCP_LINGER2`).
    pub fin_timeout: Ns,
    /// Largest segment to send and to ask for (`TCP_MAXSEG`); 0: by the path.
    pub max_segment: u16,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            coalesce: Coalesce::Nagle,
            keep_alive: None,
            user_timeout: 0,
            syn_retries: 6,
            window: 65_535,
            least_window: 0,
            fin_timeout: 60 * SECOND,
            max_segment: 0,
        }
    }
}

impl Settings {
    /// The largest segment to ask for on such a path.
    fn asked_mss(&self, path_mss: u16) -> u16 {
        if self.max_segment == 0 { path_mss } else { self.max_segment.min(path_mss) }
    }
}

/// The two ports, near end first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub near: u16,
    pub far: u16,
}

/// What a connection starts from.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub ports: Ports,
    /// Our first sequence number: not to be guessed.
    pub iss: u32,
    /// Bytes of a full segment on this path, headers of IP and TCP taken off.
    pub path_mss: u16,
    pub now: Ns,
}

#[derive(Debug, Clone)]
struct Retry {
    at: Option<Ns>,
    /// Waits in vain so far.
    count: u32,
}

#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    phase: Phase,
    settings: Settings,
    failure: Option<Failure>,
    /// Nobody holds it any more.
    orphan: bool,

    // Sending.
    ring: Ring,
    iss: u32,
    /// First byte that is not acknowledged, next to be sent, first that never was.
    una: u32,
    next: u32,
    max: u32,
    /// After the last byte comes a FIN.
    fin: bool,
    /// The peer's window in bytes, its scale, the largest it ever was, and the segment it came with.
    window: u32,
    scale: u8,
    max_window: u32,
    window_seq: u32,
    window_ack: u32,
    path_mss: u16,
    peer_mss: u16,
    mss: u32,
    /// More bytes are to come soon (`MSG_MORE`).
    more: bool,
    /// The last urgent byte's successor, until that is acknowledged.
    urgent: Option<u32>,

    // Receiving.
    expected: u32,
    /// Right edge of the window that was told.
    edge: u32,
    unread: usize,
    /// Bytes that may wait to be read so far, and those read since that grew.
    grown: usize,
    read_since: usize,
    reorder: Reorder,
    fin_at: Option<u32>,
    fin_received: bool,
    /// The urgent byte that the peer has told of last.
    peer_urgent: Option<u32>,

    // Options agreed on.
    scaled: bool,
    sack: bool,
    timestamps: bool,
    timestamp_recent: u32,
    timestamp_recent_at: Ns,
    timestamp_offset: u32,

    // Loss.
    rtt: Rtt,
    congestion: Congestion,
    duplicates: u32,
    /// In recovery: until this is acknowledged.
    recovery: Option<u32>,
    sacked: Vec<(u32, u32)>,
    /// In recovery: up to here holes have been filled.
    refilled: u32,
    /// Without timestamps: a byte and when it was sent.
    timing: Option<(u32, Ns)>,

    // Time.
    retransmit: Retry,
    probe: Retry,
    keep: Retry,
    ack_at: Option<Ns>,
    cork_at: Option<Ns>,
    end_at: Option<Ns>,
    last_heard: Ns,
    /// Since when something has been without an answer.
    waiting_since: Option<Ns>,
    ack_now: bool,
    /// Bytes received since the last acknowledgement, and acknowledgements still to be sent at once.
    unacked: u32,
    quick: u32,
    challenges: (Ns, u32),

    pub counts: Counts,
}

/// For `TCP_INFO`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub bytes_sent: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segments_sent: u64,
    pub segments_received: u64,
    pub retransmits: u64,
}

impl Connection {
    /// Begins to connect: the SYN is what it sends first.
    pub fn connect(start: Start, settings: Settings) -> Connection {
        Connection::new(start, settings, Phase::SynSent)
    }

    fn new(start: Start, settings: Settings, phase: Phase) -> Connection {
        let none = Retry { at: None, count: 0 };
        let mss = u32::from(start.path_mss.max(LEAST_MSS)).min(GSO_MOST);
        Connection {
            ports: start.ports,
            phase,
            settings,
            failure: None,
            orphan: false,
            ring: Ring::default(),
            iss: start.iss,
            una: start.iss,
            next: start.iss,
            max: start.iss,
            fin: false,
            window: 0,
            scale: 0,
            max_window: 0,
            window_seq: 0,
            window_ack: 0,
            path_mss: start.path_mss,
            peer_mss: DEFAULT_MSS,
            mss,
            more: false,
            urgent: None,
            expected: 0,
            edge: 0,
            unread: 0,
            grown: FIRST_WINDOW,
            read_since: 0,
            reorder: Reorder::default(),
            fin_at: None,
            fin_received: false,
            peer_urgent: None,
            scaled: false,
            sack: false,
            timestamps: false,
            timestamp_recent: 0,
            timestamp_recent_at: 0,
            timestamp_offset: timestamp_offset(start.iss),
            rtt: Rtt::default(),
            congestion: Congestion::new(mss),
            duplicates: 0,
            recovery: None,
            sacked: Vec::new(),
            refilled: 0,
            timing: None,
            retransmit: none.clone(),
            probe: none.clone(),
            keep: none,
            ack_at: None,
            cork_at: None,
            end_at: None,
            last_heard: start.now,
            waiting_since: None,
            ack_now: false,
            unacked: 0,
            quick: QUICK,
            challenges: (0, 0),
            counts: Counts::default(),
        }
    }

    /// What has been written so far ends with urgent data.
    pub fn mark_urgent(&mut self) {
        self.urgent = Some(self.fin_seq());
    }

    /// How far the urgent byte that the peer has told of is beyond what has been handed out; below 0 if it was among that.
    pub fn urgent_ahead(&self) -> Option<i32> {
        // A FIN has a number too, and is no byte.
        let next = self.expected.wrapping_sub(self.fin_received.into());
        self.peer_urgent.map(|at| at.wrapping_sub(next) as i32)
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The program has changed something.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.update_mss();
        self.tell_of_room();
    }

    /// The path takes segments of so many bytes only.
    pub fn set_path_mss(&mut self, mss: u16) {
        if mss < self.path_mss {
            self.path_mss = mss.max(LEAST_MSS);
            self.update_mss();
            // What was too large is lost.
            if before(self.una, self.max) && self.phase != Phase::SynSent {
                self.next = self.una;
            }
        }
    }

    fn update_mss(&mut self) {
        let mss = u32::from(self.settings.asked_mss(self.path_mss).min(self.peer_mss)).max(u32::from(LEAST_MSS));
        let mss = if self.timestamps { mss.saturating_sub(TIMESTAMPS).max(32) } else { mss };
        // At least one full segment fits into a packet.
        let mss = mss.min(GSO_MOST);
        if mss != self.mss {
            self.mss = mss;
            self.congestion.set_mss(mss);
        }
    }

    /// Bytes of a segment that is sent.
    pub fn mss(&self) -> u32 {
        self.mss
    }

    /// Bytes that were written and are not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.ring.len()
    }

    /// Bytes of memory for what was written.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Gives that memory back if nothing is in it.
    pub fn trim(&mut self) {
        self.ring.trim();
    }

    /// Bytes that are kept until those in front of them come.
    pub fn out_of_order(&self) -> usize {
        self.reorder.len()
    }

    /// There is no room for them: the peer must send them again, though it may have been told that they are here (RFC 2018, 8).
    pub fn forget_out_of_order(&mut self) {
        self.reorder = Reorder::default();
    }

    /// A place for at most `most` bytes to be sent; [`Connection::written`] says how many there are.
    pub fn spare(&mut self, most: usize) -> &mut [u8] {
        self.ring.spare(most)
    }

    /// The first `bytes` of the spare place are to be sent.
    pub fn written(&mut self, bytes: usize) {
        self.ring.commit(bytes);
        self.counts.bytes_sent += bytes as u64;
    }

    /// Whether more is to come at once (`MSG_MORE`).
    pub fn set_more(&mut self, more: bool) {
        self.more = more;
    }

    /// Whether bytes may be written.
    pub fn may_write(&self) -> bool {
        matches!(self.phase, Phase::Established | Phase::CloseWait) && !self.fin
    }

    /// At most so many bytes may wait to be read from now on.
    pub fn set_window(&mut self, bytes: usize) {
        self.settings.window = bytes;
    }

    /// Bytes that may wait to be read now.
    fn window_limit(&self) -> usize {
        self.settings.window.min(self.grown.max(self.settings.least_window))
    }

    /// Whether so little of the window is left that the peer may send nothing more before something is read.
    pub fn is_window_used_up(&self) -> bool {
        let limit = self.window_limit();
        let left = limit.saturating_sub(self.unread).max(seq::distance(self.expected, self.edge) as usize);
        // What is not worth telling of, and less than a segment.
        left < (limit / 2).min(2 * self.mss as usize) + self.mss as usize
    }

    /// Bytes that were written and have never been sent.
    pub fn unsent(&self) -> usize {
        seq::distance(seq::later(self.max, self.data_start()), self.fin_seq()) as usize
    }

    /// What comes is acknowledged at once, for a while (`TCP_QUICKACK`).
    pub fn acknowledge_quickly(&mut self) {
        self.quick = QUICK;
        self.ack_now |= self.unacked > 0;
    }

    /// The next that is transmitted tells the peer what is here and what there is room for, whether or not there is something new.
    pub fn acknowledge_now(&mut self) {
        self.ack_now |= !matches!(self.phase, Phase::SynSent | Phase::SynReceived | Phase::Closed);
    }

    /// Acknowledgements wait for something to go with.
    pub fn acknowledge_late(&mut self) {
        self.quick = 0;
    }

    /// Whether a byte with this number is on its way: what an ICMP error must quote.
    pub fn has_sent(&self, number: u32) -> bool {
        seq::until(self.una, number) && before(number, self.max)
    }

    /// `bytes` of those handed out have been read. Says whether the peer must hear of it: the caller transmits then.
    pub fn read(&mut self, bytes: usize) -> bool {
        self.unread = self.unread.saturating_sub(bytes);
        // It reads: whoever has read half a window may have twice as much (in the manner of `tcp_rcv_space_adjust`).
        self.read_since = self.read_since.saturating_add(bytes);
        if self.read_since >= self.grown / 2 && self.grown < self.settings.window {
            (self.grown, self.read_since) = (self.grown.saturating_mul(2), 0);
        }
        self.tell_of_room();
        self.ack_now
    }

    /// Sees to it that the peer hears of a window that is much wider than it knows.
    fn tell_of_room(&mut self) {
        let open = seq::distance(self.expected, self.edge) as usize;
        let limit = self.window_limit();
        let could = limit.saturating_sub(self.unread);
        let worth = (limit / 2).clamp(self.mss as usize, 256 << 10).min(limit.max(1));
        if could.saturating_sub(open) >= worth && !matches!(self.phase, Phase::SynSent | Phase::Closed) {
            self.ack_now = true;
        }
    }

    /// Nothing will be written any more: a FIN follows the last byte.
    pub fn finish(&mut self) {
        self.phase = match self.phase {
            Phase::Established => Phase::FinWait1,
            Phase::CloseWait => Phase::LastAck,
            other => other,
        };
        self.fin |= matches!(self.phase, Phase::SynReceived | Phase::FinWait1 | Phase::LastAck);
        self.more = false;
    }

    /// Nobody will read or write any more; it ends by itself.
    pub fn abandon(&mut self, now: Ns) {
        self.orphan = true;
        if self.phase == Phase::FinWait2 {
            self.end_at = Some(now + self.settings.fin_timeout);
        }
    }

    /// The reset that ends it at once.
    pub fn abort(&mut self) -> Option<Segment> {
        let known = !matches!(self.phase, Phase::SynSent | Phase::Closed | Phase::TimeWait);
        self.end(self.failure);
        known.then(|| self.reset())
    }

    /// The segment that says it is over.
    fn reset(&self) -> Segment {
        Segment {
            source: self.ports.near,
            destination: self.ports.far,
            seq: self.max,
            ack: self.expected,
            flags: Flags::RST | Flags::ACK,
            ..Segment::default()
        }
    }

    /// What is left after both FINs.
    pub fn time_wait(&self) -> TimeWait {
        TimeWait {
            ports: self.ports,
            next: self.max,
            expected: self.expected,
            timestamp: self.timestamps.then_some((self.timestamp_recent, self.timestamp_offset)),
        }
    }

    /// A measured and smoothed round trip in nanoseconds, its variation, and the least.
    pub fn round_trip(&self) -> (Ns, Ns, Ns) {
        (self.rtt.smoothed, self.rtt.variation, self.rtt.least)
    }

    /// Bytes that may be on their way, and the threshold of slow start.
    pub fn congestion(&self) -> (u32, u32) {
        (self.congestion.window, self.congestion.threshold)
    }

    /// The time to wait for an answer.
    pub fn timeout(&self) -> Ns {
        self.rtt.timeout(self.retransmit.count)
    }

    /// Options agreed on as `tcpi_options` has them (timestamps, SACK, scaling), and the two scales.
    pub fn agreed(&self) -> (u8, u8, u8) {
        let bits = u8::from(self.timestamps) | u8::from(self.sack) << 1 | u8::from(self.scaled) << 2;
        (bits, self.scale, if self.scaled { WINDOW_SCALE } else { 0 })
    }

    fn end(&mut self, failure: Option<Failure>) -> Events {
        self.phase = Phase::Closed;
        self.failure = failure;
        (self.retransmit.at, self.probe.at, self.keep.at) = (None, None, None);
        (self.ack_at, self.cork_at, self.end_at, self.ack_now) = (None, None, None, false);
        self.ring.skip(usize::MAX);
        self.forget_out_of_order();
        Events::CLOSED
    }

    /// The sequence number of the ring's first byte.
    fn data_start(&self) -> u32 {
        if self.una == self.iss { self.iss.wrapping_add(1) } else { self.una }
    }

    /// The sequence number of the FIN, sent or not.
    fn fin_seq(&self) -> u32 {
        self.data_start().wrapping_add(self.ring.len() as u32)
    }

    /// Whether the FIN is to be sent, or sent and not acknowledged.
    fn owes_fin(&self) -> bool {
        self.fin && matches!(self.phase, Phase::FinWait1 | Phase::Closing | Phase::LastAck)
    }

    fn timestamp(&self, now: Ns) -> u32 {
        timestamp(now, self.timestamp_offset)
    }
}

/// What timestamps count from, on a connection that starts with this number: they shall not tell how long the machine has been up.
fn timestamp_offset(iss: u32) -> u32 {
    iss.rotate_left(11)
}

/// Milliseconds: what goes into a segment that is sent now.
fn timestamp(now: Ns, offset: u32) -> u32 {
    ((now / MILLISECOND) as u32).wrapping_add(offset)
}
