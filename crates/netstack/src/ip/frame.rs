//! Frames as a packet socket gives and takes them: virtio-net's header, Ethernet's, and what is in it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{self, Sum};

/// Bytes of `struct virtio_net_hdr`.
pub const VIRTIO: usize = 10;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of the IP headers that are sent.
pub const IPV4: usize = 20;
pub const IPV6: usize = 40;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP: u8 = 5;

/// What the other side of the link left to us, or has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Virtio {
    /// The transport's checksum need not be looked at.
    pub checked: bool,
    /// Bytes of payload in each packet this one stands for; 0: it is one.
    pub segment: u16,
}

impl Virtio {
    pub fn parse(bytes: &[u8]) -> Option<Virtio> {
        let flags = *bytes.first()?;
        let kind = *bytes.get(1)? & 0x7f;
        let segment = u16::from_le_bytes(bytes.get(4..6)?.try_into().ok()?);
        let segmented = matches!(kind, GSO_TCPV4 | GSO_TCPV6 | GSO_UDP);
        Some(Virtio { checked: flags & (NEEDS_CHECKSUM | CHECKSUM_VALID) != 0, segment: if segmented { segment } else { 0 } })
    }
}

/// What is left to the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    Nothing,
    /// The checksum, at this place of the transport header.
    Checksum {
        at: u16,
    },
    /// And cutting into TCP segments with so many bytes, behind a header of so many.
    Segments {
        at: u16,
        header: u16,
        mss: u16,
    },
}

/// `struct virtio_net_hdr` for a packet whose transport starts at `start` of the frame.
pub fn virtio(offload: Offload, start: usize, v4: bool) -> [u8; VIRTIO] {
    let (flags, kind, header, segment, at) = match offload {
        Offload::Nothing => return [0; VIRTIO],
        Offload::Checksum { at } => (NEEDS_CHECKSUM, 0, 0, 0, at),
        Offload::Segments { at, header, mss } => {
            (NEEDS_CHECKSUM, if v4 { GSO_TCPV4 } else { GSO_TCPV6 }, start as u16 + header, mss, at)
        }
    };
    let mut bytes = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    for (place, value) in bytes.iter_mut().skip(2).zip([header, segment, start as u16, at].iter().flat_map(|n| n.to_le_bytes()))
    {
        *place = value;
    }
    bytes
}

/// What an IP packet is sent with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub hops: u8,
    pub class: u8,
    pub cutting: Cutting,
}

/// Who may cut a packet that is too long (`IP_MTU_DISCOVER`). Of IPv6 no router ever does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cutting {
    Anywhere,
    /// Its sender; routers are to tell it.
    Here,
    Nowhere,
    /// Likewise, and what routers have told before does not count.
    Probe,
    /// Routers only; what they have told does not count, since anybody may have (`IP_PMTUDISC_INTERFACE`).
    Routers,
    /// Its sender too, for its own link (`IP_PMTUDISC_OMIT`).
    ForLink,
}

impl Cutting {
    /// Whether only the link tells how long a packet may be, and nobody else on the way.
    pub fn by_link(self) -> bool {
        matches!(self, Cutting::Probe | Cutting::Routers | Cutting::ForLink)
    }

    /// Whether its sender may cut.
    pub fn here(self) -> bool {
        matches!(self, Cutting::Anywhere | Cutting::Here | Cutting::ForLink)
    }

    /// Whether routers may not ("don't fragment").
    pub fn not_by_routers(self) -> bool {
        matches!(self, Cutting::Here | Cutting::Nowhere | Cutting::Probe)
    }
}

/// A place in a packet that was cut: bytes before it, and whether more come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub id: u32,
    pub offset: u16,
    pub more: bool,
}

impl Header {
    /// The IP header for `length` bytes behind it.
    pub fn bytes(&self, length: usize, id: u16, cut: Option<Cut>) -> smallvec::SmallVec<[u8; 64]> {
        let mut bytes = smallvec::SmallVec::new();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let id = cut.map_or(id, |cut| cut.id as u16);
                let fragment = cut.map_or(u16::from(self.cutting.not_by_routers()) << 14, |cut| {
                    (u16::from(cut.more) << 13) | (cut.offset / 8)
                });
                bytes.extend_from_slice(&[0x45, self.class]);
                bytes.extend_from_slice(&((IPV4 + length) as u16).to_be_bytes());
                bytes.extend_from_slice(&id.to_be_bytes());
                bytes.extend_from_slice(&fragment.to_be_bytes());
                bytes.extend_from_slice(&[self.hops, self.protocol, 0, 0]);
                bytes.extend_from_slice(&from.octets());
                bytes.extend_from_slice(&to.octets());
                let sum = checksum::of(&bytes);
                checksum::put(&mut bytes, 10, sum);
            }
            (from, to) => {
                let (from, to) = (v6(from), v6(to));
                let length = length + if cut.is_some() { 8 } else { 0 };
                bytes.extend_from_slice(&(0x6000_0000 | u32::from(self.class) << 20).to_be_bytes());
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
                bytes.extend_from_slice(&[if cut.is_some() { 44 } else { self.protocol }, self.hops]);
                bytes.extend_from_slice(&from.octets());
                bytes.extend_from_slice(&to.octets());
                if let Some(cut) = cut {
                    bytes.extend_from_slice(&[self.protocol, 0]);
                    bytes.extend_from_slice(&(cut.offset | u16::from(cut.more)).to_be_bytes());
                    bytes.extend_from_slice(&cut.id.to_be_bytes());
                }
            }
        }
        bytes
    }

    /// Puts the checksum into an ICMP message that goes with this header. ICMPv6 counts the addresses in.
    pub fn sum_icmp(&self, message: &mut [u8]) {
        checksum::put(message, 2, 0);
        let mut sum = if self.to.is_ipv4() { Sum::default() } else { self.pseudo(message.len()) };
        sum.add(message);
        checksum::put(message, 2, sum.checksum());
    }

    /// The sum of the pseudo-header for `length` bytes of transport.
    pub fn pseudo(&self, length: usize) -> Sum {
        Sum::pseudo(self.from, self.to, self.protocol, length)
    }
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// The Ethernet address of a group.
pub fn group_mac(ip: IpAddr) -> [u8; 6] {
    match ip {
        IpAddr::V4(Ipv4Addr::BROADCAST) => [0xff; 6],
        IpAddr::V4(ip) => {
            let [_, b, c, d] = ip.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// What Ethernet calls the packets that go to such an address.
pub fn ethertype(to: IpAddr) -> u16 {
    if to.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
}

pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> [u8; ETHERNET] {
    let mut bytes = [0; ETHERNET];
    for (place, byte) in bytes.iter_mut().zip(to.into_iter().chain(from).chain(kind.to_be_bytes())) {
        *place = byte;
    }
    bytes
}
