//! Internet addresses: `sockaddr_in` and `sockaddr_in6`, parsed once.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netstack::config::is_link_local;
use smallvec::SmallVec;

use super::socket::AddressBytes;
use crate::Errno;

pub const AF_UNSPEC: u16 = 0;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// `SIN6_LEN_RFC2133`: the shortest `sockaddr_in6`, without a scope.
const SHORTEST_V6: usize = 24;

/// A socket's family. Addresses inside the stack are canonical: a mapped one is a V4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    Inet,
    Inet6,
}

/// An address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
}

/// The family in the first two bytes.
///
/// # Errors
/// `EINVAL` when there are none.
pub fn family_of(bytes: &[u8]) -> Result<u16, Errno> {
    match bytes {
        [a, b, ..] => Ok(u16::from_le_bytes([*a, *b])),
        _ => Err(Errno::EINVAL),
    }
}

/// Bytes from `at` on.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl Family {
    /// `AF_*`
    pub fn number(self) -> u16 {
        match self {
            Family::Inet => AF_INET,
            Family::Inet6 => AF_INET6,
        }
    }

    pub fn unspecified(self) -> IpAddr {
        match self {
            Family::Inet => Ipv4Addr::UNSPECIFIED.into(),
            Family::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The shortest address of the family in bytes.
    pub fn shortest(self) -> usize {
        match self {
            Family::Inet => 16,
            Family::Inet6 => SHORTEST_V6,
        }
    }
}

impl Endpoint {
    pub fn new(ip: IpAddr, port: u16) -> Endpoint {
        Endpoint { ip, port }
    }

    /// An address of `family`, whose number has been looked at by the caller.
    ///
    /// # Errors
    /// `EINVAL` when it is too short.
    pub fn decode(family: Family, bytes: &[u8]) -> Result<Endpoint, Errno> {
        if bytes.len() < family.shortest() {
            return Err(Errno::EINVAL);
        }
        let port = u16::from_be_bytes(array(bytes, 2).ok_or(Errno::EINVAL)?);
        let ip = match family {
            Family::Inet => Ipv4Addr::from(array::<4>(bytes, 4).ok_or(Errno::EINVAL)?).into(),
            Family::Inet6 => Ipv6Addr::from(array::<16>(bytes, 8).ok_or(Errno::EINVAL)?).to_canonical(),
        };
        Ok(Endpoint { ip, port })
    }

    /// As a `sockaddr` of a socket of `family`; if its address needs a scope, that is the interface `device`.
    pub fn encode_on(self, family: Family, device: i32) -> AddressBytes {
        let mut bytes = self.encode(family);
        if needs_scope(self.ip)
            && let Some(place) = bytes.get_mut(SHORTEST_V6..SHORTEST_V6 + 4)
        {
            place.copy_from_slice(&device.to_le_bytes());
        }
        bytes
    }

    /// As a `sockaddr` of a socket of `family`.
    pub fn encode(self, family: Family) -> AddressBytes {
        let mut bytes: AddressBytes = SmallVec::from_slice(&family.number().to_le_bytes());
        bytes.extend_from_slice(&self.port.to_be_bytes());
        match (family, self.ip) {
            (Family::Inet, IpAddr::V4(ip)) => {
                bytes.extend_from_slice(&ip.octets());
                bytes.extend_from_slice(&[0; 8]);
            }
            // Not there: a V4 socket has V4 addresses.
            (Family::Inet, IpAddr::V6(_)) => bytes.extend_from_slice(&[0; 12]),
            (Family::Inet6, ip) => {
                bytes.extend_from_slice(&[0; 4]);
                bytes.extend_from_slice(&as_v6(ip).octets());
                bytes.extend_from_slice(&[0; 4]);
            }
        }
        bytes
    }
}

/// Whether an address means something on one link only: link-local, or a group of one link.
pub fn needs_scope(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V6(v6) => is_link_local(ip) || (v6.is_multicast() && matches!(v6.octets()[1] & 0xf, 1 | 2)),
        IpAddr::V4(_) => false,
    }
}

/// The interface that a `sockaddr_in6` names as the scope of its address, 0 if it names none. None: the address needs none.
pub fn scope(ip: IpAddr, bytes: &[u8]) -> Option<i32> {
    needs_scope(ip).then(|| array(bytes, SHORTEST_V6).map_or(0, i32::from_le_bytes))
}

/// As an IPv6 address: a V4 one mapped.
pub fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        let v4 = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 80);
        assert_eq!(Endpoint::decode(Family::Inet, &v4.encode(Family::Inet)), Ok(v4));
        let mapped = v4.encode(Family::Inet6);
        assert_eq!(mapped.len(), 28);
        assert_eq!(Endpoint::decode(Family::Inet6, &mapped), Ok(v4), "mapped addresses become V4");
        let v6 = Endpoint::new(Ipv6Addr::LOCALHOST.into(), 65535);
        assert_eq!(Endpoint::decode(Family::Inet6, &v6.encode(Family::Inet6)), Ok(v6));
        for len in 0..28 {
            let _ = Endpoint::decode(Family::Inet6, &mapped[..len]);
            let _ = Endpoint::decode(Family::Inet, &mapped[..len]);
        }
    }
}
