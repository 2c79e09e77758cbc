//! What comes from the packet stack for datagram sockets, and what of theirs leaves by it.

use std::sync::Arc;

use core::net::IpAddr;
use netstack::config::is_host_scope;
use netstack::ip::{Cutting, Fault, Quoted, Way, checksum};

use super::{Datagram, ERRORS, Failure, Packet, Protocol, icmp, send};
use crate::Errno;
use crate::net::LOOPBACK;
use crate::net::address::{Endpoint, Family};
use crate::net::ip::opt;
use crate::net::namespace::{AddressKind, NetNamespace};
use crate::net::stack::Departure;
use crate::wait::PollEvents;

const IP_MTU_DISCOVER: i32 = 10;
const IPV6_MTU_DISCOVER: i32 = 23;
const IPV6_DONTFRAG: i32 = 62;

/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;

/// The UDP header of so many bytes, without its checksum.
pub fn udp_header(from: Endpoint, to: Endpoint, length: usize) -> [u8; UDP_HEADER] {
    let mut head = [0; UDP_HEADER];
    checksum::put(&mut head, 0, from.port);
    checksum::put(&mut head, 2, to.port);
    checksum::put(&mut head, 4, (UDP_HEADER + length) as u16);
    head
}

/// How a packet came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub protocol: Protocol,
    pub from: Endpoint,
    pub to: Endpoint,
    pub hops: u8,
    pub class: u8,
    /// Index of the interface.
    pub device: i32,
    /// Real time.
    pub at_ns: u64,
}

impl Arrival {
    fn packet(&self, bytes: &[u8]) -> Packet {
        let Arrival { from, to, hops, class, device, at_ns, .. } = *self;
        Packet { bytes: bytes.into(), from, to, hops, class, device, at_ns }
    }
}

/// A packet of a protocol with ports (or identifiers) has come. Says whether somebody was there, or it was for many.
pub fn arrives(net: &NetNamespace, arrival: &Arrival, bytes: &[u8]) -> bool {
    if matches!(net.address_kind(arrival.to.ip), AddressKind::Multicast | AddressKind::Broadcast) {
        send::deliver_to_all(net, arrival.protocol, &arrival.packet(bytes));
        return true;
    }
    let found = net.datagrams.lock().find(arrival.protocol, arrival.to, arrival.from, arrival.device);
    let Some(socket) = found else { return false };
    socket.take_in(arrival.packet(bytes));
    true
}

/// A packet for raw sockets.
pub fn arrives_raw(net: &NetNamespace, family: Family, arrival: &Arrival, bytes: &[u8]) -> bool {
    let Protocol::Raw(number) = arrival.protocol else { return false };
    icmp::to_raw(net, family, number, || arrival.packet(bytes))
}

/// A packet of ours came back as an ICMP error.
pub fn came_back(net: &NetNamespace, protocol: Protocol, near: Endpoint, far: Endpoint, quoted: &Quoted<'_>, bytes: &[u8]) {
    let found = net.datagrams.lock().find(protocol, near, far, 0);
    // Only if somebody here may have sent it: others must not narrow our paths.
    if let (Fault::TooLong(mtu), Some(stack)) = (quoted.fault, net.stack())
        && (found.is_some() || sends_raw(net, quoted.protocol.into(), far.ip))
    {
        stack.network.learn_path_mtu(far.ip, mtu, net.clock.monotonic().0);
    }
    let Some(socket) = found else { return };
    // Errors that are told even to those who did not ask (`icmp_err_convert`).
    let (errno, hard) = match quoted.fault {
        Fault::NetUnreachable => (Errno::ENETUNREACH, false),
        Fault::HostUnreachable | Fault::TimeExceeded => (Errno::EHOSTUNREACH, false),
        Fault::ProtocolUnreachable => (Errno::ENOPROTOOPT, true),
        Fault::PortUnreachable => (Errno::ECONNREFUSED, true),
        Fault::Prohibited => (if far.ip.is_ipv4() { Errno::EHOSTUNREACH } else { Errno::EACCES }, true),
        Fault::TooLong(_) => (Errno::EMSGSIZE, false),
        Fault::Malformed => (Errno::EPROTO, true),
    };
    let info = match quoted.fault {
        Fault::TooLong(mtu) => mtu,
        _ => 0,
    };
    let failure = Failure {
        bytes: bytes.into(),
        to: far,
        errno,
        kind: quoted.kind,
        code: quoted.code,
        info,
        offender: Some(quoted.offender),
    };
    socket.failed(failure, hard);
}

/// Whether a raw socket may have sent a packet of this protocol.
fn sends_raw(net: &NetNamespace, protocol: i32, to: IpAddr) -> bool {
    let sockets = net.datagrams.lock().raw();
    sockets.iter().any(|socket| {
        let number = socket.number();
        let fits = (socket.family == Family::Inet) == to.is_ipv4() && (number == protocol || number == super::IPPROTO_RAW);
        fits && socket.state.lock().remote.is_none_or(|remote| remote.ip == to)
    })
}

/// What a value of `IP_MTU_DISCOVER` says.
fn cutting(discover: i32) -> Cutting {
    match discover {
        1 => Cutting::Here,
        2 => Cutting::Nowhere,
        3 => Cutting::Probe,
        4 => Cutting::Routers,
        5 => Cutting::ForLink,
        _ => Cutting::Anywhere,
    }
}

impl Datagram {
    /// A packet of so many bytes at most could go: who asks for errors finds more about it in the queue (`ip_local_error`).
    fn too_long(&self, packet: &Packet, mtu: u32) -> Errno {
        if self.asks_for_errors() {
            let mut state = self.state.lock();
            if state.errors.len() < ERRORS {
                state.errors.push_back(Failure {
                    bytes: Arc::default(),
                    to: packet.to,
                    errno: Errno::EMSGSIZE,
                    kind: 0,
                    code: 0,
                    info: mtu,
                    offender: None,
                });
            }
            drop(state);
            self.queue.wake(PollEvents::ERR);
        }
        Errno::EMSGSIZE
    }

    /// `IP_RECVERR`, `IPV6_RECVERR`
    fn asks_for_errors(&self) -> bool {
        let ip = self.ip.lock();
        (if self.family == Family::Inet { ip.v4(opt::IP_RECVERR) } else { ip.v6(opt::IPV6_RECVERR) }) != 0
    }

    /// Whether it hears what comes over an interface.
    pub(super) fn hears(&self, device: i32) -> bool {
        let own = self.options.lock().device;
        own == 0 || own == device
    }

    /// A packet came back.
    fn failed(&self, failure: Failure, hard: bool) {
        let asks = self.asks_for_errors();
        let mut state = self.state.lock();
        if !asks && (!hard || state.remote.is_none()) {
            return;
        }
        state.error = Some(failure.errno);
        if asks && state.errors.len() < ERRORS {
            state.errors.push_back(failure);
        }
        drop(state);
        self.queue.wake(PollEvents::ERR | PollEvents::IN | PollEvents::OUT);
    }

    /// The way out for a packet, to an address of this kind, if it does not stay on the loopback interface.
    pub(super) fn way_out(&self, packet: &Packet, kind: AddressKind, device: i32) -> Result<Option<Way>, Errno> {
        let stays = match kind {
            AddressKind::Local | AddressKind::Unspecified => true,
            AddressKind::Multicast | AddressKind::Broadcast => packet.from.ip.is_loopback() || device == LOOPBACK,
            AddressKind::Foreign => false,
        };
        if stays {
            return Ok(None);
        }
        let way = self.net.way(packet.to.ip, device)?;
        // It has no header towards the wire, and nothing comes from there.
        if self.protocol == Protocol::UdpLite { Err(Errno::EOPNOTSUPP) } else { Ok(Some(way)) }
    }

    /// Sends a packet away; and to those here who are in its group.
    pub(super) fn depart(&self, way: &Way, protocol: i32, packet: &Packet) -> Result<(), Errno> {
        let Some(stack) = self.net.stack() else { return Err(Errno::ENETUNREACH) };
        let (cutting, loops) = {
            let ip = self.ip.lock();
            match packet.to.ip {
                IpAddr::V4(_) => (cutting(ip.v4(IP_MTU_DISCOVER)), ip.v4(opt::IP_MULTICAST_LOOP) != 0),
                IpAddr::V6(_) => {
                    let cutting = match cutting(ip.v6(IPV6_MTU_DISCOVER)) {
                        Cutting::Anywhere | Cutting::Here if ip.v6(IPV6_DONTFRAG) != 0 => Cutting::Nowhere,
                        Cutting::ForLink if ip.v6(IPV6_DONTFRAG) != 0 => Cutting::Routers,
                        cutting => cutting,
                    };
                    (cutting, ip.v6(opt::IPV6_MULTICAST_LOOP) != 0)
                }
            }
        };
        let departure = Departure {
            from: packet.from,
            to: packet.to,
            protocol: protocol as u8,
            hops: packet.hops,
            class: packet.class,
            cutting,
            bytes: &packet.bytes,
        };
        let stack: Arc<_> = stack.clone();
        // What may not leave the host is for those here only (`ip_mc_output`, `ip6_finish_output2`).
        let stays = match packet.to.ip {
            to if !to.is_multicast() => false,
            IpAddr::V6(to) if is_host_scope(to) => true,
            _ => packet.hops == 0,
        };
        if !stays {
            stack.depart(&self.net, way, &departure).map_err(|mtu| self.too_long(packet, mtu))?;
        }
        let here = match self.net.address_kind(packet.to.ip) {
            AddressKind::Multicast => loops,
            kind => kind == AddressKind::Broadcast,
        };
        if here && self.protocol.has_ports() {
            let device = stack.network.interfaces().get(way.interface).map_or(0, |interface| interface.index);
            send::deliver_to_all(&self.net, self.protocol, &Packet { device, ..packet.clone() });
        }
        Ok(())
    }
}
