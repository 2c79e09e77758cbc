//! Receiving: from a frame to what is in its packet.

use core::net::IpAddr;

use smoltcp::wire::{EthernetFrame, Ipv4Packet, Ipv6Packet};

use super::checksum::{self, Sum};
use super::fragments::Key;
use super::frame::{self, Cut, Virtio};
use super::neighbours::Mac;
use super::{ICMP, ICMPV6, IGMP, Network, Owner, TCP, UDP, count};
use crate::Ns;
use crate::config::is_host_scope;

/// Most extension headers of an IPv6 packet.
const EXTENSIONS: usize = 8;

/// A packet that came for this namespace.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Position of the interface.
    pub interface: usize,
    /// Who it came from on the link.
    pub mac: Mac,
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub hops: u8,
    pub class: u8,
    /// It came to all on the link.
    pub for_all: bool,
    /// The transport's header and what follows.
    pub payload: &'a [u8],
    /// Bytes of payload of each packet that it stands for; 0: it is one.
    pub segment: u16,
    /// The packet from its IP header on, as it came.
    pub whole: &'a [u8],
}

/// What is known of a packet when its IP header has been read.
struct Outer<'a> {
    packet: Packet<'a>,
    virtio: Virtio,
    cut: Option<Cut>,
}

impl Network {
    /// A frame has come on an interface: with virtio-net's header before it. What is for a socket goes to `up`.
    pub fn receive(&self, now: Ns, interface: usize, bytes: &[u8], up: &mut dyn FnMut(&Packet<'_>)) {
        let Some(port) = self.interfaces.get(interface) else { return };
        count(&port.counters.received, 1);
        count(&port.counters.received_bytes, bytes.len().saturating_sub(frame::VIRTIO) as u64);
        if self.take(now, interface, bytes, up).is_none() {
            count(&port.counters.dropped, 1);
        }
    }

    /// None: it is malformed, or not for us.
    fn take(&self, now: Ns, interface: usize, bytes: &[u8], up: &mut dyn FnMut(&Packet<'_>)) -> Option<()> {
        let virtio = Virtio::parse(bytes)?;
        let ethernet = EthernetFrame::new_checked(bytes.get(frame::VIRTIO..)?).ok()?;
        let to = ethernet.dst_addr();
        let port = self.interfaces.get(interface).filter(|port| port.is_up())?;
        let own = port.mac;
        let for_all = to.is_broadcast() || to.is_multicast();
        if !for_all && to.0 != own {
            return None;
        }
        let mac = ethernet.src_addr().0;
        let payload = ethernet.payload();
        let outer = match u16::from(ethernet.ethertype()) {
            frame::ETHERTYPE_ARP => {
                self.arp_arrives(now, interface, payload);
                return Some(());
            }
            frame::ETHERTYPE_IPV4 => read_v4(interface, mac, for_all, virtio, payload)?,
            frame::ETHERTYPE_IPV6 => read_v6(interface, mac, for_all, virtio, payload)?,
            _ => return None,
        };
        let wanted = match (self.owner(outer.packet.to), outer.packet.to) {
            (Owner::Own | Owner::Broadcast, _) => true,
            (Owner::Other, IpAddr::V4(core::net::Ipv4Addr::BROADCAST)) => true,
            (Owner::Other, to) => to.is_multicast(),
        };
        let from = outer.packet.from;
        // Ours, and all hosts' of a link: nobody may be answered there.
        if !wanted || !may_be_source(from, outer.packet.to, outer.packet.protocol) || self.owner(from) != Owner::Other {
            return None;
        }
        let Some(cut) = outer.cut else { return self.pass(now, outer.packet, outer.virtio, up) };
        let Packet { from, to, protocol, .. } = outer.packet;
        let key = Key { from, to, protocol, id: cut.id };
        let whole = self.fragments.lock().insert(now, key, cut, outer.packet.payload);
        match whole {
            Some(payload) => self.pass(now, Packet { payload: &payload, ..outer.packet }, Virtio::default(), up),
            None => Some(()),
        }
    }

    /// A whole packet.
    fn pass(&self, now: Ns, packet: Packet<'_>, virtio: Virtio, up: &mut dyn FnMut(&Packet<'_>)) -> Option<()> {
        let sound = virtio.checked
            || match packet.protocol {
                // No sum at all is fine in UDP over IPv4.
                UDP if packet.from.is_ipv4() && packet.payload.get(6..8) == Some(&[0, 0]) => true,
                ICMP => checksum::of(packet.payload) == 0,
                TCP | UDP | ICMPV6 => {
                    let mut sum = Sum::pseudo(packet.from, packet.to, packet.protocol, packet.payload.len());
                    sum.add(packet.payload);
                    sum.checksum() == 0
                }
                _ => true,
            };
        if !sound {
            return None;
        }
        match (packet.protocol, packet.from) {
            (ICMP, IpAddr::V4(_)) | (ICMPV6, IpAddr::V6(_)) => self.icmp_arrives(now, &packet),
            (IGMP, IpAddr::V4(_)) => drop(self.membership_arrives(now, &packet)),
            _ => {}
        }
        up(&packet);
        Some(())
    }
}

/// Whether a packet to `to` may come from `from` over a link (`ip_route_input_slow`, `ip_mc_validate_source`, `ip6_rcv_core`).
fn may_be_source(from: IpAddr, to: IpAddr, protocol: u8) -> bool {
    match (from, to) {
        _ if from.is_multicast() || from.is_loopback() => false,
        // "This network": who has no address yet, to all on the link.
        (IpAddr::V4(from), IpAddr::V4(to)) if from.octets()[0] == 0 => {
            let local_group = to.octets()[..3] == [224, 0, 0];
            to.is_broadcast() || (to.is_multicast() && (local_group || protocol == IGMP))
        }
        (IpAddr::V4(from), _) => !from.is_broadcast(),
        // IPv4 has its own packets: from here it would be taken for a peer whose address nobody has looked at. A group of the host's own never
        // leaves it.
        (IpAddr::V6(from), IpAddr::V6(to)) => from.to_ipv4_mapped().is_none() && !(to.is_multicast() && is_host_scope(to)),
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn read_v4(interface: usize, mac: Mac, for_all: bool, virtio: Virtio, bytes: &[u8]) -> Option<Outer<'_>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    if ip.version() != 4 || !ip.verify_checksum() || usize::from(ip.header_len()) < frame::IPV4 {
        return None;
    }
    let cut = (ip.more_frags() || ip.frag_offset() != 0).then(|| Cut {
        id: ip.ident().into(),
        offset: ip.frag_offset(),
        more: ip.more_frags(),
    });
    let packet = Packet {
        interface,
        mac,
        from: IpAddr::V4(ip.src_addr()),
        to: IpAddr::V4(ip.dst_addr()),
        protocol: u8::from(ip.next_header()),
        hops: ip.hop_limit(),
        class: *bytes.get(1)?,
        for_all,
        payload: ip.payload(),
        segment: virtio.segment,
        whole: bytes.get(..usize::from(ip.total_len()))?,
    };
    Some(Outer { packet, virtio, cut })
}

fn read_v6(interface: usize, mac: Mac, for_all: bool, virtio: Virtio, bytes: &[u8]) -> Option<Outer<'_>> {
    let ip = Ipv6Packet::new_checked(bytes).ok()?;
    if ip.version() != 6 {
        return None;
    }
    let mut protocol = u8::from(ip.next_header());
    let mut payload = ip.payload();
    let mut cut = None;
    for step in 0..=EXTENSIONS {
        match protocol {
            // Hop-by-hop (only first), destination options: passed over.
            0 | 60 if protocol == 60 || step == 0 => {
                let length = 8 + 8 * usize::from(*payload.get(1)?);
                (protocol, payload) = (*payload.first()?, payload.get(length..)?);
            }
            // A route with stations left is not for us.
            43 => {
                if *payload.get(3)? != 0 {
                    return None;
                }
                let length = 8 + 8 * usize::from(*payload.get(1)?);
                (protocol, payload) = (*payload.first()?, payload.get(length..)?);
            }
            44 => {
                let place = u16::from_be_bytes(payload.get(2..4)?.try_into().ok()?);
                let id = u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?);
                (protocol, payload) = (*payload.first()?, payload.get(8..)?);
                // The only piece of a packet is a packet (RFC 6946).
                if place & !6 != 0 {
                    cut = Some(Cut { id, offset: place & !7, more: place & 1 != 0 });
                    break;
                }
            }
            _ => break,
        }
        if step == EXTENSIONS {
            return None;
        }
    }
    let packet = Packet {
        interface,
        mac,
        from: IpAddr::V6(ip.src_addr()),
        to: IpAddr::V6(ip.dst_addr()),
        protocol,
        hops: ip.hop_limit(),
        class: ip.traffic_class(),
        for_all,
        payload,
        segment: virtio.segment,
        whole: bytes.get(..ip.total_len())?,
    };
    Some(Outer { packet, virtio, cut })
}
