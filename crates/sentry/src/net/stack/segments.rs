//! TCP between the Internet layer and sockets: who a segment is for, connections that are not sockets yet or no more, and what goes out.

use std::sync::Arc;

use core::net::IpAddr;
use netstack::ip::frame::{IPV4, IPV6};
use netstack::ip::{Cutting, Header, Offload, Packet, Quoted, Sent, TCP, Way};
use netstack::tcp::{Connection, Flags, HalfOpen, Late, Outgoing, Ports, Segment, Settings, Start, TimeWait};

use super::{Entry, Half, Pair, Stack};
use crate::net::NetNamespace;
use crate::net::address::Endpoint;
use crate::net::tcp::Tcp;
use crate::time::MonoTime;

/// Bytes of a TCP header without options.
const TCP_HEADER: u32 = 20;
/// Where the checksum stands in it.
const CHECKSUM: u16 = 16;

/// What is to be done with a segment, found under the table's lock.
enum Found {
    Live(Arc<Tcp>),
    Answer(Segment, Way),
    /// The third segment of a handshake.
    Complete(Box<Half>),
    /// A SYN, from which number on at least.
    New(Option<u32>),
    Nothing,
}

impl Stack {
    pub(super) fn segment_arrives(self: &Arc<Stack>, net: &Arc<NetNamespace>, packet: &Packet<'_>, late: &mut Vec<Arc<Tcp>>) {
        let Some((segment, payload)) = Segment::parse(packet.payload) else { return };
        if packet.for_all || packet.to.is_multicast() || packet.from.is_unspecified() {
            return;
        }
        net.counters.tcp_segments.add(1);
        let near = Endpoint::new(packet.to, segment.destination);
        let pair = (near, Endpoint::new(packet.from, segment.source));
        let now = net.clock.monotonic();
        // What comes from an address of the link's own is answered there.
        let device = self.network.answers_over(packet);
        let came_over = self.network.interfaces().get(packet.interface).map_or(0, |interface| interface.index);
        match self.find(&pair, &segment, payload, device, now) {
            Found::Live(socket) if !socket.hears(packet, came_over) => {}
            Found::Live(socket) => {
                socket.segment_arrives(&segment, payload);
                if !late.iter().any(|other| Arc::ptr_eq(other, &socket)) {
                    late.push(socket);
                }
            }
            Found::Answer(answer, way) => self.send_segment(now, &way, &pair, answer),
            Found::Complete(half) => self.complete(net, pair, *half, &segment, payload, device),
            Found::New(after) if segment.has(Flags::SYN) && !segment.flags.intersects(Flags::ACK | Flags::RST) => {
                let listener = net.tcp.lock().listener(near, came_over);
                match listener {
                    Some(listener) if !listener.hears(packet, came_over) => {}
                    Some(listener) => self.begin(net, &listener, pair, &segment, after, device),
                    None => self.refuse_segment(&pair, &segment, payload.len(), device, now),
                }
            }
            Found::New(_) => match self.by_cookie(net, &pair, &segment, came_over, device) {
                Some((_, listener)) if !listener.hears(packet, came_over) => {}
                Some((half, listener)) => {
                    net.counters.syn_cookies_received.add(1);
                    // Where there is no room it is not kept either: those that are would make way for it.
                    if listener.has_room_for_connection() {
                        self.complete(net, pair, half, &segment, payload, device);
                    }
                }
                None => self.refuse_segment(&pair, &segment, payload.len(), device, now),
            },
            Found::Nothing => {}
        }
    }

    fn find(&self, pair: &Pair, segment: &Segment, payload: &[u8], device: i32, now: MonoTime) -> Found {
        let mut connections = self.connections.lock();
        match connections.get(pair) {
            None => Found::New(None),
            Some(Entry::Live(socket)) => Found::Live(socket.clone()),
            Some(Entry::HalfOpen(_, half)) => {
                if half.half.is_reset_by(segment) {
                    connections.remove(pair);
                    Found::Nothing
                } else if half.half.is_completed_by(segment) {
                    match connections.remove(pair) {
                        Some(Entry::HalfOpen(_, half)) => Found::Complete(half),
                        _ => Found::Nothing,
                    }
                } else if segment.has(Flags::SYN) && !half.half.is_same(segment) {
                    connections.remove(pair);
                    Found::New(None)
                } else if segment.has(Flags::RST) {
                    Found::Nothing
                } else {
                    Found::Answer(half.half.reply(now.0), half.way)
                }
            }
            Some(Entry::TimeWait(_, rest)) => match rest.arrives(segment, payload.len(), now.0) {
                Late::Nothing => Found::Nothing,
                Late::Answer(answer) => match self.network.route(pair.1.ip, device) {
                    Some(way) => Found::Answer(answer, way),
                    None => Found::Nothing,
                },
                Late::MakeWay(number) => {
                    connections.remove(pair);
                    Found::New(Some(number))
                }
                Late::Gone => {
                    connections.remove(pair);
                    Found::Nothing
                }
            },
        }
    }

    /// A SYN for a listener.
    fn begin(
        self: &Arc<Stack>,
        net: &Arc<NetNamespace>,
        listener: &Arc<Tcp>,
        pair: Pair,
        syn: &Segment,
        after: Option<u32>,
        device: i32,
    ) {
        let now = net.clock.monotonic();
        let Some(way) = self.network.route(pair.1.ip, device) else { return };
        // Full: as if the SYN were lost (`tcp_conn_request`).
        if !listener.has_room_for_connection() {
            return;
        }
        let settings = listener.wire_settings();
        if after.is_none() && self.connections.lock().is_full() {
            net.counters.syn_cookies_sent.add(1);
            let iss = self.cookies.give(&pair, syn.seq, HalfOpen::peer_mss(syn), now);
            let half = HalfOpen::new(self.start(&pair, &way, iss, now), syn, &settings);
            self.send_segment(now, &way, &pair, half.cookie_reply(now.0));
            return;
        }
        let iss = match after {
            // Beyond all that the old connection has used.
            Some(number) => number.wrapping_add(65_535 + 2),
            None => self.first_number(&pair, now),
        };
        let half = HalfOpen::new(self.start(&pair, &way, iss, now), syn, &settings);
        let answer = half.reply(now.0);
        self.add_half_open(pair, Half { half, listener: Arc::downgrade(listener), way });
        self.send_segment(now, &way, &pair, answer);
    }

    /// The half of a connection that was not kept, and its listener, if this is the third segment of its handshake.
    fn by_cookie(
        &self,
        net: &NetNamespace,
        pair: &Pair,
        segment: &Segment,
        came_over: i32,
        device: i32,
    ) -> Option<(Half, Arc<Tcp>)> {
        if !segment.has(Flags::ACK) || segment.flags.intersects(Flags::SYN | Flags::RST) {
            return None;
        }
        let now = net.clock.monotonic();
        let cookie = segment.ack.wrapping_sub(1);
        let mss = self.cookies.check(pair, segment.seq.wrapping_sub(1), cookie, now)?;
        let listener = net.tcp.lock().listener(pair.0, came_over)?;
        let way = self.network.route(pair.1.ip, device)?;
        let start = self.start(pair, &way, cookie, now);
        let half = HalfOpen::of_cookie(start, mss, segment, &listener.wire_settings());
        Some((Half { half, listener: Arc::downgrade(&listener), way }, listener))
    }

    /// The handshake is complete: a socket for the listener's queue.
    fn complete(
        self: &Arc<Stack>,
        net: &Arc<NetNamespace>,
        pair: Pair,
        half: Half,
        segment: &Segment,
        payload: &[u8],
        device: i32,
    ) {
        let now = net.clock.monotonic();
        let Half { half, listener, way } = half;
        let Some(listener) = listener.upgrade().filter(|listener| listener.is_listening()) else {
            self.refuse_segment(&pair, segment, payload.len(), device, now);
            return;
        };
        if !listener.has_room_for_connection() {
            // As if the segment were lost: the SYN-ACK goes again, and is answered again.
            self.add_half_open(pair, Half { half, listener: Arc::downgrade(&listener), way });
            return;
        }
        let connection = half.complete(now.0, listener.wire_settings());
        let socket = listener.new_connection(pair, connection, way);
        self.add(pair, &socket);
        socket.segment_arrives(segment, payload);
        socket.answer();
        listener.queue_connection(socket);
    }

    /// The start of a connection that a socket makes.
    pub fn connect(&self, pair: &Pair, way: &Way, settings: Settings, now: MonoTime) -> Connection {
        Connection::connect(self.start(pair, way, self.first_number(pair, now), now), settings)
    }

    fn start(&self, pair: &Pair, way: &Way, iss: u32, now: MonoTime) -> Start {
        let ports = Ports { near: pair.0.port, far: pair.1.port };
        Start { ports, iss, path_mss: self.path_mss(pair.1.ip, way, now), now: now.0 }
    }

    /// Bytes of a full segment on the way to `to`.
    fn path_mss(&self, to: IpAddr, way: &Way, now: MonoTime) -> u16 {
        mss_of(to, self.network.path_mtu(to, way, now.0))
    }

    /// From now on segments of this pair are for `socket`.
    pub fn add(&self, pair: Pair, socket: &Arc<Tcp>) {
        let old = self.connections.lock().add_live(pair, socket.clone());
        drop(old);
    }

    fn add_half_open(&self, pair: Pair, half: Half) {
        let old = self.connections.lock().add_half_open(pair, half);
        drop(old);
    }

    /// The connection is over; `rest` answers for it in TIME_WAIT.
    pub fn remove(&self, pair: Pair, rest: Option<TimeWait>, now: MonoTime) {
        let mut connections = self.connections.lock();
        let old = match rest {
            Some(rest) => connections.add_time_wait(pair, rest, now),
            None => connections.remove(&pair),
        };
        drop(connections);
        drop(old);
    }

    /// Answers a segment, with so many bytes, that belongs to nothing, over the interface `device` if that is not 0.
    pub fn refuse_segment(&self, pair: &Pair, segment: &Segment, payload: usize, device: i32, now: MonoTime) {
        if let (Some(reset), Some(way)) = (segment.reset_for(payload), self.network.route(pair.1.ip, device)) {
            self.send_segment(now, &way, pair, reset);
        }
    }

    /// Sends a segment without bytes.
    pub fn send_segment(&self, now: MonoTime, way: &Way, pair: &Pair, segment: Segment) {
        let outgoing = Outgoing { segment, payload: [&[], &[]], mss: TCP_HEADER };
        self.send_tcp(now, way, pair, Marks::default(), &outgoing);
    }

    /// Sends a segment; `Sent::TooLong` tells of a path that has become narrower.
    pub fn send_tcp(&self, now: MonoTime, way: &Way, pair: &Pair, marks: Marks, outgoing: &Outgoing<'_>) -> Sent {
        let (near, far) = pair;
        let mut head = outgoing.segment.header();
        let bytes = outgoing.bytes();
        let header = Header {
            from: near.ip,
            to: far.ip,
            protocol: TCP,
            hops: marks.hops,
            class: marks.class,
            cutting: Cutting::Nowhere,
        };
        let pseudo = header.pseudo(head.len() + bytes).folded();
        netstack::ip::checksum::put(&mut head, CHECKSUM.into(), pseudo);
        let offload = if bytes > outgoing.mss as usize {
            Offload::Segments { at: CHECKSUM, header: head.len() as u16, mss: outgoing.mss as u16 }
        } else {
            Offload::Checksum { at: CHECKSUM }
        };
        let [first, second] = outgoing.payload;
        self.network.send(now.0, way, &header, offload, &[&head, first, second])
    }

    /// A packet of ours could not be delivered.
    pub(super) fn fault(&self, net: &Arc<NetNamespace>, quoted: &Quoted<'_>) {
        if self.network.owner(quoted.from) != netstack::ip::Owner::Own {
            return;
        }
        let Some((near, far)) = quoted.ports().filter(|_| quoted.protocol == TCP) else {
            self.datagram_fault(net, quoted);
            return;
        };
        let pair = (Endpoint::new(quoted.from, near), Endpoint::new(quoted.to, far));
        let socket = match self.connections.lock().get(&pair) {
            Some(Entry::Live(socket)) => socket.clone(),
            _ => return,
        };
        let number = quoted.transport.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        socket.fault(self, quoted.fault, number);
    }
}

/// What a segment is marked with.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    pub hops: u8,
    pub class: u8,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks { hops: 64, class: 0 }
    }
}

/// Bytes of a full segment in packets of `mtu` bytes.
pub fn mss_of(to: IpAddr, mtu: u32) -> u16 {
    let head = if to.is_ipv4() { IPV4 } else { IPV6 };
    u16::try_from(mtu.saturating_sub(head as u32 + TCP_HEADER)).unwrap_or(u16::MAX)
}
