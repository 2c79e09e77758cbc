//! Packet sockets (packet(7)): whole frames of the namespace's interfaces, to those who rule it (`CAP_NET_RAW`).
//!
//! [`Taps`] has them all. The stack shows it each frame that comes or goes over a link; datagram sockets show what stays on the loopback
//! interface, where there are no frames, as frames would look. TCP on the loopback interface has no segments and is not seen. What is not read
//! is bounded by each socket's receive buffer, and counted for the namespace.

mod api;
mod ring;

pub use api::To;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use core::net::IpAddr;
use netstack::ip::frame::{self, ETHERNET};
use netstack::ip::{Cutting, Header};
use parking_lot::Mutex;

use super::devices::{ARPHRD_ETHER, ARPHRD_LOOPBACK};
use super::filter::{self, View};
use super::options::SocketOptions;
use super::socket::{Kind, SOCK_DGRAM, SOCK_RAW, Socket};
use super::{AF_PACKET, LOOPBACK, NetNamespace};
use crate::Errno;
use crate::task::{Capability, Cx};
use crate::time::Clock;
use crate::wait::{PollEvents, WaitQueue};
use ring::Ring;

/// `ETH_P_ALL`; and the least number that is a protocol's, smaller ones being lengths.
const ALL: u16 = 3;
/// What a frame costs of the receive buffer beyond its bytes.
const OVERHEAD: usize = 512;

/// `PACKET_*`: whose a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Whose {
    Host = 0,
    Broadcast = 1,
    Multicast = 2,
    Other = 3,
    Outgoing = 4,
}

/// All packet sockets of a namespace.
pub struct Taps {
    clock: Clock,
    open: AtomicUsize,
    sockets: Mutex<Vec<Weak<PacketSocket>>>,
}

/// A frame that passes.
#[derive(Debug, Clone, Copy)]
pub struct Passing<'a> {
    /// From its Ethernet header on.
    pub frame: &'a [u8],
    pub device: i32,
    /// `ARPHRD_*`
    pub hardware: u16,
    pub whose: Whose,
    /// The transport's checksum is left to the link.
    pub unfinished: bool,
}

pub struct PacketSocket {
    net: Arc<NetNamespace>,
    /// `SOCK_RAW`: frames; `SOCK_DGRAM`: what is behind Ethernet's header.
    kind: i32,
    id: u64,
    uid: u32,
    ino: AtomicU64,
    options: Mutex<SocketOptions>,
    state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    /// `ETH_P_*`; 0: nothing is received.
    protocol: u16,
    /// 0: all.
    device: i32,
    inbox: VecDeque<Frame>,
    queued: usize,
    /// Since they were last asked for.
    packets: u32,
    drops: u32,
    auxiliary: bool,
    ignores_outgoing: bool,
    /// The version of its ring's headers, if it will have one.
    version: i32,
    /// Bytes before the headers in a slot.
    reserve: u32,
    ring: Option<Arc<Ring>>,
    closed: bool,
}

/// A frame that came.
#[derive(Clone)]
struct Frame {
    bytes: Arc<[u8]>,
    /// Before a filter cut it.
    length: usize,
    from: Link,
    unfinished: bool,
    /// Real time.
    at_ns: u64,
}

/// What `sockaddr_ll` tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    protocol: u16,
    device: i32,
    hardware: u16,
    whose: u8,
    mac: [u8; 6],
}

/// A new packet socket.
///
/// # Errors
/// `EPERM`, `ESOCKTNOSUPPORT`.
pub fn make(cx: &Cx, net: &Arc<NetNamespace>, kind: Kind) -> Result<Arc<dyn Socket>, Errno> {
    if !net.allows(&cx.creds(), Capability::NetRaw) {
        return Err(Errno::EPERM);
    }
    if !matches!(kind.kind, SOCK_RAW | SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    Ok(PacketSocket::new(net, kind, cx.creds().euid))
}

impl Taps {
    pub fn new(clock: Clock) -> Taps {
        Taps { clock, open: AtomicUsize::new(0), sockets: Mutex::default() }
    }

    fn add(&self, socket: &Arc<PacketSocket>) {
        let mut sockets = self.sockets.lock();
        sockets.push(Arc::downgrade(socket));
        self.open.store(sockets.len(), Ordering::Relaxed);
    }

    fn remove(&self, socket: &PacketSocket) {
        let mut sockets = self.sockets.lock();
        sockets.retain(|other| !std::ptr::eq(other.as_ptr(), socket) && other.strong_count() > 0);
        self.open.store(sockets.len(), Ordering::Relaxed);
    }

    fn all(&self) -> Vec<Arc<PacketSocket>> {
        self.sockets.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether anybody looks.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// A frame passes.
    pub fn see(&self, passing: &Passing<'_>) {
        if !self.is_open() {
            return;
        }
        let at_ns = self.clock.realtime_ns();
        for socket in self.all() {
            socket.sees(passing, at_ns);
        }
    }

    /// A frame came over an interface that has this address.
    pub fn came(&self, frame: &[u8], device: i32, own: [u8; 6], unfinished: bool) {
        if !self.is_open() {
            return;
        }
        let whose = match frame.get(..6) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => Whose::Broadcast,
            Some([first, ..]) if first & 1 != 0 => Whose::Multicast,
            Some(to) if to == own => Whose::Host,
            _ => Whose::Other,
        };
        self.see(&Passing { frame, device, hardware: ARPHRD_ETHER, whose, unfinished });
    }

    /// A packet stays on the loopback interface: it goes, and comes.
    pub fn looped(&self, from: IpAddr, to: IpAddr, protocol: u8, (hops, class): (u8, u8), transport: &[&[u8]]) {
        if !self.is_open() {
            return;
        }
        let length = transport.iter().map(|piece| piece.len()).sum();
        let header = Header { from, to, protocol, hops, class, cutting: Cutting::Nowhere };
        let mut frame = frame::ethernet([0; 6], [0; 6], frame::ethertype(to)).to_vec();
        frame.extend_from_slice(&header.bytes(length, 0, None));
        transport.iter().for_each(|piece| frame.extend_from_slice(piece));
        for whose in [Whose::Outgoing, Whose::Host] {
            self.see(&Passing { frame: &frame, device: LOOPBACK, hardware: ARPHRD_LOOPBACK, whose, unfinished: true });
        }
    }

    /// /proc/net/packet.
    pub fn report(&self) -> String {
        let mut text = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n".to_string();
        for socket in self.all() {
            let state = socket.state.lock();
            let ino = socket.ino.load(Ordering::Relaxed);
            text += &format!(
                "0000000000000000 3      {:<4} {:04x}   {:<5} 1 {:<6} {:<6} {ino:<6}\n",
                socket.kind, state.protocol, state.device, state.queued, socket.uid
            );
        }
        text
    }
}

impl PacketSocket {
    fn new(net: &Arc<NetNamespace>, kind: Kind, uid: u32) -> Arc<PacketSocket> {
        let socket = Arc::new(PacketSocket {
            net: net.clone(),
            kind: kind.kind,
            id: net.next_id(),
            uid,
            ino: AtomicU64::new(0),
            options: Mutex::new(SocketOptions::default()),
            state: Mutex::new(State { protocol: (kind.protocol as u16).swap_bytes(), ..State::default() }),
            queue: WaitQueue::new(),
        });
        net.packets.add(&socket);
        socket
    }

    /// Takes a frame in, if it wants it and there is room.
    fn sees(&self, passing: &Passing<'_>, at_ns: u64) {
        let Passing { frame, device, hardware, whose, unfinished } = *passing;
        let protocol = frame.get(12..ETHERNET).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
        let (most, filter) = {
            let options = self.options.lock();
            (options.receive_buffer, options.filter.clone())
        };
        let wants = |state: &State| {
            let direction = whose != Whose::Outgoing || (state.protocol == ALL && !state.ignores_outgoing);
            let fits = state.protocol == ALL || (state.protocol == protocol && protocol != 0);
            direction && fits && (state.device == 0 || state.device == device) && !state.closed
        };
        if !wants(&self.state.lock()) {
            return;
        }
        let start = if self.kind == SOCK_RAW { 0 } else { ETHERNET };
        let whole = frame.len().saturating_sub(start);
        let packet_type = whose as u8;
        let view =
            View { bytes: frame, start, link: Some(0), network: Some(ETHERNET), protocol, packet_type, device, hardware };
        let kept = match &filter {
            None => whole,
            Some(filter) => match filter::admits(filter, &view) {
                Some(kept) => kept,
                None => return,
            },
        };
        let bytes = frame.get(start..start + kept).unwrap_or_default();
        let mac = frame.get(6..12).and_then(|mac| mac.try_into().ok()).unwrap_or_default();
        let from = Link { protocol, device, hardware, whose: packet_type, mac };
        let mut state = self.state.lock();
        state.packets = state.packets.saturating_add(1);
        if let Some(ring) = state.ring.clone() {
            let length = whole as u32;
            let network = if self.kind == SOCK_RAW { ETHERNET } else { 0 };
            if !ring.put(bytes, length, network, from, unfinished, at_ns) {
                state.drops = state.drops.saturating_add(1);
            }
        } else {
            let cost = bytes.len() + OVERHEAD;
            if state.closed || state.queued + cost > most || (self.net.under_pressure() && !state.inbox.is_empty()) {
                state.drops = state.drops.saturating_add(1);
                return;
            }
            state.queued += cost;
            self.net.charge(cost);
            state.inbox.push_back(Frame { bytes: bytes.into(), length: whole, from, unfinished, at_ns });
        }
        drop(state);
        self.queue.wake(PollEvents::IN | PollEvents::RDNORM);
    }

    fn address(link: &Link, halen: u8) -> super::socket::AddressBytes {
        let mut bytes = super::socket::AddressBytes::new();
        bytes.extend_from_slice(&(AF_PACKET as u16).to_le_bytes());
        bytes.extend_from_slice(&link.protocol.to_be_bytes());
        bytes.extend_from_slice(&link.device.to_le_bytes());
        bytes.extend_from_slice(&link.hardware.to_le_bytes());
        bytes.extend_from_slice(&[link.whose, halen]);
        bytes.extend_from_slice(&link.mac);
        bytes.extend_from_slice(&[0; 2]);
        bytes
    }
}

impl Drop for PacketSocket {
    fn drop(&mut self) {
        // Who never became a file may not have been closed.
        self.net.packets.remove(self);
        let queued = self.state.get_mut().queued;
        self.net.discharge(queued);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timers;

    #[test]
    fn nobody_looks_once_all_are_gone() {
        let net = NetNamespace::new(Clock::Virtual(Arc::default()), Timers::new(), 64 << 20);
        let make = || PacketSocket::new(&net, Kind { family: AF_PACKET, kind: SOCK_RAW, protocol: 0 }, 0);
        let (closed, dropped) = (make(), make());
        assert!(net.packets.is_open());
        closed.clone().close();
        assert_eq!(net.packets.all().len(), 1);
        drop(dropped);
        assert!(!net.packets.is_open() && net.packets.sockets.lock().is_empty());
        let another = make();
        drop(closed);
        assert!(net.packets.is_open(), "who was closed counts once");
        drop(another);
        assert!(!net.packets.is_open());
    }
}
