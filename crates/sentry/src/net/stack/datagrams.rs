//! UDP, ICMP echo and raw packets between the Internet layer and sockets.

use std::sync::Arc;

use core::net::IpAddr;
use netstack::ip::{Cutting, Fault, Header, ICMP, ICMPV6, Offload, Packet as Wire, Quoted, Sent, UDP, Way, checksum};

use super::Stack;
use crate::net::NetNamespace;
use crate::net::address::{Endpoint, Family};
use crate::net::datagram::{Arrival, Protocol, UDP_HEADER, udp_header};

/// Where the checksum stands in a UDP header.
const CHECKSUM: u16 = 6;
/// Most packets that one GRO frame may stand for.
const SEGMENTS: usize = 64;

/// A packet on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Departure<'a> {
    pub from: Endpoint,
    pub to: Endpoint,
    /// `IPPROTO_*`; UDP's header is made here, others' are in the bytes.
    pub protocol: u8,
    pub hops: u8,
    pub class: u8,
    pub cutting: Cutting,
    pub bytes: &'a [u8],
}

impl Stack {
    /// Sends a packet.
    ///
    /// # Errors
    /// It must not be cut and is too long: bytes that the path takes.
    pub fn depart(self: &Arc<Stack>, net: &Arc<NetNamespace>, way: &Way, packet: &Departure<'_>) -> Result<(), u32> {
        let Departure { from, to, protocol, hops, class, cutting, bytes } = *packet;
        let header = Header { from: from.ip, to: to.ip, protocol, hops, class, cutting };
        let now = net.clock.monotonic().0;
        let sent = match (protocol, to.ip) {
            (UDP, _) => {
                let mut head = udp_header(from, to, bytes.len());
                checksum::put(&mut head, CHECKSUM.into(), header.pseudo(UDP_HEADER + bytes.len()).folded());
                self.network.send(now, way, &header, Offload::Checksum { at: CHECKSUM }, &[&head, bytes])
            }
            (ICMPV6, IpAddr::V6(_)) => {
                // The program cannot know the sum: it counts the addresses in.
                let mut body = bytes.to_vec();
                header.sum_icmp(&mut body);
                self.network.send(now, way, &header, Offload::Nothing, &[&body])
            }
            _ => self.network.send(now, way, &header, Offload::Nothing, &[bytes]),
        };
        self.watch_neighbours(net);
        match sent {
            Sent::Yes => Ok(()),
            Sent::TooLong(mtu) => Err(mtu),
            // As a full queue of a device: told only to who asks for errors (ip(7)); the packet is lost.
            Sent::Full => Ok(()),
        }
    }

    pub(super) fn datagram_arrives(&self, net: &Arc<NetNamespace>, packet: &Wire<'_>) {
        let number = |at: usize| packet.payload.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
        let (Some(source), Some(port), Some(length)) = (number(0), number(2), number(4)) else { return };
        // What is behind UDP's own length is padding; a GRO frame is as long as it is.
        let end = if packet.segment > 0 { packet.payload.len() } else { usize::from(length) };
        let Some(bytes) = packet.payload.get(UDP_HEADER..end) else { return };
        let (from, to) = (Endpoint::new(packet.from, source), Endpoint::new(packet.to, port));
        net.counters.udp_datagrams.add(1);
        let piece = if packet.segment > 0 { usize::from(packet.segment) } else { bytes.len().max(1) };
        let arrival = self.arrival(net, packet, from, to);
        let pieces = bytes.chunks(piece).take(SEGMENTS).chain(bytes.is_empty().then_some(bytes));
        let mut taken = true;
        for bytes in pieces {
            taken = crate::net::datagram::arrives(net, &arrival, bytes);
        }
        if !taken {
            net.counters.udp_no_ports.add(1);
            self.network.refuse(net.clock.monotonic().0, packet, Fault::PortUnreachable);
        }
    }

    fn arrival(&self, net: &NetNamespace, packet: &Wire<'_>, from: Endpoint, to: Endpoint) -> Arrival {
        Arrival {
            protocol: Protocol::Udp,
            from,
            to,
            hops: packet.hops,
            class: packet.class,
            device: self.network.interfaces().get(packet.interface).map_or(0, |interface| interface.index),
            at_ns: net.clock.realtime_ns(),
        }
    }

    /// Hands a packet to raw and ping sockets. Says whether anybody took it.
    pub(super) fn to_sockets(&self, net: &Arc<NetNamespace>, packet: &Wire<'_>) -> bool {
        let family = if packet.from.is_ipv4() { Family::Inet } else { Family::Inet6 };
        let arrival = self.arrival(net, packet, Endpoint::new(packet.from, 0), Endpoint::new(packet.to, 0));
        let arrival = Arrival { protocol: Protocol::Raw(packet.protocol.into()), ..arrival };
        let raw = crate::net::datagram::arrives_raw(net, family, &arrival, packet.payload);
        let reply = matches!((packet.protocol, packet.payload.first()), (ICMP, Some(0)) | (ICMPV6, Some(129)));
        if !reply {
            return raw;
        }
        let id = packet.payload.get(4..6).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
        let to = Endpoint::new(packet.to, id);
        crate::net::datagram::arrives(net, &Arrival { protocol: Protocol::Ping, to, ..arrival }, packet.payload)
    }

    /// A packet of a datagram socket came back.
    pub(super) fn datagram_fault(&self, net: &Arc<NetNamespace>, quoted: &Quoted<'_>) {
        let identifier = quoted.transport.get(4..6).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
        let (protocol, near, far, head) = match (quoted.protocol, quoted.ports()) {
            (UDP, Some((near, far))) => (Protocol::Udp, near, far, UDP_HEADER),
            (ICMP | ICMPV6, _) => (Protocol::Ping, identifier, 0, 0),
            (other, _) => (Protocol::Raw(other.into()), 0, 0, 0),
        };
        let (near, far) = (Endpoint::new(quoted.from, near), Endpoint::new(quoted.to, far));
        let bytes = quoted.transport.get(head..).unwrap_or_default();
        crate::net::datagram::came_back(net, protocol, near, far, quoted, bytes);
    }
}
