//! A running file process's control: trees of containers that join a pod's VM, and leave it.
//!
//! The socket is in the state directory of the pod's first container, so that any later process of the runtime finds it. Who may connect is who may
//! write there. A tree comes as a detached mount; the file process, which can mount nothing any more, serves from its descriptor.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use gofer::passthrough::Source;
use gofer::protocol::{Access, Cache, Name};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::{Deserialize, Serialize};
use virtiofs::{Shown, TreeConfig};

use super::gofer::{Attach, detached};
use super::{Privilege, message};
use crate::error::{Doing, Error, Result};
use crate::state::Socket;

/// The socket, in the state directory.
const SOCKET: &str = "fs.sock";
/// The thread needs little.
const STACK: usize = 128 << 10;

/// What the runtime asks for.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// To show these, whose mounts come as descriptors.
    Add { container: String, trees: Vec<Tree> },
    /// To show a container's trees no longer.
    Remove { container: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Tree {
    /// Of the mount's directory, only this entry, which is no directory.
    entry: Option<Vec<u8>>,
    access: TreeAccess,
    exclusive: bool,
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum TreeAccess {
    ReadOnly,
    ReadWrite,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// Under these numbers of the device.
    Shown(Vec<u32>),
    Removed,
    Failed(String),
}

/// Makes the socket, for the file process to come.
///
/// # Errors
/// The host's.
pub fn listen(dir: &Path) -> Result<UnixListener> {
    at_socket(dir, |path| UnixListener::bind(path)).doing(|| "cannot make the file process's socket")
}

/// Shows a container's trees; their numbers, in order.
///
/// # Errors
/// A tree that cannot be had; the file process's.
pub fn add(dir: &Path, privilege: Privilege, container: &str, attaches: &[Attach]) -> Result<Vec<u32>> {
    if privilege == Privilege::User && !attaches.is_empty() {
        return Err(Error::Other(
            "an ordinary user's VM takes no files of further containers: it can be given no mounts".into(),
        ));
    }
    let (trees, mounts) = attaches.iter().map(tree).collect::<Result<(Vec<Tree>, Vec<OwnedFd>)>>()?;
    match ask(dir, &Order::Add { container: container.into(), trees }, &mounts)? {
        Answer::Shown(numbers) if numbers.len() == attaches.len() => Ok(numbers),
        Answer::Failed(why) => Err(Error::Other(format!("cannot show the container's files: {why}"))),
        other => Err(Error::Other(format!("the file process does not answer what it was asked: {other:?}"))),
    }
}

/// Shows the trees of a container no longer that has left. What fails is logged.
pub fn remove(dir: &Path, container: &str) {
    match ask(dir, &Order::Remove { container: container.into() }, &[]) {
        Ok(Answer::Removed) => {}
        other => tracing::debug!("the files of container {container} cannot be let go: {other:?}"),
    }
}

fn ask(dir: &Path, order: &Order, mounts: &[OwnedFd]) -> Result<Answer> {
    let about = || "cannot reach the VM's file process (was its first container made as a pod's?)";
    let socket = at_socket(dir, |path| UnixStream::connect(path)).doing(about)?;
    let fds: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
    message::send(&socket, order, &fds).doing(about)?;
    message::receive(&socket).map(|(answer, _)| answer).doing(about)
}

/// Works with the socket's path.
fn at_socket<T>(dir: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    work(&Socket::in_dir(dir, SOCKET)?.path)
}

/// A tree to send, and its mount.
fn tree(attach: &Attach) -> Result<(Tree, OwnedFd)> {
    if !attach.hidden.is_empty() {
        return Err(Error::Other("a container that joins a VM can hide nothing of its files".into()));
    }
    let access = if attach.read_only { TreeAccess::ReadOnly } else { TreeAccess::ReadWrite };
    let about = || format!("cannot mount {}", attach.source.display());
    let source = std::fs::canonicalize(&attach.source).doing(about)?;
    let (Some(parent), Some(name), false) = (source.parent(), source.file_name(), source.is_dir()) else {
        return Ok((Tree { entry: None, access, exclusive: attach.exclusive, told: attach.told }, detached(attach)?));
    };
    // A file that is a mount itself is only seen with the mounts below its directory.
    let mount_of = |path: &Path| statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id);
    let recursive = mount_of(&source).doing(about)? != mount_of(parent).doing(about)?;
    let directory = Attach { source: parent.into(), recursive, ..attach.clone() };
    let tree = Tree { entry: Some(name.as_bytes().to_vec()), access, exclusive: attach.exclusive, told: false };
    Ok((tree, detached(&directory)?))
}

/// The file process's side: a thread, made before the process may make none.
pub struct Control {
    shown: Shown,
    /// The numbers of each container's trees.
    trees: HashMap<String, Vec<u32>>,
}

impl Control {
    /// Begins to listen.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn start(listener: UnixListener, shown: Shown) -> io::Result<()> {
        let mut control = Control { shown, trees: HashMap::new() };
        let work = move || {
            for client in listener.incoming() {
                // A client that has gone meanwhile has no answer to get.
                let _ = client.and_then(|client| control.attend(&client));
            }
        };
        std::thread::Builder::new().name("control".into()).stack_size(STACK).spawn(work).map(drop)
    }

    fn attend(&mut self, client: &UnixStream) -> io::Result<()> {
        let (order, mounts) = message::receive::<Order>(client)?;
        let answer = match order {
            Order::Add { container, trees } => match self.add(container, trees, mounts) {
                Ok(numbers) => Answer::Shown(numbers),
                Err(why) => Answer::Failed(why),
            },
            Order::Remove { container } => {
                self.remove(&container);
                Answer::Removed
            }
        };
        message::send(client, &answer, &[])
    }

    fn add(&mut self, container: String, trees: Vec<Tree>, mounts: Vec<OwnedFd>) -> std::result::Result<Vec<u32>, String> {
        if self.trees.contains_key(&container) {
            return Err(format!("there are trees of container {container} already"));
        }
        if trees.len() != mounts.len() {
            return Err("not one mount per tree".into());
        }
        let mut numbers = Vec::new();
        for (tree, mount) in trees.into_iter().zip(mounts) {
            match self.show(tree, mount) {
                Ok(number) => numbers.push(number),
                Err(why) => {
                    for number in numbers {
                        self.shown.remove(number);
                    }
                    return Err(why);
                }
            }
        }
        self.trees.insert(container, numbers.clone());
        Ok(numbers)
    }

    fn show(&self, tree: Tree, mount: OwnedFd) -> std::result::Result<u32, String> {
        let source = match tree.entry {
            None => Source::Directory(mount),
            Some(name) => Source::Entry { dir: mount, name: Name::new(&name).map_err(|errno| errno.to_string())? },
        };
        let access = match tree.access {
            TreeAccess::ReadOnly => Access::ReadOnly,
            TreeAccess::ReadWrite => Access::ReadWrite,
        };
        let cache = if tree.exclusive { Cache::Exclusive } else { Cache::Shared };
        self.shown.add(TreeConfig { source, access, cache, told: tree.told }).map_err(|e| e.to_string())
    }

    fn remove(&mut self, container: &str) {
        for number in self.trees.remove(container).unwrap_or_default() {
            self.shown.remove(number);
        }
    }
}
