//! /proc/net as text.

use std::fmt::Write;
use std::sync::Arc;

use core::net::IpAddr;
use netstack::config::{Route, mask_v4};

use super::NetNamespace;
use super::address::{Endpoint, Family, as_v6};
use super::datagram::{Datagram, Protocol};
use super::devices::Device;
use super::multicast;

/// A file below /proc/net and how its text is made.
pub type Table = (&'static str, fn(&NetNamespace) -> String);

pub const TABLES: &[Table] = &[
    ("dev", |net| dev(net)),
    ("dev_mcast", |net| multicast::devices(net)),
    ("if_inet6", |net| if_inet6(net)),
    ("igmp", |net| multicast::igmp(net)),
    ("igmp6", |net| multicast::igmp6(net)),
    // Nobody chooses sources here.
    ("mcfilter", |_| "Idx Device        MCA        SRC    INC    EXC\n".into()),
    ("mcfilter6", |_| "Idx Device                Multicast Address                   Source Address    INC    EXC\n".into()),
    ("arp", |net| arp(net)),
    ("ipv6_route", |net| ipv6_route(net)),
    ("netlink", |net| netlink(net)),
    ("netstat", |net| netstat(net)),
    ("packet", |net| net.packets.report()),
    ("protocols", |net| protocols(net)),
    ("raw", |net| datagrams(net, Family::Inet, Which::Raw)),
    ("raw6", |net| datagrams(net, Family::Inet6, Which::Raw)),
    ("icmp", |net| datagrams(net, Family::Inet, Which::Ping)),
    ("icmp6", |net| datagrams(net, Family::Inet6, Which::Ping)),
    ("route", |net| route(net)),
    ("snmp", |net| snmp(net)),
    ("sockstat", |net| sockstat(net)),
    ("sockstat6", |net| sockstat6(net)),
    ("tcp", |net| tcp(net, Family::Inet)),
    ("tcp6", |net| tcp(net, Family::Inet6)),
    ("udp", |net| datagrams(net, Family::Inet, Which::Udp)),
    ("udp6", |net| datagrams(net, Family::Inet6, Which::Udp)),
    ("udplite", |net| datagrams(net, Family::Inet, Which::UdpLite)),
    ("udplite6", |net| datagrams(net, Family::Inet6, Which::UdpLite)),
    ("unix", |net| net.unix.report()),
];

/// Sysctls below /proc/sys/net.
pub const SYSCTLS: &[(&str, &str)] = &[
    ("net/core/default_qdisc", "pfifo_fast"),
    ("net/core/netdev_max_backlog", "1000"),
    ("net/core/optmem_max", "131072"),
    ("net/core/rmem_default", "212992"),
    ("net/core/rmem_max", "212992"),
    ("net/core/wmem_default", "212992"),
    ("net/core/wmem_max", "212992"),
    ("net/ipv4/conf/all/forwarding", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/forwarding", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/lo/forwarding", "0"),
    ("net/ipv4/icmp_echo_ignore_all", "0"),
    ("net/ipv4/ip_default_ttl", "64"),
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/ip_local_reserved_ports", ""),
    ("net/ipv4/ip_nonlocal_bind", "0"),
    ("net/ipv4/tcp_allowed_congestion_control", "reno cubic"),
    ("net/ipv4/tcp_available_congestion_control", "reno cubic"),
    ("net/ipv4/tcp_congestion_control", "cubic"),
    ("net/ipv4/tcp_ecn", "2"),
    ("net/ipv4/tcp_fastopen", "0"),
    ("net/ipv4/tcp_max_syn_backlog", "4096"),
    ("net/ipv4/tcp_max_tw_buckets", "16384"),
    ("net/ipv4/tcp_moderate_rcvbuf", "1"),
    ("net/ipv4/tcp_retries2", "15"),
    ("net/ipv4/tcp_sack", "1"),
    ("net/ipv4/tcp_syncookies", "1"),
    ("net/ipv4/tcp_timestamps", "1"),
    ("net/ipv4/tcp_tw_reuse", "2"),
    ("net/ipv4/tcp_window_scaling", "1"),
    ("net/ipv4/udp_rmem_min", "4096"),
    ("net/ipv4/udp_wmem_min", "4096"),
    ("net/ipv6/bindv6only", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/lo/disable_ipv6", "0"),
    ("net/unix/max_dgram_qlen", "512"),
];

/// Files of an interface's directory below /sys/class/net (a link, in Linux).
pub fn interface(device: &Device) -> Vec<(&'static str, String)> {
    let loopback = device.is_loopback();
    vec![
        ("addr_len", "6".into()),
        ("address", Device::mac_text(device.mac)),
        ("broadcast", Device::mac_text(device.broadcast)),
        ("carrier", "1".into()),
        ("dev_id", "0x0".into()),
        ("dormant", "0".into()),
        // Of the flags, those that are set, not those that follow.
        ("flags", format!("{:#x}", device.flags & 0xff3f & !0x40)),
        ("ifindex", device.index.to_string()),
        ("iflink", device.index.to_string()),
        ("link_mode", "0".into()),
        ("mtu", device.mtu.to_string()),
        ("operstate", if loopback { "unknown" } else { "up" }.into()),
        ("tx_queue_len", "1000".into()),
        ("type", device.kind.to_string()),
        ("uevent", format!("INTERFACE={}\nIFINDEX={}", device.name, device.index)),
        ("statistics/rx_bytes", device.received.bytes.to_string()),
        ("statistics/rx_packets", device.received.packets.to_string()),
        ("statistics/rx_dropped", device.received.dropped.to_string()),
        ("statistics/tx_bytes", device.sent.bytes.to_string()),
        ("statistics/tx_packets", device.sent.packets.to_string()),
        ("statistics/tx_dropped", device.sent.dropped.to_string()),
    ]
}

fn dev(net: &NetNamespace) -> String {
    let mut text = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n".to_string();
    for device in net.devices() {
        let (received, sent) = (device.received, device.sent);
        let _ = writeln!(
            text,
            "{:>6}: {:7} {:7}    0 {:4}    0     0          0         0 {:8} {:7}    0 {:4}    0     0       0          0",
            device.name, received.bytes, received.packets, received.dropped, sent.bytes, sent.packets, sent.dropped,
        );
    }
    text
}

fn netstat(net: &NetNamespace) -> String {
    let (sent, received) = (net.counters.syn_cookies_sent.get(), net.counters.syn_cookies_received.get());
    format!("TcpExt: SyncookiesSent SyncookiesRecv\nTcpExt: {sent} {received}\nIpExt: InNoRoutes\nIpExt: 0\n")
}

fn if_inet6(net: &NetNamespace) -> String {
    let mut text = String::new();
    for device in net.devices() {
        for address in &device.addresses {
            let IpAddr::V6(ip) = address.ip else { continue };
            // Scopes as IPV6_ADDR_*: host, link, global.
            let scope = match address.scope {
                254 => 0x10,
                253 => 0x20,
                _ => 0,
            };
            let (bits, index, prefix, name) = (ip.to_bits(), device.index, address.prefix, &device.name);
            let _ = writeln!(text, "{bits:032x} {index:02x} {prefix:02x} {scope:02x} 80 {name:>8}");
        }
    }
    text
}

fn arp(net: &NetNamespace) -> String {
    let mut text = "IP address       HW type     Flags       HW address            Mask     Device\n".to_string();
    let Some(stack) = net.stack() else { return text };
    for ((interface, ip), mac, state) in stack.network.neighbours(net.clock.monotonic().0) {
        let Some(interface) = stack.network.interfaces().get(interface).filter(|_| ip.is_ipv4()) else { continue };
        // ATF_COM, ATF_PERM.
        let flags = if mac.is_none() { 0 } else { 2 | if state == 0x80 { 4 } else { 0 } };
        let mac = Device::mac_text(mac.unwrap_or_default());
        let ip = ip.to_string();
        let _ = writeln!(text, "{ip:<16} 0x1         0x{flags:<10x}{mac:<22}*        {}", interface.name);
    }
    text
}

/// RTF_UP, RTF_GATEWAY, RTF_HOST.
fn route_flags(route: &Route) -> u32 {
    let host = if route.to.is_ipv4() { 32 } else { 128 };
    1 | if route.gateway.is_some() { 2 } else { 0 } | if route.prefix == host { 4 } else { 0 }
}

fn route(net: &NetNamespace) -> String {
    let mut text = format!("{:<127}\n", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT");
    for route in net.stack().map(|stack| stack.network.routes()).unwrap_or_default().iter() {
        let word = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u32::from_le_bytes(ip.octets()),
            IpAddr::V6(_) => 0,
        };
        if !route.to.is_ipv4() {
            continue;
        }
        let mask = mask_v4(route.prefix).swap_bytes();
        let row = format!(
            "{}\t{:08X}\t{:08X}\t{:04X}\t0\t0\t{}\t{mask:08X}\t0\t0\t0",
            net.device_name(route.interface),
            word(route.to),
            route.gateway.map_or(0, word),
            route_flags(route),
            route.metric,
        );
        let _ = writeln!(text, "{row:<127}");
    }
    text
}

fn ipv6_route(net: &NetNamespace) -> String {
    let bits = |ip: IpAddr| as_v6(ip).to_bits();
    let mut text = String::new();
    let mut line = |to: u128, prefix: u8, gateway: u128, metric: u32, flags: u32, name: &str| {
        let _ = writeln!(
            text,
            "{to:032x} {prefix:02x} {:032x} 00 {gateway:032x} {metric:08x} 00000001 00000000 {flags:08x} {name:>8}",
            0
        );
    };
    if net.is_up() {
        line(1, 128, 0, 256, 1, "lo");
    }
    for route in net.stack().map(|stack| stack.network.routes()).unwrap_or_default().iter() {
        if route.to.is_ipv6() {
            let name = net.device_name(route.interface);
            line(bits(route.to), route.prefix, route.gateway.map_or(0, bits), route.metric, route_flags(route), name);
        }
    }
    if net.is_up() {
        line(1, 128, 0, 0, 0x8020_0001, "lo");
    }
    text
}

/// An address as /proc shows it: words in the machine's order.
fn hex(at: Endpoint, family: Family) -> String {
    let mut text = String::new();
    match (family, at.ip) {
        (Family::Inet, IpAddr::V4(ip)) => {
            let _ = write!(text, "{:08X}", u32::from_le_bytes(ip.octets()));
        }
        (_, ip) => {
            for word in as_v6(ip).octets().chunks_exact(4) {
                let word = word.try_into().map_or(0, u32::from_le_bytes);
                let _ = write!(text, "{word:08X}");
            }
        }
    }
    let _ = write!(text, ":{:04X}", at.port);
    text
}

fn far(remote: Option<Endpoint>, family: Family) -> Endpoint {
    remote.unwrap_or(Endpoint::new(family.unspecified(), 0))
}

fn tcp(net: &NetNamespace, family: Family) -> String {
    let sockets = net.all_tcp();
    let heading = match family {
        Family::Inet => "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        Family::Inet6 => {
            "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
        }
    };
    let width = if family == Family::Inet { 149 } else { 0 };
    let mut text = format!("{heading:<width$}\n");
    let mut count = 0;
    let mut line = |near: Endpoint, remote: Endpoint, state: u8, queues: (usize, usize), uid: u32, ino: u64| {
        let row = format!(
            "{count:4}: {} {} {state:02X} {:08X}:{:08X} 00:00000000 00000000 {uid:5}        0 {ino} 1 0000000000000000 100 0 0 10 0",
            hex(near, family),
            hex(remote, family),
            queues.0,
            queues.1,
        );
        let _ = writeln!(text, "{row:<width$}");
        count += 1;
    };
    for socket in sockets.iter().filter(|socket| socket.family == family) {
        let number = socket.state_number();
        if number == 7 {
            continue;
        }
        let unsent = socket.unsent_bytes();
        let (near, remote, waiting) = socket.summary();
        line(near, far(remote, family), number, (unsent, waiting), socket.uid, socket.inode());
    }
    for (near, remote) in net.tcp.lock().waiting_pairs(net.clock.monotonic()) {
        if near.ip.is_ipv4() == (family == Family::Inet) {
            line(near, remote, 6, (0, 0), 0, 0);
        }
    }
    text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Udp,
    UdpLite,
    Ping,
    Raw,
}

fn datagrams(net: &NetNamespace, family: Family, which: Which) -> String {
    let sockets: Vec<Arc<Datagram>> = net.datagrams.lock().all();
    let heading = match family {
        Family::Inet => {
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
        }
        Family::Inet6 => {
            "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
        }
    };
    let width = if family == Family::Inet { 127 } else { 0 };
    let mut text = format!("{heading:<width$}\n");
    for (at, socket) in sockets.iter().filter(|socket| socket.family == family).enumerate() {
        let number = match (socket.protocol, which) {
            (Protocol::Udp, Which::Udp) | (Protocol::UdpLite, Which::UdpLite) | (Protocol::Ping, Which::Ping) => None,
            (Protocol::Raw(number), Which::Raw) => Some(number),
            _ => continue,
        };
        let state = socket.state.lock();
        if number.is_none() && state.local.port == 0 {
            continue;
        }
        // A raw socket's protocol stands for its port.
        let near = Endpoint::new(state.local.ip, number.map_or(state.local.port, |number| number as u16));
        let status = if state.remote.is_some() { 1 } else { 7 };
        let row = format!(
            "{at:5}: {} {} {status:02X} 00000000:{:08X} 00:00000000 00000000 {:5}        0 {} 2 0000000000000000 {}",
            hex(near, family),
            hex(far(state.remote, family), family),
            state.queued,
            socket.uid,
            socket.inode(),
            state.drops,
        );
        let _ = writeln!(text, "{row:<width$}");
    }
    text
}

fn netlink(net: &NetNamespace) -> String {
    let mut text = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n".to_string();
    let sockets = net.netlink.lock().all();
    for socket in sockets {
        let state = socket.state.lock();
        let ino = socket.ino.load(std::sync::atomic::Ordering::Relaxed);
        let _ = writeln!(
            text,
            "0000000000000000 {:<3} {:<10} {:08x} 0        0        0     2        0        {ino:<8}",
            socket.protocol, state.port, state.groups
        );
    }
    text
}

/// Sockets of TCP, UDP and raw, by family.
fn count(net: &NetNamespace, family: Family) -> [usize; 3] {
    let tcp = net.all_tcp().iter().filter(|socket| socket.family == family).count();
    let datagrams = net.datagrams.lock().all();
    let of = |raw: bool| {
        let same = datagrams.iter().filter(|socket| socket.family == family);
        same.filter(|socket| matches!(socket.protocol, Protocol::Raw(_)) == raw).count()
    };
    [tcp, of(false), of(true)]
}

fn sockstat(net: &NetNamespace) -> String {
    let [tcp, udp, raw] = count(net, Family::Inet);
    let waits = net.tcp.lock().waiting_pairs(net.clock.monotonic()).len();
    let used = tcp + udp + raw + count(net, Family::Inet6).iter().sum::<usize>();
    format!(
        "sockets: used {used}\nTCP: inuse {tcp} orphan 0 tw {waits} alloc {tcp} mem 0\nUDP: inuse {udp} mem 0\nUDPLITE: inuse 0\nRAW: inuse {raw}\nFRAG: inuse 0 memory 0\n"
    )
}

fn sockstat6(net: &NetNamespace) -> String {
    let [tcp, udp, raw] = count(net, Family::Inet6);
    format!("TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse 0\nRAW6: inuse {raw}\nFRAG6: inuse 0 memory 0\n")
}

fn protocols(net: &NetNamespace) -> String {
    let mut text = "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em\n".to_string();
    let ([tcp, udp, raw], [tcp6, udp6, raw6]) = (count(net, Family::Inet), count(net, Family::Inet6));
    for (name, size, sockets) in [
        ("RAWv6", 1216, raw6),
        ("UDPv6", 1344, udp6),
        ("TCPv6", 2496, tcp6),
        ("RAW", 1024, raw),
        ("UDP", 1152, udp),
        ("TCP", 2304, tcp),
    ] {
        let _ = writeln!(
            text,
            "{name:<9} {size:4} {sockets:6}      -1   NI       0   yes  kernel      y  y  y  y  y  y  y  y  y  y  y  y  y  n  n  y  y  y  n"
        );
    }
    text
}

fn snmp(net: &NetNamespace) -> String {
    let c = &net.counters;
    let packets = c.packets.get();
    let established = net.all_tcp().iter().filter(|socket| matches!(socket.state_number(), 1 | 8)).count();
    let mut text = String::new();
    let _ = write!(
        text,
        "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates\n\
         Ip: 2 64 {packets} 0 0 0 0 0 {packets} {packets} 0 0 0 0 0 0 0 0 0\n\
         Icmp: InMsgs InErrors OutMsgs OutErrors\nIcmp: 0 0 0 0\n\
         Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n\
         Tcp: 1 200 120000 -1 {} {} {} {} {established} {} {} 0 0 {} 0\n\
         Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
         Udp: {} {} {} {} {} 0 0 0 0\n",
        c.tcp_active_opens.get(),
        c.tcp_passive_opens.get(),
        c.tcp_attempt_fails.get(),
        c.tcp_resets.get(),
        c.tcp_segments.get(),
        c.tcp_segments.get(),
        c.tcp_resets.get(),
        c.udp_datagrams.get(),
        c.udp_no_ports.get(),
        c.udp_receive_errors.get(),
        c.udp_datagrams.get(),
        c.udp_receive_errors.get(),
    );
    text
}
