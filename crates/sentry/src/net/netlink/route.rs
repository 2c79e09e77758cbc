//! NETLINK_ROUTE (rtnetlink(7)): what there is to tell of the one interface.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::parse::{Message, attribute};
use super::write::{Answer, NLM_F_MULTI};
use crate::Errno;
use crate::net::address::array;
use crate::net::ifreq::ARPHRD_LOOPBACK;
use crate::net::ip::LOOPBACK_MTU;
use crate::net::{LOOPBACK, NetNamespace};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_DUMP: u16 = 0x300;
/// The first type that is not netlink's own.
const NLMSG_MIN_TYPE: u16 = 16;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
/// Queries whose answer is an empty list: queueing, groups of addresses, tables of neighbours.
const EMPTY: [u16; 5] = [38, 42, 46, 58, 66];
/// The last message type (`RTM_MAX`).
const RTM_MAX: u16 = 123;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `IFF_UP | IFF_LOOPBACK | IFF_RUNNING | IFF_LOWER_UP`
const LINK_UP: u32 = 0x1_0049;
const LINK_DOWN: u32 = 0x8;
const IFA_F_PERMANENT: u8 = 0x80;
const SCOPE_HOST: u8 = 254;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;

/// How the asker is to be treated.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    pub port: u32,
    /// `CAP_NET_ADMIN`
    pub admin: bool,
    /// `NETLINK_CAP_ACK`, `NETLINK_GET_STRICT_CHK`
    pub capped: bool,
    pub strict: bool,
}

/// Answers one message; the bytes of each datagram to be queued.
pub fn answer(net: &NetNamespace, message: &Message<'_>, asker: Asker) -> Vec<Vec<u8>> {
    if message.flags & NLM_F_REQUEST == 0 {
        return Vec::new();
    }
    let mut answer = Answer::to(message, asker.port);
    let result = match message.kind {
        ..NLMSG_MIN_TYPE => Ok(()),
        _ => request(net, message, asker, &mut answer),
    };
    let mut datagrams = Vec::new();
    match result {
        Ok(()) => {
            if !answer.bytes.is_empty() {
                datagrams.push(std::mem::take(&mut answer.bytes));
            }
            let dumped = message.kind & 3 == 2 && message.flags & NLM_F_DUMP != 0;
            if message.flags & NLM_F_ACK != 0 && !dumped {
                answer.error(0, true);
            }
        }
        Err(errno) => {
            answer.bytes.clear();
            answer.error(errno.raw(), asker.capped);
        }
    }
    if !answer.bytes.is_empty() {
        datagrams.push(answer.bytes);
    }
    datagrams
}

fn request(net: &NetNamespace, message: &Message<'_>, asker: Asker, out: &mut Answer<'_>) -> Result<(), Errno> {
    if message.kind > RTM_MAX {
        return Err(Errno::EOPNOTSUPP);
    }
    let Some(&family) = message.payload.first() else { return Ok(()) };
    if message.kind & 3 != 2 {
        return change(net, message, asker);
    }
    if message.flags & NLM_F_DUMP == 0 {
        return single(net, message, out);
    }
    let wants = |wanted: u8| family == 0 || family == wanted;
    match message.kind {
        RTM_GETLINK if family != AF_BRIDGE => link(net, NLM_F_MULTI, out),
        RTM_GETLINK => {}
        RTM_GETADDR => addresses(net, &wants, out),
        RTM_GETROUTE => routes(net, message, asker, &wants, out),
        RTM_GETRULE => rules(&wants, out),
        RTM_GETNEIGH => {}
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
            match (index, name) {
                (0, None) => return Err(Errno::EINVAL),
                (LOOPBACK, _) | (0, Some(b"lo")) => link(net, 0, out),
                _ => return Err(Errno::ENODEV),
            }
            Ok(())
        }
        RTM_GETROUTE => route_to(net, message, out),
        RTM_GETNEIGH => Err(Errno::ENOENT),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// The changes that there are: `lo` up and down, and its own addresses.
fn change(net: &NetNamespace, message: &Message<'_>, asker: Asker) -> Result<(), Errno> {
    if !asker.admin {
        return Err(Errno::EPERM);
    }
    match message.kind {
        RTM_NEWLINK | RTM_SETLINK => {}
        RTM_NEWADDR => return add_address(net, message),
        _ => return Err(Errno::EOPNOTSUPP),
    }
    let word = |at: usize| array(message.payload, at).map(u32::from_le_bytes).ok_or(Errno::EINVAL);
    let (index, flags, mask) = (word(4)?, word(8)?, word(12)?);
    let named = attribute(message.payload, 16, IFLA_IFNAME).is_some_and(|name| name.starts_with(b"lo"));
    if index as i32 != LOOPBACK && !(index == 0 && named) {
        return Err(if message.kind == RTM_SETLINK || index != 0 { Errno::ENODEV } else { Errno::EOPNOTSUPP });
    }
    if mask & 1 != 0 || flags & 1 != 0 {
        net.set_up(flags & 1 != 0);
    }
    Ok(())
}

/// `lo` gets its addresses when it goes up. Those who set a new namespace up (bubblewrap) add them before.
fn add_address(net: &NetNamespace, message: &Message<'_>) -> Result<(), Errno> {
    let [family, prefix, _, _] = array(message.payload, 0).ok_or(Errno::EINVAL)?;
    if array(message.payload, 4).map(i32::from_le_bytes).ok_or(Errno::EINVAL)? != LOOPBACK {
        return Err(Errno::ENODEV);
    }
    let address =
        attribute(message.payload, 8, IFA_LOCAL).or(attribute(message.payload, 8, IFA_ADDRESS)).ok_or(Errno::EINVAL)?;
    let own = match family {
        AF_INET => prefix == 8 && address == Ipv4Addr::LOCALHOST.octets(),
        AF_INET6 => prefix == 128 && address == Ipv6Addr::LOCALHOST.octets(),
        _ => false,
    };
    match own {
        false => Err(Errno::EOPNOTSUPP),
        true if net.is_up() && message.flags & NLM_F_REPLACE == 0 => Err(Errno::EEXIST),
        true => Ok(()),
    }
}

fn link(net: &NetNamespace, flags: u16, out: &mut Answer<'_>) {
    let mut header = vec![0, 0];
    header.extend_from_slice(&ARPHRD_LOOPBACK.to_le_bytes());
    header.extend_from_slice(&LOOPBACK.to_le_bytes());
    header.extend_from_slice(&(if net.is_up() { LINK_UP } else { LINK_DOWN }).to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    out.begin(RTM_NEWLINK, flags, &header);
    out.attribute(IFLA_IFNAME, b"lo\0");
    out.attribute(13, &1000u32.to_le_bytes()); // IFLA_TXQLEN
    out.attribute(16, &[if net.is_up() { 0 } else { 2 }]); // IFLA_OPERSTATE: unknown, down
    out.attribute(17, &[0]); // IFLA_LINKMODE
    out.attribute(4, &LOOPBACK_MTU.to_le_bytes()); // IFLA_MTU
    for (kind, value) in [(27, 0u32), (30, 0), (31, 1), (32, 1), (35, 0)] {
        // IFLA_GROUP, _PROMISCUITY, _NUM_TX_QUEUES, _NUM_RX_QUEUES, _CARRIER_CHANGES
        out.attribute(kind, &value.to_le_bytes());
    }
    out.attribute(33, &[1]); // IFLA_CARRIER
    out.attribute(6, b"noqueue\0"); // IFLA_QDISC
    out.attribute(1, &[0; 6]); // IFLA_ADDRESS
    out.attribute(2, &[0; 6]); // IFLA_BROADCAST
    let (packets, bytes) = (net.counters.packets.get(), net.counters.bytes.get());
    let counts = [packets, packets, bytes, bytes];
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

fn addresses(net: &NetNamespace, wants: &dyn Fn(u8) -> bool, out: &mut Answer<'_>) {
    if !net.is_up() {
        return;
    }
    let mut address = |family: u8, prefix: u8, octets: &[u8]| {
        let mut header = vec![family, prefix, IFA_F_PERMANENT, SCOPE_HOST];
        header.extend_from_slice(&LOOPBACK.to_le_bytes());
        out.begin(RTM_NEWADDR, NLM_F_MULTI, &header);
        out.attribute(IFA_ADDRESS, octets);
        if family == AF_INET {
            out.attribute(IFA_LOCAL, octets);
            out.attribute(3, b"lo\0"); // IFA_LABEL
        }
        out.attribute(8, &u32::from(IFA_F_PERMANENT).to_le_bytes()); // IFA_FLAGS
        // IFA_CACHEINFO: valid for ever.
        out.attribute(6, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.end();
    };
    if wants(AF_INET) {
        address(AF_INET, 8, &Ipv4Addr::LOCALHOST.octets());
    }
    if wants(AF_INET6) {
        address(AF_INET6, 128, &Ipv6Addr::LOCALHOST.octets());
    }
}

/// A route over `lo`.
struct Route<'a> {
    family: u8,
    prefix: u8,
    table: u8,
    scope: u8,
    /// `RTN_*`
    kind: u8,
    to: &'a [u8],
    source: Option<&'a [u8]>,
}

fn routes(net: &NetNamespace, message: &Message<'_>, asker: Asker, wants: &dyn Fn(u8) -> bool, out: &mut Answer<'_>) {
    let table = message.payload.get(4).copied().filter(|&table| asker.strict && table != 0);
    let cached = message.payload.get(8..12).is_some_and(|flags| flags.get(1).is_some_and(|byte| byte & 2 != 0));
    if !net.is_up() || cached {
        return;
    }
    let local4 = Route {
        family: AF_INET,
        prefix: 8,
        table: TABLE_LOCAL,
        scope: SCOPE_HOST,
        kind: 2,
        to: &[127, 0, 0, 0],
        source: Some(&[127, 0, 0, 1]),
    };
    let one6 = Ipv6Addr::LOCALHOST.octets();
    let all = [
        Route { ..local4 },
        Route { prefix: 32, to: &[127, 0, 0, 1], ..local4 },
        Route { prefix: 32, to: &[127, 255, 255, 255], scope: 253, kind: 3, ..local4 },
        Route { family: AF_INET6, prefix: 128, table: TABLE_MAIN, scope: 0, kind: 1, to: &one6, source: None },
        Route { family: AF_INET6, prefix: 128, table: TABLE_LOCAL, scope: 0, kind: 2, to: &one6, source: None },
    ];
    for route in all.iter().filter(|route| wants(route.family) && table.is_none_or(|table| table == route.table)) {
        put_route(route, NLM_F_MULTI, 0, out);
    }
}

fn put_route(route: &Route<'_>, flags: u16, route_flags: u32, out: &mut Answer<'_>) {
    // Protocol "kernel".
    let mut header = vec![route.family, route.prefix, 0, 0, route.table, 2, route.scope, route.kind];
    header.extend_from_slice(&route_flags.to_le_bytes());
    out.begin(RTM_NEWROUTE, flags, &header);
    out.attribute(15, &u32::from(route.table).to_le_bytes()); // RTA_TABLE
    out.attribute(1, route.to); // RTA_DST
    if route.family == AF_INET6 {
        out.attribute(6, &(if route.table == TABLE_MAIN { 256u32 } else { 0 }).to_le_bytes()); // RTA_PRIORITY
    }
    if let Some(source) = route.source {
        out.attribute(7, source); // RTA_PREFSRC
    }
    out.attribute(4, &LOOPBACK.to_le_bytes()); // RTA_OIF
    out.end();
}

/// `ip route get`.
fn route_to(net: &NetNamespace, message: &Message<'_>, out: &mut Answer<'_>) -> Result<(), Errno> {
    let to = attribute(message.payload, 12, 1).ok_or(Errno::EINVAL)?;
    let family = message.payload.first().copied().unwrap_or(0);
    let ip: IpAddr = match family {
        AF_INET => Ipv4Addr::from(array::<4>(to, 0).ok_or(Errno::EINVAL)?).into(),
        AF_INET6 => Ipv6Addr::from(array::<16>(to, 0).ok_or(Errno::EINVAL)?).into(),
        _ => return Err(Errno::EOPNOTSUPP),
    };
    let source = match net.route(ip)? {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let prefix = (to.len().min(16) * 8) as u8;
    let route = Route { family, prefix, table: TABLE_LOCAL, scope: 0, kind: 2, to, source: Some(&source) };
    // RTM_F_CLONED, RTCF_LOCAL.
    put_route(&route, 0, 0x8000_0200, out);
    Ok(())
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
