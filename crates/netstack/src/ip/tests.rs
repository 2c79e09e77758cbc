//! Two networks on one link.

use core::net::IpAddr;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::config::{Address, Description};

/// Frames that one side has sent.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl Link for Wire {
    fn send(&self, _interface: usize, pieces: &[&[u8]]) -> bool {
        self.0.lock().push_back(pieces.concat());
        true
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn host(number: u8) -> (Network, Wire) {
    let wire = Wire::default();
    let address = |ip: String, prefix| Address { ip: ip.parse().expect("address"), prefix, broadcast: None, scope: 0 };
    let interface = config::Interface {
        name: "eth0".into(),
        index: 2,
        mac: [2, 0, 0, 0, 0, number],
        mtu: 1500,
        addresses: vec![address(format!("10.0.0.{number}"), 24), address(format!("fd00::{number}"), 64)],
    };
    let route = |to: &str, prefix, gateway: Option<&str>| config::Route {
        to: ip(to),
        prefix,
        gateway: gateway.map(ip),
        interface: 2,
        source: None,
        metric: 0,
        scope: 0,
        protocol: 2,
    };
    let routes = vec![route("0.0.0.0", 0, Some("10.0.0.2")), route("10.0.0.0", 24, None), route("fd00::", 64, None)];
    let description = Description { interfaces: vec![interface], routes, neighbours: Vec::new() };
    (Network::new(description, Box::new(wire.clone()), 7), wire)
}

/// What came up: from, to, protocol, payload.
type Got = Vec<(IpAddr, IpAddr, u8, Vec<u8>)>;

/// Carries frames until there are none. Returns what each side got.
fn carry(sides: [(&Network, &Wire); 2]) -> [Got; 2] {
    let mut got = [Vec::new(), Vec::new()];
    loop {
        let mut quiet = true;
        for at in 0..2 {
            let Some(frame) = sides[at].1.0.lock().pop_front() else { continue };
            quiet = false;
            sides[1 - at].0.receive(0, 0, &frame, &mut |packet| {
                got[1 - at].push((packet.from, packet.to, packet.protocol, packet.payload.to_vec()));
            });
        }
        if quiet {
            return got;
        }
    }
}

fn send(network: &Network, to: &str, protocol: u8, bytes: &[u8], cutting: Cutting) -> Sent {
    let to = ip(to);
    let way = network.route(to, 0).expect("a way");
    let header = Header { from: way.source, to, protocol, hops: 64, class: 0, cutting };
    network.send(0, &way, &header, Offload::Nothing, &[bytes])
}

#[test]
fn a_packet_waits_for_the_neighbour_and_goes() {
    let ((a, wire_a), (b, wire_b)) = (host(1), host(2));
    for (to, from) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
        send(&a, to, 200, b"hello", Cutting::Nowhere);
        let [_, got] = carry([(&a, &wire_a), (&b, &wire_b)]);
        let hello = got.iter().find(|(.., protocol, _)| *protocol == 200).expect("the packet");
        assert_eq!(*hello, (ip(from), ip(to), 200, b"hello".to_vec()));
    }
    // By the gateway's Ethernet address, to somebody beyond it.
    assert_eq!(a.route(ip("192.0.2.1"), 0).map(|way| way.next), Some(ip("10.0.0.2")));
    assert_eq!(a.route(ip("2001:db8::1"), 0), None);
    assert!(b.neighbours(0).iter().any(|((_, who), mac, _)| *who == ip("10.0.0.1") && *mac == Some([2, 0, 0, 0, 0, 1])));
}

#[test]
fn nobody_there() {
    let (a, wire) = host(1);
    send(&a, "10.0.0.9", 200, b"hello", Cutting::Nowhere);
    let mut failed = Vec::new();
    let mut now = 0;
    while let Some(at) = a.deadline() {
        now = at;
        a.due(now, &mut |packet| {
            let quoted = Quoted::of_packet(Fault::HostUnreachable, packet).expect("our packet");
            failed.push((quoted.from, quoted.to, quoted.transport.to_vec()));
        });
    }
    assert_eq!(failed, [(ip("10.0.0.1"), ip("10.0.0.9"), b"hello".to_vec())]);
    assert_eq!((now, wire.0.lock().len()), (3 * SECOND, 3), "three questions in three seconds");
}

#[test]
fn echoes_and_refusals() {
    let ((a, wire_a), (b, wire_b)) = (host(1), host(2));
    let sides = [(&a, &wire_a), (&b, &wire_b)];
    for (to, protocol, request, reply) in [("10.0.0.2", ICMP, 8, 0), ("fd00::2", ICMPV6, 128, 129)] {
        let from = a.route(ip(to), 0).expect("a way").source;
        let header = Header { from, to: ip(to), protocol, hops: 64, class: 0, cutting: Cutting::Anywhere };
        a.send_icmp(0, &header, 0, vec![request, 0, 0, 0, 1, 2, 3, 4, 5]);
        let [got, _] = carry(sides);
        assert!(got.iter().any(|(_, _, _, body)| body[0] == reply && body[4..] == [1, 2, 3, 4, 5]), "{got:?}");
    }
    send(&a, "10.0.0.2", 200, b"12345678", Cutting::Nowhere);
    let frame = wire_a.0.lock().pop_front().expect("a frame");
    b.receive(0, 0, &frame, &mut |packet| b.refuse(0, packet, Fault::ProtocolUnreachable));
    let frame = wire_b.0.lock().pop_front().expect("an answer");
    let mut seen = false;
    a.receive(0, 0, &frame, &mut |packet| {
        let quoted = Quoted::parse(packet).expect("an error");
        assert_eq!((quoted.fault, quoted.to, quoted.protocol), (Fault::ProtocolUnreachable, ip("10.0.0.2"), 200));
        assert_eq!(quoted.transport, b"12345678");
        seen = true;
    });
    assert!(seen);
}

#[test]
fn long_packets_are_cut_unless_they_must_not_be() {
    let ((a, wire_a), (b, wire_b)) = (host(1), host(2));
    let long: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    for to in ["10.0.0.2", "fd00::2"] {
        assert_eq!(send(&a, to, 200, &long, Cutting::Nowhere), Sent::TooLong(1500));
        assert_eq!(send(&a, to, 200, &long, Cutting::Anywhere), Sent::Yes);
        let [_, got] = carry([(&a, &wire_a), (&b, &wire_b)]);
        assert_eq!(got.iter().filter(|(.., protocol, body)| *protocol == 200 && *body == long).count(), 1);
    }
    a.learn_path_mtu(ip("10.0.0.2"), 1000, 0);
    assert_eq!(send(&a, "10.0.0.2", 200, &[0; 1400], Cutting::Nowhere), Sent::TooLong(1000));
    // By whom a packet may be cut is said in it: "don't fragment", "more fragments".
    wire_a.0.lock().clear();
    let flags = |length: usize, cutting| {
        assert_eq!(send(&a, "10.0.0.2", 200, &vec![0; length], cutting), Sent::Yes);
        wire_a.0.lock().drain(..).map(|frame| frame[frame::VIRTIO + frame::ETHERNET + 6] >> 5).collect::<Vec<_>>()
    };
    assert_eq!((flags(900, Cutting::Here), flags(900, Cutting::Anywhere)), (vec![2], vec![0]));
    assert_eq!(
        (flags(1400, Cutting::Here), flags(1400, Cutting::Probe)),
        (vec![1, 0], vec![2]),
        "a probe may be longer than the path"
    );
    assert_eq!((flags(1400, Cutting::Routers), flags(1400, Cutting::ForLink)), (vec![0], vec![0]), "nor do these believe it");
    assert_eq!(flags(2000, Cutting::ForLink), [1, 0]);
    for cutting in [Cutting::Probe, Cutting::Routers] {
        assert_eq!(send(&a, "10.0.0.2", 200, &[0; 1500], cutting), Sent::TooLong(1500));
    }
    assert_eq!(a.learn_path_mtu(ip("10.0.0.2"), 1, 0), 552, "nobody needs packets that small");
}

/// Frames from their Ethernet header on, without those of neighbour discovery and ARP.
fn told(wire: &Wire) -> Vec<Vec<u8>> {
    let frames = wire.0.lock().drain(..).map(|frame| frame[frame::VIRTIO..].to_vec()).collect::<Vec<_>>();
    let about_groups =
        |frame: &Vec<u8>| frame.get(23) == Some(&2) || frame.get(20) == Some(&0) && frame.get(12..14) == Some(&[0x86, 0xdd]);
    frames.into_iter().filter(about_groups).collect()
}

/// The messages of IGMP and MLD, byte by byte (RFC 3376, 4.2; RFC 3810, 5.2).
#[test]
fn routers_are_told_of_groups() {
    let (network, wire) = host(1);
    assert!(!network.join(0, 0, ip("224.0.0.1")));
    assert!(!network.join(0, 0, ip("ff02::1")));
    network.due(0, &mut |_| {});
    assert!(told(&wire).is_empty(), "all are in those");
    assert!(network.join(0, 0, ip("239.1.2.3")));
    assert!(network.join(0, 0, ip("239.1.2.4")));
    assert!(network.join(0, 0, ip("ff05::7")));
    network.due(0, &mut |_| {});
    let frames = told(&wire);
    let [igmp, mld] = &frames[..] else { panic!("{frames:x?}") };
    assert_eq!(igmp[..14], [1, 0, 0x5e, 0, 0, 22, 2, 0, 0, 0, 0, 1, 8, 0]);
    assert_eq!((igmp[14], igmp[22], &igmp[26..38]), (0x46, 1, &[10, 0, 0, 1, 224, 0, 0, 22, 0x94, 4, 0, 0][..]));
    assert_eq!((checksum::of(&igmp[14..38]), checksum::of(&igmp[38..])), (0, 0));
    assert_eq!((igmp[38], &igmp[42..54]), (0x22, &[0, 0, 0, 2, 4, 0, 0, 0, 239, 1, 2, 3][..]));
    assert_eq!(mld[..14], [0x33, 0x33, 0, 0, 0, 0x16, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
    assert_eq!((mld[20], mld[21], &mld[54..62]), (0, 1, &[58, 0, 5, 2, 0, 0, 1, 0][..]));
    assert_eq!((mld[62], &mld[66..74], &mld[74..76]), (143, &[0, 0, 0, 1, 4, 0, 0, 0][..], &[0xff, 5][..]));
    while let Some(at) = network.deadline() {
        network.due(at, &mut |_| {});
    }
    told(&wire);
    // A question of the older version, and its answer, in time.
    let mut query = vec![0x11, 5, 0, 0, 0, 0, 0, 0];
    let sum = checksum::of(&query);
    checksum::put(&mut query, 2, sum);
    let header =
        Header { from: ip("10.0.0.2"), to: ip("224.0.0.1"), protocol: 2, hops: 1, class: 0, cutting: Cutting::Nowhere };
    let ethernet = frame::ethernet([1, 0, 0x5e, 0, 0, 1], [2, 0, 0, 0, 0, 2], frame::ETHERTYPE_IPV4);
    let frame = [&[0; frame::VIRTIO][..], &ethernet, &header.bytes(8, 1, None), &query].concat();
    network.receive(SECOND, 0, &frame, &mut |_| {});
    while let Some(at) = network.deadline() {
        assert!((SECOND..SECOND * 3 / 2).contains(&at));
        network.due(at, &mut |_| {});
    }
    let mut answers: Vec<_> = told(&wire).iter().map(|frame| (frame[38], frame[45])).collect();
    answers.sort_unstable();
    assert_eq!(answers, [(0x16, 3), (0x16, 4)]);
    network.leave(2 * SECOND, 0, ip("239.1.2.3"));
    network.due(2 * SECOND, &mut |_| {});
    let left = told(&wire);
    assert_eq!((left.len(), left[0][38], &left[0][30..34]), (1, 0x17, &[224, 0, 0, 2][..]));
    assert_eq!(network.deadline(), None);
}

/// What comes up at a second host of a packet with these addresses.
fn comes_up(from: &str, to: &str, protocol: u8) -> usize {
    let ((a, wire), (b, wire_b)) = (host(1), host(2));
    let way = a.route(ip(if ip(to).is_ipv4() { "10.0.0.2" } else { "fd00::2" }), 0).expect("a way");
    let header = Header { from: ip(from), to: ip(to), protocol, hops: 64, class: 0, cutting: Cutting::Nowhere };
    a.send(0, &way, &header, Offload::Nothing, &[b"12345678"]);
    let [_, got] = carry([(&a, &wire), (&b, &wire_b)]);
    got.iter().filter(|(source, _, _, body)| *source == ip(from) && body == b"12345678").count()
}

#[test]
fn who_may_not_send_is_not_heard() {
    assert_eq!((comes_up("10.0.0.1", "10.0.0.2", 200), comes_up("fd00::1", "fd00::2", 200)), (1, 1));
    // All hosts of the link, a host of "this network", the loopback interface, ourselves.
    for from in ["10.0.0.255", "0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.2"] {
        assert_eq!(comes_up(from, "10.0.0.2", 200), 0, "{from}");
    }
    for from in ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::1", "ff02::1", "fd00::2"] {
        assert_eq!(comes_up(from, "fd00::2", 200), 0, "{from}");
    }
    // Who has no address yet asks all; and reports groups.
    assert_eq!((comes_up("0.0.0.0", "255.255.255.255", 200), comes_up("0.0.0.0", "239.1.2.3", 200)), (1, 0));
    assert_eq!((comes_up("0.0.0.0", "224.0.0.251", 200), comes_up("0.0.0.0", "239.1.2.3", IGMP)), (1, 1));
    assert_eq!((comes_up("fd00::1", "ff02::5", 200), comes_up("fd00::1", "ff01::5", 200)), (1, 0));
}

#[test]
fn errors_are_limited_and_echoes_are_not() {
    let ((a, wire_a), (b, wire_b)) = (host(1), host(2));
    let header =
        Header { from: ip("10.0.0.1"), to: ip("10.0.0.2"), protocol: ICMP, hops: 64, class: 0, cutting: Cutting::Anywhere };
    let count = |refuses: bool| {
        let mut answers = 0;
        for _ in 0..3000 {
            if refuses {
                send(&a, "10.0.0.2", 200, b"12345678", Cutting::Nowhere);
            } else {
                a.send_icmp(0, &header, 0, vec![8, 0, 0, 0, 1, 2, 3, 4]);
            }
            while let Some(frame) = wire_a.0.lock().pop_front() {
                b.receive(0, 0, &frame, &mut |packet| {
                    if refuses {
                        b.refuse(0, packet, Fault::ProtocolUnreachable);
                    }
                });
            }
            while let Some(frame) = wire_b.0.lock().pop_front() {
                a.receive(0, 0, &frame, &mut |packet| answers += usize::from(packet.protocol == ICMP));
            }
        }
        answers
    };
    assert_eq!(count(true), 1000);
    assert_eq!(count(false), 3000, "though no error may be told");
}

/// Two links: the one on which a packet went.
#[derive(Clone, Default)]
struct Links(Arc<Mutex<Vec<usize>>>);

impl Link for Links {
    fn send(&self, interface: usize, _pieces: &[&[u8]]) -> bool {
        self.0.lock().push(interface);
        true
    }
}

#[test]
fn who_has_an_address_of_a_link_s_own_is_answered_there() {
    let interface = |number: u8, index| config::Interface {
        name: format!("eth{number}"),
        index,
        mac: [2, 0, 0, 0, 0, number],
        mtu: 1500,
        addresses: vec![Address { ip: ip(&format!("fe80::{number}")), prefix: 64, broadcast: None, scope: 253 }],
    };
    let description = Description { interfaces: vec![interface(1, 2), interface(2, 3)], ..Description::default() };
    let links = Links::default();
    let network = Network::new(description, Box::new(links.clone()), 7);
    for (at, own) in [(0, "fe80::1"), (1, "fe80::2")] {
        let mac = [2, 0, 0, 0, 0, at as u8 + 1];
        for refuses in [false, true] {
            let (protocol, body) = if refuses { (200, vec![0; 8]) } else { (ICMPV6, vec![128, 0, 0, 0, 1, 2, 3, 4]) };
            let header = Header { from: ip("fe80::9"), to: ip(own), protocol, hops: 64, class: 0, cutting: Cutting::Anywhere };
            let mut body = body;
            if !refuses {
                header.sum_icmp(&mut body);
            }
            let ethernet = frame::ethernet(mac, [2, 0, 0, 0, 0, 9], frame::ETHERTYPE_IPV6);
            let frame = [&[0; frame::VIRTIO][..], &ethernet, &header.bytes(body.len(), 0, None), &body].concat();
            network.receive(0, at, &frame, &mut |packet| {
                if refuses {
                    network.refuse(0, packet, Fault::ProtocolUnreachable);
                }
            });
        }
        let went = std::mem::take(&mut *links.0.lock());
        assert!(!went.is_empty() && went.iter().all(|went| *went == at), "{went:?} for {own}");
    }
}

/// Whatever comes: no panic, bounded memory.
#[test]
fn garbage() {
    let ((a, wire_a), (b, wire_b)) = (host(1), host(2));
    for to in ["10.0.0.2", "fd00::2"] {
        send(&a, to, UDP, &[0; 4000], Cutting::Anywhere);
        let header = Header { from: ip(to), to: ip(to), protocol: ICMP, hops: 64, class: 0, cutting: Cutting::Anywhere };
        a.send_icmp(0, &header, 0, vec![8, 0, 0, 0, 1, 2, 3, 4]);
    }
    a.announce(0);
    assert!(a.join(0, 0, ip("239.1.2.3")));
    assert!(a.join(0, 0, ip("ff05::7")));
    a.due(0, &mut |_| {});
    let mut frames: Vec<Vec<u8>> = wire_a.0.lock().drain(..).collect();
    for frame in frames.clone() {
        b.receive(0, 0, &frame, &mut |_| {});
        frames.extend(wire_b.0.lock().drain(..));
    }
    let mut state = 12345u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..100_000u64 {
        let mut frame = frames[random(frames.len())].clone();
        for _ in 0..random(6) {
            let at = random(frame.len());
            frame[at] = random(256) as u8;
        }
        frame.truncate(frame.len() - random(frame.len().min(20)));
        // Its checksum, for once, does not keep it out.
        frame[0] = 2;
        a.receive(round * 1_000_000, 0, &frame, &mut |packet| {
            let _ = Quoted::parse(packet);
            a.refuse(round * 1_000_000, packet, Fault::PortUnreachable);
        });
        wire_a.0.lock().clear();
    }
    for len in 0..120 {
        a.receive(0, 0, &vec![0; len], &mut |_| {});
    }
}

#[test]
fn addresses_and_routes_come_and_go() {
    let (network, wire) = host(1);
    let address = |text: &str, prefix| Address { ip: ip(text), prefix, broadcast: None, scope: 0 };
    assert_eq!(network.owner(ip("10.1.0.9")), Owner::Other);
    assert_eq!(network.add_address(2, address("10.1.0.9", 16)), Ok(()));
    assert!(!wire.0.lock().is_empty(), "neighbours are told");
    assert_eq!(network.add_address(2, address("10.1.0.9", 16)), Err(Refused::Exists));
    assert_eq!(network.add_address(3, address("10.1.0.9", 16)), Err(Refused::NoInterface));
    assert_eq!((network.owner(ip("10.1.0.9")), network.owner(ip("10.1.255.255"))), (Owner::Own, Owner::Broadcast));
    let way = network.route(ip("10.1.2.3"), 0).expect("its network is on the link");
    assert_eq!((way.next, way.source), (ip("10.1.2.3"), ip("10.1.0.9")));
    // A second one in the same network keeps the route; the last takes it along.
    assert_eq!(network.add_address(2, address("10.1.0.8", 16)), Ok(()));
    assert_eq!(network.remove_address(0, 2, ip("10.1.0.9"), 16), Ok(()));
    assert_eq!(network.route(ip("10.1.2.3"), 0).map(|way| (way.next, way.source)), Some((ip("10.1.2.3"), ip("10.1.0.8"))));
    assert_eq!(network.remove_address(0, 2, ip("10.1.0.8"), 24), Err(Refused::Missing));
    assert_eq!(network.remove_address(0, 2, ip("10.1.0.8"), 16), Ok(()));
    assert_eq!(network.route(ip("10.1.2.3"), 0).map(|way| way.next), Some(ip("10.0.0.2")), "by the default route");

    let to = |gateway: Option<&str>, metric| config::Route {
        to: ip("10.9.0.0"),
        prefix: 16,
        gateway: gateway.map(ip),
        interface: if gateway.is_some() { 0 } else { 2 },
        source: None,
        metric,
        scope: 0,
        protocol: 3,
    };
    assert_eq!(network.add_route(to(Some("10.7.0.1"), 0), Existing::Refused), Err(Refused::Unreachable));
    assert_eq!(network.add_route(to(Some("10.0.0.7"), 5), Existing::Refused).map(|route| route.interface), Ok(2));
    assert_eq!(network.add_route(to(None, 5), Existing::Refused), Err(Refused::Exists));
    assert!(network.add_route(to(None, 4), Existing::Refused).is_ok());
    assert_eq!(network.route(ip("10.9.1.1"), 0).map(|way| way.next), Some(ip("10.9.1.1")), "the smaller metric");
    let key = |metric| RouteKey { to: ip("10.9.0.0"), prefix: 16, gateway: None, interface: None, metric, protocol: None };
    assert!(network.remove_route(&key(Some(4))).is_ok());
    assert_eq!(network.route(ip("10.9.1.1"), 0).map(|way| way.next), Some(ip("10.0.0.7")));
    assert!(network.add_route(to(Some("10.0.0.8"), 5), Existing::Replaced).is_ok());
    assert_eq!(network.route(ip("10.9.1.1"), 0).map(|way| way.next), Some(ip("10.0.0.8")));
    assert!(network.remove_route(&key(None)).is_ok());
    assert_eq!(network.remove_route(&key(None)), Err(Refused::Missing));
    for n in 0..2000 {
        let _ = network.add_route(to(None, n + 10), Existing::Refused);
        let _ = network.add_address(2, address(&format!("10.2.{}.{}", n / 250, n % 250 + 1), 32));
    }
    let interfaces = network.interfaces();
    assert_eq!((network.routes().len(), interfaces[0].addresses().len()), (1024, 256), "they are bounded");
    assert_eq!(network.add_route(to(None, 10), Existing::Refused), Err(Refused::Exists));
    assert_eq!(network.add_route(to(None, 10), Existing::Kept), Err(Refused::Exists));
    assert_eq!(network.add_route(to(None, 9), Existing::Replaced), Err(Refused::Full));
    // A new address's route makes them one too many; those that are there may change all the same.
    assert_eq!(network.remove_address(0, 2, ip("10.2.0.1"), 32), Ok(()));
    assert_eq!(network.add_address(2, address("10.3.0.1", 16)), Ok(()));
    assert_eq!(network.routes().len(), 1025);
    assert_eq!(network.add_route(to(Some("10.0.0.8"), 9), Existing::Replaced), Err(Refused::Full));
    assert!(network.add_route(to(Some("10.0.0.8"), 10), Existing::Replaced).is_ok());
    assert_eq!((network.routes().len(), network.route(ip("10.9.1.1"), 0).map(|way| way.next)), (1025, Some(ip("10.0.0.8"))));
}

#[test]
fn an_interface_that_is_down_carries_nothing() {
    let ((a, from_a), (b, from_b)) = (host(1), host(2));
    assert_eq!(a.set_mtu(2, 1501), Err(Refused::OutOfRange), "the host's takes no more");
    assert_eq!(a.set_mtu(2, 67), Err(Refused::OutOfRange));
    assert_eq!(a.set_mtu(2, 1000), Ok(()));
    assert_eq!(send(&a, "10.0.0.2", 99, &[1; 1200], Cutting::Nowhere), Sent::TooLong(1000));
    assert_eq!(b.set_up(0, 2, false), Ok(()));
    send(&a, "10.0.0.2", 99, b"in vain", Cutting::Anywhere);
    assert_eq!(carry([(&a, &from_a), (&b, &from_b)]), [Vec::new(), Vec::new()]);
    assert_eq!(b.route(ip("10.0.0.1"), 0), None);
    assert_eq!(b.set_up(0, 2, true), Ok(()));
    assert!(b.route(ip("10.0.0.1"), 0).is_some() && b.route(ip("8.8.8.8"), 0).is_none(), "only its own networks come back");
    send(&a, "10.0.0.2", 99, b"again", Cutting::Anywhere);
    let [_, got] = carry([(&a, &from_a), (&b, &from_b)]);
    assert!(got.iter().any(|(_, _, _, bytes)| bytes == b"again"));
}
