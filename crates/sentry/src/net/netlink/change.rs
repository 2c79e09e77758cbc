//! Changes by NETLINK_ROUTE: interfaces up and down and their MTU, addresses, routes (`ip link set`, `ip addr`, `ip route`). Who listens is told.
//!
//! Not there: making, renaming and removing interfaces, tables other than the main one, routes that refuse, several gateways, neighbours by
//! hand, rules: `EOPNOTSUPP`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netstack::config::{Address, Route as Entry, mask_v4};
use netstack::ip::{Existing, Refused, RouteKey};

use super::parse::{Message, attribute};
use super::route::{
    self, AF_INET, AF_INET6, IFA_ADDRESS, IFA_BROADCAST, IFA_LOCAL, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, RTA_DST, RTA_GATEWAY,
    RTA_OIF, RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, Route, TABLE_MAIN, ip_of,
};
use super::write::Answer;
use super::{Asker, NETLINK_ROUTE};
use crate::Errno;
use crate::net::address::array;
use crate::net::devices::{Device, SCOPE_HOST};
use crate::net::namespace::AddressKind;
use crate::net::{LOOPBACK, NetNamespace};

const RTM_SETLINK: u16 = 19;
const RTM_DELADDR: u16 = 21;
const RTM_DELROUTE: u16 = 25;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

const IFLA_LINKINFO: u16 = 18;
const RTA_MULTIPATH: u16 = 9;
const RTN_UNSPEC: u8 = 0;
const RTN_UNICAST: u8 = 1;
const SCOPE_NOWHERE: u8 = 255;
/// What an IPv6 route gets that is given none (`IP6_RT_PRIO_USER`).
const METRIC_V6: u32 = 1024;
/// Groups that are told, by bit (`RTMGRP_*`).
const TELLS_LINK: u32 = 1;
const TELLS_ADDRESS: [u32; 2] = [0x10, 0x100];
const TELLS_ROUTE: [u32; 2] = [0x40, 0x400];

/// Makes a change.
///
/// # Errors
/// `EPERM`, and what Linux says of it.
pub(super) fn request(net: &NetNamespace, message: &Message<'_>, asker: Asker) -> Result<(), Errno> {
    if !asker.admin {
        return Err(Errno::EPERM);
    }
    match message.kind {
        RTM_NEWLINK | RTM_SETLINK => change_link(net, message, asker),
        RTM_NEWADDR | RTM_DELADDR => change_address(net, message, asker),
        RTM_NEWROUTE | RTM_DELROUTE => change_route(net, message, asker),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Tells those who have joined a group.
fn tell(net: &NetNamespace, groups: u32, message: &Message<'_>, asker: Asker, put: impl FnOnce(&mut Answer<'_>)) {
    let sockets = net.netlink.lock().listeners(NETLINK_ROUTE, groups);
    if sockets.is_empty() {
        return;
    }
    let mut answer = Answer::to(message, asker.port);
    put(&mut answer);
    let datagrams = answer.told();
    for socket in sockets {
        socket.queue_answer(datagrams.clone());
    }
}

fn errno(refused: Refused, family: u8) -> Errno {
    match refused {
        Refused::NoInterface => Errno::ENODEV,
        Refused::Down => Errno::ENETDOWN,
        Refused::Exists => Errno::EEXIST,
        Refused::Missing => Errno::ESRCH,
        Refused::Full => Errno::ENOSPC,
        Refused::OutOfRange => Errno::EINVAL,
        Refused::Unreachable if family == AF_INET => Errno::ENETUNREACH,
        Refused::Unreachable => Errno::EHOSTUNREACH,
    }
}

fn change_link(net: &NetNamespace, message: &Message<'_>, asker: Asker) -> Result<(), Errno> {
    let word = |at: usize| array(message.payload, at).map(u32::from_le_bytes).ok_or(Errno::EINVAL);
    let (index, flags, mask) = (word(4)? as i32, word(8)?, word(12)?);
    let given = |kind: u16| attribute(message.payload, 16, kind);
    let name = given(IFLA_IFNAME).map(|name| name.split(|&byte| byte == 0).next().unwrap_or_default());
    let devices = net.devices();
    let device = match (index, name) {
        (0, None) => return Err(Errno::EINVAL),
        (0, Some(name)) => devices.iter().find(|device| device.name.as_bytes() == name),
        (index, _) => devices.iter().find(|device| device.index == index),
    };
    let Some(device) = device else {
        // An interface is to be made.
        let makes = message.kind == RTM_NEWLINK && message.flags & NLM_F_CREATE != 0;
        return Err(if makes { Errno::EOPNOTSUPP } else { Errno::ENODEV });
    };
    if message.kind == RTM_NEWLINK && message.flags & NLM_F_EXCL != 0 {
        return Err(Errno::EEXIST);
    }
    let renames = index != 0 && name.is_some_and(|name| name != device.name.as_bytes());
    if renames || given(IFLA_LINKINFO).is_some() || given(IFLA_ADDRESS).is_some_and(|mac| mac != device.mac) {
        return Err(Errno::EOPNOTSUPP);
    }
    let index = device.index;
    if let Some(mtu) = given(IFLA_MTU) {
        set_mtu(net, device, array(mtu, 0).map(u32::from_le_bytes).ok_or(Errno::EINVAL)?)?;
    }
    if mask & 1 != 0 || flags & 1 != 0 {
        set_up(net, index, flags & 1 != 0)?;
    }
    let devices = net.devices();
    if let Some(device) = devices.iter().find(|device| device.index == index) {
        tell(net, TELLS_LINK, message, asker, |out| route::link(device, 0, out));
    }
    Ok(())
}

/// An interface gets another MTU, up to the host's.
///
/// # Errors
/// `EINVAL`; `EOPNOTSUPP` for the loopback interface, where nothing is cut.
pub fn set_mtu(net: &NetNamespace, device: &Device, mtu: u32) -> Result<(), Errno> {
    match net.stack().filter(|_| !device.is_loopback()) {
        Some(stack) => stack.network.set_mtu(device.index, mtu).map_err(|refused| errno(refused, AF_INET)),
        None if mtu == device.mtu => Ok(()),
        None => Err(Errno::EOPNOTSUPP),
    }
}

/// An interface goes up or down.
///
/// # Errors
/// `ENODEV`.
pub fn set_up(net: &NetNamespace, index: i32, up: bool) -> Result<(), Errno> {
    if index == LOOPBACK {
        net.set_up(up);
        return Ok(());
    }
    let network = net.stack().map(|stack| &stack.network).ok_or(Errno::ENODEV)?;
    network.set_up(net.clock.monotonic().0, index, up).map_err(|refused| errno(refused, AF_INET))
}

fn longest(family: u8) -> u8 {
    if family == AF_INET { 32 } else { 128 }
}

fn change_address(net: &NetNamespace, message: &Message<'_>, asker: Asker) -> Result<(), Errno> {
    let [family, prefix, _, scope] = array(message.payload, 0).ok_or(Errno::EINVAL)?;
    let index = array(message.payload, 4).map(i32::from_le_bytes).ok_or(Errno::EINVAL)?;
    let given = |kind: u16| attribute(message.payload, 8, kind);
    let own = given(IFA_LOCAL).or(given(IFA_ADDRESS)).ok_or(Errno::EINVAL)?;
    let ip = ip_of(family, own)?;
    if given(IFA_LOCAL).is_some() && given(IFA_ADDRESS).is_some_and(|peer| peer != own) {
        // A point-to-point link's other end.
        return Err(Errno::EOPNOTSUPP);
    }
    if prefix > longest(family) {
        return Err(Errno::EINVAL);
    }
    let device = net.devices().into_iter().find(|device| device.index == index).ok_or(Errno::ENODEV)?;
    let broadcast = match given(IFA_BROADCAST) {
        Some(bytes) if family == AF_INET => array::<4>(bytes, 0).map(Ipv4Addr::from),
        _ => None,
    };
    // An IPv6 address's scope is in itself.
    let scope = match ip {
        IpAddr::V4(_) => scope,
        IpAddr::V6(ip) if ip.is_loopback() => SCOPE_HOST,
        ip if netstack::config::is_link_local(ip) => 253,
        _ => 0,
    };
    let address = Address { ip, prefix, broadcast, scope };
    let adds = message.kind == RTM_NEWADDR;
    if adds && (ip.is_multicast() || ip.is_unspecified()) {
        return Err(if family == AF_INET { Errno::EINVAL } else { Errno::EADDRNOTAVAIL });
    }
    let changed = match (index, adds) {
        (LOOPBACK, true) => net.add_loopback_address(address.clone()),
        (LOOPBACK, false) => net.remove_loopback_address(ip, prefix),
        (_, true) => {
            net.stack().ok_or(Refused::NoInterface).and_then(|stack| stack.network.add_address(index, address.clone()))
        }
        (_, false) => {
            let now = net.clock.monotonic().0;
            net.stack().ok_or(Refused::NoInterface).and_then(|stack| stack.network.remove_address(now, index, ip, prefix))
        }
    };
    match changed {
        Ok(()) => {}
        Err(Refused::Exists) if message.flags & NLM_F_REPLACE != 0 => return Ok(()),
        Err(Refused::Missing) => return Err(Errno::EADDRNOTAVAIL),
        Err(refused) => return Err(errno(refused, family)),
    }
    let group = TELLS_ADDRESS.get(usize::from(family == AF_INET6)).copied().unwrap_or(0);
    tell(net, group, message, asker, |out| route::put_address(&device, &address, message.kind, 0, out));
    Ok(())
}

/// A route in a request.
struct Asked {
    family: u8,
    to: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    interface: Option<i32>,
    source: Option<IpAddr>,
    metric: Option<u32>,
    protocol: u8,
    scope: u8,
}

impl Asked {
    fn read(message: &Message<'_>) -> Result<Asked, Errno> {
        let [family, prefix, from_prefix, _tos] = array(message.payload, 0).ok_or(Errno::EINVAL)?;
        let [table, protocol, scope, kind] = array(message.payload, 4).ok_or(Errno::EINVAL)?;
        let given = |kind: u16| attribute(message.payload, 12, kind);
        let word =
            |kind: u16| given(kind).map(|bytes| array(bytes, 0).map(u32::from_le_bytes).ok_or(Errno::EINVAL)).transpose();
        if !matches!(family, AF_INET | AF_INET6) {
            return Err(Errno::EOPNOTSUPP);
        }
        if prefix > longest(family) || from_prefix != 0 {
            return Err(Errno::EINVAL);
        }
        let table = word(RTA_TABLE)?.unwrap_or(table.into());
        let plain = matches!(kind, RTN_UNICAST | RTN_UNSPEC) && (table == 0 || table == u32::from(TABLE_MAIN));
        if !plain || given(RTA_MULTIPATH).is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let ip = |kind: u16| given(kind).map(|bytes| ip_of(family, bytes)).transpose();
        let any: IpAddr = if family == AF_INET { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let to = ip(RTA_DST)?.unwrap_or(any);
        if let IpAddr::V4(to) = to
            && to.to_bits() & !mask_v4(prefix) != 0
        {
            // Bits of a host in a network's address.
            return Err(Errno::EINVAL);
        }
        Ok(Asked {
            family,
            to: netstack::config::network(to, prefix),
            prefix,
            gateway: ip(RTA_GATEWAY)?.filter(|gateway| !gateway.is_unspecified()),
            interface: word(RTA_OIF)?.map(|index| index as i32).filter(|&index| index != 0),
            source: ip(RTA_PREFSRC)?,
            metric: word(RTA_PRIORITY)?,
            protocol,
            scope,
        })
    }

    fn key(&self) -> RouteKey {
        RouteKey {
            to: self.to,
            prefix: self.prefix,
            gateway: self.gateway,
            interface: self.interface,
            metric: self.metric.filter(|&metric| metric != 0),
            protocol: Some(self.protocol).filter(|&protocol| protocol != 0),
        }
    }
}

fn change_route(net: &NetNamespace, message: &Message<'_>, asker: Asker) -> Result<(), Errno> {
    let asked = Asked::read(message)?;
    let (family, v4) = (asked.family, asked.family == AF_INET);
    if asked.interface.is_some_and(|index| !net.has_device(index)) {
        return Err(Errno::ENODEV);
    }
    let network = net.stack().map(|stack| &stack.network);
    let done = if message.kind == RTM_DELROUTE {
        let network = network.ok_or(Errno::ESRCH)?;
        network.remove_route(&asked.key()).map_err(|refused| errno(refused, family))?
    } else {
        if asked.interface == Some(LOOPBACK) {
            return Err(Errno::EOPNOTSUPP);
        }
        if asked.gateway.is_none() && asked.interface.is_none() {
            return Err(Errno::ENODEV);
        }
        if v4 && asked.scope >= SCOPE_HOST && asked.scope != SCOPE_NOWHERE {
            return Err(Errno::EINVAL);
        }
        if asked.source.is_some_and(|source| net.address_kind(source) != AddressKind::Local) {
            return Err(Errno::EINVAL);
        }
        let network =
            network.ok_or(if asked.gateway.is_some() { errno(Refused::Unreachable, family) } else { Errno::ENODEV })?;
        let existing = match message.flags {
            flags if flags & NLM_F_REPLACE != 0 => Existing::Replaced,
            flags if flags & NLM_F_APPEND != 0 => Existing::Kept,
            _ => Existing::Refused,
        };
        let metric = asked.metric.filter(|&metric| metric != 0).unwrap_or(if v4 { 0 } else { METRIC_V6 });
        let known = RouteKey { gateway: None, interface: None, metric: Some(metric), protocol: None, ..asked.key() };
        if message.flags & NLM_F_CREATE == 0 && !network.has_route(&known) {
            return Err(Errno::ENOENT);
        }
        let entry = Entry {
            to: asked.to,
            prefix: asked.prefix,
            gateway: asked.gateway,
            interface: asked.interface.unwrap_or(0),
            source: asked.source,
            metric,
            scope: asked.scope,
            protocol: asked.protocol,
        };
        network.add_route(entry, existing).map_err(|refused| errno(refused, family))?
    };
    let group = TELLS_ROUTE.get(usize::from(!v4)).copied().unwrap_or(0);
    tell(net, group, message, asker, |out| route::put_route(&Route::of(&done), message.kind, 0, 0, out));
    Ok(())
}
