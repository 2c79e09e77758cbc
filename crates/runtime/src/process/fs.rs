//! The file process of a VM: builds its private tree, as a gofer does, and hands over to [`virtiofs`].

use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use agent_api::fds;
use gofer::protocol::Access;
use gofer::server::{AttachConfig, RunAs, give_up};
use hostcall::seccomp::gofer::GoferCalls;
use serde::{Deserialize, Serialize};
use virtiofs::{Server, TreeConfig};

use super::gofer::{Attach, attach_config, build_tree, detached};
use super::{Confined, message};
use crate::error::{Doing, Error, Result};

/// What it starts with; if `prepared`, with one mount per attach.
#[derive(Debug, Serialize, Deserialize)]
pub struct FsConfig {
    pub attaches: Vec<Attach>,
    /// The mounts come as descriptors; else they are cloned from its own mount namespace.
    pub prepared: bool,
    pub run_as: Option<u32>,
}

/// What it says when it serves.
const READY: u8 = 1;

/// Waits for that; what else it says is why it does not.
///
/// # Errors
/// It has ended.
pub fn wait_until_ready(fs: &Confined) -> Result<()> {
    let mut said = [0];
    match std::io::Read::read(&mut &fs.socket, &mut said) {
        Ok(1) if said == [READY] => Ok(()),
        Ok(0) => Err(Error::Other("the file process has ended without a word".into())),
        Ok(_) => {
            let rest = fs.last_words().unwrap_or_default();
            Err(Error::Other(format!("{}{rest}", char::from(said[0]))))
        }
        Err(error) => Err(error).doing(|| "cannot hear the file process"),
    }
}

/// Its life. Returns its exit status.
pub fn main(socket: &UnixStream) -> i32 {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("files: internal error: {info}");
        std::process::exit(134);
    }));
    match run(socket) {
        Ok(()) => 0,
        Err(text) => {
            let _ = message::send_all(socket.as_fd(), format!("files: {text}").as_bytes());
            1
        }
    }
}

fn run(socket: &UnixStream) -> std::result::Result<(), String> {
    let listener = introduce(socket).map_err(|e| format!("cannot make its connection to the VMM: {e}"))?;
    // No configuration: the runtime has died or given up.
    let Ok((config, mounts)) = message::receive::<FsConfig>(socket) else { return Ok(()) };
    let mounts: Vec<OwnedFd> = match config.prepared {
        true => mounts,
        false => config.attaches.iter().map(detached).collect::<Result<_>>().map_err(|e| e.to_string())?,
    };
    if mounts.len() != config.attaches.len() {
        return Err("not one mount per attach".into());
    }
    build_tree(&config.attaches, &mounts).map_err(|e| e.to_string())?;
    drop(mounts);
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let server = Server::new(virtiofs::Config::for_nofile(nofile));
    for (index, attach) in config.attaches.iter().enumerate() {
        let AttachConfig { source, access, cache } = attach_config(index, attach)?;
        server.shown().add(TreeConfig { source, access, cache }).map_err(|e| e.to_string())?;
    }
    let (access, calls) = match config.attaches.iter().all(|attach| attach.read_only) {
        true => (Access::ReadOnly, GoferCalls::ReadOnly),
        false => (Access::ReadWrite, GoferCalls::ReadWrite),
    };
    give_up(config.run_as.map(|id| RunAs { uid: id, gid: id }), access).map_err(|e| e.to_string())?;
    let running = server.start(listener).map_err(|e| e.to_string())?;
    running.confine(calls).map_err(|e| e.to_string())?;
    message::send_all(socket.as_fd(), &[READY]).map_err(|e| e.to_string())?;
    running.wait().map_err(|e| e.to_string())
}

/// Connects to itself, in the network namespace that nobody else is in, and gives the other end away: the device's library takes
/// connections only from a listener.
fn introduce(socket: &UnixStream) -> std::io::Result<UnixListener> {
    let name = SocketAddr::from_abstract_name(b"nacre-fs")?;
    let listener = UnixListener::bind_addr(&name)?;
    let end = UnixStream::connect_addr(&name)?;
    fds::send(socket.as_fd(), &[READY], &[end.as_fd()])?;
    Ok(listener)
}

/// Takes the VMM's end of the device's connection from a file process that has just started.
///
/// # Errors
/// It could not start; its words.
pub fn vmm_end(fs: &Confined) -> Result<OwnedFd> {
    let mut ends = Vec::new();
    let mut said = [0];
    match fds::receive(fs.socket.as_fd(), &mut said, &mut ends) {
        Ok(1) if said == [READY] => ends.pop().ok_or_else(|| Error::Other("the file process gives no connection".into())),
        Ok(0) => Err(Error::Other("the file process has ended without a word".into())),
        Ok(_) => Err(Error::Other(format!("{}{}", char::from(said[0]), fs.last_words().unwrap_or_default()))),
        Err(errno) => Err(errno).doing(|| "cannot hear the file process"),
    }
}
