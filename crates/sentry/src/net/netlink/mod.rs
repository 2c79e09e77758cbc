//! Netlink (netlink(7)): routing queries of family NETLINK_ROUTE, and NETLINK_KOBJECT_UEVENT, on which nothing ever comes.
//!
//! `parse` reads requests, hostile bytes, once into checked messages; `route` answers them; the socket queues the answers.

mod api;
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

const AF_NETLINK: u16 = 16;
const NETLINK_ROUTE: i32 = 0;
const NETLINK_KOBJECT_UEVENT: i32 = 15;
/// One past the largest protocol (`MAX_LINKS`).
const MAX_LINKS: i32 = 32;

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

/// A new netlink socket.
///
/// # Errors
/// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
pub fn make(_cx: &Cx, net: &Arc<NetNamespace>, kind: Kind) -> Result<Arc<dyn Socket>, Errno> {
    if !matches!(kind.kind, SOCK_RAW | SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if !(0..MAX_LINKS).contains(&kind.protocol) || !matches!(kind.protocol, NETLINK_ROUTE | NETLINK_KOBJECT_UEVENT) {
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

    /// All that are bound.
    pub fn all(&self) -> Vec<Arc<Netlink>> {
        self.ports.values().filter_map(Weak::upgrade).collect()
    }
}
