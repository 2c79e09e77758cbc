//! Claims on ports: who may bind what while others have it.

use core::net::IpAddr;
use std::ops::RangeInclusive;

use super::address::{Endpoint, Family};
use super::namespace::{AddressKind, NetNamespace};
use super::tunables::EPHEMERAL;
use crate::Errno;
use crate::task::{Capability, Cx};

/// A socket's claim on a port.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    pub ip: IpAddr,
    /// `IPV6_V6ONLY`
    pub only_v6: bool,
    pub reuse: bool,
    pub reuse_port: bool,
    pub uid: u32,
    /// `SO_BINDTODEVICE`; 0 is any.
    pub device: i32,
}

impl Claim {
    /// Whether some packet is meant for both (`inet_rcv_saddr_equal`, with wildcards).
    pub fn overlaps(&self, other: &Claim) -> bool {
        let devices = self.device == 0 || other.device == 0 || self.device == other.device;
        let addresses = match (self.ip, other.ip) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                self.ip.is_unspecified() || other.ip.is_unspecified() || self.ip == other.ip
            }
            (IpAddr::V6(ip), IpAddr::V4(_)) => ip.is_unspecified() && !self.only_v6,
            (IpAddr::V4(_), IpAddr::V6(ip)) => ip.is_unspecified() && !other.only_v6,
        };
        devices && addresses
    }

    /// Whether both said that they share by `SO_REUSEPORT`, and are the same user's.
    pub fn share_port(&self, other: &Claim) -> bool {
        self.reuse_port && other.reuse_port && self.uid == other.uid
    }

    /// How well it fits a packet to `ip` that came over an interface (0: nobody knows which); None: not at all. The address counts most, then the interface
    /// (`compute_score`, which is asked for sockets with the address first).
    pub fn score(&self, ip: IpAddr, device: i32) -> Option<u32> {
        let by_device = match self.device {
            0 => 0,
            own if own == device || device == 0 => 4,
            _ => return None,
        };
        let by_address = match (self.ip, ip) {
            (own, to) if own == to => 8,
            (IpAddr::V4(own), IpAddr::V4(_)) if own.is_unspecified() => 2,
            (IpAddr::V6(own), IpAddr::V6(_)) if own.is_unspecified() => 2,
            (IpAddr::V6(own), IpAddr::V4(_)) if own.is_unspecified() && !self.only_v6 => 1,
            _ => return None,
        };
        Some(by_address + by_device)
    }
}

/// Numbers that are hard enough to guess for ports (xorshift).
pub struct Random {
    state: u64,
    /// Those that are given without being asked for.
    pub ephemeral: RangeInclusive<u16>,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { state: seed | 1, ephemeral: EPHEMERAL }
    }

    pub fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// All ephemeral ports, from a random one on.
    pub fn ephemeral(&mut self) -> impl Iterator<Item = u16> + use<> {
        let first = *self.ephemeral.start();
        // The range is never empty.
        let count = (self.ephemeral.len() as u64).max(1);
        let start = self.next() % count;
        (0..count).map(move |n| first + ((start + n) % count) as u16)
    }
}

/// What a socket may bind, by `bind`'s rules for its family.
///
/// # Errors
/// `EINVAL`, `EAFNOSUPPORT`, `EADDRNOTAVAIL`, `EACCES`.
pub fn check_bind(cx: &Cx, net: &NetNamespace, family: Family, address: &[u8], rules: BindRules) -> Result<Endpoint, Errno> {
    let number = super::address::family_of(address).map_err(|_| Errno::EINVAL)?;
    if address.len() < family.shortest() {
        return Err(Errno::EINVAL);
    }
    let at = Endpoint::decode(family, address)?;
    let any_unspecified = family == Family::Inet && number == super::address::AF_UNSPEC && at.ip.is_unspecified();
    if number != family.number() && !any_unspecified {
        return Err(Errno::EAFNOSUPPORT);
    }
    let mapped = family == Family::Inet6 && at.ip.is_ipv4();
    if mapped && rules.only_v6 {
        return Err(Errno::EINVAL);
    }
    let kind = net.address_kind(at.ip);
    if family == Family::Inet6 && kind == AddressKind::Multicast && rules.stream {
        return Err(Errno::EINVAL);
    }
    let available = rules.free_bind || kind != AddressKind::Foreign;
    let privileged =
        rules.ports && at.port != 0 && net.is_privileged(at.port) && !net.allows(&cx.creds(), Capability::NetBindService);
    match family {
        Family::Inet if !available => Err(Errno::EADDRNOTAVAIL),
        _ if privileged => Err(Errno::EACCES),
        Family::Inet6 if !available => Err(Errno::EADDRNOTAVAIL),
        _ => Ok(at),
    }
}

/// Which interface an address to bind to, that needs a scope, puts the socket on (`__inet6_bind`).
///
/// # Errors
/// `EINVAL` when none is named, `ENODEV`, `EADDRNOTAVAIL` when the address is not on that one.
pub fn bind_scope(net: &NetNamespace, family: Family, address: &[u8], rules: BindRules, own: i32) -> Result<i32, Errno> {
    if family != Family::Inet6 || super::address::family_of(address) != Ok(super::address::AF_INET6) {
        return Ok(own);
    }
    let Ok(at) = Endpoint::decode(family, address) else { return Ok(own) };
    let device = match super::address::scope(at.ip, address) {
        None => return Ok(own),
        Some(0) => own,
        Some(scope) => scope,
    };
    match device {
        0 => Err(Errno::EINVAL),
        _ if !net.has_device(device) => Err(Errno::ENODEV),
        _ if at.ip.is_multicast() || rules.free_bind || net.has_on(device, at.ip) => Ok(device),
        _ => Err(Errno::EADDRNOTAVAIL),
    }
}

/// Which interface a destination that needs a scope puts the socket on.
///
/// # Errors
/// `EINVAL` when none is named, or another than the socket is on.
pub fn connect_scope(to: &Endpoint, address: &[u8], own: i32) -> Result<i32, Errno> {
    match (super::address::scope(to.ip, address), own) {
        (None, own) => Ok(own),
        (Some(0), 0) => Err(Errno::EINVAL),
        (Some(0), own) => Ok(own),
        (Some(scope), own) if own == 0 || own == scope => Ok(scope),
        _ => Err(Errno::EINVAL),
    }
}

/// What bears on [`check_bind`].
#[derive(Debug, Clone, Copy)]
pub struct BindRules {
    pub only_v6: bool,
    /// `IP_FREEBIND`, `IP_TRANSPARENT`
    pub free_bind: bool,
    pub stream: bool,
    /// Whether the protocol has ports.
    pub ports: bool,
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn claim(ip: impl Into<IpAddr>) -> Claim {
        Claim { ip: ip.into(), only_v6: false, reuse: false, reuse_port: false, uid: 0, device: 0 }
    }

    #[test]
    fn wildcards_overlap_across_families_unless_v6_only() {
        let (any4, any6) = (claim(Ipv4Addr::UNSPECIFIED), claim(Ipv6Addr::UNSPECIFIED));
        let (one4, one6) = (claim(Ipv4Addr::LOCALHOST), claim(Ipv6Addr::LOCALHOST));
        let only = Claim { only_v6: true, ..any6 };
        assert!(any4.overlaps(&any6) && any6.overlaps(&one4) && any6.overlaps(&one6) && any4.overlaps(&one4));
        assert!(!only.overlaps(&any4) && !only.overlaps(&one4) && only.overlaps(&one6));
        assert!(!any4.overlaps(&one6) && !one4.overlaps(&one6));
        assert_eq!(any6.score(Ipv4Addr::LOCALHOST.into(), 1), Some(1));
        assert_eq!(only.score(Ipv4Addr::LOCALHOST.into(), 1), None);
    }

    #[test]
    fn an_interface_fits_or_excludes() {
        let (any, one) = (claim(Ipv4Addr::UNSPECIFIED), claim(Ipv4Addr::LOCALHOST));
        let on = |claim: Claim, device| Claim { device, ..claim };
        let score = |claim: Claim| claim.score(Ipv4Addr::LOCALHOST.into(), 2);
        assert_eq!((score(on(any, 1)), score(on(one, 1))), (None, None));
        assert!(score(on(any, 2)) > score(any) && score(on(one, 2)) > score(one));
        assert!(score(one) > score(on(any, 2)), "the address counts more");
    }

    #[test]
    fn ephemeral_ports_are_all_there_once() {
        let ports: std::collections::BTreeSet<u16> = Random::new(7).ephemeral().collect();
        assert_eq!(ports.len(), EPHEMERAL.len());
    }
}
