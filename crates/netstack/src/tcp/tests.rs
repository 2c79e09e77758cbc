//! Two connections over a bad link, in virtual time.

use std::collections::BTreeMap;

use super::*;
use crate::Ns;

const MSS: u16 = 1448 + 12;
/// One way, in nanoseconds.
const DELAY: Ns = 5 * MILLISECOND;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[derive(Default)]
struct End {
    connection: Option<Connection>,
    half: Option<HalfOpen>,
    settings: Settings,
    got: Vec<u8>,
    to_send: Vec<u8>,
    /// Reads what comes.
    reads: bool,
    finishes: bool,
    fin: bool,
    events: Vec<Events>,
    /// Positions of urgent bytes that it was told of.
    urgent: Vec<i64>,
    connected: bool,
}

/// What is done to segments on their way, in percent.
#[derive(Default, Clone, Copy)]
struct Weather {
    loss: u64,
    late: u64,
    twice: u64,
}

struct World {
    now: Ns,
    random: Random,
    weather: Weather,
    /// By time and order: whose end, the segment, its bytes.
    link: BTreeMap<(Ns, u64), (usize, Segment, Vec<u8>)>,
    order: u64,
    ends: [End; 2],
    largest: usize,
    sent: u64,
    mss: u16,
}

impl World {
    fn new(weather: Weather, settings: Settings) -> World {
        World::with_mss(weather, settings, MSS)
    }

    fn with_mss(weather: Weather, settings: Settings, mss: u16) -> World {
        let start = Start { ports: Ports { near: 1000, far: 80 }, iss: 0xffff_f000, path_mss: mss, now: 0 };
        let client = End {
            connection: Some(Connection::connect(start, settings.clone())),
            settings: settings.clone(),
            reads: true,
            ..End::default()
        };
        let server = End { settings, reads: true, ..End::default() };
        World {
            now: 0,
            random: Random(88_172_645_463_325_252),
            weather,
            link: BTreeMap::new(),
            order: 0,
            ends: [client, server],
            largest: 0,
            sent: 0,
            mss,
        }
    }

    fn put(&mut self, from: usize, segment: Segment, bytes: Vec<u8>) {
        self.sent += 1;
        let copies = if self.random.below(100) < self.weather.twice { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.below(100) < self.weather.loss {
                continue;
            }
            let late = if self.random.below(100) < self.weather.late { self.random.below(3 * DELAY) } else { 0 };
            self.order += 1;
            self.link.insert((self.now + DELAY + late, self.order), (1 - from, segment.clone(), bytes.clone()));
        }
    }

    /// Lets one end do all it can.
    fn turn(&mut self, at: usize) {
        let now = self.now;
        let mut out = Vec::new();
        let end = &mut self.ends[at];
        if let Some(connection) = &mut end.connection {
            while connection.may_write() && connection.unacknowledged() < 200_000 && !end.to_send.is_empty() {
                let most = end.to_send.len().min(8192);
                let place = connection.spare(most);
                let n = place.len();
                place.copy_from_slice(&end.to_send[..n]);
                connection.written(n);
                end.to_send.drain(..n);
            }
            if end.finishes && end.to_send.is_empty() && end.connected {
                connection.finish();
            }
            connection.transmit(now, &mut |outgoing| {
                out.push((outgoing.segment.clone(), outgoing.payload.concat(), outgoing.mss as usize));
                true
            });
        }
        for (segment, bytes, mss) in out {
            self.largest = self.largest.max(bytes.len());
            if bytes.is_empty() {
                self.put(at, segment, bytes);
                continue;
            }
            // What GSO does.
            for (n, piece) in bytes.chunks(mss).enumerate() {
                let last = (n + 1) * mss >= bytes.len();
                let mut part = Segment { seq: segment.seq.wrapping_add((n * mss) as u32), ..segment.clone() };
                part.flags.set(Flags::FIN, last && segment.has(Flags::FIN));
                self.put(at, part, piece.to_vec());
            }
        }
    }

    fn arrive(&mut self, at: usize, segment: &Segment, bytes: &[u8]) {
        let now = self.now;
        let end = &mut self.ends[at];
        if end.connection.is_none() {
            if segment.has(Flags::SYN) && end.half.is_none() {
                let ports = Ports { near: 80, far: 1000 };
                let start = Start { ports, iss: 0x7fff_fff0, path_mss: self.mss, now };
                end.half = Some(HalfOpen::new(start, segment, &end.settings));
            }
            let Some(half) = end.half.take() else { return };
            if half.is_completed_by(segment) {
                end.connection = Some(half.complete(now, end.settings.clone()));
            } else {
                let reply = half.reply(now);
                end.half = Some(half);
                self.put(at, reply, Vec::new());
                return;
            }
        }
        let end = &mut self.ends[at];
        let Some(connection) = &mut end.connection else { return };
        let got = &mut end.got;
        let before = got.len();
        let events = connection.arrives(now, segment, bytes, &mut |new| got.extend_from_slice(new));
        if events.contains(Events::URGENT) {
            let ahead = connection.urgent_ahead().expect("a place");
            end.urgent.push(end.got.len() as i64 + i64::from(ahead));
        }
        if end.reads {
            connection.read(end.got.len() - before);
        }
        end.connected |= events.contains(Events::CONNECTED);
        end.fin |= events.contains(Events::FIN);
        end.events.push(events);
        self.turn(at);
    }

    /// Runs until nothing more is to happen, or `until`.
    fn run(&mut self, until: Ns) {
        for at in 0..2 {
            self.turn(at);
        }
        loop {
            let next = self.link.first_key_value().map(|((at, _), _)| *at);
            let timers = self.ends.iter().filter_map(|end| end.connection.as_ref()?.deadline());
            let Some(at) = timers.chain(next).min().filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            while let Some(first) = self.link.first_entry().filter(|first| first.key().0 <= self.now) {
                let (to, segment, bytes) = first.remove();
                self.arrive(to, &segment, &bytes);
            }
            for at in 0..2 {
                let now = self.now;
                let mut probe = None;
                if let Some(connection) = &mut self.ends[at].connection
                    && connection.deadline().is_some_and(|at| at <= now)
                {
                    let mut events = connection.due(now);
                    let (segment, more) = connection.probe(now);
                    (probe, events) = (segment, events | more);
                    self.ends[at].events.push(events);
                    self.turn(at);
                }
                if let Some(segment) = probe {
                    self.put(at, segment, Vec::new());
                }
            }
        }
        self.now = self.now.max(until);
    }

    /// A server that leaves unread what has come of `bytes`.
    fn unread(settings: Settings, bytes: usize) -> World {
        let mut world = World::new(Weather::default(), settings);
        world.run(SECOND);
        world.ends[1].reads = false;
        world.ends[0].to_send = text(bytes, 0);
        world.run(100 * SECOND);
        world
    }

    /// The server reads all that has come.
    fn server_reads(&mut self) {
        let server = self.ends[1].connection.as_mut().expect("server");
        server.read(server.unread);
    }

    fn phases(&self) -> [Phase; 2] {
        [0, 1].map(|at| self.ends[at].connection.as_ref().map_or(Phase::Closed, Connection::phase))
    }
}

fn text(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8 ^ (n % 251) as u8 ^ salt).collect()
}

fn exchange(weather: Weather, len: usize, settings: Settings) -> World {
    exchange_in(World::new(weather, settings), len)
}

fn exchange_in(mut world: World, len: usize) -> World {
    for at in 0..2 {
        world.ends[at].to_send = text(len, at as u8);
        world.ends[at].finishes = true;
    }
    world.run(3000 * SECOND);
    for at in 0..2 {
        assert!(world.ends[at].got == text(len, 1 - at as u8), "{} of {len} bytes came", world.ends[at].got.len());
        assert!(world.ends[at].fin);
    }
    world
}

fn wide() -> Settings {
    Settings { window: 400_000, ..Settings::default() }
}

#[test]
fn bytes_and_fins_cross_a_good_link_both_ways() {
    let world = exchange(Weather::default(), 3_000_000, wide());
    let phases = world.phases();
    assert!(phases.iter().all(|phase| matches!(phase, Phase::TimeWait | Phase::Closed)), "{phases:?}");
    assert!(world.largest >= 10 * 1448, "large segments are sent whole: {}", world.largest);
    let counts = world.ends[0].connection.as_ref().expect("client").counts;
    assert_eq!((counts.retransmits, counts.bytes_acked), (0, 3_000_000));
}

#[test]
fn bytes_cross_a_bad_link() {
    for weather in [
        Weather { loss: 2, late: 0, twice: 0 },
        Weather { loss: 0, late: 30, twice: 0 },
        Weather { loss: 5, late: 20, twice: 5 },
        Weather { loss: 25, late: 5, twice: 20 },
    ] {
        exchange(weather, 300_000, wide());
    }
}

#[test]
fn urgent_bytes_keep_their_place() {
    for weather in [Weather::default(), Weather { loss: 20, late: 20, twice: 10 }] {
        let mut world = World::new(weather, wide());
        world.run(100 * SECOND);
        for (len, urgent) in [(5000, true), (3000, false), (1, true), (40_000, false)] {
            let connection = world.ends[0].connection.as_mut().expect("client");
            connection.spare(len).fill(7);
            connection.written(len);
            if urgent {
                connection.mark_urgent();
            }
        }
        world.ends[0].finishes = true;
        world.run(3000 * SECOND);
        let end = &world.ends[1];
        assert_eq!(end.got.len(), 48_001);
        // The later one takes the place of the earlier, if that has not gone yet.
        assert_eq!(end.urgent.last(), Some(&8000), "{:?}", end.urgent);
        assert!(end.urgent.iter().all(|at| [4999, 8000].contains(at)), "{:?}", end.urgent);
        let sender = world.ends[0].connection.as_ref().expect("client");
        assert_eq!((sender.unacknowledged(), sender.urgent), (0, None));
    }
}

#[test]
fn an_urgent_byte_may_come_with_the_fin() {
    let mut world = World::new(Weather::default(), wide());
    world.run(SECOND);
    let connection = world.ends[0].connection.as_mut().expect("client");
    connection.spare(10).fill(7);
    connection.written(10);
    connection.mark_urgent();
    connection.finish();
    world.run(10 * SECOND);
    assert_eq!((world.ends[1].got.len(), &world.ends[1].urgent[..]), (10, &[9][..]));
}

#[test]
fn losses_are_repaired_without_waiting_for_timers() {
    let mut world = World::new(Weather::default(), wide());
    world.run(SECOND);
    world.weather.loss = 1;
    world.ends[0].to_send = text(2_000_000, 0);
    let start = world.now;
    world.run(start + 20 * SECOND);
    assert_eq!(world.ends[1].got.len(), 2_000_000);
    let counts = world.ends[0].connection.as_ref().expect("client").counts;
    // About 1 % of 1,400 segments are lost; not many more than those may go again.
    assert!((5..200).contains(&counts.retransmits), "{counts:?}");
}

#[test]
fn a_reader_that_stops_stops_the_sender_and_a_probe_finds_it_reading_again() {
    let mut world = World::unread(Settings { window: 50_000, ..Settings::default() }, 500_000);
    let got = world.ends[1].got.len();
    assert!((40_000..=50_000).contains(&got), "{got} bytes in a window of 50,000");
    assert_eq!(world.phases(), [Phase::Established; 2]);
    // The update is lost: only a probe can find out.
    world.ends[1].reads = true;
    world.server_reads();
    world.run(400 * SECOND);
    assert_eq!(world.ends[1].got.len(), 500_000);
}

#[test]
fn nobody_answers() {
    let mut world = World::new(Weather { loss: 100, ..Weather::default() }, wide());
    world.run(300 * SECOND);
    let client = world.ends[0].connection.as_ref().expect("client");
    assert_eq!((client.phase(), client.failure()), (Phase::Closed, Some(Failure::TimedOut)));
    assert_eq!(world.sent, 7, "one SYN and six more");
}

#[test]
fn a_silent_peer_is_given_up_by_keep_alive_and_by_user_timeout() {
    let keep = KeepAlive { idle: 10 * SECOND, interval: SECOND, count: 3 };
    let mut world = World::new(Weather::default(), Settings { keep_alive: Some(keep), ..wide() });
    world.run(60 * SECOND);
    assert_eq!(world.phases(), [Phase::Established; 2], "probes are answered");
    world.weather.loss = 100;
    world.run(80 * SECOND);
    assert_eq!(world.phases(), [Phase::Closed; 2]);

    let mut world = World::new(Weather::default(), Settings { user_timeout: 5 * SECOND, ..wide() });
    world.run(SECOND);
    world.weather.loss = 100;
    world.ends[0].to_send = text(1000, 0);
    world.run(30 * SECOND);
    assert_eq!(world.phases()[0], Phase::Closed);
}

#[test]
fn small_writes_wait_by_nagle_or_a_cork() {
    let pieces = |coalesce| {
        let mut world = World::new(Weather::default(), Settings { coalesce, ..wide() });
        world.run(SECOND);
        let before = world.ends[1].connection.as_ref().expect("server").counts.segments_received;
        for _ in 0..10 {
            world.ends[0].to_send = b"x".to_vec();
            world.turn(0);
        }
        world.run(2 * SECOND);
        assert_eq!(world.ends[1].got.len(), 10);
        world.ends[1].connection.as_ref().expect("server").counts.segments_received - before
    };
    assert_eq!(pieces(Coalesce::Never), 10);
    assert_eq!(pieces(Coalesce::Nagle), 2);
    assert_eq!(pieces(Coalesce::Cork), 1);
}

#[test]
fn resets_and_strange_segments() {
    let mut world = World::new(Weather::default(), wide());
    world.run(SECOND);
    let peer = world.ends[0].connection.as_mut().expect("client");
    let reset = peer.abort().expect("a reset");
    let server = world.ends[1].connection.as_mut().expect("server");
    let blind = Segment { seq: reset.seq.wrapping_add(100), ..reset.clone() };
    assert_eq!(server.arrives(SECOND, &blind, &[], &mut |_| {}), Events::empty());
    assert_eq!(server.phase(), Phase::Established, "a reset must be exactly in place");
    assert_eq!(server.arrives(SECOND, &reset, &[], &mut |_| {}), Events::CLOSED);
    assert_eq!(server.failure(), Some(Failure::Reset));
}

/// What a connection sends now, after a look at its timers if one is due: segments, and bytes in them.
fn sends(connection: &mut Connection, now: Ns) -> Vec<(Segment, usize)> {
    let mut out = Vec::new();
    if connection.deadline().is_some_and(|at| at <= now) {
        connection.due(now);
        out.extend(connection.probe(now).0.map(|segment| (segment, 0)));
    }
    connection.transmit(now, &mut |outgoing| {
        out.push((outgoing.segment.clone(), outgoing.bytes()));
        true
    });
    out
}

fn write(connection: &mut Connection, mut bytes: usize) {
    while bytes > 0 {
        let room = connection.spare(bytes).len();
        connection.written(room);
        bytes -= room;
    }
}

/// A bare acknowledgement by the peer of what it has.
fn from_peer(connection: &Connection, window: u16) -> Segment {
    Segment {
        source: connection.ports.far,
        destination: connection.ports.near,
        seq: connection.expected,
        ack: connection.una,
        flags: Flags::ACK,
        window,
        timestamps: connection.timestamps.then_some((connection.timestamp_recent, 0)),
        ..Segment::default()
    }
}

#[test]
fn a_cork_is_no_deadline_when_it_holds_nothing_or_its_time_is_over() {
    let full_segments: fn(&mut Connection, Ns) = |connection, now| {
        let rest = connection.mss() as usize - 100;
        write(connection, rest);
        assert_eq!(sends(connection, now).len(), 1);
        // What is written next is held as long as the first was.
        assert_eq!(connection.cork_at, None);
    };
    let shut_down: fn(&mut Connection, Ns) = |connection, now| {
        connection.finish();
        assert_eq!(sends(connection, now).len(), 1);
        assert_eq!(connection.cork_at, None);
    };
    let window_closed: fn(&mut Connection, Ns) = |connection, now| {
        connection.arrives(now, &from_peer(connection, 0), &[], &mut |_| {});
        assert_eq!(sends(connection, now), []);
    };
    for then in [full_segments, shut_down, window_closed] {
        for coalesce in [Coalesce::Cork, Coalesce::Never] {
            let mut world = World::new(Weather::default(), Settings { coalesce, ..wide() });
            world.run(SECOND);
            let connection = world.ends[0].connection.as_mut().expect("client");
            write(connection, 100);
            // With `TCP_NODELAY`, `MSG_MORE` holds it.
            connection.set_more(true);
            assert_eq!(sends(connection, SECOND), []);
            assert_eq!(connection.deadline(), Some(SECOND + 200 * MILLISECOND));
            then(connection, SECOND + MILLISECOND);
            for now in [SECOND + 200 * MILLISECOND, SECOND + 201 * MILLISECOND, 2 * SECOND] {
                sends(connection, now);
                assert!(connection.deadline().is_none_or(|at| at > now), "{:?} at {now}", connection.deadline());
            }
        }
    }
}

#[test]
fn a_byte_into_a_closed_window_is_answered() {
    let mut world = World::unread(Settings { window: 50_000, ..Settings::default() }, 500_000);
    let server = world.ends[1].connection.as_mut().expect("server");
    assert_eq!(sends(server, 100 * SECOND), []);
    for _ in 0..100 {
        server.arrives(100 * SECOND, &from_peer(server, 1000), b"x", &mut |_| panic!("no room"));
        let answer = sends(server, 100 * SECOND);
        assert!(matches!(&answer[..], [(segment, 0)] if segment.ack == server.expected), "{answer:?}");
    }
}

#[test]
fn what_is_out_of_order_is_told_and_may_be_forgotten() {
    let mut world = World::new(Weather::default(), wide());
    world.run(SECOND);
    let server = world.ends[1].connection.as_mut().expect("server");
    let segment = from_peer(server, 1000);
    let ahead = Segment { seq: segment.seq.wrapping_add(10), ..segment.clone() };
    server.arrives(SECOND, &ahead, &[2; 500], &mut |_| panic!("out of order"));
    assert_eq!(server.out_of_order(), 500);
    server.forget_out_of_order();
    assert_eq!(server.out_of_order(), 0);
    assert!(sends(server, SECOND).iter().all(|(segment, _)| segment.sack.is_empty()));
    server.arrives(SECOND, &ahead, &[2; 500], &mut |_| panic!("out of order"));
    let mut got = 0;
    server.arrives(SECOND, &segment, &[1; 10], &mut |bytes| got += bytes.len());
    assert_eq!((got, server.out_of_order()), (510, 0));
    let ahead = Segment { seq: segment.seq.wrapping_add(1000), ..segment };
    server.arrives(SECOND, &ahead, &[3; 500], &mut |_| panic!("out of order"));
    server.abort();
    assert_eq!((server.out_of_order(), server.unacknowledged(), server.deadline()), (0, 0, None));
}

#[test]
fn segments_as_long_as_a_packet_can_be_get_through() {
    for mss in [65_435, 65_436, 65_448, 65_495, u16::MAX] {
        let world = World::with_mss(Weather { loss: 10, late: 10, twice: 0 }, wide(), mss);
        exchange_in(world, 3_000_000);
        // Without timestamps, and with the first segment size still in use.
        let start = Start { ports: Ports { near: 1, far: 2 }, iss: 7, path_mss: mss, now: 0 };
        assert!(Connection::connect(start, wide()).mss() <= 65_435);
    }
}

#[test]
fn a_window_grows_with_what_is_read() {
    let mut world = World::unread(Settings { window: 1 << 20, ..Settings::default() }, 3_000_000);
    let got = world.ends[1].got.len();
    assert!((60_000..=65_535).contains(&got), "{got} bytes that nobody reads");
    // Read to the end of a window, and of two more: each may hold twice as much.
    for most in [131_070, 262_140] {
        let before = world.ends[1].got.len();
        world.server_reads();
        world.turn(1);
        let until = world.now + 100 * SECOND;
        world.run(until);
        let got = world.ends[1].got.len() - before;
        assert!((most / 10 * 9..=most).contains(&got), "{got} bytes of {most}");
    }
    world.ends[1].reads = true;
    world.server_reads();
    let until = world.now + 1000 * SECOND;
    world.run(until);
    assert_eq!(world.ends[1].got.len(), 3_000_000);
    assert_eq!(world.ends[1].connection.as_ref().map(Connection::window_limit), Some(1 << 20), "and no more than was set");
}

#[test]
fn bytes_with_an_acknowledgement_out_of_all_reach_are_not_taken() {
    let mut world = World::new(Weather::default(), wide());
    world.ends[1].to_send = text(1000, 0);
    world.run(SECOND);
    let server = world.ends[1].connection.as_mut().expect("server");
    let segment = from_peer(server, 1000);
    // Beyond what it ever had acknowledged, or half a circle away.
    for back in [1002, 70_000, 1 << 30] {
        let old = Segment { ack: segment.ack.wrapping_sub(back), ..segment.clone() };
        assert_eq!(server.arrives(SECOND, &old, b"guessed", &mut |_| panic!("taken")), Events::empty());
        assert_eq!(sends(server, SECOND).len(), 1, "a challenge");
    }
    let late = Segment { ack: segment.ack.wrapping_sub(900), ..segment };
    let mut got = 0;
    server.arrives(SECOND, &late, b"late", &mut |bytes| got += bytes.len());
    assert_eq!(got, 4);
}

#[test]
fn who_gives_up_a_quiet_peer_says_so_and_in_the_program_s_time() {
    let keep = KeepAlive { idle: 10 * SECOND, interval: SECOND, count: 9 };
    let ended = |user_timeout: Ns| {
        let mut world = World::new(Weather::default(), Settings { keep_alive: Some(keep), user_timeout, ..wide() });
        world.run(SECOND);
        let connection = world.ends[0].connection.as_mut().expect("client");
        let mut sent = Vec::new();
        let mut now = SECOND;
        while connection.phase() == Phase::Established {
            now = connection.deadline().expect("a probe");
            sent = sends(connection, now);
        }
        assert!(sent.iter().any(|(segment, _)| segment.has(Flags::RST)), "{sent:?}");
        assert_eq!(connection.failure(), Some(Failure::TimedOut));
        (now - connection.last_heard) / SECOND
    };
    assert_eq!(ended(0), 19, "nine probes in vain");
    assert_eq!(ended(12 * SECOND), 12);

    // And waiting for an answer to data.
    let mut world = World::new(Weather::default(), Settings { user_timeout: 700 * MILLISECOND, ..wide() });
    world.run(SECOND);
    let connection = world.ends[0].connection.as_mut().expect("client");
    write(connection, 10);
    sends(connection, SECOND);
    let mut now = SECOND;
    while connection.phase() == Phase::Established {
        now = connection.deadline().expect("a timer");
        sends(connection, now);
    }
    assert_eq!(now, SECOND + 700 * MILLISECOND, "not with the next repetition");
}

#[test]
fn acknowledgements_wait_or_do_not() {
    let mut world = World::new(Weather::default(), wide());
    world.run(SECOND);
    let server = world.ends[1].connection.as_mut().expect("server");
    let answers = |server: &mut Connection| {
        let segment = from_peer(server, 1000);
        server.arrives(SECOND, &segment, b"x", &mut |_| {});
        sends(server, SECOND).len()
    };
    server.acknowledge_late();
    assert_eq!(answers(server), 0);
    server.acknowledge_quickly();
    assert_eq!(sends(server, SECOND).len(), 1, "what waited goes");
    assert_eq!(answers(server), 1);
}

#[test]
fn bytes_that_were_never_sent_are_counted() {
    let mut world = World::new(Weather::default(), wide());
    world.run(SECOND);
    let connection = world.ends[0].connection.as_mut().expect("client");
    write(connection, 100_000);
    assert_eq!(connection.unsent(), 100_000);
    let sent: usize = sends(connection, SECOND).iter().map(|(_, bytes)| bytes).sum();
    assert!(sent > 0 && connection.unsent() == 100_000 - sent, "{sent}");
    connection.finish();
    assert_eq!(connection.unsent(), 100_000 - sent, "the FIN is no byte");
}

/// Whatever comes: no panic, no endless loop, bounded memory.
#[test]
fn garbage_in_every_state() {
    let mut random = Random(4_101_842_887_655_102_017);
    for round in 0..3000u64 {
        let mut world = World::new(Weather::default(), Settings { window: 20_000, ..Settings::default() });
        world.ends[0].to_send = text((round % 5000) as usize, 0);
        world.ends[0].finishes = round % 3 == 0;
        world.ends[1].finishes = round % 5 == 0;
        world.run(round % 40 * MILLISECOND);
        let at = (round % 2) as usize;
        for _ in 0..30 {
            let Some(connection) = world.ends[at].connection.as_ref() else { break };
            let near = |random: &mut Random, base: u32| base.wrapping_add(random.below(60_000) as u32).wrapping_sub(20_000);
            let segment = Segment {
                source: connection.ports.far,
                destination: connection.ports.near,
                seq: near(&mut random, connection.expected),
                ack: near(&mut random, connection.una),
                flags: Flags::from_bits_retain(random.below(256) as u8 | 0x10),
                window: random.below(65_536) as u16,
                timestamps: connection.timestamps.then(|| (random.below(1 << 32) as u32, random.below(1 << 32) as u32)),
                sack: (0..random.below(4))
                    .map(|_| (near(&mut random, connection.una), near(&mut random, connection.una)))
                    .collect(),
                ..Segment::default()
            };
            let bytes = vec![7; random.below(3000) as usize];
            world.now += random.below(50) * MILLISECOND;
            world.arrive(at, &segment, &bytes);
            let Some(connection) = world.ends[at].connection.as_ref() else { break };
            assert!(connection.reorder.len() <= 20_000 + 65_535 && connection.sacked.len() <= 64);
        }
        let until = world.now + 10 * SECOND;
        world.run(until);
    }
}

#[test]
fn who_waits_for_many_bytes_has_a_window_for_them() {
    let mut world = World::unread(wide(), 500_000);
    let got = world.ends[1].got.len();
    assert!((50_000..=65_535).contains(&got), "{got} bytes of which none were read");
    assert!(world.ends[1].connection.as_ref().expect("server").is_window_used_up());
    let wants = Settings { least_window: 200_000, ..wide() };
    world.ends[1].connection.as_mut().expect("server").set(wants);
    world.run(101 * SECOND);
    let got = world.ends[1].got.len();
    assert!((190_000..=200_000).contains(&got), "{got} bytes");
    assert!(world.ends[1].connection.as_ref().expect("server").is_window_used_up());
    world.server_reads();
    world.ends[1].reads = true;
    world.run(102 * SECOND);
    assert_eq!(world.ends[1].got.len(), 500_000);
    assert!(!world.ends[1].connection.as_ref().expect("server").is_window_used_up());
}

#[test]
fn what_was_not_kept_comes_back_with_the_third_segment() {
    let ports = Ports { near: 80, far: 1000 };
    let settings = Settings::default();
    for now in [0, 7 * MILLISECOND, 31 * MILLISECOND, 1_000_000 * SECOND] {
        for (scale, sack, stamped) in [None, Some(0), Some(7), Some(14)]
            .into_iter()
            .flat_map(|scale| [(scale, true, true), (scale, false, true), (scale, true, false)])
        {
            let start = Start { ports, iss: 0xdead_beef, path_mss: MSS, now };
            let timestamps = stamped.then_some((77, 0));
            let syn = Segment {
                seq: 41,
                flags: Flags::SYN,
                mss: Some(1300),
                window_scale: scale,
                sack_permitted: sack,
                timestamps,
                ..Segment::default()
            };
            let half = HalfOpen::new(start, &syn, &settings);
            let (plain, reply) = (half.reply(now), half.cookie_reply(now));
            let ahead = |from: Option<(u32, u32)>, to: Option<(u32, u32)>| {
                from.zip(to).map_or(0, |((from, _), (to, _))| to.wrapping_sub(from) as i32)
            };
            assert!((-63..=0).contains(&ahead(plain.timestamps, reply.timestamps)), "never in the future");
            assert_eq!(reply.timestamps.is_some(), stamped);
            assert_eq!(
                (reply.window_scale.is_some(), reply.sack_permitted),
                (stamped && scale.is_some(), stamped && sack),
                "without a timestamp nothing can be remembered"
            );
            let third = Segment {
                seq: 42,
                ack: reply.seq.wrapping_add(1),
                flags: Flags::ACK,
                window: 1000,
                timestamps: reply.timestamps.map(|(value, _)| (78, value)),
                ..Segment::default()
            };
            let again = HalfOpen::of_cookie(start, HalfOpen::peer_mss(&syn), &third, &settings);
            assert!(again.is_completed_by(&third));
            let connection = again.complete(now, settings.clone());
            let (options, peer_scale, _) = connection.agreed();
            let bits = u8::from(stamped) | u8::from(stamped && sack) << 1 | u8::from(stamped && scale.is_some()) << 2;
            assert_eq!((options, peer_scale), (bits, if stamped { scale.unwrap_or(0) } else { 0 }));
            assert_eq!(connection.mss(), if stamped { 1288 } else { 1300 });
        }
    }
}
