//! [`Table`]: a namespace's TCP ports, pairs of addresses in use, listeners, and what is in TIME_WAIT.

use core::net::IpAddr;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::Tcp;
use crate::Errno;
use crate::net::address::Endpoint;
use crate::net::ports::{Claim, Random};
use crate::time::MonoTime;

/// How long an address pair stays after the side that closed first has gone (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_NS: u64 = 60_000_000_000;
/// After this a new connection may take it (`tcp_tw_reuse` on loopback).
const REUSE_AFTER_NS: u64 = 1_000_000_000;
/// Most pairs in TIME_WAIT (`tcp_max_tw_buckets`); more are forgotten at once.
const TIME_WAITS: usize = 16_384;

pub struct Table {
    ports: HashMap<u16, Bucket>,
    pairs: HashMap<Pair, PairState>,
    time_waits: VecDeque<TimeWait>,
    random: Random,
}

/// The near and the far end.
type Pair = (Endpoint, Endpoint);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PairState {
    Live,
    TimeWait(MonoTime),
}

struct TimeWait {
    since: MonoTime,
    port: u16,
    key: Key,
    pair: Pair,
}

/// Who has a port.
#[derive(Default)]
struct Bucket {
    /// By bind.
    bound: SmallVec<[Bound; 1]>,
    /// Connections that came by a listener or by connect's choice of a port, and those in TIME_WAIT: how many of each kind.
    connections: SmallVec<[(Key, usize); 2]>,
}

struct Bound {
    id: u64,
    claim: Claim,
    listener: Option<Weak<Tcp>>,
}

/// What bears on conflicts with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub ip: IpAddr,
    pub reuse: bool,
    pub reuse_port: bool,
}

/// What a socket holds of a port.
#[derive(Debug, Clone, Copy)]
pub enum Hold {
    /// A claim by bind.
    Bound(u16),
    Connection(u16, Key),
}

/// What remains of a closed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    Nothing,
    TimeWait(MonoTime),
}

impl Table {
    pub fn new(seed: u64) -> Table {
        Table { ports: HashMap::new(), pairs: HashMap::new(), time_waits: VecDeque::new(), random: Random::new(seed) }
    }

    /// Ports that are given without being asked for.
    pub fn set_ephemeral(&mut self, ports: std::ops::RangeInclusive<u16>) {
        self.random.ephemeral = ports;
    }

    /// Claims `port`, or (0) a free one. Returns the port.
    ///
    /// # Errors
    /// `EADDRINUSE`.
    pub fn bind(&mut self, id: u64, port: u16, claim: Claim, now: MonoTime) -> Result<u16, Errno> {
        self.expire(now);
        let port = match port {
            0 => {
                let free = self.random.ephemeral().find(|port| !self.ports.contains_key(port));
                let given = self.random.ephemeral.clone();
                let shared = || self.ports.keys().copied().find(|port| given.contains(port) && !self.conflicts(*port, &claim));
                free.or_else(shared).ok_or(Errno::EADDRINUSE)?
            }
            port if self.conflicts(port, &claim) => return Err(Errno::EADDRINUSE),
            port => port,
        };
        self.ports.entry(port).or_default().bound.push(Bound { id, claim, listener: None });
        Ok(port)
    }

    fn conflicts(&self, port: u16, claim: &Claim) -> bool {
        let Some(bucket) = self.ports.get(&port) else { return false };
        let bound = bucket.bound.iter().any(|other| {
            let reused = claim.reuse && other.claim.reuse && other.listener.is_none();
            claim.overlaps(&other.claim) && !reused && !claim.share_port(&other.claim)
        });
        let connected = bucket.connections.iter().any(|(key, _)| {
            let other = Claim { ip: key.ip, ..*claim };
            let shared = (claim.reuse && key.reuse) || (claim.reuse_port && key.reuse_port);
            claim.overlaps(&other) && !shared
        });
        bound || connected
    }

    /// Makes a bound socket a listener.
    ///
    /// # Errors
    /// `EADDRINUSE` when another listens there.
    pub fn listen(&mut self, port: u16, id: u64, socket: &Arc<Tcp>) -> Result<(), Errno> {
        let bucket = self.ports.entry(port).or_default();
        let claim = bucket.bound.iter().find(|bound| bound.id == id).map(|bound| bound.claim).ok_or(Errno::EINVAL)?;
        let others = bucket.bound.iter().filter(|other| other.id != id && other.listener.is_some());
        for other in others {
            if claim.overlaps(&other.claim) && !claim.share_port(&other.claim) {
                return Err(Errno::EADDRINUSE);
            }
        }
        if let Some(bound) = bucket.bound.iter_mut().find(|bound| bound.id == id) {
            bound.listener = Some(Arc::downgrade(socket));
        }
        Ok(())
    }

    /// A listener stops; its claim stays.
    pub fn stop_listening(&mut self, port: u16, id: u64) {
        if let Some(bucket) = self.ports.get_mut(&port)
            && let Some(bound) = bucket.bound.iter_mut().find(|bound| bound.id == id)
        {
            bound.listener = None;
        }
    }

    /// Follows a change of the options that bear on conflicts.
    pub fn update_claim(&mut self, port: u16, id: u64, claim: Claim) {
        if let Some(bucket) = self.ports.get_mut(&port)
            && let Some(bound) = bucket.bound.iter_mut().find(|bound| bound.id == id)
        {
            bound.claim = claim;
        }
    }

    /// The listener for a connection to `to` that comes over an interface: the best fit, any of the best.
    pub fn listener(&mut self, to: Endpoint, device: i32) -> Option<Arc<Tcp>> {
        let bucket = self.ports.get(&to.port)?;
        let scored = || {
            let listeners = bucket.bound.iter().filter_map(|bound| Some((bound, bound.listener.as_ref()?)));
            listeners.filter_map(|(bound, socket)| Some((bound.claim.score(to.ip, device)?, socket)))
        };
        let best = scored().map(|(score, _)| score).max()?;
        let fits: SmallVec<[&Weak<Tcp>; 4]> = scored().filter(|(score, _)| *score == best).map(|(_, socket)| socket).collect();
        let chosen = if fits.len() > 1 { (self.random.next() % fits.len() as u64) as usize } else { 0 };
        fits.get(chosen)?.upgrade()
    }

    /// A port for a connection from `ip` to `to`, shared with connections to elsewhere.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when all are taken.
    pub fn choose_port(&mut self, ip: IpAddr, to: Endpoint, now: MonoTime) -> Result<u16, Errno> {
        self.expire(now);
        let candidates = self.random.ephemeral();
        let usable = |port: &u16| {
            let unbound = self.ports.get(port).is_none_or(|bucket| bucket.bound.is_empty());
            unbound && self.pair_is_free((Endpoint::new(ip, *port), to), now)
        };
        candidates.into_iter().find(usable).ok_or(Errno::EADDRNOTAVAIL)
    }

    pub fn pair_is_free(&self, pair: Pair, now: MonoTime) -> bool {
        match self.pairs.get(&pair) {
            None => true,
            Some(PairState::Live) => false,
            Some(PairState::TimeWait(since)) => now.since(*since) >= REUSE_AFTER_NS,
        }
    }

    pub fn add_pair(&mut self, pair: Pair) {
        self.pairs.insert(pair, PairState::Live);
    }

    /// Counts a connection on its port.
    pub fn hold(&mut self, port: u16, key: Key) -> Hold {
        let connections = &mut self.ports.entry(port).or_default().connections;
        match connections.iter_mut().find(|(other, _)| *other == key) {
            Some((_, count)) => *count += 1,
            None => connections.push((key, 1)),
        }
        Hold::Connection(port, key)
    }

    /// A connection, or a claim, ends.
    pub fn release(&mut self, id: u64, hold: Option<Hold>, pair: Option<Pair>, remains: Remains) {
        let waits = match remains {
            Remains::TimeWait(since) if self.time_waits.len() < TIME_WAITS => Some(since),
            _ => None,
        };
        let mut port_and_key = None;
        match hold {
            Some(Hold::Bound(port)) => {
                let mut key = None;
                if let Some(bucket) = self.ports.get_mut(&port) {
                    if let Some(bound) = bucket.bound.iter().find(|bound| bound.id == id) {
                        let ip = pair.map_or(bound.claim.ip, |(near, _)| near.ip);
                        key = Some(Key { ip, reuse: bound.claim.reuse, reuse_port: bound.claim.reuse_port });
                    }
                    bucket.bound.retain(|bound| bound.id != id);
                }
                if let (Some(key), true) = (key, waits.is_some()) {
                    self.hold(port, key);
                    port_and_key = Some((port, key));
                }
                self.forget_empty(port);
            }
            Some(Hold::Connection(port, key)) if waits.is_some() => port_and_key = Some((port, key)),
            Some(Hold::Connection(port, key)) => self.uncount(port, key),
            None => {}
        }
        let Some(pair) = pair else { return };
        match (waits, port_and_key) {
            (Some(since), Some((port, key))) => {
                self.pairs.insert(pair, PairState::TimeWait(since));
                self.time_waits.push_back(TimeWait { since, port, key, pair });
            }
            _ => {
                self.pairs.remove(&pair);
            }
        }
    }

    fn uncount(&mut self, port: u16, key: Key) {
        if let Some(bucket) = self.ports.get_mut(&port) {
            if let Some((_, count)) = bucket.connections.iter_mut().find(|(other, _)| *other == key) {
                *count -= 1;
            }
            bucket.connections.retain(|(_, count)| *count > 0);
        }
        self.forget_empty(port);
    }

    fn forget_empty(&mut self, port: u16) {
        if self.ports.get(&port).is_some_and(|bucket| bucket.bound.is_empty() && bucket.connections.is_empty()) {
            self.ports.remove(&port);
        }
    }

    /// Forgets what has been in TIME_WAIT long enough.
    fn expire(&mut self, now: MonoTime) {
        while let Some(wait) = self.time_waits.front().filter(|wait| now.since(wait.since) >= TIME_WAIT_NS) {
            let (port, key, pair, since) = (wait.port, wait.key, wait.pair, wait.since);
            self.time_waits.pop_front();
            if self.pairs.get(&pair) == Some(&PairState::TimeWait(since)) {
                self.pairs.remove(&pair);
            }
            self.uncount(port, key);
        }
    }

    /// Pairs in TIME_WAIT now, near end first.
    pub fn waiting_pairs(&mut self, now: MonoTime) -> Vec<Pair> {
        self.expire(now);
        self.time_waits.iter().map(|wait| wait.pair).collect()
    }
}
