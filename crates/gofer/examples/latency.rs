//! How long calls take, sentry to gofer and back: `cargo run --release -p gofer --example latency [ROOT]`.
//!
//! The gofer is a process of its own (this program again, with the socket as standard input).

use std::{
    os::fd::AsFd,
    path::Path,
    pin::pin,
    process::Command,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use gofer::{
    client::{self, Client},
    passthrough::Source,
    protocol::{Access, Cache, Handle, Name, OpenHow, ReadDirDetail},
    server::{self, AttachConfig, LockDown, Server},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

const ROUNDS: usize = 20_000;

fn main() {
    let root = std::env::args().nth(1).unwrap_or("/".into());
    if let Ok(spins) = std::env::var("GOFER") {
        let attaches = vec![AttachConfig {
            source: Source::at_path(Path::new(&root)).expect("root"),
            access: Access::ReadOnly,
            cache: Cache::Shared,
        }];
        let server = Server::new(server::Config {
            attaches,
            max_handles: 900,
            spin: if spins.ends_with("1") { server::Config::SPIN } else { Duration::ZERO },
        })
        .expect("attach");
        let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("socket");
        server.lock_down(&LockDown::default()).expect("lock-down");
        server.serve(socket).expect("serve");
        std::process::exit(0);
    }
    for spins in ["00", "10", "01", "11"] {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket pair");
        let mut gofer = Command::new("/proc/self/exe").arg(&root).env("GOFER", spins).stdin(theirs).spawn().expect("gofer");
        let client = Client::new(
            ours,
            client::Config {
                spin: if spins.starts_with("1") { client::Config::SPIN } else { Duration::ZERO },
                ..client::Config::new(2, Box::new(|_| {}))
            },
        );
        println!("spinning, sentry and gofer: {spins}");
        measure(&client);
        drop(client);
        gofer.wait().expect("gofer");
    }
}

fn measure(client: &Arc<Client>) {
    let root = run(client, client.attach(0)).expect("attach").root.handle;
    let deep = ["usr", "lib", "x86_64-linux-gnu", "libc.so.6"];
    row("getattr", || run(client, client.get_attr(root)).map(drop).expect("getattr"));
    row("walk 1 name", || walk(client, root, &deep[..1], None));
    row("walk 4 names", || walk(client, root, &deep, None));
    row("walk 3 names and open", || walk(client, root, &["usr", "lib", "os-release"], Some(OpenHow::Read)));
    row("walk to a missing name", || walk(client, root, &["usr", "lib", "missing"], None));
    row("walk 4 names, one by one", || {
        let mut at = root;
        for name in deep {
            let walked = run(client, client.walk(at, vec![Name::new(name.as_bytes()).expect("name")], None)).expect("walk");
            if at != root {
                client.forget(at);
            }
            at = walked.steps[0].handle;
        }
        client.forget(at);
    });
    let bin = run(client, client.walk(root, vec![Name::new(b"etc").expect("name")], None)).expect("walk").steps[0].handle;
    row("readdir /etc, 64 KiB, with attributes", || {
        run(client, client.read_dir(bin, 0, 65536, ReadDirDetail::Attributes)).map(drop).expect("readdir")
    });
}

fn walk(client: &Arc<Client>, from: Handle, names: &[&str], open: Option<OpenHow>) {
    let names = names.iter().map(|name| Name::new(name.as_bytes()).expect("name")).collect();
    let walked = run(client, client.walk(from, names, open)).expect("walk");
    walked.steps.iter().for_each(|step| client.forget(step.handle));
}

fn row(what: &str, mut call: impl FnMut()) {
    let mut times: Vec<Duration> = (0..ROUNDS / 10)
        .map(|_| {
            let start = Instant::now();
            (0..10).for_each(|_| call());
            start.elapsed() / 10
        })
        .collect();
    times.sort();
    println!("  {what:40} median {:>9.1?}  p99 {:>9.1?}", times[times.len() / 2], times[times.len() * 99 / 100]);
}

fn run<T>(client: &Client, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        client.process();
    }
}
