//! Netlink (netlink(7)): routing queries of family NETLINK_ROUTE, sockets by NETLINK_SOCK_DIAG, and NETLINK_KOBJECT_UEVENT, on which nothing
//! ever comes.
//!
//! `parse` reads requests, hostile bytes, once into checked messages; `route` and `diag` answer them; the socket queues the answers.

mod api;
pub(super) mod change;
mod diag;
mod parse;
mod route;
mod write;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::NetNamespace;
use super::options::SocketOptions;
use super::socket::{Kind, SOCK_DGRAM, SOCK_RAW, Socket};
use crate::Errno;
use crate::task::Cx;
use crate::wait::WaitQueue;
use parse::Message;
use write::Answer;

const AF_NETLINK: u16 = 16;
const NETLINK_ROUTE: i32 = 0;
const NETLINK_SOCK_DIAG: i32 = 4;
const NETLINK_KOBJECT_UEVENT: i32 = 15;
const PROTOCOLS: [i32; 3] = [NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT];
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
/// The first type that is not netlink's own.
const NLMSG_MIN_TYPE: u16 = 16;

/// Ports in use, by protocol and number.
#[derive(Default)]
pub struct Table {
    ports: HashMap<(i32, u32), Weak<Netlink>>,
    next: u32,
}

pub struct Netlink {
    me: Weak<Netlink>,
    net: Arc<NetNamespace>,
    /// `SOCK_RAW` or `SOCK_DGRAM`: no difference.
    kind: i32,
    pub(super) protocol: i32,
    id: u64,
    pub(super) ino: AtomicU64,
    options: Mutex<SocketOptions>,
    pub(super) state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
pub(super) struct State {
    /// Its port ("pid"); 0 before bind.
    pub port: u32,
    pub groups: u32,
    /// Where sends go by default.
    to: (u32, u32),
    inbox: VecDeque<Vec<u8>>,
    queued: usize,
    error: Option<Errno>,
    /// `NETLINK_*` options that are on, by bit.
    flags: u32,
}

/// How the asker is to be treated.
#[derive(Debug, Clone, Copy)]
struct Asker {
    port: u32,
    /// `CAP_NET_ADMIN`
    admin: bool,
    /// `NETLINK_CAP_ACK`, `NETLINK_GET_STRICT_CHK`
    capped: bool,
    strict: bool,
}

/// Answers one message of a protocol; the bytes of each datagram to be queued.
fn answer(net: &NetNamespace, protocol: i32, message: &Message<'_>, asker: Asker) -> Vec<Vec<u8>> {
    if message.flags & NLM_F_REQUEST == 0 {
        return Vec::new();
    }
    let mut answer = Answer::to(message, asker.port);
    let result = match protocol {
        _ if message.kind < NLMSG_MIN_TYPE => Ok(()),
        NETLINK_ROUTE => route::request(net, message, asker, &mut answer),
        NETLINK_SOCK_DIAG => diag::request(net, message, asker, &mut answer),
        _ => Ok(()),
    };
    answer.finish(result, asker.capped)
}

/// Answers all messages in what a socket of a privileged process was sent; how many bytes those are. (A door for the fuzz target `netlink`.)
pub fn answer_all(net: &NetNamespace, protocol: i32, bytes: &[u8]) -> usize {
    let asker = Asker { port: 1, admin: true, capped: false, strict: bytes.len() % 2 == 1 };
    parse::messages(bytes).flat_map(|message| answer(net, protocol, &message, asker)).map(|datagram| datagram.len()).sum()
}

/// A new netlink socket.
///
/// # Errors
/// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
pub fn make(_cx: &Cx, net: &Arc<NetNamespace>, kind: Kind) -> Result<Arc<dyn Socket>, Errno> {
    if !matches!(kind.kind, SOCK_RAW | SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if !PROTOCOLS.contains(&kind.protocol) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok(Arc::new_cyclic(|me| Netlink {
        me: me.clone(),
        net: net.clone(),
        kind: kind.kind,
        protocol: kind.protocol,
        id: net.next_id(),
        ino: AtomicU64::new(0),
        options: Mutex::new(SocketOptions::default()),
        state: Mutex::new(State::default()),
        queue: WaitQueue::new(),
    }))
}

impl Table {
    /// Takes `port`, or (0) `wish` or any.
    fn bind(&mut self, socket: &Netlink, port: u32, wish: u32) -> Result<u32, Errno> {
        let taken = |table: &Table, port: u32| {
            table.ports.get(&(socket.protocol, port)).is_some_and(|socket| socket.strong_count() > 0)
        };
        let port = match port {
            0 if !taken(self, wish) => wish,
            0 => loop {
                // Above all process numbers, as negative ones are in Linux.
                self.next = self.next.wrapping_add(1);
                let port = 0x8000_0000 | self.next;
                if !taken(self, port) {
                    break port;
                }
            },
            port if taken(self, port) => return Err(Errno::EADDRINUSE),
            port => port,
        };
        self.ports.insert((socket.protocol, port), socket.me.clone());
        Ok(port)
    }

    fn release(&mut self, protocol: i32, port: u32) {
        self.ports.remove(&(protocol, port));
    }

    fn find(&self, protocol: i32, port: u32) -> Option<Arc<Netlink>> {
        self.ports.get(&(protocol, port))?.upgrade()
    }

    /// Those that have joined any of these groups.
    fn listeners(&self, protocol: i32, groups: u32) -> Vec<Arc<Netlink>> {
        let all = self.ports.iter().filter(|((own, _), _)| *own == protocol).filter_map(|(_, socket)| socket.upgrade());
        all.filter(|socket| socket.state.lock().groups & groups != 0).collect()
    }

    /// All that are bound.
    pub fn all(&self) -> Vec<Arc<Netlink>> {
        self.ports.values().filter_map(Weak::upgrade).collect()
    }
}
