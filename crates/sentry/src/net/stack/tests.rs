//! What comes for a listener, in virtual time and without a link: nothing leaves.

use core::net::IpAddr;
use std::sync::atomic::AtomicU64;

use netstack::config::{Address, Interface, Route};
use netstack::ip::{Packet, TCP, UDP};
use netstack::tcp::{Flags, Ports, Segment, TimeWait};

use super::*;
use crate::net::address::Family;
use crate::net::datagram::{Datagram, Protocol};
use crate::net::multicast;
use crate::net::socket::{End, MsgFlags, Outgoing, Socket, Target};
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

    /// A connection from this port of the neighbour's, whose first number is 0; and our first number.
    fn connection(&self, port: u16) -> (Arc<dyn Socket>, u32) {
        self.arrives(port, Segment { flags: Flags::SYN, ..Segment::default() }, &[]);
        let iss = match self.stack.connections.lock().get(&(self.near, Endpoint::new(ip("10.0.0.2"), port))) {
            Some(Entry::HalfOpen(_, half)) => half.half.reply(0).seq,
            _ => panic!("no half-open connection"),
        };
        let ack = iss.wrapping_add(1);
        self.arrives(port, Segment { seq: 1, ack, flags: Flags::ACK, ..Segment::default() }, &[]);
        (self.listener.accept().expect("a connection").socket, ack)
    }

    fn path_mtu(&self) -> u32 {
        let way = self.stack.network.route(ip("10.0.0.2"), 0).expect("a way");
        self.stack.network.path_mtu(ip("10.0.0.2"), &way, self.net.clock.monotonic().0)
    }

    /// Somebody says that a packet of ours, which began so, was too long.
    fn too_long(&self, protocol: u8, transport: &[u8]) {
        let (from, to) = (self.near.ip, ip("10.0.0.2"));
        let quoted = Quoted { fault: Fault::TooLong(700), kind: 3, code: 4, offender: to, from, to, protocol, transport };
        self.stack.fault(&self.net, &quoted);
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

#[test]
fn bytes_out_of_order_are_counted_and_make_way_under_pressure() {
    let world = World::new();
    let (_socket, ack) = world.connection(1000);
    let send = |seq: u32, len: usize| {
        world.arrives(1000, Segment { seq, ack, flags: Flags::ACK, ..Segment::default() }, &vec![7; len]);
        world.net.queued()
    };
    assert_eq!(send(11, 500), 500);
    assert_eq!(send(1011, 500), 1000);
    assert_eq!(send(1, 10), 1010, "what is in order now waits in the socket");
    let other = 100 << 20;
    world.net.charge(other);
    assert_eq!(send(1111, 600), other + 510);
    assert_eq!(send(511, 100), other + 610, "what is in order is taken all the same");
    world.net.discharge(other);
    assert_eq!(send(1111, 600), 1210);
    world.arrives(1000, Segment { seq: 611, flags: Flags::RST, ..Segment::default() }, &[]);
    assert_eq!(world.net.queued(), 610);
}

#[test]
fn only_who_quotes_what_was_sent_narrows_a_path() {
    let world = World::new();
    let (socket, seq) = world.connection(1000);
    socket.send(&mut &b"hello"[..], &mut Outgoing::default()).expect("a send");
    let header = |seq: u32| Segment { source: world.near.port, destination: 1000, seq, ..Segment::default() }.header();
    for wrong in [seq.wrapping_sub(1), seq.wrapping_add(5), seq.wrapping_add(1 << 31)] {
        world.too_long(TCP, &header(wrong));
    }
    assert_eq!(world.path_mtu(), 1500);
    world.too_long(TCP, &header(seq));
    assert_eq!(world.path_mtu(), 700);

    let world = World::new();
    let socket = Datagram::new(&world.net, Family::Inet, Protocol::Udp, 0);
    let to = Target::Inet(Endpoint::new(ip("10.0.0.2"), 53), 0);
    socket.send(&mut &b"hello"[..], &mut Outgoing { to: Some(to), ..Outgoing::default() }).expect("a send");
    let name = socket.name(End::Own).expect("a name");
    let port = u16::from_be_bytes([name[2], name[3]]);
    let head = |port: u16| [port.to_be_bytes(), 53u16.to_be_bytes(), [0, 13], [0; 2]].concat();
    world.too_long(UDP, &head(port ^ 1));
    world.too_long(99, &head(port));
    assert_eq!(world.path_mtu(), 1500);
    world.too_long(UDP, &head(port));
    assert_eq!(world.path_mtu(), 700);

    let world = World::new();
    let _socket = Datagram::new(&world.net, Family::Inet, Protocol::Raw(99), 0);
    world.too_long(98, &[]);
    assert_eq!(world.path_mtu(), 1500);
    world.too_long(99, &[]);
    assert_eq!(world.path_mtu(), 700);
}

#[test]
fn the_latest_sockets_only_keep_large_buffers() {
    let world = World::new();
    let mut sockets = Vec::new();
    let (writer, first) = world.connection(999);
    let written = writer.send(&mut &[7; 200_000][..], &mut Outgoing::default()).expect("a send") as u32;
    // Bytes that it has not got rid of, and its memory for them.
    let to_send = || {
        let writer = writer.as_any().downcast_ref::<Tcp>().expect("a TCP socket");
        (writer.unsent_bytes() as u32, writer.send_memory())
    };
    for port in 1000..1100 {
        let (socket, ack) = world.connection(port);
        for n in 0..3 {
            let segment = Segment { seq: 1 + n * 60_000, ack, flags: Flags::ACK, ..Segment::default() };
            world.arrives(port, segment, &vec![7; 60_000]);
        }
        let mut got: Vec<u8> = Vec::new();
        socket.receive(&mut got, MsgFlags::empty()).expect("bytes");
        assert_eq!(got.len(), 180_000);
        sockets.push(socket);
    }
    let kept = |socket: &Arc<dyn Socket>| {
        let socket = socket.as_any().downcast_ref::<Tcp>().expect("a TCP socket");
        socket.state.lock().ring.memory()
    };
    let large = sockets.iter().filter(|socket| kept(socket) > 64 << 10).count();
    assert_eq!(large, 32);
    assert!(sockets.iter().rev().take(32).all(|socket| kept(socket) > 64 << 10), "the latest");
    let (left, memory) = to_send();
    assert!(left == written && memory > 64 << 10, "bytes that wait are kept: {left}, {memory}");
    for _ in 0..written {
        let acked = written - to_send().0;
        if acked == written {
            break;
        }
        let ack = first.wrapping_add((acked + 536).min(written));
        world.arrives(999, Segment { seq: 1, ack, flags: Flags::ACK, ..Segment::default() }, &[]);
    }
    assert_eq!(to_send(), (0, 0), "and given back once they are gone");
    assert_eq!(world.net.queued(), 0);
}

#[test]
fn groups_are_shown_as_linux_does() {
    let World { net, .. } = World::new();
    let first = Member::new(&net, 2, ip("239.1.2.3")).expect("told of");
    let _second = Member::new(&net, 2, ip("239.1.2.3")).expect("told of");
    let _third = Member::new(&net, 2, ip("ff05::7")).expect("told of");
    assert!(Member::new(&net, 2, ip("224.0.0.1")).is_none() && Member::new(&net, 1, ip("239.1.2.3")).is_none());
    drop(first);
    let igmp = multicast::igmp(&net);
    assert!(
        igmp.ends_with(
            "2\teth0      :     2      V3\n\t\t\t\t030201EF     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
        ),
        "{igmp}"
    );
    let igmp6 = multicast::igmp6(&net);
    assert!(igmp6.contains("\n2    eth0            ff050000000000000000000000000007     1 00000004 0\n"), "{igmp6}");
    let devices = multicast::devices(&net);
    assert!(
        devices.starts_with("2    eth0            1     0     01005e000001\n2    eth0            1     0     01005e010203\n"),
        "{devices}"
    );
}
