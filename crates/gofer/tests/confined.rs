//! The gofer as a process, locked down: all it is for still works, and what it is not for ends it.
//!
//! Runs itself again as the gofer (`GOFER_ROLE`), with the socket as standard input. As root, the gofer becomes `nobody`.

use std::{
    ffi::CString,
    fs,
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    pin::pin,
    process::{Child, Command, ExitStatus},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use gofer::{
    Errno,
    client::{self, Client},
    passthrough::Source,
    protocol::*,
    server::{self, AttachConfig, LockDown, RunAs, Server},
};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    mm::{MapFlags, ProtFlags},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

fn main() {
    match std::env::var("GOFER_ROLE") {
        Ok(role) => gofer(&role),
        Err(_) => {
            let cases: [(&str, fn()); 4] = [
                ("a confined gofer does all operations", all_operations),
                ("a confined read-only gofer reads", read_only),
                ("what a gofer is not for ends it", forbidden_calls),
                ("outside its trees is nothing", landlock_holds),
            ];
            for (name, case) in cases {
                case();
                println!("test {name} ... ok");
            }
        }
    }
}

// The gofer's side.

fn gofer(role: &str) {
    let root = PathBuf::from(std::env::var_os("GOFER_ROOT").unwrap());
    let access = if role == "ro" { Access::ReadOnly } else { Access::ReadWrite };
    let attaches = vec![AttachConfig { source: Source::at_path(&root).unwrap(), access, cache: Cache::Exclusive }];
    let server =
        Server::new(server::Config { attaches, max_handles: server::Config::handles_for(1024), spin: server::Config::SPIN })
            .unwrap();
    let run_as = rustix::process::geteuid().is_root().then_some(RunAs { uid: 65534, gid: 65534 });
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let outside = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
    server.lock_down(&LockDown { run_as }).unwrap();
    match role {
        "ro" | "rw" => server.serve(socket).unwrap(),
        "landlock" => {
            let passwd = rustix::fs::openat2(&outside, "etc/passwd", OFlags::RDONLY, Mode::empty(), ResolveFlags::empty());
            std::process::exit(if passwd.err() == Some(rustix::io::Errno::ACCESS) { 0 } else { 1 });
        }
        forbidden => break_out(forbidden),
    }
    std::process::exit(0);
}

const FORBIDDEN: [&str; 10] = ["openat", "socket", "pipe", "kill", "thread", "process", "dup", "ioctl", "device", "file-mmap"];

fn break_out(how: &str) {
    match how {
        "openat" => drop(fs::File::open("/dev/null")),
        "socket" => drop(rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)),
        "pipe" => drop(rustix::pipe::pipe()),
        "kill" => drop(rustix::process::test_kill_process(rustix::process::Pid::INIT)),
        "thread" => drop(std::thread::spawn(|| ()).join()),
        "process" => drop(Command::new("/bin/true").status()),
        "dup" => drop(rustix::io::dup(std::io::stdin())),
        "ioctl" => drop(rustix::io::ioctl_fionread(std::io::stdin())),
        "device" => drop(rustix::fs::mknodat(rustix::fs::CWD, "device", FileType::CharacterDevice, Mode::RWXU, 0x105)),
        // SAFETY: a fresh mapping, never touched.
        "file-mmap" => drop(unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, std::io::stdin(), 0)
        }),
        _ => unreachable!("{how}"),
    }
}

// The sentry's side.

struct Gofer {
    client: Arc<Client>,
    process: Child,
    root: Handle,
}

fn start(role: &str, root: &Path, stdin: OwnedFd) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("GOFER_ROLE", role).env("GOFER_ROOT", root).env_remove("RUST_BACKTRACE").stdin(stdin).spawn().unwrap()
}

impl Gofer {
    fn new(role: &str, root: &Path) -> Gofer {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let process = start(role, root, theirs);
        let client = Client::new(ours, client::Config::new(2, Box::new(|_| {})));
        let root = run(&client, client.attach(0)).unwrap().root.handle;
        Gofer { client, process, root }
    }

    fn end(mut self) -> ExitStatus {
        drop(self.client);
        self.process.wait().unwrap()
    }
}

fn run<T>(client: &Client, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        std::thread::sleep(std::time::Duration::from_micros(100));
        client.process();
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

struct TestDir(PathBuf);

impl TestDir {
    fn new(what: &str) -> TestDir {
        let path = std::env::temp_dir().join(format!("nacre-confined-{what}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        TestDir(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn all_operations() {
    let dir = TestDir::new("all");
    let me = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let gofer = Gofer::new("rw", &dir.0);
    let (client, root) = (&gofer.client, gofer.root);

    let (f, fd) = run(client, client.create(root, name("f"), 0o4600, me, OpenHow::ReadWrite)).unwrap();
    assert_eq!((f.attr.uid, f.attr.mode), (me.uid, 0o4600));
    rustix::io::write(&fd, b"hello").unwrap();
    let d = run(client, client.mkdir(root, name("d"), 0o700, me)).unwrap().handle;
    run(client, client.mknod(d, name("p"), MakeNode::Fifo, 0o600, me)).unwrap();
    run(client, client.mknod(d, name("s"), MakeNode::Socket, 0o600, me)).unwrap();
    run(client, client.mknod(d, name("r"), MakeNode::Regular, 0o600, me)).unwrap();
    let l = run(client, client.symlink(d, name("l"), CString::from(c"../f"), me)).unwrap().handle;
    assert_eq!(run(client, client.read_link(l)).unwrap(), b"../f");
    assert_eq!(run(client, client.link(f.handle, d, name("f2"))).unwrap().attr.nlink, 2);
    run(client, client.rename(d, name("f2"), root, name("f3"), RenameKind::NoReplace, None, None)).unwrap();
    run(client, client.unlink(root, name("f3"), EntryKind::NotDirectory)).unwrap();

    let found = run(client, client.stat(root, vec![name("d")], vec![name("r"), name("none")])).unwrap();
    assert!(matches!(found[..], [Ok(_), Err(hostcall::Errno::ENOENT)]), "{found:?}");
    let scanned = run(client, client.scan(root, Vec::new(), vec![vec![name("d")]], 4, ReadDirDetail::Attributes)).unwrap();
    assert_eq!((scanned.len(), scanned[0].entries.len(), scanned[0].end), (1, 4, true));
    let opened =
        run(client, client.open_all(root, vec![name("d")], vec![name("r"), name("p"), name("r")], OpenHow::Read)).unwrap();
    assert!(matches!(opened[..], [Ok(_), Err(hostcall::Errno::ENXIO), Ok(_)]), "{opened:?}");

    let events = run(client, client.notifier()).unwrap();
    let watch = run(client, client.watch(d, 0x200)).unwrap(); // IN_DELETE
    run(client, client.watch(f.handle, 0x4)).unwrap();
    fs::remove_file(dir.0.join("d/r")).unwrap();
    let mut event = [0; 64];
    assert!(rustix::io::read(&*events, &mut event).unwrap() >= 16);
    assert_eq!((event[..4] == watch.to_ne_bytes(), &event[16..18]), (true, &b"r\0"[..]));
    client.unwatch(watch);
    fs::write(dir.0.join("d/r"), "").unwrap();

    let set = SetAttr {
        uid: Some(me.uid),
        mode: Some(0o640),
        size: Some(4),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(Timestamp { seconds: 1, nanoseconds: 0 })),
        ..SetAttr::default()
    };
    let attr = run(client, client.set_attr(f.handle, set)).unwrap();
    assert_eq!((attr.mode, attr.size, attr.mtime.seconds), (0o640, 4, 1));
    assert_eq!(run(client, client.get_attr(f.handle)).unwrap().mode, 0o640);
    let open = client.open(f.handle, OpenHow::Write, Truncate::ToZero);
    drop(run(client, open).unwrap());
    assert_eq!(run(client, client.get_attr(f.handle)).unwrap().size, 0);
    let large = vec![b'x'; 60_000];
    let user = || XattrName::new(b"user.x").unwrap();
    for value in [b"1".to_vec(), large] {
        match run(client, client.set_xattr(f.handle, user(), value.clone(), XattrMode::Set)) {
            Ok(()) => {
                assert_eq!(run(client, client.get_xattr(f.handle, user(), 65536)).unwrap(), value);
                assert_eq!(run(client, client.list_xattr(f.handle)).unwrap(), b"user.x\0");
                run(client, client.remove_xattr(f.handle, user())).unwrap();
            }
            Err(e) => assert!([Errno::EOPNOTSUPP, Errno::ENOSPC, Errno::E2BIG].contains(&e), "{e}"),
        }
    }
    run(client, client.fsync(f.handle, Durability::All)).unwrap();
    run(client, client.fsync(d, Durability::Data)).unwrap();
    assert!(run(client, client.stat_fs(d)).unwrap().block_size > 0);

    let listed = run(client, client.read_dir(d, 0, 65536, ReadDirDetail::Attributes)).unwrap();
    assert!(listed.end);
    let listed = listed.entries;
    assert_eq!(listed.len(), 4);
    assert!(
        run(client, client.read_dir(d, listed.last().unwrap().next, 65536, ReadDirDetail::Names)).unwrap().entries.is_empty()
    );
    // Enough to make the gofer's heap grow and shrink.
    for i in 0..600 {
        run(client, client.create(root, name(&format!("n{i}")), 0o600, me, OpenHow::Read)).unwrap();
    }
    let mut from = 0;
    let mut count = 0;
    loop {
        let listed = run(client, client.read_dir(root, from, 65536, ReadDirDetail::Attributes)).unwrap();
        let Some(last) = listed.entries.last() else { break };
        (from, count) = (last.next, count + listed.entries.len());
    }
    assert_eq!(count, 602);
    for entry in ["p", "s", "r", "l"] {
        run(client, client.unlink(d, name(entry), EntryKind::NotDirectory)).unwrap();
    }
    run(client, client.unlink(root, name("d"), EntryKind::Directory)).unwrap();
    client.forget(d);
    client.flush_forgets();
    assert_eq!(run(client, client.get_attr(d)).unwrap_err(), Errno::EBADF);
    // Answers to the unknown and the unlawful take their own ways.
    assert_eq!(run(client, client.attach(9)).unwrap_err(), Errno::ENOENT);
    assert_eq!(run(client, client.read_link(root)).unwrap_err(), Errno::EINVAL);
    assert!(gofer.end().success());
}

fn read_only() {
    let dir = TestDir::new("ro");
    fs::write(dir.0.join("private"), "text").unwrap();
    fs::set_permissions(dir.0.join("private"), fs::Permissions::from_mode(0o600)).unwrap();
    let gofer = Gofer::new("ro", &dir.0);
    let (client, root) = (&gofer.client, gofer.root);
    // As nobody, by CAP_DAC_READ_SEARCH.
    let walked = run(client, client.walk(root, vec![name("private")], Some(OpenHow::Read))).unwrap();
    let mut text = String::new();
    fs::File::from(walked.opened.unwrap().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
    assert_eq!(run(client, client.read_dir(root, 0, 4096, ReadDirDetail::Attributes)).unwrap().entries.len(), 1);
    let me = Owner { uid: 0, gid: 0 };
    assert_eq!(run(client, client.mkdir(root, name("d"), 0o700, me)).unwrap_err(), Errno::EROFS);
    let f = walked.steps[0].handle;
    assert_eq!(run(client, client.get_xattr(f, XattrName::new(b"user.x").unwrap(), 9)).unwrap_err(), Errno::ENODATA);
    run(client, client.fsync(f, Durability::Data)).unwrap();
    run(client, client.stat_fs(f)).unwrap();
    assert!(gofer.end().success());
}

fn landlock_holds() {
    let dir = TestDir::new("landlock");
    let (_ours, theirs) = rustix::pipe::pipe().unwrap();
    assert_eq!(start("landlock", &dir.0, theirs).wait().unwrap().code(), Some(0));
}

fn forbidden_calls() {
    let dir = TestDir::new("forbidden");
    for how in FORBIDDEN {
        let (_ours, theirs) = rustix::pipe::pipe().unwrap();
        let status = start(how, &dir.0, theirs).wait().unwrap();
        assert_eq!(status.signal(), Some(31), "{how}: {status}"); // SIGSYS
    }
}
