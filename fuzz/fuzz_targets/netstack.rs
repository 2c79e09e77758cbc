//! Frames, one after the other, into a packet stack with a connection: no panic, whatever they are.
//!
//! The input is cut into frames by lengths of two bytes; each is also read as a segment of the connection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netstack::config::{Address, Description, Interface};
use netstack::ip::{Fault, Link, Network, Quoted};
use netstack::tcp::{Connection, Ports, Segment, Settings, Start};

struct Nowhere;

impl Link for Nowhere {
    fn send(&self, _interface: usize, _pieces: &[&[u8]]) -> bool {
        true
    }
}

fuzz_target!(|bytes: &[u8]| {
    let address = |ip: &str, prefix| Address { ip: ip.parse().expect("address"), prefix, broadcast: None, scope: 0 };
    let interface = Interface {
        name: "eth0".into(),
        index: 2,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        addresses: vec![address("10.0.0.1", 24), address("fd00::1", 64)],
    };
    let description = Description { interfaces: vec![interface], ..Description::default() };
    let network = Network::new(description, Box::new(Nowhere), 1);
    let start = Start { ports: Ports { near: 1, far: 2 }, iss: 0, path_mss: 1460, now: 0 };
    let mut connection = Connection::connect(start, Settings::default());
    connection.transmit(0, &mut |_| true);
    let (mut rest, mut now) = (bytes, 0);
    while let Some((length, more)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(more.len());
        let (frame, next) = more.split_at(length);
        rest = next;
        now += 1_000_000;
        network.receive(now, 0, frame, &mut |packet| {
            let _ = Quoted::parse(packet);
            network.refuse(now, packet, Fault::PortUnreachable);
        });
        if let Some((segment, payload)) = Segment::parse(frame) {
            connection.arrives(now, &segment, payload, &mut |_| {});
            connection.transmit(now, &mut |_| true);
        }
        network.due(now, &mut |_| {});
        connection.due(now);
        let _ = connection.probe(now);
    }
});
