//! What a network namespace looked like when the sandbox joined it: read by the runtime, used by the stack and shown to programs.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A network namespace, without its loopback interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub interfaces: Vec<Interface>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub index: i32,
    pub mac: [u8; 6],
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    pub addresses: Vec<Address>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub ip: IpAddr,
    pub prefix: u8,
    pub broadcast: Option<Ipv4Addr>,
    /// `RT_SCOPE_*`
    pub scope: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The network's address.
    pub to: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    /// Index of its interface.
    pub interface: i32,
    /// The address that packets come from by default.
    pub source: Option<IpAddr>,
    pub metric: u32,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// `RTPROT_*`
    pub protocol: u8,
}

/// An entry that somebody has made by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    pub ip: IpAddr,
    pub interface: i32,
    pub mac: [u8; 6],
}

/// The bits of an IPv4 address that say which network it is in.
pub fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// The first address of the network that `ip` is in.
pub fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & mask_v4(prefix)).into(),
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// Whether `ip` is in the network `net`/`prefix`.
pub fn contains(net: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    network(net, prefix) == network(ip, prefix)
}

impl Address {
    /// All hosts of its network: `None` for IPv6 and for networks of one or two hosts.
    pub fn all_hosts(&self) -> Option<Ipv4Addr> {
        let IpAddr::V4(ip) = self.ip else { return None };
        if self.prefix >= 31 {
            return None;
        }
        Some(self.broadcast.unwrap_or(Ipv4Addr::from_bits(ip.to_bits() | !mask_v4(self.prefix))))
    }
}

/// Whether an address is for one link only.
pub fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => is_link_local_v6(ip),
    }
}

pub(crate) fn is_link_local_v6(ip: Ipv6Addr) -> bool {
    ip.segments().first().is_some_and(|first| first & 0xffc0 == 0xfe80)
}

/// Whether a group stays on its host (`IPV6_ADDR_SCOPE_NODELOCAL`, and the reserved scope 0).
pub fn is_host_scope(group: Ipv6Addr) -> bool {
    group.octets()[1] & 0xf <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_their_broadcast_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        assert!(contains(ip("10.1.2.0"), 24, ip("10.1.2.9")) && !contains(ip("10.1.2.0"), 24, ip("10.1.3.9")));
        assert!(contains(ip("0.0.0.0"), 0, ip("255.1.2.3")) && contains(ip("::"), 0, ip("fe80::1")));
        assert!(!contains(ip("0.0.0.0"), 0, ip("::1")) && !contains(ip("fd00::"), 200, ip("fd00::1")));
        assert_eq!([0, 1, 20, 32, 33, 255].map(mask_v4), [0, 1 << 31, 0xffff_f000, u32::MAX, u32::MAX, u32::MAX]);
        let address = Address { ip: ip("10.1.2.3"), prefix: 20, broadcast: None, scope: 0 };
        assert_eq!(address.all_hosts(), Some(Ipv4Addr::new(10, 1, 15, 255)));
        assert_eq!(Address { prefix: 32, ..address }.all_hosts(), None);
    }
}
