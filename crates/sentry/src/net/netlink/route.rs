//! NETLINK_ROUTE (rtnetlink(7)): what there is to tell of interfaces, addresses, routes and neighbours.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netstack::config::{self, Address};
use smallvec::SmallVec;

use super::parse::{Message, attribute};
use super::write::{Answer, NLM_F_MULTI};
use super::{Asker, NLM_F_DUMP, change};
use crate::Errno;
use crate::net::address::array;
use crate::net::devices::{Device, SCOPE_HOST};
use crate::net::namespace::AddressKind;
use crate::net::{LOOPBACK, NetNamespace};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
/// Queries whose answer is an empty list: queueing, groups of addresses, tables of neighbours.
const EMPTY: [u16; 5] = [38, 42, 46, 58, 66];
/// The last message type (`RTM_MAX`).
const RTM_MAX: u16 = 123;

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
pub(super) const IFA_BROADCAST: u16 = 4;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_PREFSRC: u16 = 7;
pub(super) const RTA_TABLE: u16 = 15;
const IFA_F_PERMANENT: u8 = 0x80;
pub(super) const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;

/// Answers a request.
///
/// # Errors
/// `EPERM`, `EINVAL`, `ENODEV`, `EOPNOTSUPP` and the like.
pub fn request(net: &NetNamespace, message: &Message<'_>, asker: Asker, out: &mut Answer<'_>) -> Result<(), Errno> {
    if message.kind > RTM_MAX {
        return Err(Errno::EOPNOTSUPP);
    }
    let Some(&family) = message.payload.first() else { return Ok(()) };
    if message.kind & 3 != 2 {
        return change::request(net, message, asker);
    }
    if message.flags & NLM_F_DUMP == 0 {
        return single(net, message, out);
    }
    let wants = |wanted: u8| family == 0 || family == wanted;
    match message.kind {
        RTM_GETLINK if family != AF_BRIDGE => net.devices().iter().for_each(|device| link(device, NLM_F_MULTI, out)),
        RTM_GETLINK => {}
        RTM_GETADDR => addresses(net, &wants, out),
        RTM_GETROUTE => routes(net, message, asker, &wants, out),
        RTM_GETRULE => rules(&wants, out),
        RTM_GETNEIGH => neighbours(net, &wants, out),
        kind if EMPTY.contains(&kind) => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    out.done();
    Ok(())
}

fn single(net: &NetNamespace, message: &Message<'_>, out: &mut Answer<'_>) -> Result<(), Errno> {
    match message.kind {
        RTM_GETLINK => {
            let index = i32::from_le_bytes(array(message.payload, 4).ok_or(Errno::EINVAL)?);
            let name = attribute(message.payload, 16, IFLA_IFNAME);
            let name = name.map(|name| name.split(|&byte| byte == 0).next().unwrap_or_default());
            let devices = net.devices();
            let device = match (index, name) {
                (0, None) => return Err(Errno::EINVAL),
                (0, Some(name)) => devices.iter().find(|device| device.name.as_bytes() == name),
                (index, _) => devices.iter().find(|device| device.index == index),
            };
            link(device.ok_or(Errno::ENODEV)?, 0, out);
            Ok(())
        }
        RTM_GETROUTE => route_to(net, message, out),
        RTM_GETNEIGH => Err(Errno::ENOENT),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

pub(super) fn link(device: &Device, flags: u16, out: &mut Answer<'_>) {
    let mut header = vec![0, 0];
    header.extend_from_slice(&device.kind.to_le_bytes());
    header.extend_from_slice(&device.index.to_le_bytes());
    header.extend_from_slice(&device.flags.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    out.begin(RTM_NEWLINK, flags, &header);
    out.attribute(IFLA_IFNAME, &terminated(&device.name));
    out.attribute(13, &1000u32.to_le_bytes()); // IFLA_TXQLEN
    out.attribute(16, &[device.state]); // IFLA_OPERSTATE
    out.attribute(17, &[0]); // IFLA_LINKMODE
    out.attribute(IFLA_MTU, &device.mtu.to_le_bytes());
    for (kind, value) in [(27, 0u32), (30, 0), (31, 1), (32, 1), (35, 0)] {
        // IFLA_GROUP, _PROMISCUITY, _NUM_TX_QUEUES, _NUM_RX_QUEUES, _CARRIER_CHANGES
        out.attribute(kind, &value.to_le_bytes());
    }
    out.attribute(33, &[1]); // IFLA_CARRIER
    out.attribute(6, b"noqueue\0"); // IFLA_QDISC
    out.attribute(IFLA_ADDRESS, &device.mac);
    out.attribute(2, &device.broadcast); // IFLA_BROADCAST
    let (received, sent) = (device.received, device.sent);
    let counts = [received.packets, sent.packets, received.bytes, sent.bytes, 0, 0, received.dropped, sent.dropped];
    let mut long = Vec::new();
    let mut short = Vec::new();
    for at in 0..24 {
        let count = counts.get(at).copied().unwrap_or(0);
        long.extend_from_slice(&count.to_le_bytes());
        short.extend_from_slice(&(count as u32).to_le_bytes());
    }
    out.attribute(23, &long); // IFLA_STATS64
    out.attribute(7, &short); // IFLA_STATS
    out.end();
}

/// With the zero that ends names.
fn terminated(name: &str) -> Vec<u8> {
    name.bytes().chain([0]).collect()
}

fn octets(ip: IpAddr) -> SmallVec<[u8; 16]> {
    match ip {
        IpAddr::V4(ip) => SmallVec::from_slice(&ip.octets()),
        IpAddr::V6(ip) => SmallVec::from_slice(&ip.octets()),
    }
}

fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address of a family in an attribute.
pub(super) fn ip_of(family: u8, bytes: &[u8]) -> Result<IpAddr, Errno> {
    match family {
        AF_INET => array::<4>(bytes, 0).map(|ip| Ipv4Addr::from(ip).into()).ok_or(Errno::EINVAL),
        AF_INET6 => array::<16>(bytes, 0).map(|ip| Ipv6Addr::from(ip).into()).ok_or(Errno::EINVAL),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn addresses(net: &NetNamespace, wants: &dyn Fn(u8) -> bool, out: &mut Answer<'_>) {
    let devices = net.devices();
    // All of one family, then all of the other.
    for v4 in [true, false] {
        for device in &devices {
            let same = device.addresses.iter().filter(|address| address.ip.is_ipv4() == v4);
            for address in same.filter(|address| wants(family_of(address.ip))) {
                put_address(device, address, RTM_NEWADDR, NLM_F_MULTI, out);
            }
        }
    }
}

pub(super) fn put_address(device: &Device, address: &Address, kind: u16, flags: u16, out: &mut Answer<'_>) {
    let bytes = octets(address.ip);
    let mut header = vec![family_of(address.ip), address.prefix, IFA_F_PERMANENT, address.scope];
    header.extend_from_slice(&device.index.to_le_bytes());
    out.begin(kind, flags, &header);
    out.attribute(IFA_ADDRESS, &bytes);
    if address.ip.is_ipv4() {
        out.attribute(IFA_LOCAL, &bytes);
        if let Some(all) = address.broadcast {
            out.attribute(IFA_BROADCAST, &all.octets());
        }
        out.attribute(3, &terminated(&device.name)); // IFA_LABEL
    }
    out.attribute(8, &u32::from(IFA_F_PERMANENT).to_le_bytes()); // IFA_FLAGS
    // IFA_CACHEINFO: valid for ever.
    out.attribute(6, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.end();
}

/// A route as it is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    to: IpAddr,
    prefix: u8,
    table: u8,
    scope: u8,
    /// `RTPROT_*`
    protocol: u8,
    /// `RTN_*`
    kind: u8,
    source: Option<IpAddr>,
    gateway: Option<IpAddr>,
    metric: u32,
    device: i32,
}

impl Route {
    /// One of the main table's.
    pub(super) fn of(route: &config::Route) -> Route {
        Route {
            to: route.to,
            prefix: route.prefix,
            table: TABLE_MAIN,
            scope: route.scope,
            protocol: route.protocol,
            kind: 1,
            source: route.source,
            gateway: route.gateway,
            metric: route.metric,
            device: route.interface,
        }
    }
}

/// All routes: the main table's, and the local ones that addresses make.
fn all_routes(net: &NetNamespace) -> Vec<Route> {
    let mut main = Vec::new();
    for route in net.stack().map(|stack| stack.network.routes()).unwrap_or_default().iter() {
        main.push(Route::of(route));
    }
    let mut local = Vec::new();
    for device in net.devices() {
        for address in &device.addresses {
            // Protocol "kernel", type "local".
            let own = Route {
                to: address.ip,
                prefix: if address.ip.is_ipv4() { 32 } else { 128 },
                table: TABLE_LOCAL,
                scope: SCOPE_HOST,
                protocol: 2,
                kind: 2,
                source: Some(address.ip),
                gateway: None,
                metric: 0,
                device: device.index,
            };
            match address.ip {
                IpAddr::V4(ip) => {
                    if ip.is_loopback() {
                        local.push(Route { to: Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 8, ..own });
                    }
                    local.push(own);
                    if let Some(all) = address.all_hosts() {
                        local.push(Route { to: all.into(), scope: 253, kind: 3, ..own });
                    }
                }
                IpAddr::V6(ip) => {
                    if ip.is_loopback() {
                        main.push(Route { table: TABLE_MAIN, scope: 0, kind: 1, source: None, metric: 256, ..own });
                    }
                    local.push(Route { scope: 0, source: None, ..own });
                }
            }
        }
    }
    main.extend(local);
    main
}

fn routes(net: &NetNamespace, message: &Message<'_>, asker: Asker, wants: &dyn Fn(u8) -> bool, out: &mut Answer<'_>) {
    let table = message.payload.get(4).copied().filter(|&table| asker.strict && table != 0);
    let cached = message.payload.get(8..12).is_some_and(|flags| flags.get(1).is_some_and(|byte| byte & 2 != 0));
    if cached {
        return;
    }
    let all = all_routes(net);
    for v4 in [true, false] {
        let same = all.iter().filter(|route| route.to.is_ipv4() == v4 && wants(family_of(route.to)));
        for route in same.filter(|route| table.is_none_or(|table| table == route.table)) {
            put_route(route, RTM_NEWROUTE, NLM_F_MULTI, 0, out);
        }
    }
}

pub(super) fn put_route(route: &Route, kind: u16, flags: u16, route_flags: u32, out: &mut Answer<'_>) {
    let mut header = vec![family_of(route.to), route.prefix, 0, 0, route.table, route.protocol, route.scope, route.kind];
    header.extend_from_slice(&route_flags.to_le_bytes());
    out.begin(kind, flags, &header);
    out.attribute(RTA_TABLE, &u32::from(route.table).to_le_bytes());
    if route.prefix > 0 {
        out.attribute(RTA_DST, &octets(route.to));
    }
    if route.to.is_ipv6() || route.metric > 0 {
        out.attribute(RTA_PRIORITY, &route.metric.to_le_bytes());
    }
    if let Some(gateway) = route.gateway {
        out.attribute(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(source) = route.source {
        out.attribute(RTA_PREFSRC, &octets(source));
    }
    out.attribute(RTA_OIF, &route.device.to_le_bytes());
    out.end();
}

/// `ip route get`.
fn route_to(net: &NetNamespace, message: &Message<'_>, out: &mut Answer<'_>) -> Result<(), Errno> {
    let to = attribute(message.payload, 12, RTA_DST).ok_or(Errno::EINVAL)?;
    let ip = ip_of(message.payload.first().copied().unwrap_or(0), to)?;
    let route = Route {
        to: ip,
        prefix: if ip.is_ipv4() { 32 } else { 128 },
        table: TABLE_LOCAL,
        scope: 0,
        protocol: 0,
        kind: 2,
        source: Some(net.route(ip)?),
        gateway: None,
        metric: 0,
        device: LOOPBACK,
    };
    match (net.address_kind(ip), net.way(ip, 0)) {
        (AddressKind::Foreign, Ok(way)) => {
            let device = net.stack().and_then(|stack| stack.network.interfaces().get(way.interface));
            let device = device.map_or(LOOPBACK, |interface| interface.index);
            let gateway = Some(way.next).filter(|next| *next != ip);
            // RTM_F_CLONED.
            put_route(&Route { table: TABLE_MAIN, kind: 1, gateway, device, ..route }, RTM_NEWROUTE, 0, 0x200, out);
        }
        // RTM_F_CLONED, RTCF_LOCAL.
        _ => put_route(&Route { protocol: 2, ..route }, RTM_NEWROUTE, 0, 0x8000_0200, out),
    }
    Ok(())
}

fn neighbours(net: &NetNamespace, wants: &dyn Fn(u8) -> bool, out: &mut Answer<'_>) {
    let Some(stack) = net.stack() else { return };
    for ((interface, ip), mac, state) in stack.network.neighbours(net.clock.monotonic().0) {
        let Some(interface) = stack.network.interfaces().get(interface).filter(|_| wants(family_of(ip))) else { continue };
        let mut header = vec![family_of(ip), 0, 0, 0];
        header.extend_from_slice(&interface.index.to_le_bytes());
        header.extend_from_slice(&state.to_le_bytes());
        // Type "unicast".
        header.extend_from_slice(&[0, 1]);
        out.begin(RTM_NEWNEIGH, NLM_F_MULTI, &header);
        out.attribute(1, &octets(ip)); // NDA_DST
        if let Some(mac) = mac {
            out.attribute(2, &mac); // NDA_LLADDR
        }
        out.end();
    }
}

fn rules(wants: &dyn Fn(u8) -> bool, out: &mut Answer<'_>) {
    let all = [
        (AF_INET, 0u32, TABLE_LOCAL),
        (AF_INET, 32_766, TABLE_MAIN),
        (AF_INET, 32_767, 253),
        (AF_INET6, 0, TABLE_LOCAL),
        (AF_INET6, 32_766, TABLE_MAIN),
    ];
    for (family, priority, table) in all.into_iter().filter(|(family, ..)| wants(*family)) {
        // FR_ACT_TO_TBL.
        out.begin(RTM_NEWRULE, NLM_F_MULTI, &[family, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0]);
        out.attribute(15, &u32::from(table).to_le_bytes()); // FRA_TABLE
        out.attribute(14, &u32::MAX.to_le_bytes()); // FRA_SUPPRESS_PREFIXLEN
        if priority > 0 {
            out.attribute(6, &priority.to_le_bytes()); // FRA_PRIORITY
        }
        out.attribute(21, &[2]); // FRA_PROTOCOL
        out.end();
    }
}
