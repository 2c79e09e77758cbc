//! Client and serving side over a real socket pair.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use agent_api::frame::{self, Kind, ResponseBody};
use agent_api::{
    Call, Client, ClientError, Code, Connection, ConnectionError, CreateContainerRequest, Empty, Process, SetStraceRequest,
    StatsRequest, StatsResponse, Status, WaitProcessRequest, WaitProcessResponse,
};
use prost::Message;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// A client of this patience, and the other end.
fn patient(patience: Duration) -> (Client, OwnedFd) {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("socketpair");
    (Client::with_patience(a, patience), b)
}

/// A request of so many MiB: more than a socket holds.
fn large(mib: usize) -> CreateContainerRequest {
    let process = Process { env: vec![vec![b'x'; 1 << 20]; mib], ..Default::default() };
    CreateContainerRequest { id: "c".into(), process: Some(process), ..Default::default() }
}

fn pair(flags: SocketFlags) -> (Client, Connection) {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("socketpair");
    if flags.contains(SocketFlags::NONBLOCK) {
        rustix::io::ioctl_fionbio(&b, true).expect("nonblock");
    }
    (Client::new(a), Connection::new(b))
}

#[test]
fn descriptors_stay_with_their_frame() {
    let (client, mut agent) = pair(SocketFlags::empty());
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let plain = client.start(&StatsRequest { container_id: "a".into() }, &[]).expect("send");
    let strace = SetStraceRequest { container_id: "a".into(), output: Some(0) };
    let with_fd = client.start(&strace, &[writer.as_fd()]).expect("send");
    let after = client.start(&StatsRequest { container_id: "b".into() }, &[]).expect("send");
    drop(writer);

    let first = agent.recv().expect("recv").expect("frame");
    assert_eq!(first.fds.len(), 0);
    let mut second = agent.recv().expect("recv").expect("frame");
    assert_eq!(second.call, Ok(Call::SetStrace(strace)));
    let fd: OwnedFd = second.take_fd(0, "output").expect("descriptor");
    assert_eq!(second.take_fd(0, "output").expect_err("taken").code, Code::InvalidArgument);
    rustix::io::write(&fd, b"hello").expect("write");
    drop(fd);
    let third = agent.recv().expect("recv").expect("frame");
    assert_eq!(third.fds.len(), 0);

    // Answered in another order than asked.
    agent.reply(third.stream, Ok(StatsResponse { pids: 3, ..Default::default() })).expect("reply");
    agent.reply::<Empty>(second.stream, Err(Status::new(Code::NotFound, "no container a"))).expect("reply");
    agent.reply(first.stream, Ok(StatsResponse { pids: 1, ..Default::default() })).expect("reply");
    assert_eq!(plain.wait().expect("reply").pids, 1);
    assert!(matches!(with_fd.wait(), Err(ClientError::Status(s)) if s.code == Code::NotFound && s.message == "no container a"));
    assert_eq!(after.wait().expect("reply").pids, 3);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
}

#[test]
fn threads_share_a_client() {
    let (client, mut agent) = pair(SocketFlags::empty());
    let serve = std::thread::spawn(move || {
        let mut held = Vec::new();
        while held.len() < 8 {
            let incoming = agent.recv().expect("recv").expect("frame");
            let Ok(Call::WaitProcess(request)) = incoming.call else { panic!("another call") };
            held.push((incoming.stream, request.exec_id.parse::<u32>().expect("number")));
        }
        for (stream, exit_code) in held.into_iter().rev() {
            agent.reply(stream, Ok(WaitProcessResponse { exit_code, ..Default::default() })).expect("reply");
        }
        agent
    });
    std::thread::scope(|scope| {
        for code in 0..8u32 {
            let client = &client;
            scope.spawn(move || {
                let request = WaitProcessRequest { container_id: "c".into(), exec_id: code.to_string() };
                assert_eq!(client.call(&request).expect("reply").exit_code, code);
            });
        }
    });
    drop(serve.join().expect("server"));
    let gone = client.call(&StatsRequest::default());
    assert!(matches!(gone, Err(ClientError::Closed)), "{gone:?}");
}

#[test]
fn a_large_request_comes_in_pieces_without_blocking() {
    let (client, mut agent) = pair(SocketFlags::NONBLOCK);
    assert!(agent.recv().expect("recv").is_none());
    let request = large(2);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| client.call(&request));
        let incoming = loop {
            match agent.recv().expect("recv") {
                Some(incoming) => break incoming,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(incoming.call, Ok(Call::CreateContainer(request.clone())));
        agent.reply(incoming.stream, Ok(Empty {})).expect("reply");
        assert!(asked.join().expect("thread").is_ok());
    });
}

#[test]
fn a_hostile_client_is_cut_off() {
    let (client, mut agent) = pair(SocketFlags::empty());
    rustix::io::write(&client, &[0xff; 10]).expect("write");
    assert!(matches!(agent.recv(), Err(ConnectionError::Frame(_))));
}

/// Bytes that come one by one, each in time, are no frame if the whole of it is not.
#[test]
fn a_frame_that_drips_ends_the_connection() {
    let (client, b) = patient(Duration::from_millis(300));
    let body = ResponseBody { status: None, payload: StatsResponse { pids: 3, ..Default::default() }.encode_to_vec() };
    let mut bytes = frame::encode(1, Kind::Response, &body);
    // A field that nobody knows, for length: number 15, of 200 bytes.
    let more = [vec![0x7a, 0xc8, 0x01], vec![0; 200]].concat();
    bytes[3] += more.len() as u8;
    bytes.extend(more);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for byte in bytes {
                let _ = rustix::io::write(&b, &[byte]);
                std::thread::sleep(Duration::from_millis(10));
            }
            // Until the other test thread is done with it.
            b
        });
        let first = client.call(&StatsRequest::default());
        assert!(matches!(first, Err(ClientError::Stalled(_))), "{first:?}");
        let next = client.call(&StatsRequest::default());
        assert!(matches!(next, Err(ClientError::Stalled(_))), "{next:?}");
    });
}

#[test]
fn an_agent_that_stops_within_a_request_ends_the_connection() {
    let (client, b) = patient(Duration::from_millis(300));
    let waiting = client.start(&WaitProcessRequest::default(), &[]).expect("send");
    let request = large(2);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| waiting.wait().map(drop));
        // More than the socket holds, and nobody reads.
        let stuck = client.call(&request);
        assert!(matches!(stuck, Err(ClientError::Stalled(_))), "{stuck:?}");
        let waited = waiter.join().expect("joined");
        assert!(matches!(waited, Err(ClientError::Stalled(_))), "{waited:?}");
    });
    drop(b);
}

#[test]
fn a_request_that_is_too_large_ends_nothing() {
    let (client, mut agent) = pair(SocketFlags::empty());
    let large = large(5);
    let refused = client.call(&large).expect_err("too large");
    assert!(matches!(refused, ClientError::TooLarge(_)) && !refused.is_the_end(), "{refused:?}");
    let pending = client.start(&StatsRequest::default(), &[]).expect("send");
    let incoming = agent.recv().expect("recv").expect("frame");
    agent.reply(incoming.stream, Ok(StatsResponse { pids: 3, ..Default::default() })).expect("reply");
    assert_eq!(pending.wait().expect("reply").pids, 3);
}

#[test]
fn a_client_takes_no_nonsense() {
    let (client, agent) = pair(SocketFlags::empty());
    let pending = client.start(&StatsRequest::default(), &[]).expect("send");
    rustix::io::write(&agent, &[0x7f; 10]).expect("write");
    assert!(matches!(pending.wait(), Err(ClientError::Frame(_))));
}

/// As for what comes: bytes that are taken one by one, each in time, are no frame if the whole of it is not.
#[test]
fn an_agent_that_reads_in_drips_ends_the_connection() {
    let (client, b) = patient(Duration::from_millis(300));
    let request = large(3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // At this pace the whole takes half a minute.
            while matches!(rustix::io::read(&b, &mut [0; 2048]), Ok(1..)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let stuck = client.start(&request, &[]).map(drop);
        assert!(matches!(stuck, Err(ClientError::Stalled(_))), "{stuck:?}");
    });
}

#[test]
fn what_is_read_as_the_end_wakes_who_sends() {
    let (client, b) = patient(Duration::from_secs(1000));
    let request = large(3);
    let waiting = client.start(&WaitProcessRequest::default(), &[]).expect("send");
    let before = rustix::io::ioctl_fionread(&b).expect("fionread");
    std::thread::scope(|scope| {
        // More than the socket holds, and nobody reads.
        let sender = scope.spawn(|| client.start(&request, &[]).map(drop));
        while rustix::io::ioctl_fionread(&b).expect("fionread") == before {
            std::thread::yield_now();
        }
        rustix::io::write(&b, &[0x7f; 10]).expect("write");
        let waited = waiting.wait();
        assert!(matches!(waited, Err(ClientError::Frame(_))), "{waited:?}");
        let sent = sender.join().expect("joined");
        assert!(matches!(sent, Err(ClientError::Frame(_))), "{sent:?}");
    });
}
