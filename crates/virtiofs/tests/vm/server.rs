//! The server process: shows the host's `/` read-only as 0, a folder for reading and writing as 1, a single file as 2; and what it is sent on standard
//! input (a directory's descriptor) as 3, until it is sent nothing.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use gofer::{
    passthrough::Source,
    protocol::{Access, Cache},
    server::{RunAs, give_up},
};
use hostcall::seccomp::gofer::GoferCalls;
use rustix::{
    fs::{Mode, OFlags},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg,
        sendmsg,
    },
};
use virtiofs::{Config, Server, Shown, TreeConfig};

pub fn main() -> ! {
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let server = Server::new(Config::for_nofile(1024));
    let shown = server.shown().clone();
    let tree = |path: &Path, access, cache| TreeConfig { source: Source::at_path(path).unwrap(), access, cache, told: false };
    assert_eq!(shown.add(tree(Path::new("/"), Access::ReadOnly, Cache::Exclusive)).unwrap(), 0);
    assert_eq!(shown.add(tree(&path("FS_SHARE"), Access::ReadWrite, Cache::Exclusive)).unwrap(), 1);
    assert_eq!(shown.add(tree(&path("FS_FILE"), Access::ReadOnly, Cache::Shared)).unwrap(), 2);
    // A thread of the process that made the device, as the runtime's will be: it takes orders while the device is confined.
    std::thread::spawn(move || orders(&shown));
    let listener = UnixListener::bind(path("FS_SOCKET")).unwrap();
    give_up(Some(RunAs { uid: 65534, gid: 65534 }), Access::ReadWrite).unwrap();
    let running = server.start(listener.accept().unwrap().0).unwrap();
    running.confine(GoferCalls::ReadWrite).unwrap();
    running.wait().unwrap();
    std::process::exit(0);
}

fn orders(shown: &Shown) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        let (mut byte, mut control) = ([0], RecvAncillaryBuffer::new(&mut space));
        let received = recvmsg(std::io::stdin(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC);
        if received.map_or(0, |received| received.bytes) == 0 {
            return;
        }
        let directory = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match directory {
            Some(fd) => {
                let tree =
                    TreeConfig { source: Source::Directory(fd), access: Access::ReadWrite, cache: Cache::Shared, told: false };
                shown.add_at(3, tree).unwrap();
            }
            None => assert!(shown.remove(3)),
        }
    }
}

pub struct ServerProcess {
    child: Child,
    orders: UnixStream,
}

pub fn start(socket: &Path, share: &Path, file: &Path) -> ServerProcess {
    let (orders, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .env("FS_ROLE", "server")
        .env("FS_SOCKET", socket)
        .env("FS_SHARE", share)
        .env("FS_FILE", file)
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !socket.exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "the server does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    ServerProcess { child, orders }
}

impl ServerProcess {
    /// Shows a further tree, or no longer.
    pub fn order(&self, directory: Option<&Path>) {
        let directory = directory.map(|path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap());
        let fds: Vec<_> = directory.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&self.orders, &[IoSlice::new(&[1])], &mut control, SendFlags::empty()).unwrap();
    }

    /// Whether it has a descriptor of what is in a directory.
    pub fn holds(&self, directory: &Path) -> bool {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(directory)))
    }

    /// It ends by itself when the machine is gone.
    pub fn end(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the server ended with {status}");
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
