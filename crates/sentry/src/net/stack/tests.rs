//! What comes for a listener, in virtual time and without a link: nothing leaves.

use core::net::IpAddr;
use std::sync::atomic::AtomicU64;

use netstack::config::{Address, Interface, Route};
use netstack::ip::{Packet, TCP};
use netstack::tcp::{Flags, Ports, Segment, TimeWait};

use super::*;
use crate::net::address::Family;
use crate::net::tcp::Tcp;
use crate::time::{Clock, Timers};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

struct World {
    net: Arc<NetNamespace>,
    stack: Arc<Stack>,
    listener: Arc<Tcp>,
    near: Endpoint,
}

impl World {
    fn new() -> World {
        let net = NetNamespace::new(Clock::Virtual(Arc::new(AtomicU64::new(1))), Timers::new(), 64 << 20);
        let address = Address { ip: ip("10.0.0.1"), prefix: 24, broadcast: None, scope: 0 };
        let interface =
            Interface { name: "eth0".into(), index: 2, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, addresses: vec![address] };
        let route = Route {
            to: ip("10.0.0.0"),
            prefix: 24,
            gateway: None,
            interface: 2,
            source: None,
            metric: 0,
            scope: 253,
            protocol: 2,
        };
        let description = Description { interfaces: vec![interface], routes: vec![route], ..Description::default() };
        net.use_packets(description, Vec::new());
        let stack = net.stack().expect("a stack").clone();
        let listener = Tcp::new(&net, Family::Inet, 0);
        listener.start_listening(5).expect("a listener");
        let near = Endpoint::new(ip("10.0.0.1"), listener.state.lock().local.port);
        World { net, stack, listener, near }
    }

    /// A segment comes from this port of a neighbour.
    fn arrives(&self, port: u16, segment: Segment, bytes: &[u8]) {
        let segment = Segment { source: port, destination: self.near.port, window: 65_535, ..segment };
        let payload = [&segment.header()[..], bytes].concat();
        let packet = Packet {
            interface: 0,
            mac: [2, 0, 0, 0, 0, 2],
            from: ip("10.0.0.2"),
            to: self.near.ip,
            protocol: TCP,
            hops: 64,
            class: 0,
            for_all: false,
            payload: &payload,
            segment: 0,
            whole: &payload,
        };
        let mut late = Vec::new();
        self.stack.segment_arrives(&self.net, &packet, &mut late);
        for socket in late {
            socket.answer();
        }
    }

    fn counts(&self) -> (usize, usize, usize) {
        self.stack.connections.lock().counts()
    }
}

#[test]
fn a_pair_is_half_open_once_whatever_comes() {
    let world = World::new();
    for n in 0..10_000 {
        world.arrives(1000, Segment { seq: n * 7, flags: Flags::SYN, ..Segment::default() }, &[]);
    }
    assert_eq!(world.counts(), (1, 1, 0));
    for port in 0..10_000 {
        world.arrives(port, Segment { seq: 1, flags: Flags::SYN, ..Segment::default() }, &[]);
    }
    assert_eq!(world.counts(), (4096, 4096, 0), "the oldest make way");
    // All give up in the end.
    for second in 0..300 {
        world.stack.connections.lock().late_half_open(second * 1_000_000_000);
    }
    assert_eq!(world.counts(), (0, 0, 0));
    assert!(world.listener.has_room_for_connection());
}

#[test]
fn a_pair_that_is_used_again_waits_its_whole_time() {
    let world = World::new();
    let rest = |seq: u32| -> TimeWait {
        let start = netstack::tcp::Start { ports: Ports { near: 1, far: 2 }, iss: seq, path_mss: 1460, now: 0 };
        netstack::tcp::Connection::connect(start, netstack::tcp::Settings::default()).time_wait()
    };
    let pair = |port: u16| (world.near, Endpoint::new(ip("10.0.0.2"), port));
    let at = |second: u64| MonoTime(second * 1_000_000_000);
    world.stack.remove(pair(1), Some(rest(1)), at(0));
    world.stack.remove(pair(1), None, at(30));
    world.stack.remove(pair(1), Some(rest(2)), at(30));
    world.stack.remove(pair(2), Some(rest(3)), at(70));
    assert_eq!(world.counts(), (2, 0, 2), "the second is not over with the first");
    world.stack.remove(pair(3), Some(rest(4)), at(95));
    assert_eq!(world.counts(), (2, 0, 2));
    for n in 0..40_000u32 {
        world.stack.remove(pair(n as u16 % 20_000), Some(rest(n)), at(100));
    }
    assert_eq!(world.counts(), (16_384, 0, 16_384));
}
