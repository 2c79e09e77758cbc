//! A scripted guest against a [`Mux`], with real sockets on the host's side.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, TryRecvError, channel, sync_channel};

use vm_memory::VolatileSlice;

use super::connection::BUFFER;
use super::mux::{MAX_CONNECTIONS, MAX_KEPT, MAX_RESETS, Mux};
use super::packet::{HOST_CID, Header, Op, Ports, STREAM, Shut};

const CID: u64 = 42;
/// The port at which nobody listens.
const DEAF: u32 = 1;

struct Guest {
    mux: Mux,
    /// The host's ends of connections, in the order of their being made.
    hosts: Receiver<UnixStream>,
    /// What the guest says of its own buffer.
    room: u32,
    passed: u32,
}

impl Guest {
    fn new() -> Guest {
        let (sender, hosts) = channel();
        let host = move |ports: Ports| {
            let (guests, hosts) = UnixStream::pair().ok()?;
            hosts.set_nonblocking(true).ok()?;
            (ports.host != DEAF).then(|| sender.send(hosts).ok()).flatten()?;
            Some(OwnedFd::from(guests))
        };
        Guest { mux: Mux::new(CID, Box::new(host)).unwrap(), hosts, room: 1 << 20, passed: 0 }
    }

    fn header(&self, guest: u32, host: u32, op: Op) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: HOST_CID.into(),
            src_port: guest.into(),
            dst_port: host.into(),
            kind: STREAM.into(),
            op: (op as u16).into(),
            buf_alloc: self.room.into(),
            fwd_cnt: self.passed.into(),
            ..Header::default()
        }
    }

    fn say(&mut self, guest: u32, host: u32, op: Op) {
        let header = self.header(guest, host, op);
        self.mux.transmit(&header, &[]);
    }

    fn shut(&mut self, guest: u32, host: u32, what: Shut) {
        let mut header = self.header(guest, host, Op::Shutdown);
        header.flags = what.bits().into();
        self.mux.transmit(&header, &[]);
    }

    fn send(&mut self, guest: u32, host: u32, data: &[u8]) {
        let mut header = self.header(guest, host, Op::Data);
        header.len = (data.len() as u32).into();
        let mut data = data.to_vec();
        self.mux.transmit(&header, &[VolatileSlice::from(data.as_mut_slice())]);
    }

    /// The next packet for the guest, into a buffer like Linux's.
    fn hear(&mut self) -> Option<(Header, Vec<u8>)> {
        self.mux.turn().unwrap();
        let mut buffer = vec![0; 4096];
        let header = self.mux.receive(&[VolatileSlice::from(buffer.as_mut_slice())])?;
        assert_eq!((header.src_cid.get(), header.dst_cid.get()), (HOST_CID, CID));
        buffer.truncate(header.len.get() as usize);
        Some((header, buffer))
    }

    /// The operation of the next packet, which carries no data.
    fn hear_op(&mut self) -> Option<Op> {
        let (header, data) = self.hear()?;
        assert!(data.is_empty());
        Op::from_number(header.op.get())
    }

    /// A connection from `guest` to host port 2000.
    fn connect(&mut self, guest: u32) -> UnixStream {
        assert_eq!(self.hear(), None, "something from before");
        self.say(guest, 2000, Op::Request);
        assert_eq!(self.hear_op(), Some(Op::Response));
        self.hosts.recv().unwrap()
    }

    /// Data until there is none.
    fn hear_data(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((header, data)) = self.hear() {
            assert_eq!(Op::from_number(header.op.get()), Some(Op::Data));
            all.extend(data);
        }
        all
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
}

/// All that can be read now; Ok at the end of the stream, Err while it is open.
fn read_now(stream: &mut UnixStream, into: &mut Vec<u8>) -> Result<(), ErrorKind> {
    match stream.read_to_end(into) {
        Ok(_) => Ok(()),
        Err(e) => Err(e.kind()),
    }
}

#[test]
fn the_host_is_told_whose_port_it_is() {
    let (sender, asked) = channel();
    let host = move |ports: Ports| {
        sender.send(ports).ok()?;
        None
    };
    let mut guest = Guest { mux: Mux::new(CID, Box::new(host)).unwrap(), ..Guest::new() };
    guest.say(0xdead_beef, 2000, Op::Request);
    assert_eq!(asked.try_recv(), Ok(Ports { host: 2000, guest: 0xdead_beef }));
}

#[test]
fn a_connection_carries_bytes_both_ways() {
    let mut guest = Guest::new();
    guest.say(9, 2000, Op::Request);
    let (response, _) = guest.hear().unwrap();
    assert_eq!((response.src_port.get(), response.dst_port.get(), response.buf_alloc.get()), (2000, 9, BUFFER));
    let mut host = guest.hosts.recv().unwrap();
    guest.send(9, 2000, b"to the host");
    let mut got = Vec::new();
    assert_eq!(read_now(&mut host, &mut got), Err(ErrorKind::WouldBlock));
    assert_eq!(got, b"to the host");
    let sent = pattern(10_000);
    host.write_all(&sent).unwrap();
    assert_eq!(guest.hear_data(), sent);
}

#[test]
fn who_does_not_listen_refuses() {
    let mut guest = Guest::new();
    guest.say(9, DEAF, Op::Request);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
    assert!(guest.mux.is_empty());
}

#[test]
fn unread_data_is_kept_up_to_the_credit_and_a_byte_more_resets() {
    let mut guest = Guest::new();
    let mut host = guest.connect(9);
    let sent = pattern(BUFFER as usize);
    // What the socket takes is passed on at once; what it does not stays in the account.
    let mut total = 0;
    let mut passed = 0;
    while passed < total + 1 {
        guest.send(9, 2000, &sent[..1 << 16]);
        total += 1 << 16;
        guest.say(9, 2000, Op::CreditRequest);
        let (update, _) = guest.hear().expect("an answer to a question for credit");
        assert_eq!(Op::from_number(update.op.get()), Some(Op::CreditUpdate));
        passed = update.fwd_cnt.get() as usize;
        if total - passed > BUFFER as usize - (1 << 16) {
            break;
        }
    }
    let left = BUFFER as usize - (total - passed);
    guest.send(9, 2000, &vec![1; left]);
    assert_eq!(guest.mux.counts().breaches, 0);
    // Reading makes room, and the guest is told.
    let mut got = Vec::new();
    assert_eq!(read_now(&mut host, &mut got), Err(ErrorKind::WouldBlock));
    let mut told = 0;
    while let Some((header, _)) = guest.hear() {
        told = header.fwd_cnt.get() as usize;
        let _ = read_now(&mut host, &mut got);
    }
    let _ = read_now(&mut host, &mut got);
    assert!(told > passed && got.len() == total + left, "{told} {passed} {} {total} {left}", got.len());
    // And now more than there is room for, in one packet.
    guest.send(9, 2000, &vec![1; BUFFER as usize + 1]);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
    assert_eq!((guest.mux.counts().breaches, guest.mux.len()), (1, 0));
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    guest.room = 1000;
    let mut host = guest.connect(9);
    host.write_all(&pattern(5000)).unwrap();
    assert_eq!(guest.hear_data().len(), 1000);
    guest.passed = 600;
    guest.say(9, 2000, Op::CreditUpdate);
    assert_eq!(guest.hear_data(), pattern(1600)[1000..]);
    // It says to have consumed what it never got, or shrinks its room below what it has: there is none.
    for (room, passed) in [(1000, 1_000_000), (1000, u32::MAX), (10, 600), (0, 1600)] {
        (guest.room, guest.passed) = (room, passed);
        guest.say(9, 2000, Op::CreditUpdate);
        assert_eq!(guest.hear_data().len(), 0, "{room} {passed}");
    }
    (guest.room, guest.passed) = (1 << 20, 1600);
    guest.say(9, 2000, Op::CreditUpdate);
    assert_eq!(guest.hear_data().len(), 3400);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new();
    let mut host = guest.connect(9);
    host.write_all(b"last words").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    let (data, words) = guest.hear().unwrap();
    assert_eq!((data.op.get(), words.as_slice()), (Op::Data as u16, b"last words".as_slice()));
    let (end, _) = guest.hear().unwrap();
    assert_eq!((end.op.get(), end.flags.get()), (Op::Shutdown as u16, Shut::SEND.bits()));
    assert_eq!(guest.hear(), None);
    guest.send(9, 2000, b"still here");
    guest.shut(9, 2000, Shut::SEND);
    let mut got = Vec::new();
    assert_eq!(read_now(&mut host, &mut got), Ok(()));
    assert_eq!(got, b"still here");
    // Both ends are at their end, and the guest closes.
    guest.shut(9, 2000, Shut::all());
    assert_eq!(guest.hear_op(), Some(Op::Reset));
    assert!(guest.mux.is_empty());
}

#[test]
fn the_host_hears_that_the_guest_reads_no_more() {
    let mut guest = Guest::new();
    let mut host = guest.connect(9);
    guest.shut(9, 2000, Shut::RECEIVE);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send(9, 2000, b"y");
    let mut got = Vec::new();
    assert_eq!(read_now(&mut host, &mut got), Err(ErrorKind::WouldBlock));
    assert_eq!(got, b"y");
    // Nothing after the end of data.
    guest.shut(9, 2000, Shut::SEND);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
    assert!(guest.mux.is_empty());
}

#[test]
fn data_after_its_end_resets() {
    let mut guest = Guest::new();
    let _host = guest.connect(9);
    guest.shut(9, 2000, Shut::SEND);
    assert_eq!(guest.hear(), None, "and its sockets rest");
    guest.send(9, 2000, b"more");
    assert_eq!((guest.hear_op(), guest.mux.counts().breaches), (Some(Op::Reset), 1));
}

#[test]
fn what_the_guest_sent_before_it_closed_arrives() {
    for close in [Op::Shutdown, Op::Reset] {
        let mut guest = Guest::new();
        let mut host = guest.connect(9);
        let sent = pattern(1 << 16);
        let mut total = 0;
        // Until the socket is full and some is kept here.
        while guest.mux.kept() == 0 {
            guest.send(9, 2000, &sent);
            total += sent.len();
        }
        match close {
            Op::Reset => guest.say(9, 2000, Op::Reset),
            _ => {
                guest.shut(9, 2000, Shut::all());
                assert_eq!(guest.hear_op(), Some(Op::Reset));
            }
        }
        assert_eq!((guest.hear(), guest.mux.len()), (None, 1));
        // The port is free meanwhile.
        let _second = guest.connect(9);
        let mut got = Vec::new();
        while read_now(&mut host, &mut got).is_err() {
            assert_eq!(guest.hear(), None);
        }
        assert!(got.len() == total && got.chunks(sent.len()).all(|chunk| chunk == sent), "{close:?}");
        assert_eq!((guest.hear(), guest.mux.len(), guest.mux.kept()), (None, 1, 0));
    }
}

#[test]
fn the_guest_hears_that_the_host_closed() {
    let mut guest = Guest::new();
    let host = guest.connect(9);
    drop(host);
    let (end, _) = guest.hear().unwrap();
    assert_eq!((end.op.get(), end.flags.get()), (Op::Shutdown as u16, Shut::all().bits()));
    // Until it closes, what it sends goes nowhere, and is accounted for.
    guest.send(9, 2000, &pattern(BUFFER as usize));
    let (update, _) = guest.hear().unwrap();
    assert_eq!((update.op.get(), update.fwd_cnt.get()), (Op::CreditUpdate as u16, BUFFER));
    guest.say(9, 2000, Op::Reset);
    assert!(guest.mux.is_empty() && guest.hear().is_none());
}

#[test]
fn packets_without_a_connection_are_reset_or_ignored() {
    let mut guest = Guest::new();
    for op in [Op::Response, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest] {
        guest.say(9, 2000, op);
        assert_eq!((guest.hear_op(), guest.hear_op()), (Some(Op::Reset), None), "{op:?}");
    }
    guest.say(9, 2000, Op::Reset);
    assert_eq!(guest.hear(), None);
    let good = guest.header(9, 2000, Op::Request);
    guest.mux.transmit(&Header { src_cid: 43.into(), ..good }, &[]);
    assert_eq!(guest.hear(), None, "another guest's");
    guest.mux.transmit(&Header { kind: 2.into(), ..good }, &[]);
    let (reset, _) = guest.hear().unwrap();
    assert_eq!((reset.op.get(), reset.kind.get()), (Op::Reset as u16, 2), "a seqpacket socket");
    guest.mux.transmit(&Header { op: 77.into(), ..good }, &[]);
    assert_eq!(guest.hear_op(), Some(Op::Reset));
    guest.mux.transmit(&Header { dst_cid: 7.into(), op: 3.into(), ..good }, &[]);
    assert_eq!((guest.hear(), guest.mux.counts().ignored, guest.mux.len()), (None, 4, 0));
}

#[test]
fn rules_broken_within_a_connection_reset_it() {
    type Rule = fn(&mut Guest);
    let rules: [(&str, Rule); 4] = [
        ("a second request", |guest| guest.say(9, 2000, Op::Request)),
        ("a response to no request", |guest| guest.say(9, 2000, Op::Response)),
        ("less data than said", |guest| {
            let mut header = guest.header(9, 2000, Op::Data);
            header.len = 100.into();
            guest.mux.transmit(&header, &[VolatileSlice::from([0; 99].as_mut_slice())]);
        }),
        ("a length beyond all", |guest| {
            let mut header = guest.header(9, 2000, Op::Data);
            header.len = u32::MAX.into();
            guest.mux.transmit(&header, &[]);
        }),
    ];
    for (n, (what, breaks)) in rules.into_iter().enumerate() {
        let mut guest = Guest::new();
        let mut host = guest.connect(9);
        breaks(&mut guest);
        assert_eq!((guest.hear_op(), guest.mux.counts().breaches, guest.mux.len()), (Some(Op::Reset), 1, 0), "{n}: {what}");
        assert_eq!(read_now(&mut host, &mut Vec::new()), Ok(()), "{what}");
    }
}

#[test]
fn the_host_connects_when_the_guest_agrees() {
    let mut guest = Guest::new();
    let ask = |guest: &mut Guest| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (answer, answered) = sync_channel(1);
        guest.mux.connect(5000, theirs, answer).unwrap();
        let (request, _) = guest.hear().unwrap();
        assert_eq!((request.op.get(), request.dst_port.get()), (Op::Request as u16, 5000));
        (ours, answered, request.src_port.get())
    };
    let (mut ours, answered, port) = ask(&mut guest);
    ours.write_all(b"early").unwrap();
    assert_eq!((guest.hear(), answered.try_recv()), (None, Err(TryRecvError::Empty)));
    guest.say(5000, port, Op::Response);
    assert_eq!(answered.try_recv(), Ok(()));
    assert_eq!(guest.hear_data(), b"early");
    // Refused.
    let (_ours, answered, port) = ask(&mut guest);
    guest.say(5000, port, Op::Reset);
    assert_eq!((answered.try_recv(), guest.mux.len()), (Err(TryRecvError::Disconnected), 1));
    // Answered with data.
    let (_ours, answered, port) = ask(&mut guest);
    guest.send(5000, port, b"rash");
    assert_eq!((answered.try_recv(), guest.hear_op()), (Err(TryRecvError::Disconnected), Some(Op::Reset)));
    // Not waited for.
    let (ours, _answered, _) = ask(&mut guest);
    drop(ours);
    assert_eq!((guest.hear_op(), guest.mux.len()), (Some(Op::Reset), 1));
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::new();
    let mut hosts: Vec<UnixStream> = (0..3).map(|n| guest.connect(10 + n)).collect();
    for host in &mut hosts {
        host.write_all(&pattern(40_000)).unwrap();
    }
    let order: Vec<u32> = (0..9).map(|_| guest.hear().unwrap().0.dst_port.get()).collect();
    for turn in order.chunks(3) {
        let mut turn = turn.to_vec();
        turn.sort_unstable();
        assert_eq!(turn, [10, 11, 12]);
    }
}

#[test]
fn a_flood_of_connections_meets_its_bounds() {
    more_descriptors();
    let mut guest = Guest::new();
    for port in 0..3000 {
        guest.say(port, 2000, Op::Request);
    }
    let counts = guest.mux.counts();
    assert_eq!((guest.mux.len(), counts.refused), (MAX_CONNECTIONS, 3000 - MAX_CONNECTIONS as u64));
    assert_eq!(counts.silent, counts.refused - MAX_RESETS as u64);
    // Those the host has closed make room.
    drop(std::mem::replace(&mut guest.hosts, channel().1));
    while guest.hear().is_some() {}
    let (sender, hosts) = channel();
    guest.hosts = hosts;
    let _ = sender;
    guest.say(5000, DEAF, Op::Request);
    assert_eq!(guest.mux.len(), MAX_CONNECTIONS - 1);
}

#[test]
fn what_is_kept_for_all_has_a_bound() {
    more_descriptors();
    let mut guest = Guest::new();
    let data = pattern(1 << 16);
    let mut hosts = Vec::new();
    for port in 0..200 {
        while guest.hear().is_some() {}
        hosts.push(guest.connect(port));
        while guest.mux.counts().breaches == 0 && guest.mux.kept() < (port as usize + 1) * (192 << 10) {
            guest.send(port, 2000, &data);
            assert!(guest.mux.kept() <= MAX_KEPT);
        }
    }
    assert_eq!(guest.mux.counts().breaches, 1, "the one that would have gone above it is reset");
}

fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Nonsense of all kinds; whatever comes of it, nothing breaks and no bound does.
#[test]
fn nothing_a_guest_says_breaks_it() {
    let mut guest = Guest::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let mut hosts = Vec::new();
    for _ in 0..100_000 {
        let mut header = guest.header(random(4) as u32, 2000 + random(2) as u32, Op::Data);
        header.op = (random(9) as u16).into();
        header.flags = (random(8) as u32).into();
        header.buf_alloc = (random(1 << 33) as u32).into();
        header.fwd_cnt = (random(1 << 33) as u32).into();
        let mut data = vec![7; random(3) as usize * random(5000) as usize];
        header.len = (if random(50) == 0 { random(1 << 32) as u32 } else { data.len() as u32 }).into();
        guest.mux.transmit(&header, &[VolatileSlice::from(data.as_mut_slice())]);
        if random(3) == 0 {
            guest.hear();
        }
        hosts.extend(guest.hosts.try_recv());
        if !hosts.is_empty() && random(4) == 0 {
            let at = random(hosts.len() as u64) as usize;
            match random(4) {
                0 => drop(hosts.swap_remove(at)),
                1 => drop(hosts[at].write(&[1; 3000])),
                2 => drop(hosts[at].shutdown(Shutdown::Write)),
                _ => drop(hosts[at].read(&mut [0; 4000])),
            }
        }
        assert!(guest.mux.len() <= MAX_CONNECTIONS && guest.mux.kept() <= MAX_KEPT);
    }
    assert!(guest.mux.counts().breaches > 1000);
    guest.mux.reset();
    assert_eq!((guest.mux.len(), guest.mux.kept(), guest.hear()), (0, 0, None));
    assert_eq!(Ports::of(&guest.header(1, 2, Op::Reset)), Ports { host: 2, guest: 1 });
}
