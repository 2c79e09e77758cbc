//! Options of level `SOL_TCP`. On loopback, where there are no segments, those about segments and their timing are kept and given back, and no more;
//! over the wire most are the connection's [`Settings`], and `TCP_QUICKACK` and `TCP_NOTSENT_LOWAT` (in `wire`) have their effect as well.
//! `TCP_DEFER_ACCEPT` and `TCP_INQ` have theirs on both. Kept everywhere, and no more: `TCP_CONGESTION` (over the wire always CUBIC),
//! `TCP_THIN_*`, `TCP_SAVE_SYN` (there is no `TCP_SAVED_SYN`).
//!
//! What the program has not set is the namespace's ([`TcpValues`]), at the time when it counts.

use netstack::tcp::{Coalesce, Connection, KeepAlive, Settings};
use netstack::{MILLISECOND, SECOND};
use smallvec::SmallVec;

use super::wire::Acknowledge;
use super::{Phase, Tcp, low_water};
use crate::Errno;
use crate::net::IPPROTO_TCP;
use crate::net::ip::{Ints, Row, Takes, row};
use crate::net::options::{LARGEST_FORCED, OptionIn, SMALLEST_SEND, SockFlags, int};
use crate::net::socket::OptionBytes;
use crate::net::tunables::TcpValues;

const NODELAY: i32 = 1;
const MAXSEG: i32 = 2;
const CORK: i32 = 3;
const KEEPIDLE: i32 = 4;
const KEEPINTVL: i32 = 5;
const KEEPCNT: i32 = 6;
const SYNCNT: i32 = 7;
const DEFER_ACCEPT: i32 = 9;
const WINDOW_CLAMP: i32 = 10;
const LINGER2: i32 = 8;
const INFO: i32 = 11;
const QUICKACK: i32 = 12;
const CONGESTION: i32 = 13;
const MD5SIG: i32 = 14;
const USER_TIMEOUT: i32 = 18;
const REPAIR: i32 = 19;
const ULP: i32 = 31;
const FASTOPEN: i32 = 23;
const NOTSENT_LOWAT: i32 = 25;
pub(super) const INQ: i32 = 36;

/// Longest wait for the peer's FIN that a program may ask for (`TCP_FIN_TIMEOUT_MAX`), in seconds.
const LONGEST_LINGER: i32 = 120;
/// Largest segment on the loopback interface.
const LOOPBACK_MSS: i32 = 65_483;
const DEFAULT_MSS: i32 = 536;

const ROWS: &[Row] = &[
    row(IPPROTO_TCP, 1, 0, Takes::Bool), // TCP_NODELAY
    row(IPPROTO_TCP, 3, 0, Takes::Bool), // TCP_CORK
    // Of these, 0 is the namespace's.
    row(IPPROTO_TCP, KEEPIDLE, 0, Takes::Range(1, 32_767)),
    row(IPPROTO_TCP, KEEPINTVL, 0, Takes::Range(1, 32_767)),
    row(IPPROTO_TCP, KEEPCNT, 0, Takes::Range(1, 127)),
    row(IPPROTO_TCP, SYNCNT, 0, Takes::Range(1, 127)),
    row(IPPROTO_TCP, LINGER2, 0, Takes::Range(-1, LONGEST_LINGER)),
    row(IPPROTO_TCP, DEFER_ACCEPT, 0, Takes::Range(0, i32::MAX)),
    row(IPPROTO_TCP, 10, 0, Takes::Range(0, i32::MAX)), // TCP_WINDOW_CLAMP
    row(IPPROTO_TCP, QUICKACK, 1, Takes::Bool),
    row(IPPROTO_TCP, 16, 0, Takes::StrictBool),         // TCP_THIN_LINEAR_TIMEOUTS
    row(IPPROTO_TCP, 17, 0, Takes::StrictBool),         // TCP_THIN_DUPACK
    row(IPPROTO_TCP, 18, 0, Takes::Range(0, i32::MAX)), // TCP_USER_TIMEOUT
    row(IPPROTO_TCP, 24, 0, Takes::Range(i32::MIN, i32::MAX)), // TCP_TIMESTAMP
    row(IPPROTO_TCP, NOTSENT_LOWAT, 0, Takes::Range(i32::MIN, i32::MAX)),
    row(IPPROTO_TCP, 27, 0, Takes::Range(0, 2)), // TCP_SAVE_SYN
    row(IPPROTO_TCP, INQ, 0, Takes::StrictBool),
];

/// Sizes in bytes of a buffer with these values of the namespace: at first, and what it grows to as it is used.
pub(super) fn buffer([_, first, most]: [u32; 3]) -> (usize, usize) {
    let size = |bytes: u32| (bytes as usize).clamp(SMALLEST_SEND, LARGEST_FORCED);
    (size(first), size(most).max(size(first)))
}

/// Linux counts in retransmissions, which come after 1, 2, 4 … seconds: rounded up to their sum.
fn retransmissions(seconds: i32) -> i32 {
    let sums = (1..=7).map(|n| (1 << n) - 1);
    if seconds <= 0 { 0 } else { sums.clone().find(|&sum| sum >= seconds).unwrap_or(127) }
}

#[derive(Debug, Clone)]
pub struct TcpOptions {
    ints: Ints,
    max_segment: i32,
    pub(in crate::net) congestion: &'static str,
    inq: bool,
    /// Bytes not sent yet from which on no more are taken (`TCP_NOTSENT_LOWAT`).
    pub(super) most_unsent: usize,
}

impl TcpOptions {
    /// `TCP_INQ`
    pub(super) fn tells_queue(&self) -> bool {
        self.inq
    }

    /// `TCP_NOTSENT_LOWAT`
    fn set_most_unsent(&mut self, bytes: i32) -> Result<(), Errno> {
        self.ints.set(ROWS, IPPROTO_TCP, NOTSENT_LOWAT, bytes)?;
        self.most_unsent = if bytes == 0 { usize::MAX } else { bytes as u32 as usize };
        Ok(())
    }

    /// Of those that the namespace has a value for.
    fn or(&self, name: i32, values: &TcpValues) -> i32 {
        let set = self.ints.get(ROWS, IPPROTO_TCP, name).unwrap_or(0);
        match (set, name) {
            (0, KEEPIDLE) => values.keep_idle,
            (0, KEEPINTVL) => values.keep_interval,
            (0, KEEPCNT) => values.keep_probes.into(),
            (0, SYNCNT) => values.syn_retries.into(),
            (0, LINGER2) => values.fin_timeout,
            (set, _) => set,
        }
    }

    /// Seconds of `TCP_DEFER_ACCEPT`; 0 is off.
    pub(super) fn defers_accept(&self) -> i32 {
        self.ints.get(ROWS, IPPROTO_TCP, DEFER_ACCEPT).unwrap_or(0)
    }
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions { ints: Ints::new(ROWS), max_segment: 0, congestion: "cubic", inq: false, most_unsent: usize::MAX }
    }
}

impl Tcp {
    /// `TCP_NOTSENT_LOWAT`
    #[cfg(test)]
    pub(in crate::net) fn set_most_unsent(&self, bytes: i32) {
        self.tcp.lock().set_most_unsent(bytes).expect("a value");
    }

    /// What the options mean for a connection over the wire.
    pub(in crate::net) fn wire_settings(&self) -> Settings {
        let (flags, receive_buffer, low_water) = {
            let options = self.options.lock();
            (options.flags, options.receive_buffer, low_water(&options))
        };
        let values = self.net.tcp_values();
        let tcp = self.tcp.lock();
        let int = |name: i32| tcp.or(name, &values);
        let number = |name: i32| u64::from(int(name).unsigned_abs());
        // Probes without a pause would never end.
        let pause = |name: i32| int(name).max(1).unsigned_abs() as u64 * SECOND;
        let fixed = flags.contains(SockFlags::RCVBUF_LOCK);
        let window = if fixed { receive_buffer } else { receive_buffer.max(buffer(values.receive).1) };
        let clamp = int(WINDOW_CLAMP);
        Settings {
            coalesce: match (int(CORK), int(NODELAY)) {
                (0, 0) => Coalesce::Nagle,
                (0, _) => Coalesce::Never,
                _ => Coalesce::Cork,
            },
            keep_alive: flags.contains(SockFlags::KEEPALIVE).then(|| KeepAlive {
                idle: pause(KEEPIDLE),
                interval: pause(KEEPINTVL),
                count: number(KEEPCNT) as u32,
            }),
            user_timeout: number(USER_TIMEOUT) * MILLISECOND,
            syn_retries: number(SYNCNT) as u32,
            fin_timeout: u64::from(int(LINGER2).max(0).unsigned_abs()) * SECOND,
            window: if clamp > 0 { window.min(clamp as usize) } else { window },
            // Twice as much: what is told of a window is a little less.
            least_window: 2 * low_water,
            max_segment: tcp.max_segment as u16,
        }
    }

    pub(super) fn set_tcp_option(&self, name: i32, value: OptionIn<'_>) -> Result<(), Errno> {
        match name {
            CONGESTION => return self.set_congestion(value),
            // No upper-layer protocol (TLS) is there.
            ULP if value.len == 0 => return Err(Errno::EINVAL),
            ULP => return Err(Errno::ENOENT),
            INFO | MD5SIG | FASTOPEN => return Err(Errno::ENOPROTOOPT),
            _ => {}
        }
        let n = value.int()?;
        let mut options = self.tcp.lock();
        match name {
            MAXSEG if n != 0 && !(88..=32_767).contains(&n) => Err(Errno::EINVAL),
            MAXSEG => {
                options.max_segment = n;
                Ok(())
            }
            REPAIR => Err(Errno::EPERM),
            // A clamp of 0 is for unconnected sockets; a smaller one than the least buffer is rounded up.
            10 if n == 0 && !matches!(self.state.lock().phase, Phase::Closed) => Err(Errno::EINVAL),
            10 if n > 0 => options.ints.set(ROWS, IPPROTO_TCP, name, n.max(1152)),
            DEFER_ACCEPT => options.ints.set(ROWS, IPPROTO_TCP, name, retransmissions(n)),
            24 => Err(Errno::EPERM),
            LINGER2 => options.ints.set(ROWS, IPPROTO_TCP, LINGER2, n.clamp(-1, LONGEST_LINGER)),
            QUICKACK => {
                options.ints.set(ROWS, IPPROTO_TCP, QUICKACK, n)?;
                drop(options);
                self.acknowledge(if n == 0 { Acknowledge::Late } else { Acknowledge::Quickly });
                Ok(())
            }
            INQ => {
                options.ints.set(ROWS, IPPROTO_TCP, INQ, n)?;
                options.inq = n != 0;
                Ok(())
            }
            NOTSENT_LOWAT => options.set_most_unsent(n),
            _ => options.ints.set(ROWS, IPPROTO_TCP, name, n),
        }
    }

    fn set_congestion(&self, value: OptionIn<'_>) -> Result<(), Errno> {
        if value.len < 1 {
            return Err(Errno::EINVAL);
        }
        let bytes = value.bytes(15)?;
        let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let known = ["reno", "cubic"].into_iter().find(|known| known.as_bytes() == name);
        self.tcp.lock().congestion = known.ok_or(Errno::ENOENT)?;
        Ok(())
    }

    pub(super) fn tcp_option(&self, name: i32) -> Result<OptionBytes, Errno> {
        let options = self.tcp.lock().clone();
        match name {
            MAXSEG => {
                let connected = matches!(self.state.lock().phase, Phase::Connected);
                if let Some(wire) = self.wire().filter(|_| connected) {
                    return Ok(int(wire.connection.lock().mss() as i32));
                }
                Ok(int(match (options.max_segment, connected) {
                    (0, true) => LOOPBACK_MSS,
                    (0, false) => DEFAULT_MSS,
                    (set, true) => set.min(LOOPBACK_MSS),
                    (set, false) => set,
                }))
            }
            CONGESTION => {
                let mut name: OptionBytes = SmallVec::from_slice(options.congestion.as_bytes());
                name.resize(16, 0);
                Ok(name)
            }
            INFO => Ok(self.info()),
            ULP => Ok(OptionBytes::new()),
            KEEPIDLE | KEEPINTVL | KEEPCNT | SYNCNT | LINGER2 => Ok(int(options.or(name, &self.net.tcp_values()))),
            _ => Ok(int(options.ints.get(ROWS, IPPROTO_TCP, name).ok_or(Errno::ENOPROTOOPT)?)),
        }
    }

    /// `struct tcp_info`: the state and what has been moved; the rest is as of a quiet loopback connection.
    pub(in crate::net) fn info(&self) -> OptionBytes {
        let number = self.state_number();
        let state = self.state.lock();
        let mut info: OptionBytes = SmallVec::from_elem(0, 248);
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = info.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        let listening = match &state.phase {
            Phase::Listening(listener) => Some((listener.queue.len() as u32, listener.most as u32)),
            _ => None,
        };
        put(0, &[number]);
        // Timestamps, SACK, window scaling, both scales 7.
        put(5, &[0x7, 0x77]);
        put(8, &200_000u32.to_le_bytes());
        put(12, &40_000u32.to_le_bytes());
        put(16, &(LOOPBACK_MSS as u32).to_le_bytes());
        put(20, &(LOOPBACK_MSS as u32).to_le_bytes());
        // For a listener: waiting and most (tcpi_unacked, tcpi_sacked).
        if let Some((waiting, most)) = listening {
            put(24, &waiting.to_le_bytes());
            put(28, &most.to_le_bytes());
        }
        put(60, &65_536u32.to_le_bytes()); // tcpi_pmtu
        put(64, &65_536u32.to_le_bytes()); // tcpi_rcv_ssthresh
        put(68, &20u32.to_le_bytes()); // tcpi_rtt in µs
        put(72, &10u32.to_le_bytes()); // tcpi_rttvar
        put(76, &0x7fff_ffffu32.to_le_bytes()); // tcpi_snd_ssthresh
        put(80, &10u32.to_le_bytes()); // tcpi_snd_cwnd
        put(84, &(LOOPBACK_MSS as u32).to_le_bytes()); // tcpi_advmss
        put(88, &3u32.to_le_bytes()); // tcpi_reordering
        put(104, &u64::MAX.to_le_bytes()); // tcpi_pacing_rate
        put(112, &u64::MAX.to_le_bytes());
        put(120, &state.bytes_sent.to_le_bytes()); // tcpi_bytes_acked
        put(128, &state.bytes_received.to_le_bytes());
        put(200, &state.bytes_sent.to_le_bytes()); // tcpi_bytes_sent
        let wire = state.wire.clone();
        drop(state);
        if let Some(wire) = wire {
            wire_info(&wire.connection.lock(), &mut info);
        }
        info
    }
}

/// What a connection over the wire knows better.
fn wire_info(connection: &Connection, info: &mut OptionBytes) {
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = info.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    let (options, peer_scale, own_scale) = connection.agreed();
    let mss = connection.mss();
    let (window, threshold) = connection.congestion();
    let (smoothed, variation, least) = connection.round_trip();
    let micros = |ns: u64| (ns / 1000).min(u32::MAX.into()) as u32;
    let counts = connection.counts;
    put(5, &[options, peer_scale | (own_scale << 4)]);
    for (at, value) in [
        (8, micros(connection.timeout())),
        (16, mss),
        (20, mss),
        (24, (connection.unacknowledged() as u32).div_ceil(mss.max(1))), // tcpi_unacked
        (60, mss + 52),                                                  // tcpi_pmtu
        (68, micros(smoothed)),
        (72, micros(variation)),
        (76, if threshold == u32::MAX { 0x7fff_ffff } else { threshold / mss.max(1) }),
        (80, window / mss.max(1)),
        (84, mss),
        (100, counts.retransmits.min(u32::MAX.into()) as u32), // tcpi_total_retrans
        (136, counts.segments_sent as u32),
        (140, counts.segments_received as u32),
        (148, micros(least)),
    ] {
        put(at, &value.to_le_bytes());
    }
    put(120, &counts.bytes_acked.to_le_bytes());
    put(128, &counts.bytes_received.to_le_bytes());
    put(200, &counts.bytes_sent.to_le_bytes());
}
