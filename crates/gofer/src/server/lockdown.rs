//! Giving up everything a gofer does not need.
//!
//! The runtime has made the process in new user, mount, pid, net, ipc and uts namespaces, with the trees mounted nodev, nosuid (and
//! ro where they are read-only) beneath a private root. What is left to do from inside is here, in the order that works:
//! identity, capabilities, not dumpable, Landlock, seccomp. Any failure is an error: nothing is served.

use hostcall::seccomp::gofer::GoferCalls;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope,
};
use rustix::{
    process::{DumpableBehavior, Gid, Uid},
    thread::{CapabilitySet, CapabilitySets},
};

use super::Server;
use crate::protocol::{Access, FileKind};

/// A user and group, as the gofer's user namespace has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

/// What the runtime decides about the lock-down.
#[derive(Debug, Clone, Default)]
pub struct LockDown {
    /// Become this user first (needs `CAP_SETUID`, `CAP_SETGID`); `None` if the runtime has done so.
    pub run_as: Option<RunAs>,
}

#[derive(Debug, thiserror::Error)]
pub enum LockDownError {
    #[error("gofer lock-down: cannot {step}: {errno}")]
    Host { step: &'static str, errno: hostcall::Errno },
    #[error("gofer lock-down: Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    #[error("gofer lock-down: the host kernel has no Landlock, or it is off (boot parameter lsm=)")]
    NoLandlock,
    #[error(transparent)]
    Seccomp(#[from] hostcall::seccomp::SeccompError),
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, LockDownError>;
}

impl<T> Step<T> for rustix::io::Result<T> {
    fn step(self, step: &'static str) -> Result<T, LockDownError> {
        self.map_err(|e| LockDownError::Host { step, errno: e.into() })
    }
}

impl Server {
    /// Locks the calling process down; it must have one thread only.
    ///
    /// # Errors
    /// The step that failed. The process must not serve then.
    pub fn lock_down(&self, how: &LockDown) -> Result<(), LockDownError> {
        let access = match self.attaches.iter().any(|attach| attach.access == Access::ReadWrite) {
            true => Access::ReadWrite,
            false => Access::ReadOnly,
        };
        give_up(how.run_as, access)?;
        self.landlock()?;
        let calls = match access {
            Access::ReadOnly => GoferCalls::ReadOnly,
            Access::ReadWrite => GoferCalls::ReadWrite,
        };
        Ok(hostcall::seccomp::gofer::list(calls).install()?)
    }

    /// The exported trees, each with the rights of its access, and nothing else: no other file, no TCP, no abstract sockets or
    /// signals outside.
    fn landlock(&self) -> Result<(), LockDownError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V6))?
            .handle_access(AccessNet::from_all(ABI::V6))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?;
        for attach in &self.attaches {
            let rights = landlock_rights(attach.access, attach.root.kind());
            rules = rules.add_rule(PathBeneath::new(attach.root.path_fd(), rights))?;
        }
        // Rights that an older kernel does not know are left out; Landlock as such is not optional.
        match rules.restrict_self()?.ruleset {
            RulesetStatus::NotEnforced => Err(LockDownError::NoLandlock),
            _ => Ok(()),
        }
    }
}

/// The part of a lock-down that every process which serves files takes: user, capabilities, umask, no dumps, no new privileges. For the calling
/// thread and those it makes.
///
/// # Errors
/// The step that failed. The process must not serve then.
pub fn give_up(run_as: Option<RunAs>, access: Access) -> Result<(), LockDownError> {
    // The guest's modes are final.
    rustix::process::umask(rustix::fs::Mode::empty());
    if let Some(user) = run_as {
        become_user(user)?;
    }
    keep_capabilities(wanted_capabilities(access))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become not dumpable")?;
    rustix::thread::set_no_new_privs(true).step("set no_new_privs")
}

fn landlock_rights(access: Access, kind: FileKind) -> BitFlags<AccessFs> {
    let file_read = AccessFs::ReadFile.into();
    let file_write = file_read | AccessFs::WriteFile | AccessFs::Truncate;
    match (kind, access) {
        (FileKind::Directory, Access::ReadOnly) => file_read | AccessFs::ReadDir,
        (FileKind::Directory, Access::ReadWrite) => {
            file_write
                | AccessFs::ReadDir
                | AccessFs::RemoveDir
                | AccessFs::RemoveFile
                | AccessFs::MakeDir
                | AccessFs::MakeReg
                | AccessFs::MakeSock
                | AccessFs::MakeFifo
                | AccessFs::MakeSym
                | AccessFs::Refer
        }
        (_, Access::ReadOnly) => file_read,
        (_, Access::ReadWrite) => file_write,
    }
}

/// To read a container's files one must pass their permissions, which the sentry checks; to write them also give them away.
fn wanted_capabilities(access: Access) -> CapabilitySet {
    match access {
        Access::ReadOnly => CapabilitySet::DAC_READ_SEARCH,
        Access::ReadWrite => {
            CapabilitySet::DAC_READ_SEARCH
                | CapabilitySet::DAC_OVERRIDE
                | CapabilitySet::CHOWN
                | CapabilitySet::FOWNER
                | CapabilitySet::FSETID
        }
    }
}

fn become_user(user: RunAs) -> Result<(), LockDownError> {
    if user.uid == u32::MAX || user.gid == u32::MAX {
        return Err(LockDownError::Host { step: "take a user id of -1", errno: hostcall::Errno::EINVAL });
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_keep_capabilities(true).step("keep capabilities")?;
    // A user namespace of an unprivileged user denies setgroups; then there are no groups to give up that could be.
    match rustix::thread::set_thread_groups(&[]) {
        Err(rustix::io::Errno::PERM) | Ok(()) => {}
        other => other.step("drop groups")?,
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("change group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("change user")
}

/// Keeps those of `wanted` that there are, in the permitted and effective sets only. Fewer than wanted (a rootless gofer) shows
/// later as `EACCES` or `EPERM` on the files concerned.
fn keep_capabilities(wanted: CapabilitySet) -> Result<(), LockDownError> {
    let have = rustix::thread::capabilities(None).step("read capabilities")?;
    for capability in CapabilitySet::all().iter().filter(|capability| !wanted.contains(*capability)) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Without CAP_SETPCAP the bounding set stays; no_new_privs makes it meaningless. EINVAL: newer than the kernel.
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => {}
            other => other.step("shrink the bounding set")?,
        }
    }
    rustix::thread::clear_ambient_capability_set().step("clear ambient capabilities")?;
    let keep = wanted & have.permitted;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).step("drop capabilities")
}
