//! Sockets: the seam between the system calls and the families ([`socket`]), and the internet and netlink families of a sandbox.
//!
//! Internet sockets on the sandbox's own addresses are joined in the kernel, without packets: a TCP connection is two [`tcp::Tcp`]s, each with the
//! bytes that came for it; a datagram is put into its receiver's queue. See docs/net.md. (Unix sockets live in `ipc::unix`.)

pub mod address;
mod counters;
mod datagram;
mod devices;
pub mod filter;
mod host;
pub mod ifreq;
mod inward;
mod ip;
mod multicast;
mod namespace;
mod netlink;
pub mod options;
mod packet;
mod ports;
pub mod report;
pub mod socket;
mod stack;
mod tcp;
mod tunables;

use std::sync::Arc;

use hostcall::packet::Wire;
pub use inward::Inward;
pub use namespace::NetNamespace;
pub(crate) use netlink::Netlink;
pub use netlink::answer_all as answer_netlink;
use netstack::config::Description;
pub use tunables::SYSCTLS as TUNABLE_SYSCTLS;

use crate::Errno;
use crate::task::{Capability, Cx};
use address::Family;
use datagram::{Datagram, Protocol};
use socket::{Kind, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, Socket};

/// The loopback interface's index.
pub const LOOPBACK: i32 = 1;

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_NETLINK: i32 = 16;
const AF_PACKET: i32 = 17;

pub const IPPROTO_IP: i32 = 0;
pub const IPPROTO_ICMP: i32 = 1;
pub const IPPROTO_TCP: i32 = 6;
pub const IPPROTO_UDP: i32 = 17;
pub const IPPROTO_IPV6: i32 = 41;
pub const IPPROTO_ICMPV6: i32 = 58;
pub const IPPROTO_UDPLITE: i32 = 136;
/// Where internet sockets of a sandbox live.
#[derive(Debug, Default)]
pub enum Network {
    /// In the sandbox: a loopback interface, and nobody else.
    #[default]
    Loopback,
    /// In the host's network namespace that the sentry was started in, whose interfaces had these numbers and names then.
    Host { names: Vec<(i32, String)> },
    /// In the sandbox, with a way out: one for each interface of the description.
    Packets { description: Description, wires: Vec<Wire> },
}

/// One past the largest protocol (`IPPROTO_MAX`).
const IPPROTO_MAX: i32 = 263;

/// A new socket of a family other than unix.
///
/// # Errors
/// `EAFNOSUPPORT`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EINVAL`, `EPERM`, `EACCES`.
pub fn make(cx: &Cx, kind: Kind) -> Result<Arc<dyn Socket>, Errno> {
    let net = cx.task.namespaces().net.clone();
    if let (Some(reactor), AF_INET | AF_INET6) = (net.host(), kind.family) {
        return host::make(&net, reactor, kind);
    }
    match kind.family {
        AF_INET => inet(cx, &net, Family::Inet, kind),
        AF_INET6 => inet(cx, &net, Family::Inet6, kind),
        AF_NETLINK => netlink::make(cx, &net, kind),
        AF_PACKET => packet::make(cx, &net, kind),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

fn inet(cx: &Cx, net: &Arc<NetNamespace>, family: Family, kind: Kind) -> Result<Arc<dyn Socket>, Errno> {
    if !(0..IPPROTO_MAX).contains(&kind.protocol) {
        return Err(Errno::EINVAL);
    }
    let icmp = if family == Family::Inet { IPPROTO_ICMP } else { IPPROTO_ICMPV6 };
    let uid = cx.creds().euid;
    let datagram = |protocol| -> Result<Arc<dyn Socket>, Errno> { Ok(Datagram::new(net, family, protocol, uid)) };
    match (kind.kind, kind.protocol) {
        (SOCK_STREAM, 0 | IPPROTO_TCP) => Ok(tcp::Tcp::new(net, family, uid)),
        (SOCK_DGRAM, 0 | IPPROTO_UDP) => datagram(Protocol::Udp),
        (SOCK_DGRAM, IPPROTO_UDPLITE) => datagram(Protocol::UdpLite),
        (SOCK_DGRAM, protocol) if protocol == icmp && !net.may_ping(&cx.creds()) => Err(Errno::EACCES),
        (SOCK_DGRAM, protocol) if protocol == icmp => datagram(Protocol::Ping),
        (SOCK_RAW, 0) | (SOCK_STREAM | SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
        (SOCK_RAW, _) if !net.allows(&cx.creds(), Capability::NetRaw) => Err(Errno::EPERM),
        (SOCK_RAW, protocol) => datagram(Protocol::Raw(protocol)),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}
