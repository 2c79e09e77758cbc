//! ICMP on the loopback interface: echo requests are answered; raw sockets see everything.

use core::net::{IpAddr, Ipv4Addr};

use netstack::ip::{Cutting, Header, checksum, frame};
use smallvec::SmallVec;

use super::{Packet, Protocol};
use crate::Errno;
use crate::net::address::{Endpoint, Family, array};
use crate::net::namespace::NetNamespace;
use crate::net::{IPPROTO_ICMP, IPPROTO_ICMPV6};

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Bytes of an ICMP echo's header.
const HEADER: usize = 8;
/// Bytes of an IPv4 header without options.
const IP_HEADER: usize = frame::IPV4;

/// What a ping socket may send: echo requests.
///
/// # Errors
/// `EINVAL`.
pub fn check_ping(family: Family, bytes: &[u8]) -> Result<(), Errno> {
    let request = if family == Family::Inet { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    match bytes {
        [kind, 0, ..] if *kind == request && bytes.len() >= HEADER => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// The identifier is the socket's, whatever the program says.
pub fn set_identifier(bytes: &mut [u8], identifier: u16) {
    checksum::put(bytes, 4, identifier);
    seal(bytes);
}

/// Puts the checksum into a message. Nobody checks it on the loopback interface; `Header::sum_icmp` makes ICMPv6's own for what leaves.
fn seal(message: &mut [u8]) {
    checksum::put(message, 2, 0);
    let sum = checksum::of(message);
    checksum::put(message, 2, sum);
}

/// Hands a packet of `protocol` to all raw sockets, and answers for the kernel.
pub fn deliver(net: &NetNamespace, family: Family, protocol: i32, packet: &Packet) {
    let show = |packet: &Packet| {
        net.packets.looped(packet.from.ip, packet.to.ip, protocol as u8, (packet.hops, packet.class), &[&packet.bytes]);
    };
    show(packet);
    to_raw(net, family, protocol, || packet.clone());
    let Some(reply) = answer(family, protocol, packet) else { return };
    let reply = Packet { device: net.local_device(reply.to.ip, 0), ..reply };
    net.counters.packets.add(1);
    net.counters.bytes.add(reply.bytes.len() as u64 + 20);
    show(&reply);
    to_raw(net, family, protocol, || reply.clone());
    let identifier = array::<2>(&reply.bytes, 4).map_or(0, u16::from_be_bytes);
    let to = Endpoint::new(reply.to.ip, identifier);
    let socket = net.datagrams.lock().find(Protocol::Ping, to, Endpoint::new(reply.from.ip, 0), reply.device);
    if let Some(socket) = socket {
        socket.take_in(reply);
    }
}

/// The reply to an echo request.
fn answer(family: Family, protocol: i32, packet: &Packet) -> Option<Packet> {
    let (request, reply) = match (family, protocol) {
        (Family::Inet, IPPROTO_ICMP) => (ECHO_REQUEST, ECHO_REPLY),
        (Family::Inet6, IPPROTO_ICMPV6) => (ECHO_REQUEST_V6, ECHO_REPLY_V6),
        _ => return None,
    };
    if packet.bytes.len() < HEADER || packet.bytes.first() != Some(&request) {
        return None;
    }
    let mut bytes = packet.bytes.to_vec();
    if let Some(kind) = bytes.first_mut() {
        *kind = reply;
    }
    seal(&mut bytes);
    Some(Packet { bytes: bytes.into(), from: packet.to, to: packet.from, hops: 64, ..packet.clone() })
}

/// Hands a packet to raw sockets. Says whether anybody wanted it.
pub fn to_raw(net: &NetNamespace, family: Family, protocol: i32, make: impl FnOnce() -> Packet) -> bool {
    let sockets = net.datagrams.lock().raw();
    if sockets.is_empty() {
        return false;
    }
    let packet = make();
    let mut taken = false;
    for socket in sockets.iter().filter(|socket| socket.family == family && socket.protocol == Protocol::Raw(protocol)) {
        let wanted = {
            let state = socket.state.lock();
            let near = state.local.ip.is_unspecified() || state.local.ip == packet.to.ip;
            let far = state.remote.is_none_or(|remote| remote.ip == packet.from.ip);
            let kind = packet.bytes.first().copied().unwrap_or(0);
            let word = state.filter_v6.get(usize::from(kind >> 5)).copied().unwrap_or(0);
            let filtered = match protocol {
                IPPROTO_ICMP => kind < 32 && state.filter & (1 << kind) != 0,
                IPPROTO_ICMPV6 => word & (1 << (kind & 31)) != 0,
                _ => false,
            };
            near && far && !filtered && socket.hears(packet.device)
        };
        if wanted {
            socket.take_in(packet.clone());
            taken = true;
        }
    }
    taken
}

/// A packet with its IPv4 header.
pub fn wrap(packet: &Packet, protocol: i32) -> Vec<u8> {
    [&header(packet, protocol)[..], &packet.bytes].concat()
}

/// The header of an IPv4 packet.
pub fn header(packet: &Packet, protocol: i32) -> SmallVec<[u8; 64]> {
    let Packet { from, to, hops, class, .. } = *packet;
    let header = Header { from: from.ip, to: to.ip, protocol: protocol as u8, hops, class, cutting: Cutting::Nowhere };
    // Of a longer one it tells the most that it can.
    header.bytes(packet.bytes.len().min(usize::from(u16::MAX) - IP_HEADER), 0, None)
}

/// Takes the IPv4 header off that the program made (`IP_HDRINCL`).
///
/// # Errors
/// `EINVAL`.
pub fn unwrap(packet: Packet) -> Result<(Packet, i32), Errno> {
    let bytes = &packet.bytes;
    let first = *bytes.first().ok_or(Errno::EINVAL)?;
    let header = usize::from(first & 0xf) * 4;
    if bytes.len() < IP_HEADER || header < IP_HEADER || header > bytes.len() {
        return Err(Errno::EINVAL);
    }
    let at = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let address = |at: usize| IpAddr::from(Ipv4Addr::from(array::<4>(bytes, at).unwrap_or_default()));
    let from = Some(address(12)).filter(|ip| !ip.is_unspecified()).unwrap_or(packet.from.ip);
    let inner = Packet {
        bytes: bytes.get(header..).unwrap_or_default().into(),
        from: Endpoint::new(from, 0),
        to: Endpoint::new(address(16), 0),
        hops: at(8),
        class: at(1),
        device: packet.device,
        at_ns: packet.at_ns,
    };
    Ok((inner, i32::from(at(9))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_and_headers() {
        assert_eq!(
            checksum::of(&[0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7]),
            0xb861
        );
        let near = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 0);
        let packet = Packet {
            bytes: [8u8, 0, 0, 0, 1, 2, 0, 1, 9].into(),
            from: near,
            to: near,
            hops: 3,
            class: 4,
            device: 1,
            at_ns: 0,
        };
        let wrapped = wrap(&packet, 1);
        assert_eq!(checksum::of(&wrapped[..20]), 0, "a right checksum sums to nothing");
        let (inner, protocol) = unwrap(Packet { bytes: wrapped.into(), ..packet.clone() }).expect("a header");
        assert_eq!((protocol, inner.hops, &*inner.bytes), (1, 3, &*packet.bytes));
        let reply = answer(Family::Inet, 1, &packet).expect("a reply");
        assert_eq!((reply.bytes[0], checksum::of(&reply.bytes)), (0, 0));
        let long = Packet { bytes: vec![0; 65_535].into(), ..packet.clone() };
        assert_eq!(header(&long, 1)[2..4], [0xff, 0xff]);
        for len in 0..20 {
            assert!(unwrap(Packet { bytes: vec![0xff; len].into(), ..packet.clone() }).is_err());
        }
    }
}
