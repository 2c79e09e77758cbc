//! [`Table`]: a namespace's UDP ports and ICMP identifiers, and its raw sockets.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use core::net::IpAddr;
use smallvec::SmallVec;

use super::{Datagram, Protocol};
use crate::Errno;
use crate::net::address::Endpoint;
use crate::net::ports::{Claim, Random};

pub struct Table {
    udp: HashMap<u16, SmallVec<[Entry; 1]>>,
    udp_lite: HashMap<u16, SmallVec<[Entry; 1]>>,
    ping: HashMap<u16, SmallVec<[Entry; 1]>>,
    raw: Vec<Weak<Datagram>>,
    all: BTreeMap<u64, Weak<Datagram>>,
    random: Random,
}

struct Entry {
    id: u64,
    claim: Claim,
    remote: Option<Endpoint>,
    socket: Weak<Datagram>,
}

impl Entry {
    /// How well it fits a packet; None: not at all.
    fn score(&self, to: IpAddr, from: Endpoint, device: i32) -> Option<u32> {
        let connected = match self.remote {
            None => 0,
            Some(remote) if remote == from => 16,
            Some(_) => return None,
        };
        Some(self.claim.score(to, device)? + connected)
    }
}

impl Table {
    pub fn new(seed: u64) -> Table {
        Table {
            udp: HashMap::new(),
            udp_lite: HashMap::new(),
            ping: HashMap::new(),
            raw: Vec::new(),
            all: BTreeMap::new(),
            random: Random::new(seed.rotate_left(32)),
        }
    }

    pub(super) fn add(&mut self, id: u64, socket: Weak<Datagram>) {
        self.all.insert(id, socket);
    }

    pub(super) fn add_raw(&mut self, socket: Weak<Datagram>) {
        self.raw.push(socket);
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.all.remove(&id);
        self.raw.retain(|socket| socket.upgrade().is_some_and(|socket| socket.id != id));
    }

    /// All sockets.
    pub fn all(&self) -> Vec<Arc<Datagram>> {
        self.all.values().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn raw(&self) -> Vec<Arc<Datagram>> {
        self.raw.iter().filter_map(Weak::upgrade).collect()
    }

    fn ports(&mut self, protocol: Protocol) -> &mut HashMap<u16, SmallVec<[Entry; 1]>> {
        match protocol {
            Protocol::Ping => &mut self.ping,
            Protocol::UdpLite => &mut self.udp_lite,
            _ => &mut self.udp,
        }
    }

    /// Ports that are given without being asked for.
    pub(in crate::net) fn set_ephemeral(&mut self, ports: std::ops::RangeInclusive<u16>) {
        self.random.ephemeral = ports;
    }

    /// Claims a port, or (0) a free one. Returns it.
    pub(super) fn bind(
        &mut self,
        protocol: Protocol,
        id: u64,
        port: u16,
        claim: Claim,
        socket: Weak<Datagram>,
    ) -> Result<u16, Errno> {
        let (candidates, given) = (self.random.ephemeral(), self.random.ephemeral.clone());
        let ports = self.ports(protocol);
        let conflicts = |port: u16| {
            ports.get(&port).into_iter().flatten().any(|other| {
                let shared = (claim.reuse && other.claim.reuse) || claim.share_port(&other.claim);
                claim.overlaps(&other.claim) && !shared
            })
        };
        let port = match port {
            0 => {
                let mut free = candidates;
                free.find(|port| !ports.contains_key(port))
                    .or_else(|| ports.keys().copied().find(|port| given.contains(port) && !conflicts(*port)))
                    .ok_or(Errno::EAGAIN)?
            }
            port if conflicts(port) => return Err(Errno::EADDRINUSE),
            port => port,
        };
        ports.entry(port).or_default().push(Entry { id, claim, remote: None, socket });
        Ok(port)
    }

    pub(super) fn update(&mut self, protocol: Protocol, port: u16, id: u64, claim: Claim, remote: Option<Endpoint>) {
        let entries = self.ports(protocol).get_mut(&port);
        if let Some(entry) = entries.and_then(|entries| entries.iter_mut().find(|entry| entry.id == id)) {
            entry.claim = claim;
            entry.remote = remote;
        }
    }

    pub(super) fn release(&mut self, protocol: Protocol, port: u16, id: u64) {
        let ports = self.ports(protocol);
        if let Some(entries) = ports.get_mut(&port) {
            entries.retain(|entry| entry.id != id);
            if entries.is_empty() {
                ports.remove(&port);
            }
        }
    }

    /// The receiver of a packet that came over an interface (0: nobody knows which): the best fit; of equals the latest, or (sharing a port) one by
    /// the sender.
    pub(super) fn find(&self, protocol: Protocol, to: Endpoint, from: Endpoint, device: i32) -> Option<Arc<Datagram>> {
        let ports = match protocol {
            Protocol::Udp => &self.udp,
            Protocol::UdpLite => &self.udp_lite,
            Protocol::Ping => &self.ping,
            Protocol::Raw(_) => return None,
        };
        let entries = ports.get(&to.port)?;
        let scored = || entries.iter().filter_map(|entry| Some((entry.score(to.ip, from, device)?, entry)));
        let best = scored().map(|(score, _)| score).max()?;
        let fits: SmallVec<[&Entry; 4]> = scored().filter(|(score, _)| *score == best).map(|(_, entry)| entry).collect();
        let last = *fits.last()?;
        let chosen = match fits.iter().all(|entry| entry.claim.reuse_port) {
            true => {
                fits.get((u64::from(from.port).wrapping_mul(0x9e37_79b9) >> 7) as usize % fits.len()).copied().unwrap_or(last)
            }
            false => last,
        };
        chosen.socket.upgrade()
    }

    /// All on a port that a packet to a group, or to all, may be for that came over an interface.
    pub(super) fn find_all(&self, protocol: Protocol, to: Endpoint, from: Endpoint, device: i32) -> Vec<Arc<Datagram>> {
        let ports = if protocol == Protocol::UdpLite { &self.udp_lite } else { &self.udp };
        let entries = ports.get(&to.port).into_iter().flatten();
        let fit = entries.filter(|entry| entry.score(to.ip, from, device).is_some());
        fit.filter_map(|entry| entry.socket.upgrade()).collect()
    }
}
