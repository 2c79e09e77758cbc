//! NETLINK_SOCK_DIAG (sock_diag(7)): internet and unix sockets, one or all, as `ss` asks for them. Not there: other families (`ENOENT`, and
//! `ss` reads /proc/net), and closing other programs' sockets (`SOCK_DESTROY`: `EOPNOTSUPP`, as a kernel without CONFIG_INET_DIAG_DESTROY).

mod condition;
mod unix;

use std::sync::Arc;

use core::net::IpAddr;

use super::parse::{Message, attribute};
use super::write::{Answer, NLM_F_MULTI};
use super::{Asker, NLM_F_DUMP};
use crate::Errno;
use crate::net::address::{Endpoint, Family, array, as_v6};
use crate::net::datagram::Protocol;
use crate::net::options::SocketOptions;
use crate::net::tcp::Tcp;
use crate::net::{IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, NetNamespace};
use condition::Condition;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Before there were families: `TCPDIAG_GETSOCK`, `DCCPDIAG_GETSOCK`.
const OLD: [u16; 2] = [18, 19];
const AF_UNIX: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// One past the largest family (`AF_MAX`).
const AF_MAX: u8 = 46;
const IPPROTO_RAW: u8 = 255;

/// Bytes of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
const REQ_BYTECODE: u16 = 1;
/// Attributes of an answer (`INET_DIAG_*`).
const MEMINFO: u16 = 1;
const INFO: u16 = 2;
const CONG: u16 = 4;
const SKMEMINFO: u16 = 7;
const SHUTDOWN: u16 = 8;
const SKV6ONLY: u16 = 11;

/// `TCP_*` states.
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// Answers a request.
///
/// # Errors
/// `EINVAL`; `ENOENT` for a family, a protocol or a socket that is not there; `EPERM`, `EOPNOTSUPP`.
pub fn request(net: &NetNamespace, message: &Message<'_>, asker: Asker, out: &mut Answer<'_>) -> Result<(), Errno> {
    match message.kind {
        SOCK_DIAG_BY_FAMILY | SOCK_DESTROY => {}
        kind if OLD.contains(&kind) => return Err(Errno::ENOENT),
        _ => return Err(Errno::EINVAL),
    }
    let [family, protocol] = array(message.payload, 0).ok_or(Errno::EINVAL)?;
    if family >= AF_MAX {
        return Err(Errno::EINVAL);
    }
    if message.kind == SOCK_DESTROY {
        return Err(if asker.admin { Errno::EOPNOTSUPP } else { Errno::EPERM });
    }
    match family {
        AF_INET => inet(net, message, Family::Inet, protocol, out),
        AF_INET6 => inet(net, message, Family::Inet6, protocol, out),
        AF_UNIX => unix::request(net, message, out),
        _ => Err(Errno::ENOENT),
    }
}

/// A socket, as it is told.
struct Told {
    family: Family,
    state: u8,
    local: Endpoint,
    remote: Endpoint,
    device: i32,
    cookie: u64,
    queues: (u32, u32),
    uid: u32,
    ino: u64,
    /// Its port was given by bind.
    bound: bool,
    /// Which sides are shut.
    shut: u8,
    only_v6: bool,
    tcp: Option<Arc<Tcp>>,
    options: Option<SocketOptions>,
    drops: u32,
}

impl Told {
    /// One of whom nothing else is known.
    fn new(family: Family, state: u8, local: Endpoint, remote: Endpoint) -> Told {
        Told {
            family,
            state,
            local,
            remote,
            device: 0,
            cookie: 0,
            queues: (0, 0),
            uid: 0,
            ino: 0,
            bound: false,
            shut: 0,
            only_v6: false,
            tcp: None,
            options: None,
            drops: 0,
        }
    }
}

fn inet(net: &NetNamespace, message: &Message<'_>, family: Family, protocol: u8, out: &mut Answer<'_>) -> Result<(), Errno> {
    let payload = message.payload.get(..REQUEST).ok_or(Errno::EINVAL)?;
    let wanted = payload.get(2).copied().unwrap_or(0);
    let states = array(payload, 4).map_or(0, u32::from_le_bytes);
    let sockets = sockets(net, family, protocol)?;
    if message.flags & NLM_F_DUMP == NLM_F_DUMP {
        let condition = match attribute(message.payload, REQUEST, REQ_BYTECODE) {
            Some(code) => Some(Condition::new(code).ok_or(Errno::EINVAL)?),
            None => None,
        };
        let port = |at: usize| array(payload, at).map_or(0, u16::from_be_bytes);
        let (near, far) = (port(8), port(10));
        for told in sockets {
            let fits = states & (1 << told.state) != 0
                && (near == 0 || near == told.local.port)
                && (far == 0 || far == told.remote.port)
                && condition.as_ref().is_none_or(|condition| condition.holds(&told));
            if fits {
                put(&told, wanted, NLM_F_MULTI, out);
            }
        }
        out.done();
        return Ok(());
    }
    let (near, far) = ends(payload, family).ok_or(Errno::EINVAL)?;
    let cookie = array(payload, 48).map_or(u64::MAX, u64::from_le_bytes);
    let listens = |told: &Told| told.local.port == near.port && (told.local.ip == near.ip || told.local.ip.is_unspecified());
    let exact = sockets.iter().find(|told| (told.local, told.remote) == (near, far) && told.state != LISTEN);
    let passive = || sockets.iter().find(|told| listens(told) && told.remote.port == 0);
    let told = exact.or_else(passive).filter(|told| cookie == u64::MAX || cookie == told.cookie).ok_or(Errno::ENOENT)?;
    put(told, wanted, 0, out);
    Ok(())
}

/// Both ends in a request, in the form that sockets of this family keep.
fn ends(payload: &[u8], family: Family) -> Option<(Endpoint, Endpoint)> {
    let end = |port: usize, ip: usize| {
        let port = u16::from_be_bytes(array(payload, port)?);
        let ip: IpAddr = match family {
            Family::Inet => IpAddr::V4(array::<4>(payload, ip)?.into()),
            Family::Inet6 => core::net::Ipv6Addr::from(array::<16>(payload, ip)?).to_canonical(),
        };
        Some(Endpoint::new(ip, port))
    };
    Some((end(8, 12)?, end(10, 28)?))
}

fn sockets(net: &NetNamespace, family: Family, protocol: u8) -> Result<Vec<Told>, Errno> {
    let number = i32::from(protocol);
    match protocol {
        _ if number == IPPROTO_TCP => Ok(tcp(net, family)),
        _ if number == IPPROTO_UDP => Ok(datagrams(net, family, &|protocol| protocol == Protocol::Udp)),
        _ if number == IPPROTO_UDPLITE => Ok(datagrams(net, family, &|protocol| protocol == Protocol::UdpLite)),
        IPPROTO_RAW => Ok(datagrams(net, family, &|protocol| matches!(protocol, Protocol::Raw(_)))),
        _ => Err(Errno::ENOENT),
    }
}

fn tcp(net: &NetNamespace, family: Family) -> Vec<Told> {
    let nobody = Endpoint::new(family.unspecified(), 0);
    let mut all = Vec::new();
    for socket in net.all_tcp().into_iter().filter(|socket| socket.family == family) {
        let state = socket.state_number();
        if state == CLOSE {
            continue;
        }
        let (local, remote, waiting) = socket.summary();
        let wqueue = if state == LISTEN { socket.backlog() } else { socket.unsent_bytes() };
        let options = socket.options.lock().clone();
        let only_v6 = socket.ip.lock().only_v6;
        all.push(Told {
            device: options.device,
            cookie: socket.id,
            queues: (waiting as u32, wqueue as u32),
            uid: socket.uid,
            ino: socket.inode(),
            bound: socket.has_bound_port(),
            shut: socket.shut_sides(),
            only_v6,
            tcp: Some(socket),
            options: Some(options),
            ..Told::new(family, state, local, remote.unwrap_or(nobody))
        });
    }
    let waits = net.tcp.lock().waiting_pairs(net.clock.monotonic());
    for (local, remote) in waits.into_iter().filter(|(near, _)| near.ip.is_ipv4() == (family == Family::Inet)) {
        all.push(Told::new(family, TIME_WAIT, local, remote));
    }
    all
}

fn datagrams(net: &NetNamespace, family: Family, wants: &dyn Fn(Protocol) -> bool) -> Vec<Told> {
    let sockets = net.datagrams.lock().all();
    let nobody = Endpoint::new(family.unspecified(), 0);
    let mut all = Vec::new();
    for socket in sockets.iter().filter(|socket| socket.family == family && wants(socket.protocol)) {
        let (options, only_v6) = socket.common_options();
        let state = socket.state.lock();
        // A raw socket's protocol stands for its port.
        let port = match socket.protocol {
            Protocol::Raw(number) => number as u16,
            _ => state.local.port,
        };
        if port == 0 {
            continue;
        }
        let number = if state.remote.is_some() { ESTABLISHED } else { CLOSE };
        let local = Endpoint::new(state.local.ip, port);
        all.push(Told {
            device: options.device,
            cookie: socket.id,
            queues: (state.queued as u32, 0),
            uid: socket.uid,
            ino: socket.inode(),
            bound: state.has_bound_port(),
            shut: state.shut_sides(),
            only_v6,
            options: Some(options),
            drops: state.drops,
            ..Told::new(family, number, local, state.remote.unwrap_or(nobody))
        });
    }
    all
}

/// `struct inet_diag_msg` and the attributes that were asked for.
fn put(told: &Told, wanted: u8, flags: u16, out: &mut Answer<'_>) {
    let mut header = vec![told.family.number() as u8, told.state, 0, 0];
    header.extend_from_slice(&told.local.port.to_be_bytes());
    header.extend_from_slice(&told.remote.port.to_be_bytes());
    for ip in [told.local.ip, told.remote.ip] {
        let mut bytes = [0; 16];
        match (told.family, ip) {
            (Family::Inet, IpAddr::V4(ip)) => bytes[..4].copy_from_slice(&ip.octets()),
            (_, ip) => bytes = as_v6(ip).octets(),
        }
        header.extend_from_slice(&bytes);
    }
    header.extend_from_slice(&told.device.to_le_bytes());
    header.extend_from_slice(&told.cookie.to_le_bytes());
    let ino = told.ino as u32;
    for word in [0, told.queues.0, told.queues.1, told.uid, ino] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    out.begin(SOCK_DIAG_BY_FAMILY, flags, &header);
    out.attribute(SHUTDOWN, &[told.shut]);
    if told.family == Family::Inet6 && matches!(told.state, LISTEN | CLOSE) {
        out.attribute(SKV6ONLY, &[u8::from(told.only_v6)]);
    }
    let asked = |attribute: u16| wanted & (1 << (attribute - 1)) != 0;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let (received, sent) = if told.state == LISTEN { (0, 0) } else { told.queues };
    if asked(MEMINFO) {
        out.attribute(MEMINFO, &words(&[received, sent, 0, sent]));
    }
    if let Some(options) = told.options.as_ref().filter(|_| asked(SKMEMINFO)) {
        let (receive, send) = (options.receive_buffer as u32, options.send_buffer as u32);
        out.attribute(SKMEMINFO, &words(&[received, receive, 0, send, 0, sent, 0, 0, told.drops]));
    }
    if let Some(tcp) = &told.tcp {
        if asked(INFO) {
            out.attribute(INFO, &tcp.info());
        }
        if asked(CONG) {
            let name: Vec<u8> = tcp.tcp.lock().congestion.bytes().chain([0]).collect();
            out.attribute(CONG, &name);
        }
    }
    out.end();
}
