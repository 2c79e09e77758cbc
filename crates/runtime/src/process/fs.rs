//! The file process of a VM: builds its private tree, as a gofer does, and hands over to [`virtiofs`]. A pod's takes further trees while it
//! runs ([`fs_control`](super::fs_control)).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use agent_api::{FileChange, FilesChangedRequest, fds};
use gofer::protocol::Access;
use gofer::server::{AttachConfig, give_up};
use hostcall::seccomp::gofer::GoferCalls;
use prost::Message;
use virtiofs::{Change, Happening, Server, TreeConfig, tell_changes};

use serde::{Deserialize, Serialize};

use super::confine::landlock_but_files;
use super::fs_control::Control;
use super::gofer::Trees;
use super::{Confined, message};
use crate::error::{Doing, Error, Result};

/// What it says when it can be connected to, and when it serves.
const READY: u8 = 1;

/// What it serves with.
#[derive(Debug, Serialize, Deserialize)]
pub struct FsConfig {
    /// Those of the first container; their mounts come as descriptors.
    pub trees: Trees,
    /// Whether there may be more later: the last descriptor is then the socket where they are announced. The one before it is where the keeper is told what
    /// others change.
    pub more: More,
}

/// Whether trees are added while it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum More {
    /// They may be, to write to as well.
    ToCome,
    None,
}

/// Waits until it serves.
///
/// # Errors
/// It has ended; its words.
pub fn wait_until_ready(fs: &Confined) -> Result<()> {
    hear(fs).map(drop)
}

/// Takes the VMM's end of the device's connection from a file process that has just started.
///
/// # Errors
/// It could not start; its words.
pub fn vmm_end(fs: &Confined) -> Result<OwnedFd> {
    hear(fs)?.pop().ok_or_else(|| Error::Other("the file process gives no connection".into()))
}

/// Hears that it is ready, with what it gives; whatever else it says is why it is not.
fn hear(fs: &Confined) -> Result<Vec<OwnedFd>> {
    let (mut said, mut given) = ([0], Vec::new());
    match fds::receive(fs.socket.as_fd(), &mut said, &mut given) {
        Ok(1) if said == [READY] => Ok(given),
        Ok(0) => Err(Error::Other("the file process has ended without a word".into())),
        Ok(_) => Err(Error::Other(format!("{}{}", char::from(said[0]), fs.last_words().unwrap_or_default()))),
        Err(errno) => Err(errno).doing(|| "cannot hear the file process"),
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
    let vmm = introduce(socket).map_err(|e| format!("cannot make its connection to the VMM: {e}"))?;
    // No configuration: the runtime has died or given up.
    let Ok((config, mut descriptors)) = message::receive::<FsConfig>(socket) else { return Ok(()) };
    let control = match config.more {
        More::ToCome => Some(descriptors.pop().ok_or("no control socket")?),
        More::None => None,
    };
    let keeper = descriptors.pop().ok_or("nobody to tell of changes")?;
    let attaches = config.trees.enter(descriptors)?;
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let server = Server::new(virtiofs::Config::for_nofile(nofile));
    let to_read = control.is_none() && attaches.iter().all(|attach| attach.access == Access::ReadOnly);
    let (access, calls) = match to_read {
        true => (Access::ReadOnly, GoferCalls::ReadOnly),
        false => (Access::ReadWrite, GoferCalls::ReadWrite),
    };
    for (AttachConfig { source, access, cache }, told) in attaches.into_iter().zip(config.trees.told()) {
        server.shown().add(TreeConfig { source, access, cache, told }).map_err(|e| e.to_string())?;
    }
    give_up(config.trees.run_as(), access).map_err(|e| e.to_string())?;
    if let Some(missing) = landlock_but_files()? {
        eprintln!("files: {missing}");
    }
    if control.is_some() || config.trees.told().any(|told| told) {
        tell_changes(server.shown(), teller(keeper)).map_err(|e| format!("cannot watch for changes: {e}"))?;
    }
    if let Some(listener) = control {
        Control::start(listener.into(), server.shown().clone()).map_err(|e| format!("cannot start its control: {e}"))?;
    }
    let running = server.start(vmm).map_err(|e| e.to_string())?;
    running.confine(calls).map_err(|e| e.to_string())?;
    message::send_all(socket.as_fd(), &[READY]).map_err(|e| e.to_string())?;
    running.wait().map_err(|e| e.to_string())
}

/// Tells the keeper, and waits until the guest has been told.
fn teller(keeper: OwnedFd) -> impl FnMut(&[Change]) -> bool {
    let mut keeper = File::from(keeper);
    move |changes| {
        let request = FilesChangedRequest { changes: changes.iter().map(message_of).collect() }.encode_to_vec();
        let told = [&(request.len() as u32).to_le_bytes(), request.as_slice()].concat();
        keeper.write_all(&told).and_then(|()| keeper.read_exact(&mut [0])).is_ok()
    }
}

fn message_of(change: &Change) -> FileChange {
    let happening = match change.happening {
        Happening::Created => agent_api::Happening::Created,
        Happening::Deleted => agent_api::Happening::Deleted,
        Happening::Moved => agent_api::Happening::Moved,
        Happening::Written => agent_api::Happening::Written,
        Happening::AttributesChanged => agent_api::Happening::AttributesChanged,
        Happening::Closed => agent_api::Happening::Closed,
    };
    let (target_directory, target_name) = change.target.clone().unwrap_or_default();
    FileChange {
        happening: happening.into(),
        kind: change.kind,
        directory: change.directory.clone(),
        name: change.name.clone(),
        target_directory,
        target_name,
        token: change.token.clone(),
    }
}

/// Makes the connection to the VMM and gives its end of it away.
fn introduce(socket: &UnixStream) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    fds::send(socket.as_fd(), &[READY], &[theirs.as_fd()])?;
    Ok(ours)
}
