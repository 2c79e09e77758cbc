//! Client and server over a socket pair, in one process.

use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::PathBuf,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread::JoinHandle,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Client, Config};
use crate::{
    Errno,
    passthrough::Source,
    protocol::*,
    server::{self, AttachConfig, ServeError, Server},
    testdir::TestDir,
};

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn client(socket: OwnedFd, inline_wait: Duration) -> Arc<Client> {
    Client::new(socket, Config { inline_wait, ..Config::new(2, Box::new(|_| {})) })
}

fn start(dir: PathBuf, access: Access, max_handles: usize) -> (Arc<Client>, JoinHandle<Result<(), ServeError>>) {
    let (ours, theirs) = pair();
    let source = Source::at_path(&dir).unwrap();
    let attaches = vec![AttachConfig { source, access, cache: Cache::Shared }];
    let server = Server::new(server::Config { attaches, max_handles, spin: server::Config::SPIN }).unwrap();
    (client(ours, Config::INLINE_WAIT), std::thread::spawn(move || server.serve(theirs)))
}

/// Runs a future, with the client's reader in the same thread.
fn run<T>(client: &Client, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        client.sleep(Duration::from_millis(1));
        client.process();
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn names(path: &str) -> Vec<Name> {
    path.split('/').map(name).collect()
}

fn root(client: &Arc<Client>) -> Handle {
    run(client, client.attach(0)).unwrap().root.handle
}

#[test]
fn a_walk_opens_the_file_at_its_end() {
    let dir = TestDir::new("walk");
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/f"), "text").unwrap();
    symlink("/etc/passwd", dir.path().join("a/l")).unwrap();
    let (client, server) = start(dir.path().into(), Access::ReadOnly, 100);
    let root = root(&client);

    let walked = run(&client, client.walk(root, names("a/b/f"), Some(OpenHow::Read))).unwrap();
    assert_eq!((walked.steps.len(), walked.end), (3, WalkEnd::Complete));
    let mut text = String::new();
    fs::File::from(walked.opened.unwrap().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");

    let walked = run(&client, client.walk(root, names("a/l/x"), Some(OpenHow::Read))).unwrap();
    assert_eq!((walked.steps.len(), walked.end), (2, WalkEnd::Symlink));
    assert_eq!(walked.link.as_deref(), Some(&b"/etc/passwd"[..]));
    assert!(walked.opened.is_none());

    let walked = run(&client, client.walk(root, names("a/l"), Some(OpenHow::Read))).unwrap();
    assert_eq!((walked.end, walked.link.is_some(), walked.opened.is_none()), (WalkEnd::Complete, true, true));

    let walked = run(&client, client.walk(root, names("a/none/x"), None)).unwrap();
    assert_eq!((walked.steps.len(), walked.end), (1, WalkEnd::Failed(Errno::ENOENT)));

    let walked = run(&client, client.walk(root, names("a/b/f/x"), None)).unwrap();
    assert_eq!((walked.steps.len(), walked.end), (3, WalkEnd::NotDirectory));

    let walked = run(&client, client.walk(root, names("a/b/f"), Some(OpenHow::ReadWrite))).unwrap();
    assert_eq!(walked.opened.map(|fd| fd.unwrap_err()), Some(Errno::EROFS));

    drop(client);
    server.join().unwrap().unwrap();
}

#[test]
fn handles_are_bounded_and_forgotten_ones_come_back() {
    let dir = TestDir::new("handles");
    fs::write(dir.path().join("f"), "").unwrap();
    let (client, _server) = start(dir.path().into(), Access::ReadOnly, 20);
    let root = root(&client);
    let mut held = Vec::new();
    let end = loop {
        let walked = run(&client, client.walk(root, names("f"), None)).unwrap();
        match walked.steps.first() {
            Some(step) => held.push(step.handle),
            None => break walked.end,
        }
    };
    assert_eq!(end, WalkEnd::Failed(Errno::ENFILE));
    assert!(held.len() >= 15);
    let stale = held[0];
    held.into_iter().for_each(|handle| client.forget(handle));
    client.flush_forgets();
    assert_eq!(run(&client, client.get_attr(stale)).unwrap_err(), Errno::EBADF);
    let walked = run(&client, client.walk(root, names("f"), None)).unwrap();
    assert_eq!(walked.end, WalkEnd::Complete);
    assert_eq!(run(&client, client.get_attr(stale)).unwrap_err(), Errno::EBADF);
}

#[test]
fn many_calls_may_be_outstanding() {
    let dir = TestDir::new("many");
    fs::write(dir.path().join("f"), "").unwrap();
    let (client, _server) = start(dir.path().into(), Access::ReadOnly, 2000);
    let root = root(&client);
    let walk = Request::Walk { start: root, names: names("f"), open: Some(OpenHow::Read) };
    let calls: Vec<_> = (0..1500).map(|_| client.submit(&walk)).collect();
    for call in calls.into_iter().rev() {
        let Response::Walked(walked) = run(&client, call).unwrap() else { panic!("not a walk") };
        assert!(walked.opened.unwrap().is_ok());
    }
    assert_eq!(client.process(), super::Interest::None);
}

#[test]
fn a_dropped_call_leaves_no_handle_and_no_descriptor() {
    let dir = TestDir::new("dropped");
    fs::write(dir.path().join("f"), "").unwrap();
    let (client, _server) = start(dir.path().into(), Access::ReadOnly, 200);
    let root = root(&client);
    let walk = Request::Walk { start: root, names: names("f"), open: Some(OpenHow::Read) };
    // More handles than the server gives: it works only if those of dropped calls come back.
    for i in 0..1000 {
        let mut call = Box::pin(client.submit(&walk));
        match i % 3 {
            0 => {}
            1 => drop(call.as_mut().poll(&mut Context::from_waker(Waker::noop()))),
            // The answer is there, but nobody takes it.
            _ => {
                while client.process() != super::Interest::None {
                    client.sleep(Duration::from_millis(1))
                }
            }
        }
        drop(call);
        client.process();
    }
    while client.process() != super::Interest::None {
        client.sleep(Duration::from_millis(1));
    }
    client.flush_forgets();
    let walked = run(&client, client.walk(root, names("f"), Some(OpenHow::Read))).unwrap();
    assert_eq!(walked.end, WalkEnd::Complete);
    drop(walked);
    // The server runs in this process too: it has forgotten what it was told to, so only our own descriptors could be left.
    run(&client, client.get_attr(root)).unwrap();
    let target = dir.path().join("f");
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == target)).count();
    assert_eq!(links, 1, "the one handle that is still held");
}

#[test]
fn the_gofers_death_is_eio_for_all() {
    let (ours, theirs) = pair();
    let client = client(ours, Duration::from_micros(10));
    let node = Handle::from_raw(1).unwrap();
    let mut waiting = Box::pin(client.get_attr(node));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(theirs);
    client.process();
    assert!(client.is_dead());
    assert_eq!(run(&client, waiting).unwrap_err(), Errno::EIO);
    assert_eq!(run(&client, client.get_attr(node)).unwrap_err(), Errno::EIO);
    assert_eq!(client.submit(&Request::GetAttr { node }).wait().unwrap_err(), Errno::EIO);
}

#[test]
fn a_gofer_that_answers_nonsense_is_given_up() {
    let node = Handle::from_raw(1).unwrap();
    // Garbage; an answer to nothing; a descriptor missing.
    let nonsense: [&dyn Fn() -> Vec<u8>; 3] = [&|| vec![7; 5], &|| encoded(&Ok(Response::Done), 99), &|| {
        let fd = fs::File::open("/dev/null").unwrap().into();
        encoded(&Ok(Response::Opened(fd)), 1)
    }];
    for bytes in nonsense {
        let (ours, theirs) = pair();
        let client = client(ours, Duration::ZERO);
        let call = client.submit(&Request::GetAttr { node });
        rustix::net::send(&theirs, &bytes(), rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(call.wait().unwrap_err(), Errno::EIO);
    }
}

#[test]
fn a_walk_longer_than_asked_is_refused() {
    let (ours, theirs) = pair();
    let client = client(ours, Duration::ZERO);
    let dir = TestDir::new("longer");
    let mut walk = Box::pin(client.walk(Handle::from_raw(1).unwrap(), names("a"), None));
    assert!(walk.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let entry = {
        let (client, _server) = start(dir.path().into(), Access::ReadOnly, 10);
        run(&client, client.attach(0)).unwrap().root
    };
    let walked = Walked { steps: vec![entry; 2], end: WalkEnd::Complete, link: None, opened: None };
    let bytes = encoded(&Ok(Response::Walked(walked)), 1);
    rustix::net::send(&theirs, &bytes, rustix::net::SendFlags::empty()).unwrap();
    assert_eq!(run(&client, walk).unwrap_err(), Errno::EIO);
    assert!(!client.is_dead());
}

#[test]
fn another_thread_may_read_the_answers() {
    let dir = TestDir::new("threads");
    fs::write(dir.path().join("f"), "").unwrap();
    let (client, _server) = start(dir.path().into(), Access::ReadOnly, 500);
    let root = root(&client);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let client = Arc::clone(&client);
            std::thread::spawn(move || {
                for _ in 0..500 {
                    let walked = client.submit(&Request::Walk { start: root, names: names("f"), open: None }).wait().unwrap();
                    walked.handles().into_iter().for_each(|handle| client.forget(handle));
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
}

fn encoded(answer: &Result<Response, Errno>, tag: u64) -> Vec<u8> {
    let mut out = Vec::new();
    Response::encode(answer, tag, &mut out);
    out
}

#[test]
fn a_full_socket_delays_and_loses_nothing() {
    let (ours, theirs) = pair();
    let client = client(ours, Duration::ZERO);
    let dir = TestDir::new("full");
    let source = Source::at_path(dir.path()).unwrap();
    let attaches = vec![AttachConfig { source, access: Access::ReadWrite, cache: Cache::Shared }];
    let server = Server::new(server::Config { attaches, max_handles: 100, spin: server::Config::SPIN }).unwrap();
    let calls: Vec<_> = (0..3000).map(|_| client.submit(&Request::Attach { index: 7 })).collect();
    assert_eq!(client.process(), super::Interest::ReadableOrWritable);
    let server = std::thread::spawn(move || server.serve(theirs));
    for call in calls {
        assert_eq!(run(&client, call).unwrap_err(), Errno::ENOENT);
    }
    drop(client);
    server.join().unwrap().unwrap();
}
