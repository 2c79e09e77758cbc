//! The Internet layer of one network namespace, over its Ethernet links.
//!
//! [`Network::receive`] takes a frame and gives what is for a socket to its caller; ARP, neighbour discovery and echo requests are answered here.
//! [`Network::route`] finds a way, [`Network::send`] goes it. [`Network::due`] does what time brings.
//!
//! Addresses, routes and MTUs may change (`changes`); groups are joined and told of (`groups`).
//!
//! Locking: neighbours, groups, fragments, path MTUs, the limiter, routes and each interface's addresses have a lock each, taken one at a time (but groups
//! within neighbours) and never while a frame is sent.

mod changes;
pub mod checksum;
mod fragments;
pub mod frame;
mod groups;
mod icmp;
mod neighbours;
mod receive;
mod routes;
mod send;

#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

pub use changes::{Existing, Refused, RouteKey};
pub use frame::{Cutting, Header, Offload};
pub use icmp::{Fault, Quoted};
pub use neighbours::{Mac, Shown};
pub use receive::Packet;
pub use routes::Way;
pub use send::Sent;

use crate::config::{self, Description};
use crate::{Ns, SECOND};
use fragments::Fragments;
use groups::{Groups, IGMP};
use neighbours::Neighbours;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// Path MTUs that are remembered, and for how long (`mtu_expires`).
const PATHS: usize = 1024;
const PATH_AGE: Ns = 600 * SECOND;
/// Least MTUs that a router may ask for (`min_pmtu`; RFC 8200).
const LEAST_MTU_V4: u32 = 552;
const LEAST_MTU_V6: u32 = 1280;
/// ICMP errors that are sent in a second (`icmp_msgs_per_sec`).
const MESSAGES: u32 = 1000;

/// Where frames go.
pub trait Link: Send + Sync {
    /// Sends a frame, in pieces, the first of which is virtio-net's header, on an interface (its position in the description). False: there is
    /// no room now.
    fn send(&self, interface: usize, pieces: &[&[u8]]) -> bool;
}

pub struct Network {
    interfaces: Vec<Interface>,
    /// Best first.
    routes: RwLock<Arc<Vec<config::Route>>>,
    link: Box<dyn Link>,
    neighbours: Mutex<Neighbours>,
    groups: Mutex<Groups>,
    fragments: Mutex<Fragments>,
    paths: Mutex<HashMap<IpAddr, (u32, Ns)>>,
    limiter: Mutex<(Ns, u32)>,
    id: AtomicU16,
    /// Neighbours are being asked for, or groups told of.
    asking: AtomicBool,
}

/// An interface and what has passed over it.
pub struct Interface {
    pub name: String,
    pub index: i32,
    pub mac: Mac,
    pub counters: Counters,
    /// The largest MTU: what the host's interface takes.
    most: u32,
    mtu: AtomicU32,
    up: AtomicBool,
    addresses: RwLock<Arc<Vec<config::Address>>>,
}

impl Interface {
    fn new(config: config::Interface) -> Interface {
        let config::Interface { name, index, mac, mtu, addresses } = config;
        Interface {
            name,
            index,
            mac,
            counters: Counters::default(),
            most: mtu,
            mtu: AtomicU32::new(mtu),
            up: AtomicBool::new(true),
            addresses: RwLock::new(Arc::new(addresses)),
        }
    }

    /// Bytes of the largest IP packet.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub fn addresses(&self) -> Arc<Vec<config::Address>> {
        self.addresses.read().clone()
    }
}

#[derive(Debug, Default)]
pub struct Counters {
    pub received: AtomicU64,
    pub received_bytes: AtomicU64,
    pub dropped: AtomicU64,
    pub sent: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub refused: AtomicU64,
}

/// What an address is to this namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// One of ours.
    Own,
    /// All hosts of a link.
    Broadcast,
    Other,
}

fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Network {
    /// The network that `description` tells of, over `link`.
    pub fn new(description: Description, link: Box<dyn Link>, seed: u64) -> Network {
        let position = |index: i32| description.interfaces.iter().position(|interface| interface.index == index);
        let mut neighbours = Neighbours::default();
        for neighbour in &description.neighbours {
            if let Some(at) = position(neighbour.interface) {
                neighbours.add_permanent((at, neighbour.ip), neighbour.mac);
            }
        }
        let routes = routes::sorted(description.routes.iter().filter(|route| position(route.interface).is_some()));
        Network {
            routes: RwLock::new(Arc::new(routes)),
            interfaces: description.interfaces.into_iter().map(Interface::new).collect(),
            link,
            neighbours: Mutex::new(neighbours),
            groups: Mutex::new(Groups::new(seed)),
            fragments: Mutex::default(),
            paths: Mutex::default(),
            limiter: Mutex::new((0, 0)),
            id: AtomicU16::new(seed as u16),
            asking: AtomicBool::new(false),
        }
    }

    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The routes, best first.
    pub fn routes(&self) -> Arc<Vec<config::Route>> {
        self.routes.read().clone()
    }

    pub fn neighbours(&self, now: Ns) -> Vec<Shown> {
        self.neighbours.lock().shown(now)
    }

    pub fn owner(&self, ip: IpAddr) -> Owner {
        let mut broadcast = false;
        for interface in &self.interfaces {
            for address in interface.addresses.read().iter() {
                if address.ip == ip {
                    return Owner::Own;
                }
                broadcast |= address.all_hosts().is_some_and(|all| IpAddr::V4(all) == ip);
            }
        }
        if broadcast { Owner::Broadcast } else { Owner::Other }
    }

    /// Bytes of the largest packet on the first link of a way.
    fn link_mtu(&self, way: &Way) -> u32 {
        self.interfaces.get(way.interface).map_or(LEAST_MTU_V6, Interface::mtu)
    }

    /// Bytes of the largest packet on the way to `to`.
    pub fn path_mtu(&self, to: IpAddr, way: &Way, now: Ns) -> u32 {
        let mtu = self.link_mtu(way);
        match self.paths.lock().get(&to) {
            Some((path, since)) if now.saturating_sub(*since) < PATH_AGE => mtu.min(*path),
            _ => mtu,
        }
    }

    /// A router says that the way to `to` takes packets of so many bytes. Returns what is believed of it.
    pub fn learn_path_mtu(&self, to: IpAddr, mtu: u32, now: Ns) -> u32 {
        let mtu = mtu.max(if to.is_ipv4() { LEAST_MTU_V4 } else { LEAST_MTU_V6 });
        let mut paths = self.paths.lock();
        if paths.len() >= PATHS {
            paths.retain(|_, (_, since)| now.saturating_sub(*since) < PATH_AGE);
        }
        if paths.len() < PATHS || paths.contains_key(&to) {
            paths.insert(to, (mtu, now));
        }
        mtu
    }

    /// Whether neighbours are being asked for, or groups told of: [`Network::due`] may have something to do.
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed)
    }

    /// When [`Network::due`] is to be called.
    pub fn deadline(&self) -> Option<Ns> {
        if !self.is_asking() {
            return None;
        }
        // Held over the store: `frame` and `join` set it under the same locks.
        let neighbours = self.neighbours.lock();
        let groups = self.groups.lock();
        let deadline = [neighbours.deadline(), groups.deadline()].into_iter().flatten().min();
        if deadline.is_none() {
            self.asking.store(false, Ordering::Relaxed);
        }
        deadline
    }

    /// Tells of groups and asks for neighbours again; packets to those that do not answer come back by `failed`, each a whole IP packet.
    pub fn due(&self, now: Ns, failed: &mut dyn FnMut(&[u8])) {
        self.tell_groups(now);
        let due = self.neighbours.lock().due(now);
        for (interface, ip) in due.ask {
            self.ask(interface, ip, None);
        }
        for frame in due.failed {
            failed(frame.get(frame::VIRTIO + frame::ETHERNET..).unwrap_or_default());
        }
    }

    /// Whether another error may be told.
    fn may_tell(&self, now: Ns) -> bool {
        let mut limiter = self.limiter.lock();
        if now.saturating_sub(limiter.0) >= SECOND {
            *limiter = (now, 0);
        }
        limiter.1 += 1;
        limiter.1 <= MESSAGES
    }

    fn next_id(&self) -> u16 {
        self.id.fetch_add(1, Ordering::Relaxed)
    }
}
