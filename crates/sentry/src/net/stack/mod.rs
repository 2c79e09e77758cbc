//! The way out: a pod's network, by the packet stack of the `netstack` crate over packet sockets of the host.
//!
//! The same sockets as on loopback stand above it. [`Stack`] has what they share: the Internet layer, and who has which pair of TCP addresses
//! ([`Entry`], one look-up for each segment). `receive` is a host thread's loop from frames to sockets; `segments` and `datagrams` hand on what
//! came, and build what goes. A TCP socket's own part is in `tcp::wire`.
//!
//! Locking: the table of connections and the timer are leaves, and nothing is sent under them. A connection's lock comes before its socket's
//! state.

mod datagrams;
mod receive;
mod segments;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use netstack::config::Description;
use netstack::ip::{Fault, Link, Network, Owner, Quoted, Way};
use netstack::tcp::{HalfOpen, Segment, TimeWait};
use parking_lot::Mutex;

use super::NetNamespace;
use super::address::Endpoint;
use super::tcp::Tcp;
use crate::time::{MonoTime, Timer};
pub use datagrams::Departure;
pub use receive::Receiver;
pub use segments::{Marks, mss_of};

/// Connections under way to a listener, of all listeners (`tcp_max_syn_backlog`); the oldest make way.
const HALF_OPEN: usize = 4096;
/// How often they are looked at while there are any.
const HALF_OPEN_TICK_NS: u64 = 1_000_000_000;
/// Connections in TIME_WAIT (`tcp_max_tw_buckets`), and how long.
const TIME_WAITS: usize = 16_384;
const TIME_WAIT_NS: u64 = 60_000_000_000;

/// The near and the far end.
pub type Pair = (Endpoint, Endpoint);

pub struct Stack {
    pub network: Network,
    connections: Mutex<Connections>,
    /// From which first sequence numbers are made.
    secret: u64,
    /// Looks after neighbours that do not answer and half-open connections.
    timer: Mutex<Option<(MonoTime, Timer)>>,
}

#[derive(Default)]
struct Connections {
    entries: HashMap<Pair, Entry>,
    /// In the order of their coming.
    /// Those that are no longer half open are taken out now and then.
    half_open: VecDeque<Pair>,
    half_open_count: usize,
    time_waits: VecDeque<(MonoTime, Pair)>,
}

/// Who has a pair of addresses.
enum Entry {
    Live(Arc<Tcp>),
    HalfOpen(Box<Half>),
    TimeWait(TimeWait),
}

struct Half {
    half: HalfOpen,
    listener: Weak<Tcp>,
    way: Way,
}

/// Packet sockets, one for each interface.
struct Sockets(Vec<Arc<OwnedFd>>);

impl Link for Sockets {
    fn send(&self, interface: usize, pieces: &[&[u8]]) -> bool {
        self.0.get(interface).is_some_and(|socket| hostcall::packet::send(socket.as_fd(), pieces).is_ok())
    }
}

impl Stack {
    /// The stack of a namespace that `description` tells of, and a receiver for each interface, to be run on a thread each.
    pub fn new(net: &Arc<NetNamespace>, description: Description, sockets: Vec<OwnedFd>) -> (Arc<Stack>, Vec<Receiver>) {
        let sockets: Vec<Arc<OwnedFd>> = sockets.into_iter().map(Arc::new).collect();
        let mut seed = [0; 16];
        // Without random bytes numbers are only easier to guess.
        let _ = hostcall::random::fill(&mut seed);
        let seed = u128::from_le_bytes(seed);
        let stack = Arc::new(Stack {
            network: Network::new(description, Box::new(Sockets(sockets.clone())), seed as u64),
            connections: Mutex::default(),
            secret: (seed >> 64) as u64,
            timer: Mutex::new(None),
        });
        let receivers = sockets.into_iter().enumerate();
        let receivers = receivers.map(|(at, socket)| Receiver::new(net.clone(), stack.clone(), at, socket));
        let receivers = receivers.collect();
        (stack, receivers)
    }

    /// Whether `ip` is one of its interfaces' own, or all hosts' of a link.
    pub fn owner(&self, ip: core::net::IpAddr) -> Owner {
        self.network.owner(ip)
    }

    /// A first sequence number that nobody else can guess, and that grows with time (RFC 6528).
    fn first_number(&self, pair: &Pair, now: MonoTime) -> u32 {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        (self.secret, pair).hash(&mut hasher);
        (hasher.finish() as u32).wrapping_add((now.0 / 64) as u32)
    }

    /// Something was sent: if a neighbour is asked for, its time is kept.
    pub fn watch_neighbours(self: &Arc<Stack>, net: &Arc<NetNamespace>) {
        if self.network.is_asking() {
            self.arm(net);
        }
    }

    /// Makes sure that [`Stack::due`] is called by the next deadline.
    fn arm(self: &Arc<Stack>, net: &Arc<NetNamespace>) {
        let half_open = self.connections.lock().has_half_open().then(|| net.clock.monotonic().after(HALF_OPEN_TICK_NS));
        let neighbours = self.network.deadline().map(MonoTime);
        let Some(at) = [half_open, neighbours].into_iter().flatten().min() else { return };
        let mut timer = self.timer.lock();
        if timer.as_ref().is_some_and(|(armed, _)| *armed <= at) {
            return;
        }
        let (stack, weak) = (Arc::downgrade(self), Arc::downgrade(net));
        let fire = move || {
            if let (Some(stack), Some(net)) = (stack.upgrade(), weak.upgrade()) {
                *stack.timer.lock() = None;
                stack.due(&net);
                stack.arm(&net);
            }
        };
        *timer = Some((at, net.timers.arm(at, Arc::new(fire))));
    }

    /// Asks neighbours again, and answers SYNs again.
    fn due(self: &Arc<Stack>, net: &Arc<NetNamespace>) {
        let now = net.clock.monotonic();
        let mut failed = Vec::new();
        self.network.due(now.0, &mut |packet| failed.push(packet.to_vec()));
        for packet in failed {
            if let Some(quoted) = Quoted::of_packet(Fault::HostUnreachable, &packet) {
                self.fault(net, &quoted);
            }
        }
        let late = self.connections.lock().late_half_open(now.0);
        for (pair, segment, way) in late {
            self.send_segment(now, &way, &pair, segment);
        }
    }
}

impl Connections {
    fn has_half_open(&mut self) -> bool {
        if self.half_open_count == 0 {
            self.half_open.clear();
        }
        self.half_open_count > 0
    }

    /// Half-open connections whose answer is to be sent again; those that have waited too long are forgotten.
    fn late_half_open(&mut self, now: u64) -> Vec<(Pair, Segment, Way)> {
        let mut again = Vec::new();
        let mut kept = VecDeque::new();
        for pair in std::mem::take(&mut self.half_open) {
            let Some(Entry::HalfOpen(half)) = self.entries.get_mut(&pair) else { continue };
            if half.half.again_at <= now {
                if !half.half.is_late(now) {
                    self.remove(&pair);
                    continue;
                }
                again.push((pair, half.half.reply(now), half.way));
            }
            kept.push_back(pair);
        }
        self.half_open = kept;
        again
    }

    fn add_half_open(&mut self, pair: Pair, half: Half) {
        while self.half_open_count >= HALF_OPEN {
            let Some(oldest) = self.half_open.pop_front() else { break };
            if let Some(Entry::HalfOpen(_)) = self.entries.get(&oldest) {
                self.remove(&oldest);
            }
        }
        if self.half_open.len() >= 2 * HALF_OPEN {
            let Connections { half_open, entries, .. } = self;
            half_open.retain(|pair| matches!(entries.get(pair), Some(Entry::HalfOpen(_))));
        }
        self.remove(&pair);
        self.half_open_count += 1;
        self.half_open.push_back(pair);
        self.entries.insert(pair, Entry::HalfOpen(Box::new(half)));
    }

    fn add_time_wait(&mut self, pair: Pair, rest: TimeWait, now: MonoTime) {
        while let Some((since, old)) = self.time_waits.front().copied() {
            if now.since(since) < TIME_WAIT_NS && self.time_waits.len() < TIME_WAITS {
                break;
            }
            self.time_waits.pop_front();
            if let Some(Entry::TimeWait(_)) = self.entries.get(&old) {
                self.entries.remove(&old);
            }
        }
        self.time_waits.push_back((now, pair));
        self.entries.insert(pair, Entry::TimeWait(rest));
    }

    fn remove(&mut self, pair: &Pair) -> Option<Entry> {
        let entry = self.entries.remove(pair);
        if let Some(Entry::HalfOpen(_)) = entry {
            self.half_open_count -= 1;
        }
        entry
    }
}
