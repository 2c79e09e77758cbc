//! The server against a sentry that has been taken over.

use std::{fs, os::fd::OwnedFd};

use rustix::{
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair},
    rand::{GetRandomFlags, getrandom},
};

use super::{AttachConfig, Config, ServeError, Server};
use crate::{
    passthrough::Source,
    protocol::{Access, Cache, MAX_MESSAGE, Request, Response, tests::requests},
    socket::{self, Wait},
    testdir::TestDir,
    testrandom::Random,
};
use std::os::fd::AsFd;

fn start(dir: &TestDir) -> (OwnedFd, std::thread::JoinHandle<Result<(), ServeError>>) {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let source = Source::at_path(dir.path()).unwrap();
    let attaches = vec![AttachConfig { source, access: Access::ReadWrite, cache: Cache::Shared }];
    let server = Server::new(Config { attaches, max_handles: 50, spin: Config::SPIN }).unwrap();
    (ours, std::thread::spawn(move || server.serve(theirs)))
}

fn seed() -> u64 {
    let mut seed = [0; 8];
    getrandom(&mut seed, GetRandomFlags::empty()).unwrap();
    u64::from_le_bytes(seed)
}

#[test]
fn random_requests_are_answered_and_change_nothing_outside() {
    let dir = TestDir::new("fuzz");
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("canary"), "sings").unwrap();
    let root = TestDir::new("fuzz-root");
    let (socket, server) = start(&root);
    let seed = seed();
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    // Low handles, so that some exist.
    let valid: Vec<Vec<u8>> = requests().iter().map(|r| r.encode(3)).filter(|r| r.len() < 1000).collect();
    let mut reply = vec![0; MAX_MESSAGE];
    let mut answered = 0;
    for _ in 0..20_000 {
        let mut bytes = if random.below(20) == 0 { Request::Attach { index: 0 }.encode(1) } else { random.mutate(&valid) };
        if bytes.len() < 10 {
            continue;
        }
        // Generation 1 to 3 of the first slots.
        if let Some(handle) = bytes.get_mut(10..18).filter(|_| random.below(2) == 0) {
            handle.copy_from_slice(&((1 + random.below(3) as u64) << 32 | random.below(4) as u64).to_le_bytes());
        }
        let forget = matches!(Request::decode(&bytes), Ok((_, _, Ok(Request::Forget { .. }))));
        rustix::net::send(&socket, &bytes, SendFlags::NOSIGNAL).unwrap();
        if !forget {
            let mut fds = Vec::new();
            let n = socket::receive(socket.as_fd(), &mut reply, Some(&mut fds), Wait::Allowed).unwrap();
            let (tag, _) = Response::decode(&reply[..n], fds).unwrap();
            assert_eq!(tag.to_le_bytes(), bytes[..8]);
            answered += 1;
        }
    }
    assert!(answered > 10_000);
    drop(socket);
    server.join().unwrap().unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("canary")).unwrap(), "sings");
}

#[test]
fn what_is_no_request_ends_the_connection() {
    let dir = TestDir::new("norequest");
    for bytes in [vec![1; 9], vec![0; MAX_MESSAGE + 1]] {
        let (socket, server) = start(&dir);
        rustix::net::send(&socket, &bytes, SendFlags::NOSIGNAL).unwrap();
        assert!(server.join().unwrap().is_err());
    }
}

#[test]
fn descriptors_from_the_sentry_do_not_arrive() {
    let dir = TestDir::new("fds");
    let (read, write) = rustix::pipe::pipe().unwrap();
    let (socket, server) = start(&dir);
    let mut reply = vec![0; MAX_MESSAGE];
    for _ in 0..100 {
        socket::send(socket.as_fd(), &Request::Attach { index: 1 }.encode(1), &[write.as_fd()], Wait::Allowed).unwrap();
        socket::receive(socket.as_fd(), &mut reply, None, Wait::Allowed).unwrap();
    }
    // Were a copy of the writing end left with the server, this would not be the end of the pipe.
    drop(write);
    assert_eq!(rustix::io::read(&read, &mut [0; 1]).unwrap(), 0);
    drop(socket);
    server.join().unwrap().unwrap();
}
