//! Client and serving side over a real socket pair.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use agent_api::{
    Call, Client, ClientError, Code, Connection, ConnectionError, CreateContainerRequest, Empty, Process, SetStraceRequest,
    StatsRequest, StatsResponse, Status, WaitProcessRequest, WaitProcessResponse,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

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
    let process = Process { env: vec![vec![b'x'; 1 << 20]; 2], ..Default::default() };
    let request = CreateContainerRequest { id: "c".into(), process: Some(process), ..Default::default() };
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

#[test]
fn a_client_takes_no_nonsense() {
    let (client, agent) = pair(SocketFlags::empty());
    let pending = client.start(&StatsRequest::default(), &[]).expect("send");
    rustix::io::write(&agent, &[0x7f; 10]).expect("write");
    assert!(matches!(pending.wait(), Err(ClientError::Frame(_))));
}
