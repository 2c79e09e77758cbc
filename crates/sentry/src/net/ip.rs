//! Options of levels `SOL_IP` and `SOL_IPV6`, and the table from which integer options of any level are served ([`Ints`]).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use smallvec::SmallVec;

use super::address::{Family, array};
use super::options::{OptionIn, int, may_mark};
use super::socket::{OptionBytes, SOCK_RAW, SOCK_STREAM};
use super::stack::Member;
use super::{IPPROTO_IP, IPPROTO_IPV6, NetNamespace};
use crate::Errno;
use crate::task::Cx;

/// Bytes that pass over the loopback interface at once.
pub const LOOPBACK_MTU: i32 = 65_536;
/// Most groups of a socket (`igmp_max_memberships`).
const GROUPS: usize = 20;

pub mod opt {
    pub const IP_TOS: i32 = 1;
    pub const IP_TTL: i32 = 2;
    pub const IP_HDRINCL: i32 = 3;
    pub const IP_OPTIONS: i32 = 4;
    pub const IP_PKTINFO: i32 = 8;
    pub const IP_RECVERR: i32 = 11;
    pub const IP_RECVTTL: i32 = 12;
    pub const IP_RECVTOS: i32 = 13;
    pub const IP_MTU: i32 = 14;
    pub const IP_FREEBIND: i32 = 15;
    pub const IP_TRANSPARENT: i32 = 19;
    pub const IP_RECVORIGDSTADDR: i32 = 20;
    pub const IP_MINTTL: i32 = 21;
    pub const IP_MULTICAST_IF: i32 = 32;
    pub const IP_MULTICAST_TTL: i32 = 33;
    pub const IP_MULTICAST_LOOP: i32 = 34;
    pub const IP_ADD_MEMBERSHIP: i32 = 35;
    pub const IP_DROP_MEMBERSHIP: i32 = 36;
    pub const MCAST_JOIN_GROUP: i32 = 42;
    pub const MCAST_LEAVE_GROUP: i32 = 45;
    pub const IP_MULTICAST_ALL: i32 = 49;
    pub const IPV6_UNICAST_HOPS: i32 = 16;
    pub const IPV6_MULTICAST_IF: i32 = 17;
    pub const IPV6_MULTICAST_HOPS: i32 = 18;
    pub const IPV6_MULTICAST_LOOP: i32 = 19;
    pub const IPV6_JOIN_GROUP: i32 = 20;
    pub const IPV6_LEAVE_GROUP: i32 = 21;
    pub const IPV6_MTU: i32 = 24;
    pub const IPV6_RECVERR: i32 = 25;
    pub const IPV6_V6ONLY: i32 = 26;
    pub const IPV6_RECVPKTINFO: i32 = 49;
    pub const IPV6_RECVHOPLIMIT: i32 = 51;
    pub const IPV6_RECVTCLASS: i32 = 66;
    pub const IPV6_TCLASS: i32 = 67;
    pub const IPV6_MINHOPCOUNT: i32 = 73;
    pub const IPV6_TRANSPARENT: i32 = 75;
    pub const IPV6_FREEBIND: i32 = 78;
}
use opt::*;

/// An integer option.
pub struct Row {
    pub level: i32,
    pub name: i32,
    pub default: i32,
    pub takes: Takes,
}

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Anything; kept as 0 or 1.
    Bool,
    /// 0 or 1.
    StrictBool,
    Range(i32, i32),
    /// A range, or -1 for the default.
    OrDefault(i32, i32),
    /// The low eight bits.
    Byte,
}

pub const fn row(level: i32, name: i32, default: i32, takes: Takes) -> Row {
    Row { level, name, default, takes }
}

/// The values of a table's options.
#[derive(Debug, Clone)]
pub struct Ints(SmallVec<[i32; 48]>);

impl Ints {
    pub fn new(rows: &[Row]) -> Ints {
        Ints(rows.iter().map(|row| row.default).collect())
    }

    /// None: the table does not have it.
    pub fn get(&self, rows: &[Row], level: i32, name: i32) -> Option<i32> {
        let at = rows.iter().position(|row| row.level == level && row.name == name)?;
        self.0.get(at).copied()
    }

    /// # Errors
    /// `EINVAL`; `ENOPROTOOPT` when the table does not have it.
    pub fn set(&mut self, rows: &[Row], level: i32, name: i32, value: i32) -> Result<(), Errno> {
        let found = rows.iter().enumerate().find(|(_, row)| row.level == level && row.name == name);
        let (at, row) = found.ok_or(Errno::ENOPROTOOPT)?;
        let kept = match row.takes {
            Takes::Bool => i32::from(value != 0),
            Takes::StrictBool if (0..=1).contains(&value) => value,
            Takes::Range(least, most) if (least..=most).contains(&value) => value,
            Takes::OrDefault(..) if value == -1 => row.default,
            Takes::OrDefault(least, most) if (least..=most).contains(&value) => value,
            Takes::Byte => value & 0xff,
            _ => return Err(Errno::EINVAL),
        };
        if let Some(place) = self.0.get_mut(at) {
            *place = kept;
        }
        Ok(())
    }
}

const ROWS: &[Row] = &[
    row(IPPROTO_IP, IP_TOS, 0, Takes::Byte),
    row(IPPROTO_IP, IP_TTL, 64, Takes::OrDefault(1, 255)),
    row(IPPROTO_IP, IP_HDRINCL, 0, Takes::Bool),
    row(IPPROTO_IP, 6, 0, Takes::Bool), // IP_RECVOPTS
    row(IPPROTO_IP, 7, 0, Takes::Bool), // IP_RETOPTS
    row(IPPROTO_IP, IP_PKTINFO, 0, Takes::Bool),
    row(IPPROTO_IP, 10, 1, Takes::Range(0, 5)), // IP_MTU_DISCOVER
    row(IPPROTO_IP, IP_RECVERR, 0, Takes::Bool),
    row(IPPROTO_IP, IP_RECVTTL, 0, Takes::Bool),
    row(IPPROTO_IP, IP_RECVTOS, 0, Takes::Bool),
    row(IPPROTO_IP, IP_FREEBIND, 0, Takes::Bool),
    row(IPPROTO_IP, 18, 0, Takes::Bool), // IP_PASSSEC
    row(IPPROTO_IP, IP_TRANSPARENT, 0, Takes::Bool),
    row(IPPROTO_IP, IP_RECVORIGDSTADDR, 0, Takes::Bool),
    row(IPPROTO_IP, IP_MINTTL, 0, Takes::Range(0, 255)),
    row(IPPROTO_IP, 24, 0, Takes::Bool),       // IP_BIND_ADDRESS_NO_PORT
    row(IPPROTO_IP, 26, 0, Takes::StrictBool), // IP_RECVERR_RFC4884
    row(IPPROTO_IP, IP_MULTICAST_TTL, 1, Takes::OrDefault(0, 255)),
    row(IPPROTO_IP, IP_MULTICAST_LOOP, 1, Takes::Bool),
    row(IPPROTO_IP, IP_MULTICAST_ALL, 1, Takes::StrictBool),
    row(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 64, Takes::OrDefault(0, 255)),
    row(IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 1, Takes::OrDefault(0, 255)),
    row(IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 1, Takes::StrictBool),
    row(IPPROTO_IPV6, 23, 1, Takes::Range(0, 5)), // IPV6_MTU_DISCOVER
    row(IPPROTO_IPV6, IPV6_RECVERR, 0, Takes::Bool),
    row(IPPROTO_IPV6, IPV6_V6ONLY, 0, Takes::Bool),
    row(IPPROTO_IPV6, 29, 1, Takes::Bool),       // IPV6_MULTICAST_ALL
    row(IPPROTO_IPV6, 31, 0, Takes::StrictBool), // IPV6_RECVERR_RFC4884
    row(IPPROTO_IPV6, IPV6_RECVPKTINFO, 0, Takes::Bool),
    row(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 0, Takes::Bool),
    row(IPPROTO_IPV6, 60, 0, Takes::Bool), // IPV6_RECVPATHMTU
    row(IPPROTO_IPV6, 62, 0, Takes::Bool), // IPV6_DONTFRAG
    row(IPPROTO_IPV6, IPV6_RECVTCLASS, 0, Takes::Bool),
    row(IPPROTO_IPV6, IPV6_TCLASS, 0, Takes::OrDefault(0, 255)),
    row(IPPROTO_IPV6, 70, 1, Takes::Bool), // IPV6_AUTOFLOWLABEL
    row(IPPROTO_IPV6, IPV6_MINHOPCOUNT, 0, Takes::Range(0, 255)),
    row(IPPROTO_IPV6, 74, 0, Takes::Bool), // IPV6_RECVORIGDSTADDR
    row(IPPROTO_IPV6, IPV6_TRANSPARENT, 0, Takes::Bool),
    row(IPPROTO_IPV6, IPV6_FREEBIND, 0, Takes::Bool),
];

/// What the program set at these levels. The plain fields are what sockets look at often.
#[derive(Debug, Clone)]
pub struct IpOptions {
    ints: Ints,
    pub only_v6: bool,
    /// `IP_FREEBIND`, or `transparent`.
    pub free_bind: bool,
    /// `IP_TRANSPARENT`, by either name.
    pub transparent: bool,
    /// Hops that a packet must have left, of IPv4 and of IPv6 (`IP_MINTTL`, `IPV6_MINHOPCOUNT`).
    pub least_hops: [u8; 2],
    /// `IP_MULTICAST_IF`: an interface, if chosen, and the address by which it was.
    multicast_device: i32,
    multicast_address: Ipv4Addr,
    multicast_device_v6: i32,
    groups: Vec<Joined>,
}

impl Default for IpOptions {
    fn default() -> IpOptions {
        IpOptions {
            ints: Ints::new(ROWS),
            only_v6: false,
            free_bind: false,
            transparent: false,
            least_hops: [0; 2],
            multicast_device: 0,
            multicast_address: Ipv4Addr::UNSPECIFIED,
            multicast_device_v6: 0,
            groups: Vec::new(),
        }
    }
}

/// A membership in a group, on an interface.
#[derive(Debug, Clone)]
struct Joined {
    group: IpAddr,
    device: i32,
    /// Of which the link's routers know.
    _told: Option<Arc<Member>>,
}

/// What options depend on of the socket.
#[derive(Debug, Clone, Copy)]
pub struct About {
    pub family: Family,
    /// `SOCK_*`
    pub kind: i32,
    pub bound: bool,
    /// The peer, if there is one.
    pub remote: Option<IpAddr>,
    /// Index of the interface it is bound to; 0 is any.
    pub device: i32,
    pub protocol: i32,
}

impl IpOptions {
    /// An integer option of `SOL_IP`.
    pub fn v4(&self, name: i32) -> i32 {
        self.ints.get(ROWS, IPPROTO_IP, name).unwrap_or(0)
    }

    #[cfg(test)]
    pub fn set_v4(&mut self, name: i32, value: i32) {
        self.ints.set(ROWS, IPPROTO_IP, name, value).expect("an option");
    }

    /// An integer option of `SOL_IPV6`.
    pub fn v6(&self, name: i32) -> i32 {
        self.ints.get(ROWS, IPPROTO_IPV6, name).unwrap_or(0)
    }

    /// The socket was bound: one with an IPv6 address of its own takes no IPv4 (`__inet6_bind`).
    pub fn bound_to(&mut self, ip: IpAddr) {
        if ip.is_ipv6() && !ip.is_unspecified() {
            // There is such a row, and it takes 1.
            let _ = self.ints.set(ROWS, IPPROTO_IPV6, IPV6_V6ONLY, 1);
            self.only_v6 = true;
        }
    }

    /// Sets an option of either level, of a socket in `net`.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT`, `EPERM`, `ENODEV`, `EADDRINUSE`, `EADDRNOTAVAIL`, `ENOPROTOOPT`.
    pub fn set(
        &mut self,
        cx: &Cx,
        net: &Arc<NetNamespace>,
        about: About,
        level: i32,
        name: i32,
        value: OptionIn<'_>,
    ) -> Result<(), Errno> {
        let v6 = level == IPPROTO_IPV6;
        if v6 && about.family == Family::Inet {
            return Err(Errno::ENOPROTOOPT);
        }
        match (v6, name) {
            (false, IP_MULTICAST_IF) => return self.set_multicast_device(net, about, value),
            (false, IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP) => {
                return self.change_group_v4(net, name == IP_ADD_MEMBERSHIP, value);
            }
            (false, IP_OPTIONS) => return if value.len == 0 { Ok(()) } else { Err(Errno::EINVAL) },
            (true, IPV6_JOIN_GROUP | IPV6_LEAVE_GROUP) => {
                return self.change_group_v6(net, name == IPV6_JOIN_GROUP, value);
            }
            (_, MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP) => {
                return self.change_group(net, name == MCAST_JOIN_GROUP, value);
            }
            _ => {}
        }
        let n = if v6 { value.int() } else { value.int_or_byte() }?;
        match (v6, name) {
            (false, IP_HDRINCL | 5) if about.kind != SOCK_RAW => return Err(Errno::ENOPROTOOPT),
            (false, IP_MULTICAST_TTL | IP_MULTICAST_ALL) if about.kind == SOCK_STREAM => return Err(Errno::EINVAL),
            (true, IPV6_MULTICAST_HOPS) if about.kind == SOCK_STREAM => return Err(Errno::ENOPROTOOPT),
            (false, IP_TRANSPARENT) | (true, IPV6_TRANSPARENT) if n != 0 && !may_mark(&cx.creds(), net) => {
                return Err(Errno::EPERM);
            }
            (true, IPV6_V6ONLY) if about.bound => return Err(Errno::EINVAL),
            (true, IPV6_MULTICAST_IF) => {
                if about.kind == SOCK_STREAM {
                    return Err(Errno::ENOPROTOOPT);
                }
                if n != 0 && !net.has_device(n) {
                    return Err(Errno::ENODEV);
                }
                self.multicast_device_v6 = n;
                return Ok(());
            }
            _ => {}
        }
        let n = match (v6, name, about.kind) {
            // The two ECN bits are TCP's own.
            (false, IP_TOS, SOCK_STREAM) => n & 0xfc,
            _ => n,
        };
        self.ints.set(ROWS, level, name, n)?;
        self.only_v6 = self.v6(IPV6_V6ONLY) != 0;
        self.transparent = self.v4(IP_TRANSPARENT) != 0 || self.v6(IPV6_TRANSPARENT) != 0;
        self.least_hops = [self.v4(IP_MINTTL) as u8, self.v6(IPV6_MINHOPCOUNT) as u8];
        self.free_bind = self.transparent || self.v4(IP_FREEBIND) != 0 || self.v6(IPV6_FREEBIND) != 0;
        Ok(())
    }

    /// An option of either level, of a socket in `net`.
    ///
    /// # Errors
    /// `ENOTCONN`, `ENOPROTOOPT`.
    pub fn get(&self, net: &NetNamespace, about: About, level: i32, name: i32, room: usize) -> Result<OptionBytes, Errno> {
        let v6 = level == IPPROTO_IPV6;
        if v6 && about.family == Family::Inet {
            return Err(Errno::ENOPROTOOPT);
        }
        let mtu = || about.remote.map(|remote| net.mtu_towards(remote, about.device)).ok_or(Errno::ENOTCONN);
        let value = match (v6, name) {
            // An IPv4 packet is no longer than that (`IP_MAX_MTU`).
            (false, IP_MTU) => mtu()?.min(65_535),
            (true, IPV6_MTU) => mtu()?,
            (false, IP_OPTIONS) => return Ok(OptionBytes::new()),
            (false, IP_MULTICAST_IF) => return Ok(SmallVec::from_slice(&self.multicast_address.octets())),
            (false, 52) => about.protocol, // IP_PROTOCOL
            (true, IPV6_MULTICAST_IF) => self.multicast_device_v6,
            (false, IP_HDRINCL) if about.kind != SOCK_RAW => return Err(Errno::ENOPROTOOPT),
            _ => self.ints.get(ROWS, level, name).ok_or(Errno::ENOPROTOOPT)?,
        };
        match u8::try_from(value) {
            Ok(byte) if !v6 && (1..4).contains(&room) => Ok(SmallVec::from_slice(&[byte])),
            _ => Ok(int(value)),
        }
    }

    /// An `ip_mreqn`, `ip_mreq` or `in_addr`.
    fn set_multicast_device(&mut self, net: &NetNamespace, about: About, value: OptionIn<'_>) -> Result<(), Errno> {
        if about.kind == SOCK_STREAM {
            return Err(Errno::ENOPROTOOPT);
        }
        if value.len < 4 {
            return Err(Errno::EINVAL);
        }
        let bytes = value.bytes(12)?;
        let (address, index) = match bytes.len() {
            12 => (array::<4>(&bytes, 4), array::<4>(&bytes, 8)),
            8..12 => (array::<4>(&bytes, 4), None),
            _ => (array::<4>(&bytes, 0), None),
        };
        let address = Ipv4Addr::from(address.ok_or(Errno::EINVAL)?);
        let index = index.map_or(0, i32::from_le_bytes);
        self.multicast_device = match (index, address) {
            (0, Ipv4Addr::UNSPECIFIED) => 0,
            (0, address) => net.device_with(address.into()).ok_or(Errno::EADDRNOTAVAIL)?,
            (index, _) if net.has_device(index) => index,
            _ => return Err(Errno::EADDRNOTAVAIL),
        };
        self.multicast_address = address;
        Ok(())
    }

    fn change_group_v4(&mut self, net: &Arc<NetNamespace>, join: bool, value: OptionIn<'_>) -> Result<(), Errno> {
        if value.len < 8 {
            return Err(Errno::EINVAL);
        }
        let bytes = value.bytes(12)?;
        let group = Ipv4Addr::from(array::<4>(&bytes, 0).ok_or(Errno::EINVAL)?);
        let near = Ipv4Addr::from(array::<4>(&bytes, 4).ok_or(Errno::EINVAL)?);
        let index = array::<4>(&bytes, 8).map_or(0, i32::from_le_bytes);
        let chosen = match (index, near.is_unspecified()) {
            (0, false) => Some(net.device_with(near.into())),
            _ => chosen(net, index),
        };
        self.member(net, join, group.into(), chosen)
    }

    fn change_group_v6(&mut self, net: &Arc<NetNamespace>, join: bool, value: OptionIn<'_>) -> Result<(), Errno> {
        if value.len < 20 {
            return Err(Errno::EINVAL);
        }
        let bytes = value.bytes(20)?;
        let group = Ipv6Addr::from(array::<16>(&bytes, 0).ok_or(Errno::EINVAL)?);
        let index = array::<4>(&bytes, 16).map_or(0, i32::from_le_bytes);
        self.member(net, join, group.into(), chosen(net, index))
    }

    /// A `group_req`.
    fn change_group(&mut self, net: &Arc<NetNamespace>, join: bool, value: OptionIn<'_>) -> Result<(), Errno> {
        if value.len < 136 {
            return Err(Errno::EINVAL);
        }
        let bytes = value.bytes(136)?;
        let index = array::<4>(&bytes, 0).map_or(0, i32::from_le_bytes);
        let group: IpAddr = match super::address::family_of(bytes.get(8..).unwrap_or_default())? {
            super::address::AF_INET => Ipv4Addr::from(array::<4>(&bytes, 12).ok_or(Errno::EINVAL)?).into(),
            super::address::AF_INET6 => Ipv6Addr::from(array::<16>(&bytes, 16).ok_or(Errno::EINVAL)?).into(),
            _ => return Err(Errno::EADDRNOTAVAIL),
        };
        self.member(net, join, group, chosen(net, index))
    }

    /// `chosen`: the interface that the program names, if there is such a one; None: it names none.
    fn member(&mut self, net: &Arc<NetNamespace>, join: bool, group: IpAddr, chosen: Option<Option<i32>>) -> Result<(), Errno> {
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        if !join {
            let is_meant = |joined: &Joined| joined.group == group && chosen.is_none_or(|device| device == Some(joined.device));
            let at = self.groups.iter().position(is_meant).ok_or(Errno::EADDRNOTAVAIL)?;
            self.groups.remove(at);
            return Ok(());
        }
        // Whichever way the group is; no interface may be that.
        let device = chosen.unwrap_or_else(|| net.way_device(group)).ok_or(Errno::ENODEV)?;
        if self.groups.iter().any(|joined| (joined.group, joined.device) == (group, device)) {
            return Err(Errno::EADDRINUSE);
        }
        if self.groups.len() >= GROUPS {
            return Err(Errno::ENOBUFS);
        }
        self.groups.push(Joined { group, device, _told: Member::new(net, device, group).map(Arc::new) });
        Ok(())
    }

    /// Whether the socket is in a group on an interface.
    pub fn is_in(&self, group: IpAddr, device: i32) -> bool {
        self.groups.iter().any(|joined| (joined.group, joined.device) == (group, device))
    }

    /// The address that packets to a group come from, if it was by one that their interface was chosen.
    pub fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        let by_address = to.is_ipv4() && to.is_multicast() && !self.multicast_address.is_unspecified();
        by_address.then_some(self.multicast_address.into())
    }

    /// The interface that packets to a group take (`IP_MULTICAST_IF`); 0: whichever leads there.
    pub fn device_for(&self, to: IpAddr) -> i32 {
        match to {
            _ if !to.is_multicast() => 0,
            IpAddr::V4(_) => self.multicast_device,
            IpAddr::V6(_) => self.multicast_device_v6,
        }
    }
}

/// The interface with an index that a program has given; None: 0 is none.
fn chosen(net: &NetNamespace, index: i32) -> Option<Option<i32>> {
    (index != 0).then(|| net.has_device(index).then_some(index))
}
