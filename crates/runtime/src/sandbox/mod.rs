//! [`Sandbox`]: the boundary a container runs behind, whatever it is made of.
//!
//! The runtime above knows the Agent protocol ([`Sandbox::agent`]) and this trait; which kind of sandbox it drives it does not know.

mod disk;
mod main_process;
mod sentry;
mod vm;

use std::fmt::{self, Debug};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use agent_api::{Client, ClientError, CreateContainerRequest, Mount, MountFlags, Stdio};
pub use keeper::Hold;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub use self::disk::{Disk, DiskSource, is_read_only};
use self::sentry::SentrySandbox;
use self::vm::VmSandbox;
use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Result};
use crate::logging;
use crate::process::gofer::Attach;
use crate::process::{IdMap, Ids, NOBODY, Network, Privilege, keeps};
use crate::state::ProcessRef;

const RESOLV_CONF: &[u8] = b"/etc/resolv.conf";

/// Which kind of boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A kernel of ours in user space.
    #[default]
    Sentry,
    /// A virtual machine with a Linux kernel.
    Vm,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Sentry => "sentry",
            Kind::Vm => "vm",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Kind, String> {
        match text {
            "sentry" => Ok(Kind::Sentry),
            "vm" => Ok(Kind::Vm),
            other => Err(format!("{other:?} is no kind of sandbox: sentry or vm")),
        }
    }
}

/// What a sandbox is made from.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container whose end is the sandbox's.
    pub first_container: String,
    /// Of a pod: the state directory, where later processes find what they need to add containers.
    pub pod: Option<&'a Path>,
    /// CPUs that can be used at a time.
    pub cpus: usize,
    /// Bytes of guest memory, all containers together.
    pub memory_limit: Option<u64>,
    /// Memory guests see, in bytes.
    pub memory_bytes: u64,
    /// Guest processes at a time.
    pub max_processes: usize,
    pub network: Network,
    /// What the first container will bring, to be there from the start.
    pub images: &'a [PathBuf],
    pub disks: &'a [Disk],
    /// Where others than the maker reach the agent.
    pub listener: Option<UnixListener>,
    pub report: File,
    pub cgroup: &'a Cgroup,
    pub privilege: Privilege,
    /// What of the host's ids the containers' files have (ordinary users).
    pub file_ids: FileIds,
    pub log: logging::Config,
    pub log_file: Option<BorrowedFd<'a>>,
    pub die_with_parent: bool,
}

/// How file owners appear inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileIds {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

impl FileIds {
    /// All as they are, as far as `privilege` goes: for an ordinary user only their own.
    pub fn own(privilege: Privilege) -> FileIds {
        match privilege {
            Privilege::Root => FileIds { uids: IdMap::of_own_users(), gids: IdMap::of_own_groups() },
            Privilege::User => {
                let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                FileIds { uids: vec![IdMap::one(uid, uid)], gids: vec![IdMap::one(gid, gid)] }
            }
        }
    }
}

impl From<FileIds> for Ids {
    fn from(ids: FileIds) -> Ids {
        Ids { uids: ids.uids, gids: ids.gids, switch_to: None }
    }
}

impl Ids {
    /// Of the process that runs a sandbox: nobody, or the user itself where there is no other.
    fn of_main_process(privilege: Privilege) -> Ids {
        let nobody = || vec![IdMap::one(NOBODY, NOBODY)];
        match privilege {
            Privilege::Root => Ids { uids: nobody(), gids: nobody(), switch_to: Some(NOBODY) },
            Privilege::User => FileIds::own(Privilege::User).into(),
        }
    }
}

/// Starts a sandbox's processes. Its first container is to be added.
///
/// # Errors
/// The host's, or of what the kind needs. Nothing is left running.
pub fn launch(kind: Kind, launch: Launch<'_>) -> Result<Box<dyn Sandbox>> {
    let own = FileIds::own(launch.privilege);
    if launch.privilege == Privilege::Root && !(keeps(&own.uids, NOBODY) && keeps(&own.gids, NOBODY)) {
        let what = "this user namespace is without user or group 65534, as whom sandboxes run: give it 65,536 ids (/etc/subuid, /etc/subgid)";
        return Err(Error::Other(what.into()));
    }
    match kind {
        Kind::Sentry => Ok(Box::new(SentrySandbox::launch(launch)?)),
        Kind::Vm => Ok(Box::new(VmSandbox::launch(launch)?)),
    }
}

/// How many images a VM can have from its start, with room left for as many disks as are usual; and how many more while it runs,
/// with two slots left for disks and block devices.
pub const IMAGES_AT_START: usize = vmm::qemu::MOST_DRIVES as usize - 8;
pub const IMAGES_LATER: usize = vm::POD_SLOTS as usize - 2;

/// A running sandbox that was made by an earlier process, and what a further container of it needs.
#[derive(Debug)]
pub struct Join<'a> {
    /// Its main process.
    pub main: ProcessRef,
    /// The state directory of its first container: its sockets are there.
    pub dir: &'a Path,
    pub agent: Client,
    pub report: File,
    /// Of the container to come; its gofer lives there.
    pub cgroup: &'a Cgroup,
    pub cpus: usize,
    pub privilege: Privilege,
    pub file_ids: FileIds,
}

/// Finds a running sandbox again, to add a container to it.
///
/// # Errors
/// It has ended; the host's. Nothing is left running of what was made for the container.
pub fn join(kind: Kind, join: Join<'_>) -> Result<Box<dyn Sandbox>> {
    match kind {
        Kind::Sentry => Ok(Box::new(SentrySandbox::join(join)?)),
        Kind::Vm => Ok(Box::new(VmSandbox::join(join)?)),
    }
}

/// Lets go what a running sandbox, whose first container's state directory is `dir`, holds of the host for a container that has been taken out of it.
pub fn let_go(kind: Kind, dir: &Path, id: &str) {
    match kind {
        // A gofer's trees go with it.
        Kind::Sentry => {}
        Kind::Vm => crate::process::fs_control::remove(dir, id),
    }
}

/// A container to add, with everything of the host it may see.
#[derive(Debug)]
pub struct ContainerPlan {
    /// Descriptor indices in it (gofer, stdio) are the sandbox's to fill in.
    pub request: CreateContainerRequest,
    /// Trees of the host, in the order the request's attach indices name them.
    pub attaches: Vec<Attach>,
    /// EROFS images, in the order the request names them by: opened here, mapped by the sentry, no gofer between.
    pub images: Vec<PathBuf>,
    /// Disks, likewise: with file systems that the guest's own kernel mounts, or given as what they are. For VMs.
    pub disks: Vec<Disk>,
}

impl ContainerPlan {
    /// # Errors
    /// It brings what a sandbox of this kind cannot have.
    pub fn fits(&self, kind: Kind) -> Result<()> {
        match (kind, self.disks.first()) {
            (Kind::Sentry, Some(disk)) => {
                let what = format!("{}: {}: only a virtual machine has disks (--sandbox vm)", disk.key, disk.source);
                Err(Error::Other(what))
            }
            (Kind::Sentry, None) | (Kind::Vm, _) => Ok(()),
        }
    }

    /// Puts a file of the host's in the place of /etc/resolv.conf, unless the container brings one.
    pub fn set_resolv_conf(&mut self, source: &Path) {
        if self.request.mounts.iter().any(|mount| mount.destination == RESOLV_CONF) {
            return;
        }
        let (source_text, source) = (source.as_os_str().as_encoded_bytes().to_vec(), source.to_path_buf());
        let attach = Attach { source, recursive: false, read_only: true, exclusive: false, hidden: Vec::new(), told: false };
        let kind = Some(attach.mounted(&mut self.attaches));
        self.request.mounts.push(Mount {
            destination: RESOLV_CONF.to_vec(),
            kind,
            flags: Some(MountFlags { read_only: true, nosuid: true, nodev: true, noexec: true, ..MountFlags::default() }),
            source: source_text,
        });
    }
}

/// Host descriptors of a process's standard streams. With a terminal, `stdin` and `stdout` are its wire.
#[derive(Debug, Clone, Copy)]
pub struct HostStdio<'a> {
    pub stdin: Option<BorrowedFd<'a>>,
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
}

impl<'a> HostStdio<'a> {
    /// Appends the descriptors to `fds` and names their indices.
    pub fn place(&self, fds: &mut Vec<BorrowedFd<'a>>) -> Stdio {
        let mut place = |fd: Option<BorrowedFd<'a>>| {
            fd.map(|fd| {
                fds.push(fd);
                fds.len() as u32 - 1
            })
        };
        Stdio { stdin: place(self.stdin), stdout: place(self.stdout), stderr: place(self.stderr) }
    }
}

/// How a sandbox ended, as its parent or its report tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// In order, with its first container's exit status.
    Exited(u8),
    /// It broke; the reason.
    Broke(String),
    /// It is gone, and left no word.
    Unknown,
}

/// A running sandbox, held by the process that made it, or joined.
pub trait Sandbox: Debug {
    /// Its processes' pids on the host, the main one first. Of a sandbox that was joined, beside that only those for the container to add.
    fn pids(&self) -> Vec<i32>;

    /// The protocol's client, to share with threads.
    fn agent(&self) -> &Arc<Client>;

    /// The file system of the last added container's memory, if it has one of its own ([`process::memory`](crate::process::memory)).
    fn memory_dev(&self) -> Option<u64> {
        None
    }

    /// Makes a container in it (not started).
    ///
    /// # Errors
    /// The agent's, or those of what the host has to provide (mounts that do not exist).
    fn add_container(&mut self, plan: ContainerPlan, stdio: HostStdio<'_>) -> Result<()>;

    /// Waits until the sandbox has ended; None if `timeout` passed first.
    fn wait(&self, timeout: Option<Duration>) -> Option<Ended>;

    /// What a process of it that has ended said before, if one did.
    fn last_words(&self) -> Option<String>;

    /// Ends it at once, with all that runs in it.
    fn stop(&mut self);

    /// A failed call, with the reason of the sandbox's death if that is why.
    fn explain(&self, what: &str, error: ClientError) -> Error {
        if !matches!(error, ClientError::Closed | ClientError::Socket(_)) {
            return Error::Agent { what: what.into(), cause: error };
        }
        let ended = self.wait(Some(Duration::from_secs(2)));
        if let Some(words) = self.last_words() {
            return Error::SandboxEnded(words);
        }
        match ended {
            Some(Ended::Broke(reason)) => Error::SandboxEnded(reason),
            Some(Ended::Exited(status)) => Error::SandboxEnded(format!("it exited with status {status}")),
            Some(Ended::Unknown) => Error::SandboxEnded("it left no reason".into()),
            None => Error::Agent { what: what.into(), cause: error },
        }
    }

    /// The first container's exit status although waiting for it has failed: a sandbox ends with it, with its status, and which of the two is
    /// seen first does not matter.
    ///
    /// # Errors
    /// [`Sandbox::explain`]'s, if the sandbox has not ended in order.
    fn status_instead(&self, what: &str, error: ClientError) -> Result<u8> {
        if matches!(error, ClientError::Closed | ClientError::Socket(_))
            && let Some(Ended::Exited(status)) = self.wait(Some(Duration::from_secs(2)))
        {
            return Ok(status);
        }
        Err(self.explain(what, error))
    }
}

/// A file-system image: a regular file, only to be read.
fn open_image(path: &Path) -> Result<OwnedFd> {
    let about = || format!("cannot open the image {}", path.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).doing(about)?;
    let stat = rustix::fs::fstat(&file).doing(about)?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        true => Ok(file),
        false => Err(Error::Other(format!("the image {} is not a regular file", path.display()))),
    }
}
