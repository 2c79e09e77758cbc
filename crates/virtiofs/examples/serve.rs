//! Serves directories of the host to a VMM, unconfined: for trying things and for measurements.
//!
//!     serve SOCKET DIRECTORY[:ro]...

use std::{os::unix::net::UnixListener, path::Path};

use gofer::{
    passthrough::Source,
    protocol::{Access, Cache},
};
use virtiofs::{Config, Server, TreeConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let socket = args.next().ok_or("usage: serve SOCKET DIRECTORY[:ro]...")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    let server = Server::new(Config::for_nofile(nofile));
    for tree in args {
        let (path, access) = match tree.strip_suffix(":ro") {
            Some(path) => (path, Access::ReadOnly),
            None => (tree.as_str(), Access::ReadWrite),
        };
        let source = Source::at_path(Path::new(path))?;
        println!("{}: {path}", server.shown().add(TreeConfig { source, access, cache: Cache::Exclusive, told: false })?);
    }
    let (vmm, _) = UnixListener::bind(&socket)?.accept()?;
    std::fs::remove_file(&socket)?;
    Ok(server.start(vmm)?.wait()?)
}
