//! The host cgroup of a sandbox: v1 or v2, by cgroupfs, also inside systemd's slices ([`systemd`]). Ordinary users have none.
//!
//! Its limits are a second fence: the sentry keeps a container's own limits exactly, and these leave room above them for the sandbox's
//! own threads and memory, so that the host's out-of-memory killer is not met first.

mod limits;
mod systemd;
mod v1;
mod v2;

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

pub use self::limits::{GUEST_MEMORY_OVERHEAD, HostLimits, asked};
use crate::error::{Doing, Error, Result};
use crate::process::{Privilege, in_user_namespace};

/// Where the host's cgroups are.
const MOUNT: &str = "/sys/fs/cgroup";

/// Which directories belong to a sandbox; as state keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    pub version: Version,
    /// All directories (v1: one per hierarchy).
    pub dirs: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// No cgroup.
    #[default]
    None,
    V1,
    V2,
}

/// How the engine names cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// By paths; systemd's form is understood too, as engines use it without saying so here.
    #[default]
    Cgroupfs,
    /// In systemd's form alone (`--systemd-cgroup`).
    Systemd,
}

/// A sandbox's cgroup.
#[derive(Debug, Default)]
pub struct Cgroup {
    location: Location,
}

/// How a new process gets into a cgroup.
#[derive(Debug)]
pub enum Entrance {
    /// There is none.
    Nowhere,
    /// Cloned into this directory (v2).
    Birth(OwnedFd),
    /// Its first step is to write itself into these `tasks` files (v1). A single-threaded process that moves itself is let in at
    /// once; for any other move the kernel first waits for an RCU grace period, some 8 ms (`cgroup_procs_write_start`).
    Walk(Vec<fs::File>),
}

impl Entrance {
    /// The directory to be cloned into.
    pub fn birth(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Entrance::Birth(dir) => Some(dir.as_fd()),
            Entrance::Nowhere | Entrance::Walk(_) => None,
        }
    }

    /// The new process's own step. It must have one thread.
    ///
    /// # Errors
    /// The host's.
    pub fn walk_in(&self) -> io::Result<()> {
        let Entrance::Walk(files) = self else { return Ok(()) };
        files.iter().try_for_each(|mut file| file.write_all(b"0"))
    }
}

/// What the host says a sandbox uses, all its processes together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: Option<u64>,
    pub memory: Option<u64>,
    pub pids: Option<u64>,
}

impl Location {
    /// Where the cgroup of container `id` is to be. `path` is OCI's `linux.cgroupsPath`: absolute from the hierarchy's root, relative to
    /// where this process is, or as engines write it for systemd.
    ///
    /// # Errors
    /// The path leaves the hierarchy, or the host's layout is not understood.
    pub fn plan(path: Option<&Path>, id: &str, driver: Driver, privilege: Privilege) -> Result<Location> {
        if privilege == Privilege::User {
            return Ok(Location::default());
        }
        let wanted = checked(path, id, driver)?;
        let location = Location::found(&wanted)?;
        // A rootless engine's root has what of cgroups it was given: often nothing. The sandbox itself keeps to limits of memory and processes.
        match location.dirs.iter().find(|dir| in_user_namespace() && !may_make(dir)) {
            None => Ok(location),
            Some(dir) => {
                tracing::warn!(
                    "{} may not be made: the container has no cgroup, so no limit of CPU time, CPUs or devices' bandwidth",
                    dir.display()
                );
                Ok(Location::default())
            }
        }
    }

    fn found(wanted: &Path) -> Result<Location> {
        let own = fs::read_to_string("/proc/self/cgroup").doing(|| "cannot read /proc/self/cgroup")?;
        if is_v2(Path::new(MOUNT)) {
            return Ok(Location { version: Version::V2, dirs: vec![v2::dir(Path::new(MOUNT), &own, wanted)] });
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").doing(|| "cannot read /proc/self/mountinfo")?;
        let dirs = v1::dirs(&mounts, &own, wanted);
        Ok(match dirs.is_empty() {
            true => Location::default(),
            false => Location { version: Version::V1, dirs },
        })
    }
}

/// An OCI cgroups path, without `..`; by the id if there is none.
fn checked(path: Option<&Path>, id: &str, driver: Driver) -> Result<PathBuf> {
    let wrong = |path: &Path, what: String| Error::Other(format!("linux.cgroupsPath {}: {what}", path.display()));
    match (path.filter(|path| !path.as_os_str().is_empty()), driver) {
        (None, Driver::Cgroupfs) => Ok(PathBuf::from(id)),
        (None, Driver::Systemd) => systemd::path(&format!(":nacre:{id}")).map_err(|what| wrong(Path::new(id), what)),
        (Some(path), _) if path.components().any(|c| c == std::path::Component::ParentDir) => {
            Err(wrong(path, "it contains \"..\"".into()))
        }
        (Some(path), driver) => match path.to_str().filter(|text| systemd::is_meant(text)) {
            Some(text) => systemd::path(text).map_err(|what| wrong(path, what)),
            None if driver == Driver::Systemd => {
                Err(wrong(path, "it is not of the form SLICE:PREFIX:NAME, as --systemd-cgroup has it".into()))
            }
            None => Ok(path.to_path_buf()),
        },
    }
}

/// Whether this process may make a directory, with those above it.
fn may_make(dir: &Path) -> bool {
    let there = dir.ancestors().find(|above| above.exists());
    there.is_some_and(|above| rustix::fs::access(above, Access::WRITE_OK).is_ok())
}

fn is_v2(mount: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs(mount).is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

impl Cgroup {
    /// Makes the directories and sets the limits. Directories that exist are used as they are, as runc does, unless a process is in them.
    ///
    /// # Errors
    /// The host's; a limit it refuses is named.
    pub fn create(location: Location, limits: &HostLimits) -> Result<Cgroup> {
        let cgroup = match location.version {
            Version::None => Cgroup::default(),
            Version::V1 => {
                v1::create(&location.dirs)?;
                Cgroup { location }
            }
            Version::V2 => {
                v2::create(Path::new(MOUNT), &location.dirs)?;
                Cgroup { location }
            }
        };
        let strangers = cgroup.pids();
        if !strangers.is_empty() {
            // Removing the container would kill them.
            let dir = cgroup.location.dirs.first().map(|dir| dir.display().to_string()).unwrap_or_default();
            return Err(Error::Other(format!(
                "container's cgroup is not empty: {} process(es) found in {dir}",
                strangers.len()
            )));
        }
        cgroup.set_limits(limits).inspect_err(|_| cgroup.remove_if_empty())?;
        Ok(cgroup)
    }

    /// Removes what was made, before anything was put in.
    fn remove_if_empty(&self) {
        for dir in &self.location.dirs {
            let _ = fs::remove_dir(dir);
        }
    }

    /// An existing one, from state.
    pub fn open(location: Location) -> Cgroup {
        Cgroup { location }
    }

    /// The way in for processes that are to live in it.
    ///
    /// # Errors
    /// The host's.
    pub fn entrance(&self) -> Result<Entrance> {
        match self.location.version {
            Version::None => Ok(Entrance::Nowhere),
            Version::V1 => v1::entrance(&self.location.dirs),
            Version::V2 => v2::entrance(&self.location.dirs),
        }
    }

    /// Sets limits; what is None stays.
    ///
    /// # Errors
    /// The host refuses one; it is named.
    pub fn set_limits(&self, limits: &HostLimits) -> Result<()> {
        match self.location.version {
            Version::None => Ok(()),
            Version::V1 => v1::set_limits(&self.location.dirs, limits),
            Version::V2 => self.location.dirs.iter().try_for_each(|dir| v2::set_limits(dir, limits)),
        }
    }

    /// What the host has counted.
    pub fn usage(&self) -> Usage {
        match self.location.version {
            Version::None => Usage::default(),
            Version::V1 => v1::usage(&self.location.dirs),
            Version::V2 => self.location.dirs.first().map(|dir| v2::usage(dir)).unwrap_or_default(),
        }
    }

    /// All processes in it.
    pub fn pids(&self) -> Vec<i32> {
        let dirs = self.location.dirs.first().into_iter();
        let text = dirs.filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok()).collect::<String>();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills what is still in it and removes the directories. Trying again while processes die.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn remove(&self) -> Result<()> {
        let mut patience = (0..9).map(|n| Duration::from_millis(1 << n));
        loop {
            let left = self.location.dirs.iter().map(|dir| (dir, fs::remove_dir(dir)));
            let busy = left.filter_map(|(dir, done)| match done {
                Ok(()) => None,
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => Some((dir, e)),
            });
            // All of them are tried each time.
            let Some((dir, error)) = busy.fold(None, |_, last| Some(last)) else { return Ok(()) };
            let Some(pause) = patience.next() else {
                return Err(error).doing(|| format!("cannot remove the cgroup {}", dir.display()));
            };
            for pid in self.pids().into_iter().filter_map(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(pause);
        }
    }
}

/// Writes a control file.
fn set(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    fs::write(&path, value).doing(|| format!("cannot write {value:?} to {}", path.display()))
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_are_refused() {
        let checked = |path: &str, driver| checked(Some(Path::new(path)), "x", driver).map(|path| path.display().to_string());
        assert!(checked("/a/../../b", Driver::Cgroupfs).is_err());
        assert_eq!(checked("", Driver::Cgroupfs).expect("path"), "x");
        assert_eq!(checked("/kubepods/pod1/x", Driver::Cgroupfs).expect("path"), "/kubepods/pod1/x");
        for driver in [Driver::Cgroupfs, Driver::Systemd] {
            assert_eq!(checked("a-b.slice:cri:x", driver).expect("path"), "/a.slice/a-b.slice/cri-x.scope");
        }
        assert_eq!(checked("", Driver::Systemd).expect("path"), "/system.slice/nacre-x.scope");
        assert!(checked("/kubepods/pod1/x", Driver::Systemd).is_err());
    }

    #[test]
    fn users_have_none() {
        assert_eq!(Location::plan(None, "x", Driver::default(), Privilege::User).expect("plan"), Location::default());
    }
}
