//! The server process: shows the host's `/` read-only as 0, a folder for reading and writing as 1, a single file as 2.

use std::{
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gofer::{
    passthrough::Source,
    protocol::{Access, Cache},
    server::{RunAs, give_up},
};
use hostcall::seccomp::gofer::GoferCalls;
use virtiofs::{Config, Server, TreeConfig};

pub fn main() -> ! {
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let server = Server::new(Config::for_nofile(1024));
    let shown = server.shown().clone();
    let tree = |path: &Path, access, cache| TreeConfig { source: Source::at_path(path).unwrap(), access, cache };
    assert_eq!(shown.add(tree(Path::new("/"), Access::ReadOnly, Cache::Exclusive)).unwrap(), 0);
    assert_eq!(shown.add(tree(&path("FS_SHARE"), Access::ReadWrite, Cache::Exclusive)).unwrap(), 1);
    assert_eq!(shown.add(tree(&path("FS_FILE"), Access::ReadOnly, Cache::Shared)).unwrap(), 2);
    let listener = UnixListener::bind(path("FS_SOCKET")).unwrap();
    give_up(Some(RunAs { uid: 65534, gid: 65534 }), Access::ReadWrite).unwrap();
    let running = server.start(listener).unwrap();
    running.confine(GoferCalls::ReadWrite).unwrap();
    running.wait().unwrap();
    std::process::exit(0);
}

pub struct ServerProcess(Child);

pub fn start(socket: &Path, share: &Path, file: &Path) -> ServerProcess {
    let child = Command::new(std::env::current_exe().unwrap())
        .env("FS_ROLE", "server")
        .env("FS_SOCKET", socket)
        .env("FS_SHARE", share)
        .env("FS_FILE", file)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !socket.exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "the server does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    ServerProcess(child)
}

impl ServerProcess {
    /// It ends by itself when the machine is gone.
    pub fn end(mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "the server ended with {status}");
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
