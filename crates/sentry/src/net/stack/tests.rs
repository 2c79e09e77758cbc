//! What comes for a listener, in virtual time and without a link: nothing leaves.

use core::net::IpAddr;
use std::sync::atomic::AtomicU64;

use netstack::config::{Address, Interface, Route};
use netstack::ip::{Packet, TCP, UDP};
use netstack::tcp::{Flags, Ports, Segment, TimeWait};

use super::*;
use crate::Errno;
use crate::net::address::Family;
use crate::net::datagram::{Datagram, Protocol};
use crate::net::multicast;
use crate::net::socket::{End, MsgFlags, Outgoing, Socket, Target};
use crate::net::tcp::Tcp;
use crate::time::{Clock, Timers};
use crate::wait::{Notify, PollEvents, Share};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// A TCP packet from a neighbour.
fn packet(payload: &[u8]) -> Packet<'_> {
    Packet {
        interface: 0,
        mac: [2, 0, 0, 0, 0, 2],
        from: ip("10.0.0.2"),
        to: ip("10.0.0.1"),
        protocol: TCP,
        hops: 64,
        class: 0,
        for_all: false,
        payload,
        segment: 0,
        whole: payload,
    }
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
        let packet = packet(&payload);
        let mut late = Vec::new();
        self.stack.segment_arrives(&self.net, &packet, &mut late);
        for socket in late {
            socket.answer();
        }
    }

    /// A connection from this port of the neighbour's, whose first number is 0; and our first number.
    fn connection(&self, port: u16) -> (Arc<dyn Socket>, u32) {
        self.connection_of(port, Segment { flags: Flags::SYN, ..Segment::default() })
    }

    /// Likewise, by this SYN.
    fn connection_of(&self, port: u16, syn: Segment) -> (Arc<dyn Socket>, u32) {
        self.arrives(port, syn, &[]);
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

/// `tcpi_segs_out`
fn segments_sent(socket: &dyn Socket) -> u32 {
    let info = socket.as_any().downcast_ref::<Tcp>().expect("a TCP socket").info();
    info[136..140].iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
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
    let (socket, ack) = world.connection(1000);
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
    assert_eq!(send(611, 4000), other + 4610, "while there is little of it");
    let before = segments_sent(&*socket);
    assert_eq!(send(4611, 1000), other + 4610);
    assert_eq!(segments_sent(&*socket), before + 1, "who is not heard is answered");
    world.net.discharge(other);
    let mut got: Vec<u8> = Vec::new();
    let before = segments_sent(&*socket);
    socket.receive(&mut got, MsgFlags::empty()).expect("bytes");
    assert_eq!(segments_sent(&*socket), before + 1, "and told when there is room again");
    assert_eq!(send(4611, 1000), 1000);
    assert_eq!(send(6611, 600), 1600);
    world.arrives(1000, Segment { seq: 5611, flags: Flags::RST, ..Segment::default() }, &[]);
    assert_eq!(world.net.queued(), 1000);
}

#[test]
fn on_loopback_many_bytes_are_waited_for_as_well() {
    let world = World::new();
    let client = Tcp::new(&world.net, Family::Inet, 0);
    client.begin_connect(world.near).expect("begun");
    client.finish_connect().expect("there").expect("connected");
    let server = world.listener.accept().expect("a connection").socket;
    server.options().lock().receive_low_water = 1000;
    for (length, ready) in [(999, false), (1, true)] {
        client.send(&mut &vec![7; length][..], &mut Outgoing::default()).expect("a send");
        assert_eq!(server.poll().contains(PollEvents::IN), ready);
    }
}

/// Counts how often somebody was woken.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl Notify for Woken {
    fn notify(&self, _events: PollEvents) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn who_writes_what_goes_at_once_is_woken_when_it_has_gone() {
    let world = World::new();
    let (socket, first) = world.connection(1000);
    let tcp = socket.as_any().downcast_ref::<Tcp>().expect("a TCP socket");
    let woken = Arc::new(Woken::default());
    let _waits = socket.queue().register(PollEvents::OUT, Share::All, woken.clone());
    let times = || woken.0.load(std::sync::atomic::Ordering::Relaxed);
    let may_write = || socket.poll().contains(PollEvents::OUT);
    let acknowledges = |bytes: u32| {
        let segment = Segment { seq: 1, ack: first.wrapping_add(bytes), flags: Flags::ACK, ..Segment::default() };
        world.arrives(1000, segment, &[]);
    };
    tcp.set_most_unsent(1000);
    let written = socket.send(&mut &[7; 30_000][..], &mut Outgoing::default()).expect("a send") as u32;
    assert!(written == 30_000 && !may_write());
    let mut acked = 0;
    while !may_write() {
        assert_eq!(times(), 0);
        acked += 536;
        assert!(acked < written);
        acknowledges(acked);
    }
    assert_eq!(times(), 1, "by the acknowledgement that let it go");
    // Or by another limit.
    socket.send(&mut &[7; 30_000][..], &mut Outgoing::default()).expect("a send");
    assert!(!may_write());
    tcp.set_most_unsent(1 << 20);
    tcp.options_changed();
    assert_eq!((times(), may_write()), (2, true));
}

#[test]
fn who_waits_for_many_bytes_gets_them_or_is_told_that_no_more_come() {
    let world = World::new();
    let ready = |socket: &dyn Socket| socket.poll().contains(PollEvents::IN);
    // With windows that are scaled, and without.
    for (port, window_scale) in [(1000, Some(7)), (1001, None)] {
        let (socket, ack) = world.connection_of(port, Segment { flags: Flags::SYN, window_scale, ..Segment::default() });
        let tcp = socket.as_any().downcast_ref::<Tcp>().expect("a TCP socket");
        let arrives = |from: u32, to: u32| {
            let segment = Segment { seq: 1 + from, ack, flags: Flags::ACK, ..Segment::default() };
            world.arrives(port, segment, &vec![7; (to - from) as usize]);
        };
        arrives(0, 10);
        assert!(ready(&*socket));
        socket.options().lock().receive_low_water = 100_000;
        tcp.options_changed();
        arrives(10, 50_000);
        assert!(!ready(&*socket));
        arrives(50_000, 100_000);
        assert!(ready(&*socket), "{window_scale:?}");
        assert_eq!(tcp.state.lock().ring.len(), 100_000);
        let other = 100 << 20;
        socket.receive(&mut Vec::<u8>::new(), MsgFlags::empty()).expect("bytes");
        // While memory is short, no more comes than a little.
        arrives(100_000, 100_100);
        assert!(!ready(&*socket));
        world.net.charge(other);
        assert!(ready(&*socket));
        world.net.discharge(other);
    }
}

#[test]
fn what_nobody_accepts_holds_a_first_window_only() {
    let world = World::new();
    for port in 1000..1005 {
        let (socket, ack) = world.connection(port);
        for n in 0..40 {
            let segment = Segment { seq: 1 + n * 30_000, ack, flags: Flags::ACK, ..Segment::default() };
            world.arrives(port, segment, &vec![7; 30_000]);
        }
        drop(socket);
    }
    assert!(world.net.queued() <= 5 * 65_535, "{}", world.net.queued());
}

#[test]
fn who_comes_while_too_many_are_half_open_gets_a_cookie() {
    let world = World::new();
    for port in 0..5000 {
        world.arrives(port, Segment { seq: 1, flags: Flags::SYN, ..Segment::default() }, &[]);
    }
    let pair = |port: u16| (world.near, Endpoint::new(ip("10.0.0.2"), port));
    assert!(world.stack.connections.lock().get(&pair(0)).is_some(), "those that were first stay");
    assert!(world.stack.connections.lock().get(&pair(4999)).is_none());
    let cookie = world.stack.cookies.give(&pair(7000), 40, 1460, world.net.clock.monotonic());
    let third = |ack: u32, seq: u32| Segment { seq, ack, flags: Flags::ACK, ..Segment::default() };
    for (ack, seq) in [(cookie, 41), (cookie.wrapping_add(2), 41), (cookie.wrapping_add(1), 42)] {
        world.arrives(7000, third(ack, seq), b"forged");
        assert!(world.listener.accept().is_err());
    }
    world.listener.ip.lock().least_hops = [65, 255];
    world.arrives(7000, third(cookie.wrapping_add(1), 41), b"from afar");
    assert!(world.listener.accept().is_err());
    world.listener.ip.lock().least_hops = [0, 0];
    world.arrives(7000, third(cookie.wrapping_add(1), 41), b"hello");
    let socket = world.listener.accept().expect("a connection").socket;
    let mut got: Vec<u8> = Vec::new();
    socket.receive(&mut got, MsgFlags::empty()).expect("bytes");
    assert_eq!(got, b"hello");
    // Who comes to a full queue by a cookie is as if not heard, and nobody makes way for it.
    let counts = world.counts();
    for port in 7001..7100 {
        let cookie = world.stack.cookies.give(&pair(port), 40, 1460, world.net.clock.monotonic());
        world.arrives(port, third(cookie.wrapping_add(1), 41), b"hello");
    }
    let mut accepted = 0;
    while world.listener.accept().is_ok() {
        accepted += 1;
    }
    assert_eq!((accepted, world.counts().1), (6, counts.1));
    assert!(world.stack.connections.lock().get(&pair(0)).is_some());
}

#[test]
fn a_socket_on_another_interface_hears_nothing() {
    let world = World::new();
    let (socket, ack) = world.connection(1000);
    let bind = |socket: &dyn Socket, device: i32| socket.options().lock().device = device;
    // A connection.
    bind(&*socket, 1);
    let segment = Segment { seq: 1, ack, flags: Flags::ACK, ..Segment::default() };
    world.arrives(1000, segment.clone(), b"hello");
    assert_eq!(world.net.queued(), 0);
    bind(&*socket, 2);
    world.arrives(1000, segment, b"hello");
    assert_eq!(world.net.queued(), 5);
    // A listener: its claim is what counts.
    let syn = Segment { seq: 1, flags: Flags::SYN, ..Segment::default() };
    let half_open = || world.counts().1;
    bind(&*world.listener, 1);
    world.listener.claim_changed();
    world.arrives(1001, syn.clone(), &[]);
    assert_eq!(half_open(), 0);
    bind(&*world.listener, 2);
    world.listener.claim_changed();
    world.arrives(1001, syn, &[]);
    assert_eq!(half_open(), 1);
    // Datagrams: to one, and to all on the link.
    let on = |device: i32| {
        let udp = Datagram::new(&world.net, Family::Inet, Protocol::Udp, 0);
        bind(&*udp, device);
        udp.send(
            &mut &b"x"[..],
            &mut Outgoing { to: Some(Target::Inet(Endpoint::new(ip("10.0.0.2"), 53), 2)), ..Outgoing::default() },
        )
        .expect("a port");
        let name = udp.name(End::Own).expect("a name");
        (udp, u16::from_be_bytes([name[2], name[3]]))
    };
    for (device, hears) in [(1, false), (2, true), (0, true)] {
        let (udp, port) = on(device);
        for to in ["10.0.0.1", "10.0.0.255"] {
            let body = [&[0, 53][..], &port.to_be_bytes(), &[0, 13, 0, 0], b"hello"].concat();
            let packet = Packet { to: ip(to), protocol: UDP, payload: &body, ..packet(&body) };
            world.stack.datagram_arrives(&world.net, &packet);
            let mut got: Vec<u8> = Vec::new();
            assert_eq!(udp.receive(&mut got, MsgFlags::DONTWAIT).is_ok(), hears, "{device}, {to}");
        }
        // Bound to a port and connected to nobody: connect(AF_UNSPEC) takes it off its interface.
        udp.disconnect();
        let body = [&[0, 53][..], &port.to_be_bytes(), &[0, 13, 0, 0], b"hello"].concat();
        world.stack.datagram_arrives(&world.net, &Packet { protocol: UDP, ..packet(&body) });
        assert!(udp.receive(&mut Vec::<u8>::new(), MsgFlags::DONTWAIT).is_ok(), "{device}, disconnected");
    }
}

#[test]
fn what_is_too_long_is_told_of_at_once() {
    let world = World::new();
    let socket = Datagram::new(&world.net, Family::Inet, Protocol::Udp, 0);
    let to = || Outgoing { to: Some(Target::Inet(Endpoint::new(ip("10.0.0.2"), 53), 0)), ..Outgoing::default() };
    let set = |name: i32, value: i32| socket.set_ip(name, value);
    let send = |length: usize| socket.send(&mut &vec![7; length][..], &mut to());
    assert_eq!(send(2000), Ok(2000), "it is cut");
    set(10, 2);
    assert_eq!(send(2000), Err(Errno::EMSGSIZE));
    let error = || socket.receive(&mut Vec::<u8>::new(), MsgFlags::ERRQUEUE);
    assert!(error().is_err(), "nobody has asked");
    set(11, 1);
    assert_eq!(send(2000), Err(Errno::EMSGSIZE));
    let told = error().expect("an error");
    let data = &told.controls[0].data;
    // EMSGSIZE, by this host, and what would do.
    assert_eq!(
        (data[..4].to_vec(), data[4], data[8..12].to_vec()),
        (90u32.to_le_bytes().to_vec(), 1, 1500u32.to_le_bytes().to_vec())
    );
    assert_eq!((told.bytes, data.len(), send(10)), (0, 32, Ok(10)));
    assert_eq!(world.net.mtu_towards(ip("10.0.0.2"), 0), 1500);
    assert_eq!(world.net.mtu_towards(ip("10.0.0.1"), 0), 65_536, "to itself");
}

#[test]
fn who_wants_near_peers_does_not_hear_far_ones() {
    let world = World::new();
    let (socket, ack) = world.connection(1000);
    let socket = socket.as_any().downcast_ref::<Tcp>().expect("a TCP socket");
    let segment = Segment { seq: 1, ack, flags: Flags::ACK, ..Segment::default() };
    for (least, queued) in [(65, 0), (64, 5)] {
        socket.ip.lock().least_hops = [least, 255];
        world.arrives(1000, segment.clone(), b"hello");
        assert_eq!(world.net.queued(), queued);
    }
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
        let arrives = |n: u32| {
            let segment = Segment { seq: 1 + n * 60_000, ack, flags: Flags::ACK, ..Segment::default() };
            world.arrives(port, segment, &vec![7; 60_000]);
        };
        let read = || {
            let mut got: Vec<u8> = Vec::new();
            socket.receive(&mut got, MsgFlags::empty()).expect("bytes");
            got.len()
        };
        // Two that are read open the window for two more.
        for n in 0..2 {
            arrives(n);
            assert_eq!(read(), 60_000);
        }
        arrives(2);
        arrives(3);
        assert_eq!(read(), 120_000);
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
