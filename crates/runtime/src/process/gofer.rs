//! The gofer process: builds its private tree and hands over to [`gofer::server`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_api::{CacheMode, GoferMount, mount};
use gofer::protocol::{Access, Cache};
use gofer::server::{AttachConfig, Config, LockDown, RunAs};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use serde::{Deserialize, Serialize};

use super::isolate::{Code, Step, StepError, enter_private_root, tmpfs};
use super::{Ids, NOBODY, Privilege, keeps, message};
use crate::error::{Doing, Result};
use crate::sys::{self, MountAttr};

/// A tree of the host to export. Their order gives the attach index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub source: PathBuf,
    /// With the mounts below it.
    pub recursive: bool,
    pub read_only: bool,
    /// Only this container changes it.
    pub exclusive: bool,
    /// Directories in it that are to appear empty (the host's /proc under `do`).
    pub hidden: Vec<PathBuf>,
    /// A VM's guest is told of what others change in it (a sentry asks by itself, where somebody watches).
    pub told: bool,
}

impl Attach {
    /// Adds it to a container's, which others may change too: what is then mounted of it.
    pub fn mounted(self, attaches: &mut Vec<Attach>) -> mount::Kind {
        attaches.push(self);
        mount::Kind::Gofer(GoferMount { attach: attaches.len() as u32 - 1, cache: CacheMode::Shared.into() })
    }
}

/// The trees of a process that serves files, and as whom it does so.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trees {
    attaches: Vec<Attach>,
    /// The mounts come as descriptors, one per attach; else the process clones them from its own mount namespace.
    prepared: bool,
    run_as: Option<u32>,
}

impl Trees {
    /// For a process with these ids; also the mounts to send it.
    ///
    /// # Errors
    /// A mount that cannot be had.
    pub fn new(attaches: &[Attach], privilege: Privilege, ids: &Ids) -> Result<(Trees, Vec<OwnedFd>)> {
        let prepared = privilege == Privilege::Root;
        let mounts = match prepared {
            true => attaches.iter().map(detached).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        // With other maps there may be no such user; it is not the host's root in any case.
        let run_as = (keeps(&ids.uids, NOBODY) && keeps(&ids.gids, NOBODY)).then_some(NOBODY);
        Ok((Trees { attaches: attaches.to_vec(), prepared, run_as }, mounts))
    }

    /// Whether the guest is told of changes, for each of them.
    pub(super) fn told(&self) -> impl Iterator<Item = bool> {
        self.attaches.iter().map(|attach| attach.told)
    }

    /// Leaves the host's tree for one of these alone; what each attach is there.
    pub(super) fn enter(&self, mounts: Vec<OwnedFd>) -> std::result::Result<Vec<AttachConfig>, String> {
        let mounts = match self.prepared {
            true => mounts,
            false => self.attaches.iter().map(detached).collect::<Result<_>>().map_err(|e| e.to_string())?,
        };
        if mounts.len() != self.attaches.len() {
            return Err("not one mount per attach".into());
        }
        build_tree(&self.attaches, &mounts).map_err(|e| e.to_string())?;
        self.attaches.iter().enumerate().map(|(index, attach)| attach_config(index, attach)).collect()
    }

    pub(super) fn run_as(&self) -> Option<RunAs> {
        self.run_as.map(|id| RunAs { uid: id, gid: id })
    }
}

/// What a gofer starts with. Descriptor 0 is its socket to the sentry; then its container's memory, if that has a file system of its own
/// ([`super::memory`]); then the trees' mounts.
#[derive(Debug, Serialize, Deserialize)]
pub struct GoferConfig {
    pub trees: Trees,
    /// Whether memory is there to be held.
    pub holds_memory: bool,
    /// Sentry and gofer can run at the same time: waiting by spinning may pay.
    pub spin: bool,
}

/// A detached copy of a mount: private, nodev, nosuid, and read-only if asked for.
///
/// # Errors
/// The host's; the source does not exist.
pub fn detached(attach: &Attach) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if attach.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, &attach.source, flags).doing(|| format!("cannot mount {}", attach.source.display()))?;
    let set = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | if attach.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attr = MountAttr { set, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    sys::mount_setattr(tree.as_fd(), attach.recursive, &attr)
        .doing(|| format!("cannot change the attributes of the mount of {}", attach.source.display()))?;
    Ok(tree)
}

/// A gofer's life. Returns its exit status.
pub fn main(socket: &UnixStream) -> i32 {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("gofer: internal error: {info}");
        std::process::exit(134);
    }));
    match run(socket) {
        Ok(()) => 0,
        Err(text) => {
            let _ = message::send_all(socket.as_fd(), format!("gofer: {text}").as_bytes());
            1
        }
    }
}

fn run(socket: &UnixStream) -> std::result::Result<(), String> {
    // No configuration: the runtime has died or given up.
    let Ok((config, descriptors)) = message::receive::<GoferConfig>(socket) else { return Ok(()) };
    let mut descriptors = descriptors.into_iter();
    let connection = descriptors.next().ok_or("no connection to the sentry")?;
    // Held open for as long as this process lives, so that others can find it.
    let _memory = if config.holds_memory { descriptors.next() } else { None };
    let attaches = config.trees.enter(descriptors.collect())?;
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let server = Config {
        attaches,
        max_handles: Config::handles_for(open_files.min(1 << 20)),
        spin: if config.spin { Config::SPIN } else { Duration::ZERO },
    };
    let lock_down = LockDown { run_as: config.trees.run_as() };
    gofer::server::serve(connection, server, &lock_down).map_err(|e| e.to_string())
}

/// The private tree: /0, /1, …, each a mount.
fn build_tree(attaches: &[Attach], mounts: &[OwnedFd]) -> std::result::Result<(), StepError> {
    enter_private_root(|root| {
        for (index, (attach, mount)) in attaches.iter().zip(mounts).enumerate() {
            let name = index.to_string();
            let stat = rustix::fs::fstat(mount).step("stat a mount")?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                rustix::fs::mkdirat(root, &name, Mode::from_raw_mode(0o755)).step("make a directory")?;
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(root, &name, flags, Mode::from_raw_mode(0o644)).step("make a file")?;
            }
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(mount.as_fd(), "", root, &name, flags).step("place a mount")?;
            for hidden in &attach.hidden {
                hide(mount, hidden).step("hide a directory")?;
            }
        }
        Ok(())
    })
}

/// Puts an empty read-only file system over a directory of the tree, if it is there.
fn hide(mount: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let at = match rustix::fs::openat(mount, path, flags, Mode::empty()) {
        Ok(at) => at,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let empty = tmpfs(&[("size", "4k"), ("nr_inodes", "2"), ("mode", "0755")], Code::None)?;
    sys::mount_setattr(empty.as_fd(), false, &MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() })?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(empty.as_fd(), "", at.as_fd(), "", flags)?)
}

fn attach_config(index: usize, attach: &Attach) -> std::result::Result<AttachConfig, String> {
    let source = gofer::passthrough::Source::at_path(Path::new(&format!("/{index}")))
        .map_err(|errno| format!("cannot open {}: {errno}", attach.source.display()))?;
    Ok(AttachConfig {
        source,
        access: if attach.read_only { Access::ReadOnly } else { Access::ReadWrite },
        cache: if attach.exclusive { Cache::Exclusive } else { Cache::Shared },
    })
}
