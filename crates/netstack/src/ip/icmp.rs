//! ARP, neighbour discovery, echo, and errors.

use core::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::{ArpOperation, ArpPacket};

use super::frame::{self, Cutting, Header, Offload};
use super::groups::solicited;
use super::neighbours::{Mac, Unasked};
use super::{ICMP, ICMPV6, Network, Owner, Packet, TCP, UDP};
use crate::Ns;
use crate::config::is_link_local_v6;

/// Bytes of an ICMP header.
const HEADER: usize = 8;
/// Neighbour discovery: its two messages, an advertisement's flags, and whose Ethernet address an option has.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
/// How much of a packet is sent back with an error: all that fits into the least MTUs.
const QUOTE_V4: usize = 576 - 20 - HEADER;
const QUOTE_V6: usize = 1280 - 40 - HEADER;

/// What an ICMP error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NetUnreachable,
    HostUnreachable,
    ProtocolUnreachable,
    PortUnreachable,
    Prohibited,
    /// The path takes packets of so many bytes.
    TooLong(u32),
    TimeExceeded,
    Malformed,
}

/// An ICMP error about a packet of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted<'a> {
    pub fault: Fault,
    /// Its type and code as they came.
    pub kind: u8,
    pub code: u8,
    pub offender: IpAddr,
    /// The packet: from us, to whom, and the start of its transport.
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub transport: &'a [u8],
}

impl<'a> Quoted<'a> {
    /// Ports, near end first, of a quoted TCP or UDP packet.
    pub fn ports(&self) -> Option<(u16, u16)> {
        if !matches!(self.protocol, TCP | UDP) {
            return None;
        }
        let port = |at: usize| Some(u16::from_be_bytes(self.transport.get(at..at + 2)?.try_into().ok()?));
        Some((port(0)?, port(2)?))
    }

    /// Reads an IP packet of ours that could not be delivered.
    pub fn of_packet(fault: Fault, packet: &'a [u8]) -> Option<Quoted<'a>> {
        let (from, to, protocol, transport) = quoted_ip(packet)?;
        let (kind, code) = if from.is_ipv4() { (3, 1) } else { (1, 3) };
        Some(Quoted { fault, kind, code, offender: from, from, to, protocol, transport })
    }

    /// Reads an ICMP message. None: it is no error, or malformed.
    pub fn parse(packet: &Packet<'a>) -> Option<Quoted<'a>> {
        let (kind, code) = (*packet.payload.first()?, *packet.payload.get(1)?);
        let word = u32::from_be_bytes(packet.payload.get(4..8)?.try_into().ok()?);
        let fault = match (packet.protocol, kind, code) {
            (ICMP, 3, 0 | 6 | 9 | 11) => Fault::NetUnreachable,
            (ICMP, 3, 2) => Fault::ProtocolUnreachable,
            (ICMP, 3, 3) => Fault::PortUnreachable,
            (ICMP, 3, 4) => Fault::TooLong(word & 0xffff),
            (ICMP, 3, 10 | 13) => Fault::Prohibited,
            (ICMP, 3, _) => Fault::HostUnreachable,
            (ICMP, 11, _) => Fault::TimeExceeded,
            (ICMP, 12, _) => Fault::Malformed,
            (ICMPV6, 1, 0) => Fault::NetUnreachable,
            (ICMPV6, 1, 1) => Fault::Prohibited,
            (ICMPV6, 1, 4) => Fault::PortUnreachable,
            (ICMPV6, 1, _) => Fault::HostUnreachable,
            (ICMPV6, 2, _) => Fault::TooLong(word),
            (ICMPV6, 3, _) => Fault::TimeExceeded,
            (ICMPV6, 4, 1) => Fault::ProtocolUnreachable,
            (ICMPV6, 4, _) => Fault::Malformed,
            _ => return None,
        };
        let (from, to, protocol, transport) = quoted_ip(packet.payload.get(HEADER..)?)?;
        Some(Quoted { fault, kind, code, offender: packet.from, from, to, protocol, transport })
    }
}

/// Addresses, protocol and the rest of an IP packet that may be cut off.
fn quoted_ip(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    match bytes.first()? >> 4 {
        4 => {
            let head = usize::from(bytes.first()? & 0xf) * 4;
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
            Some((address(12)?, address(16)?, *bytes.get(9)?, bytes.get(head.max(20)..)?))
        }
        6 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
            Some((address(8)?, address(24)?, *bytes.get(6)?, bytes.get(40..)?))
        }
        _ => None,
    }
}

impl Network {
    /// Asks who has `ip`: everybody, or (`known`) who had it last.
    pub(super) fn ask(&self, interface: usize, ip: IpAddr, known: Option<Mac>) {
        let Some(port) = self.interfaces.get(interface) else { return };
        let own = port.mac;
        let addresses = port.addresses();
        let same = addresses.iter().filter(|address| address.ip.is_ipv4() == ip.is_ipv4());
        let near = same.clone().find(|address| crate::config::contains(address.ip, address.prefix, ip));
        let Some(source) = near.or_else(|| same.clone().next()).map(|address| address.ip) else { return };
        match (source, ip) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let arp = arp(1, own, source.octets(), [0; 6], target.octets());
                let ethernet = frame::ethernet(known.unwrap_or([0xff; 6]), own, frame::ETHERTYPE_ARP);
                self.put(interface, &[&[0; frame::VIRTIO], &ethernet, &arp]);
            }
            (source, IpAddr::V6(target)) => {
                let group = solicited(target);
                let body = neighbour(SOLICITATION, 0, target, own);
                self.discovery(interface, source, group, known.unwrap_or_else(|| frame::group_mac(group)), body);
            }
            _ => {}
        }
    }

    /// Sends a message of neighbour discovery.
    fn discovery(&self, interface: usize, from: IpAddr, to: IpAddr, mac: Mac, mut body: Vec<u8>) {
        let Some(port) = self.interfaces.get(interface) else { return };
        let header = Header { from, to, protocol: ICMPV6, hops: 255, class: 0, cutting: Cutting::Nowhere };
        header.sum_icmp(&mut body);
        let ethernet = frame::ethernet(mac, port.mac, frame::ETHERTYPE_IPV6);
        self.put(interface, &[&[0; frame::VIRTIO], &ethernet, &header.bytes(body.len(), 0, None), &body]);
    }

    /// An ARP packet has come.
    pub(super) fn arp_arrives(&self, now: Ns, interface: usize, bytes: &[u8]) {
        let Some(port) = self.interfaces.get(interface) else { return };
        let Ok(packet) = ArpPacket::new_checked(bytes) else { return };
        let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok();
        let lengths = (packet.hardware_len(), packet.protocol_len(), u16::from(packet.protocol_type()));
        if lengths != (6, 4, frame::ETHERTYPE_IPV4) {
            return;
        }
        let (Some(sender), Some(target)) = (address(packet.source_protocol_addr()), address(packet.target_protocol_addr()))
        else {
            return;
        };
        let Ok(mac) = Mac::try_from(packet.source_hardware_addr()) else { return };
        if mac.first().is_some_and(|first| first & 1 != 0) {
            return;
        }
        let for_us = self.owner(target.into()) == Owner::Own;
        if self.owner(sender.into()) == Owner::Own {
            return;
        }
        let asks = packet.operation() == ArpOperation::Request && for_us;
        // Only somebody on our own links is remembered.
        let near = port.addresses().iter().any(|own| crate::config::contains(own.ip, own.prefix, sender.into()));
        if near {
            let unasked = if asks { Unasked::Keep } else { Unasked::Forget };
            let frames = self.neighbours.lock().learn(now, (interface, sender.into()), mac, unasked);
            self.release(interface, mac, frames);
        }
        if asks {
            let own = port.mac;
            let ethernet = frame::ethernet(mac, own, frame::ETHERTYPE_ARP);
            self.put(interface, &[&[0; frame::VIRTIO], &ethernet, &arp(2, own, target, mac, sender)]);
        }
    }

    /// What of ICMP is the stack's own: neighbours and echo. Errors and replies are for sockets.
    pub(super) fn icmp_arrives(&self, now: Ns, packet: &Packet<'_>) {
        match (packet.protocol, packet.payload.first()) {
            (ICMP, Some(8)) | (ICMPV6, Some(128)) => self.echo(now, packet),
            (ICMPV6, Some(130..=132)) => drop(self.membership_arrives(now, packet)),
            (ICMPV6, Some(&SOLICITATION | &ADVERTISEMENT)) if packet.hops == 255 => self.neighbour_message(now, packet),
            _ => {}
        }
    }

    fn echo(&self, now: Ns, packet: &Packet<'_>) {
        // As many as there are questions (`icmp_ratemask`, and RFC 4443's too, are about errors): nobody's flood silences another's `ping`.
        if packet.payload.len() < HEADER || self.owner(packet.to) != Owner::Own {
            return;
        }
        let mut reply = packet.payload.to_vec();
        if let Some(kind) = reply.first_mut() {
            *kind = if packet.protocol == ICMP { 0 } else { 129 };
        }
        let header = Header {
            from: packet.to,
            to: packet.from,
            protocol: packet.protocol,
            hops: 64,
            class: packet.class,
            cutting: Cutting::Anywhere,
        };
        self.send_icmp(now, &header, self.answers_over(packet), reply);
    }

    /// Sends an ICMP message, whose checksum is made here, over the interface with index `device` if that is not 0.
    pub(super) fn send_icmp(&self, now: Ns, header: &Header, device: i32, mut body: Vec<u8>) {
        header.sum_icmp(&mut body);
        if let Some(way) = self.route(header.to, device) {
            self.send(now, &way, header, Offload::Nothing, &[&body]);
        }
    }

    /// The index of the interface that an answer must take: who has an address of a link's own is on that link. 0: whichever leads there.
    pub fn answers_over(&self, packet: &Packet<'_>) -> i32 {
        let scoped = matches!(packet.from, IpAddr::V6(from) if is_link_local_v6(from));
        self.interfaces.get(packet.interface).filter(|_| scoped).map_or(0, |interface| interface.index)
    }

    fn neighbour_message(&self, now: Ns, packet: &Packet<'_>) {
        let body = packet.payload;
        let Some(target) = body.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()) else { return };
        let target_v6 = Ipv6Addr::from(target);
        let target = IpAddr::from(target_v6);
        let asks = body.first() == Some(&SOLICITATION);
        // Options: a kind, a length in units of 8 bytes, and (the source's or the target's) address.
        let mut mac = None;
        let mut rest = body.get(24..).unwrap_or_default();
        while let (Some(&kind), Some(&units)) = (rest.first(), rest.get(1)) {
            let length = usize::from(units) * 8;
            if length == 0 || length > rest.len() {
                return;
            }
            if kind == if asks { SOURCE } else { TARGET } {
                mac = rest.get(2..8).and_then(|b| Mac::try_from(b).ok());
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        let mac = mac.filter(|mac| mac.first().is_some_and(|first| first & 1 == 0));
        if !asks {
            if let Some(mac) = mac
                && self.owner(target) == Owner::Other
            {
                let frames = self.neighbours.lock().learn(now, (packet.interface, target), mac, Unasked::Forget);
                self.release(packet.interface, mac, frames);
            }
            return;
        }
        if self.owner(target) != Owner::Own {
            return;
        }
        // A probe for duplicates comes from nobody and is answered to all.
        let unspecified = packet.from.is_unspecified();
        let all = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
        let (to, to_mac, flags) = match mac {
            _ if unspecified => (all, frame::group_mac(all), OVERRIDE),
            Some(mac) => {
                let frames = self.neighbours.lock().learn(now, (packet.interface, packet.from), mac, Unasked::Keep);
                self.release(packet.interface, mac, frames);
                (packet.from, mac, SOLICITED | OVERRIDE)
            }
            None => (packet.from, packet.mac, SOLICITED | OVERRIDE),
        };
        let Some(port) = self.interfaces.get(packet.interface) else { return };
        let reply = neighbour(ADVERTISEMENT, flags, target_v6, port.mac);
        self.discovery(packet.interface, target, to, to_mac, reply);
    }

    /// Tells the sender that nobody is there: at its port, or for its protocol.
    pub fn refuse(&self, now: Ns, packet: &Packet<'_>, fault: Fault) {
        // Never about what came for many, or from nobody.
        let fine = self.owner(packet.to) == Owner::Own && !packet.for_all && !packet.from.is_unspecified();
        if !fine || !self.may_tell(now) {
            return;
        }
        let v4 = packet.to.is_ipv4();
        let (kind, code) = match (v4, fault) {
            (true, Fault::PortUnreachable) => (3, 3),
            (true, _) => (3, 2),
            (false, Fault::PortUnreachable) => (1, 4),
            (false, _) => (4, 1),
        };
        let quote = packet.whole.get(..packet.whole.len().min(if v4 { QUOTE_V4 } else { QUOTE_V6 })).unwrap_or_default();
        let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
        if (v4, fault) == (false, Fault::ProtocolUnreachable) {
            // Where the unknown number stands: in the first header.
            body = vec![kind, code, 0, 0, 0, 0, 0, 6];
        }
        body.extend_from_slice(quote);
        let protocol = if v4 { ICMP } else { ICMPV6 };
        let header = Header { from: packet.to, to: packet.from, protocol, hops: 64, class: 0, cutting: Cutting::Anywhere };
        self.send_icmp(now, &header, self.answers_over(packet), body);
    }

    /// Tells an interface's neighbours who we are, so that they forget who had our addresses before; and switches, by which groups we are asked for.
    pub fn announce(&self, interface: usize) {
        let Some(port) = self.interfaces.get(interface) else { return };
        for address in port.addresses().iter() {
            self.announce_one(interface, port.mac, address.ip);
        }
    }

    pub(super) fn announce_one(&self, at: usize, own: Mac, ip: IpAddr) {
        self.join_own(at, ip);
        match ip {
            IpAddr::V4(ip) => {
                let ethernet = frame::ethernet([0xff; 6], own, frame::ETHERTYPE_ARP);
                let arp = arp(1, own, ip.octets(), [0; 6], ip.octets());
                self.put(at, &[&[0; frame::VIRTIO], &ethernet, &arp]);
            }
            IpAddr::V6(target) => {
                let all = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
                let body = neighbour(ADVERTISEMENT, OVERRIDE, target, own);
                self.discovery(at, ip, all, frame::group_mac(all), body);
            }
        }
    }
}

/// A message of neighbour discovery about `target` (RFC 4861, 4.3 and 4.4), with our Ethernet address.
fn neighbour(kind: u8, flags: u8, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    bytes.extend_from_slice(&target.octets());
    bytes.extend_from_slice(&[if kind == SOLICITATION { SOURCE } else { TARGET }, 1]);
    bytes.extend_from_slice(&mac);
    bytes
}

fn arp(operation: u8, from_mac: Mac, from: [u8; 4], to_mac: Mac, to: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend_from_slice(&from_mac);
    bytes.extend_from_slice(&from);
    bytes.extend_from_slice(&to_mac);
    bytes.extend_from_slice(&to);
    bytes
}
