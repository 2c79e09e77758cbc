use std::sync::{Arc, Weak};

use super::super::tests::{Bounded, file, read, write};
use super::*;
use crate::Errno;
use crate::fs::{File, OpenFlags};
use crate::net::socket::{Shutdown, SocketFile};
use crate::wait::PollEvents;

fn who(pid: i32) -> Credentials {
    Credentials { pid, uid: 0, gid: 0 }
}

fn open(core: Arc<Core>) -> Arc<File> {
    file(Arc::new(SocketFile(UnixSocket::new(core))), OpenFlags::RDWR)
}

fn pair(kind: Kind, shared: &Arc<Shared>) -> (Arc<File>, Arc<File>) {
    let (a, b) = Core::pair(kind, shared, who(1));
    (open(a), open(b))
}

fn core(file: &File) -> &Arc<Core> {
    UnixSocket::of(file).expect("a socket").core()
}

fn send_files(from: &File, bytes: &[u8], files: Vec<Arc<File>>) {
    let mut out = Outgoing { files, ..Outgoing::default() };
    assert_eq!(core(from).send(&mut &bytes[..], &mut out), Ok(bytes.len()));
}

fn receive(from: &File, max: usize) -> (Vec<u8>, Received) {
    let mut into = Bounded { bytes: Vec::new(), max };
    let received = core(from).receive(&mut into, false).expect("receive");
    (into.bytes, received)
}

#[test]
fn a_stream_joins_writes_and_ends() {
    let shared = Arc::default();
    let (a, b) = pair(Kind::Stream, &shared);
    assert_eq!(read(&b, 5), Err(Errno::EAGAIN));
    assert_eq!(write(&a, b"hello "), Ok(6));
    assert_eq!(write(&a, b"world"), Ok(5));
    assert_eq!(read(&b, 8), Ok(b"hello wo".to_vec()));
    assert_eq!(read(&b, 8), Ok(b"rld".to_vec()));
    core(&a).shut_down(Shutdown { receive: false, send: true }).expect("shutdown");
    assert_eq!(write(&a, b"x"), Err(Errno::EPIPE));
    assert_eq!(read(&b, 8), Ok(vec![]));
    assert_eq!(b.ops.poll(&b) & (PollEvents::RDHUP | PollEvents::HUP), PollEvents::RDHUP);
    assert_eq!(write(&b, b"still"), Ok(5));
    drop(a);
    assert_eq!(read(&b, 8), Err(Errno::ECONNRESET), "the peer left unread data");
    assert!(b.ops.poll(&b).contains(PollEvents::HUP));
    assert_eq!(write(&b, b"x"), Err(Errno::EPIPE));
}

#[test]
fn a_full_stream_says_so_and_wakes_when_read() {
    let shared = Arc::default();
    let (a, b) = pair(Kind::Stream, &shared);
    let mut total = 0;
    loop {
        match write(&a, &[1; 100_000]) {
            Ok(n) => total += n,
            Err(errno) => break assert_eq!(errno, Errno::EAGAIN),
        }
    }
    assert_eq!(total, core(&a).send_buffer());
    assert!(!a.ops.poll(&a).contains(PollEvents::OUT));
    assert_eq!(read(&b, total).map(|bytes| bytes.len()), Ok(total));
    assert!(a.ops.poll(&a).contains(PollEvents::OUT));
}

#[test]
fn packets_keep_their_borders() {
    let shared = Arc::default();
    let (a, b) = pair(Kind::SeqPacket, &shared);
    assert_eq!(write(&a, b"first"), Ok(5));
    assert_eq!(write(&a, b""), Ok(0));
    assert_eq!(write(&a, b"third"), Ok(5));
    let (bytes, received) = receive(&b, 3);
    assert_eq!((bytes.as_slice(), received.length), (&b"fir"[..], 5));
    assert_eq!(receive(&b, 9).0, b"");
    assert_eq!(receive(&b, 9).0, b"third");
    assert_eq!(core(&b).waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn connections_wait_in_the_backlog() {
    let shared = Arc::default();
    let listener = open(Core::new(Kind::Stream, &shared));
    core(&listener).bind_abstract(Some(b"name".to_vec())).expect("bind");
    let other = Core::new(Kind::Stream, &shared);
    assert_eq!(other.bind_abstract(Some(b"name".to_vec())), Err(Errno::EADDRINUSE));
    let target = shared.names.find(b"name").expect("name");
    assert_eq!(other.connect(&target, who(2)), Err(Errno::ECONNREFUSED));
    core(&listener).listen(1, who(1)).expect("listen");
    let clients: Vec<_> = (0..2).map(|_| open(Core::new(Kind::Stream, &shared))).collect();
    for client in &clients {
        core(client).connect(&target, who(2)).expect("connect");
    }
    assert_eq!(other.connect(&target, who(2)), Err(Errno::EAGAIN));
    assert_eq!(core(&clients[0]).connect(&target, who(2)), Err(Errno::EISCONN));
    assert_eq!(write(&clients[0], b"early"), Ok(5));
    let served = open(core(&listener).accept().expect("accept"));
    assert_eq!(read(&served, 9), Ok(b"early".to_vec()));
    assert_eq!(core(&served).peer_credentials(), Some(who(2)));
    assert_eq!(core(&clients[0]).peer_credentials(), Some(who(1)));
    drop(target);
    drop(listener);
    assert_eq!(read(&clients[1], 1), Err(Errno::ECONNRESET), "never accepted");
    assert!(shared.names.find(b"name").is_none());
}

#[test]
fn files_travel_and_stop_a_read() {
    let shared: Arc<Shared> = Arc::default();
    let (a, b) = pair(Kind::Stream, &shared);
    let (reader, _writer) = super::super::pipe::ends();
    let passed = file(reader, OpenFlags::empty());
    let weak = Arc::downgrade(&passed);
    assert_eq!(write(&a, b"12"), Ok(2));
    send_files(&a, b"34", vec![passed]);
    assert_eq!(write(&a, b"56"), Ok(2));
    assert_eq!(shared.gc.in_flight(), 1);
    // As unix_stream_read_generic does: a read goes on into the data that files came with, and not beyond.
    let (bytes, received) = receive(&b, 10);
    assert_eq!((bytes.as_slice(), received.files.len()), (&b"1234"[..], 1));
    assert_eq!(shared.gc.in_flight(), 0);
    drop(received);
    assert_eq!(weak.strong_count(), 0);
    assert_eq!(receive(&b, 10).0, b"56");
}

/// Sockets that are still there.
fn alive(weak: &[Weak<Core>]) -> usize {
    weak.iter().filter(|core| core.strong_count() > 0).count()
}

#[test]
fn circles_of_sockets_in_flight_are_collected() {
    let shared: Arc<Shared> = Arc::default();
    // A socket sent over its own pair; two pairs sent over each other; and one that can still be received.
    let (a, b) = pair(Kind::Stream, &shared);
    let (c, d) = pair(Kind::Stream, &shared);
    let (e, f) = pair(Kind::Stream, &shared);
    let (g, h) = pair(Kind::Stream, &shared);
    let garbage: Vec<_> = [&a, &b, &c, &d, &e, &f].map(|file| Arc::downgrade(core(file))).to_vec();
    let kept: Vec<_> = [&g, &h].map(|file| Arc::downgrade(core(file))).to_vec();
    send_files(&a, b"x", vec![a.clone(), b.clone()]);
    send_files(&c, b"x", vec![e.clone(), f.clone()]);
    send_files(&e, b"x", vec![c.clone(), d.clone()]);
    let (outside, inside) = pair(Kind::Stream, &shared);
    send_files(&g, b"y", vec![h.clone()]);
    send_files(&outside, b"x", vec![h.clone()]);
    assert_eq!(shared.gc.in_flight(), 8);
    drop((a, b, c, d, e, f, h));
    drop(g);
    assert_eq!(alive(&garbage), 0);
    assert!(kept[1].strong_count() > 0, "can be received from outside");
    let (_, received) = receive(&inside, 1);
    let h = received.files.into_iter().next().expect("the socket");
    assert_eq!(read(&h, 5), Ok(b"y".to_vec()));
    drop((h, outside, inside));
    assert_eq!(alive(&kept), 0);
    assert_eq!(shared.gc.in_flight(), 0);
}

#[test]
fn sockets_within_sockets_go_one_after_the_other() {
    let shared: Arc<Shared> = Arc::default();
    let mut inner = open(Core::new(Kind::Stream, &shared));
    for _ in 0..5_000 {
        let (outer, through) = pair(Kind::Stream, &shared);
        send_files(&through, b"x", vec![inner]);
        inner = outer;
    }
    assert_eq!(shared.gc.in_flight(), 5_000);
    drop(inner);
    assert_eq!(shared.gc.in_flight(), 0);
}

#[test]
fn datagrams_carry_their_sender_and_refuse_strangers() {
    let shared: Arc<Shared> = Arc::default();
    let receiver = open(Core::new(Kind::Datagram, &shared));
    let sender = open(Core::new(Kind::Datagram, &shared));
    core(&receiver).bind_abstract(Some(b"to".to_vec())).expect("bind");
    core(&sender).bind_abstract(None).expect("bind");
    assert_eq!(write(&sender, b"x"), Err(Errno::ENOTCONN));
    core(&sender).connect(core(&receiver), who(1)).expect("connect");
    assert_eq!(write(&sender, b"hello"), Ok(5));
    let (bytes, received) = receive(&receiver, 10);
    assert_eq!(bytes, b"hello");
    assert_eq!(received.from, core(&sender).address());
    let stranger = Core::new(Kind::Datagram, &shared);
    core(&receiver).connect(core(&sender), who(1)).expect("connect");
    let mut out = Outgoing { to: Some(core(&receiver).clone()), ..Outgoing::default() };
    assert_eq!(stranger.send(&mut &b"x"[..], &mut out), Err(Errno::EPERM));
    drop(receiver);
    assert_eq!(write(&sender, b"x"), Err(Errno::ECONNREFUSED));
}
