//! The way out: a pod's network, by the packet stack of the `netstack` crate over packet sockets or taps of the host.
//!
//! The same sockets as on loopback stand above it. [`Stack`] has what they share: the Internet layer, and who has which pair of TCP addresses
//! (`connections`, one look-up for each segment). `receive` is a host thread's loop from frames to sockets; `segments` and `datagrams` hand on what
//! came, and build what goes. A TCP socket's own part is in `tcp::wire`.
//!
//! Locking: the table of connections and the timer are leaves, and nothing is sent under them. A connection's lock comes before its socket's
//! state.

mod connections;
mod cookies;
mod datagrams;
mod groups;
mod receive;
mod segments;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hostcall::packet::Wire;
use netstack::config::Description;
use netstack::ip::frame::{self, Virtio};
use netstack::ip::{Fault, Link, Network, Owner, Quoted};
use parking_lot::Mutex;

use super::NetNamespace;
use super::address::Endpoint;
use super::devices::ARPHRD_ETHER;
use super::packet::{Passing, Taps, Whose};
use crate::time::{LazyTimer, MonoTime};
use connections::{Connections, Entry, Half};
use cookies::Cookies;
pub use datagrams::Departure;
pub use groups::Member;
pub use receive::Receiver;
pub use segments::{Marks, mss_of};

/// How often half-open connections are looked at while there are any.
const HALF_OPEN_TICK_NS: u64 = 1_000_000_000;

/// The near and the far end.
pub type Pair = (Endpoint, Endpoint);

pub struct Stack {
    pub network: Network,
    connections: Mutex<Connections>,
    cookies: Cookies,
    /// From which first sequence numbers are made.
    secret: u64,
    /// Looks after neighbours that do not answer, groups that are told of, and half-open connections.
    timer: LazyTimer,
}

/// The ways out, one for each interface, and the interfaces' indexes; and who in the sandbox looks at frames.
struct Wires {
    wires: Vec<(Arc<Wire>, i32)>,
    taps: Arc<Taps>,
}

impl Link for Wires {
    fn send(&self, interface: usize, pieces: &[&[u8]]) -> bool {
        let Some((wire, device)) = self.wires.get(interface) else { return false };
        if self.taps.is_open() {
            let bytes = pieces.concat();
            let frame = bytes.get(frame::VIRTIO..).unwrap_or_default();
            let unfinished = Virtio::parse(&bytes).is_some_and(|virtio| virtio.checked);
            self.taps.see(&Passing { frame, device: *device, hardware: ARPHRD_ETHER, whose: Whose::Outgoing, unfinished });
        }
        wire.send(pieces).is_ok()
    }
}

impl Stack {
    /// The stack of a namespace that `description` tells of, and a receiver for each interface, to be run on a thread each.
    pub fn new(net: &Arc<NetNamespace>, description: Description, wires: Vec<Wire>) -> (Arc<Stack>, Vec<Receiver>) {
        let wires: Vec<Arc<Wire>> = wires.into_iter().map(Arc::new).collect();
        let mut seed = [0; 16];
        // Without random bytes numbers are only easier to guess.
        let _ = hostcall::random::fill(&mut seed);
        let seed = u128::from_le_bytes(seed);
        let devices = description.interfaces.iter().map(|interface| interface.index);
        let link = Wires { wires: wires.iter().cloned().zip(devices).collect(), taps: net.packets.clone() };
        let stack = Arc::new(Stack {
            network: Network::new(description, Box::new(link), seed as u64),
            connections: Mutex::default(),
            cookies: Cookies::default(),
            secret: (seed >> 64) as u64,
            timer: LazyTimer::default(),
        });
        let receivers = wires.into_iter().enumerate();
        let receivers = receivers.map(|(at, wire)| Receiver::new(net.clone(), stack.clone(), at, wire));
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
        self.arm_at(net, at);
    }

    /// Tells of groups, asks neighbours again, and answers SYNs again.
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
