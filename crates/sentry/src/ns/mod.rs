//! Namespaces: what a group of processes sees as the whole system (namespaces(7)).
//!
//! [`Namespaces`] is a task's set, one of each kind (Linux's `nsproxy`); immutable, a change makes a new one. Two kinds stand elsewhere: the
//! user namespace is part of [`Creds`](crate::task::Creds), and the pid namespace a process lives in, of its
//! [`ThreadGroup`](crate::task::ThreadGroup). Each kind has a file here. A new kind of namespace gets a field in [`Namespaces`], a line in
//! [`Kind`], and an arm in [`Namespaces::unshare`] and `setns`.
//!
//! The container's own user and pid namespaces are the roots, and inside the kernel all ids and process numbers are those of the roots:
//! nested namespaces only translate at the system-call layer, so nothing below it knows them.

mod cgroup;
mod file;
mod ipc;
mod pid;
mod user;
mod uts;

pub use cgroup::CgroupNamespace;
pub use file::{Held, NsFile, open};
pub use ipc::IpcNamespace;
pub use pid::{PidNamespace, PidNs};
pub use user::{Extent, IdMap, Ids, OVERFLOW_ID, UserNamespace, UserNs};
pub use uts::{Uts, UtsNamespace};

use std::sync::Arc;

use crate::Errno;
use crate::kernel::Kernel;
use crate::net::NetNamespace;
use crate::task::{Capability, CloneFlags, Creds};

/// The kinds of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Cgroup,
    Ipc,
    Mnt,
    Net,
    Pid,
    User,
    Uts,
}

impl Kind {
    /// All, as /proc/PID/ns lists them.
    pub const ALL: [Kind; 7] = [Kind::Cgroup, Kind::Ipc, Kind::Mnt, Kind::Net, Kind::Pid, Kind::User, Kind::Uts];

    /// Its name in /proc/PID/ns.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cgroup => "cgroup",
            Kind::Ipc => "ipc",
            Kind::Mnt => "mnt",
            Kind::Net => "net",
            Kind::Pid => "pid",
            Kind::User => "user",
            Kind::Uts => "uts",
        }
    }

    /// Its flag for clone, unshare and setns.
    pub fn flag(self) -> CloneFlags {
        match self {
            Kind::Cgroup => CloneFlags::NEWCGROUP,
            Kind::Ipc => CloneFlags::NEWIPC,
            Kind::Mnt => CloneFlags::NEWNS,
            Kind::Net => CloneFlags::NEWNET,
            Kind::Pid => CloneFlags::NEWPID,
            Kind::User => CloneFlags::NEWUSER,
            Kind::Uts => CloneFlags::NEWUTS,
        }
    }

    /// The number of the first namespace of a kind, as on Linux (include/linux/proc_ns.h).
    pub fn first_id(self) -> u64 {
        match self {
            Kind::Ipc => 0xefff_ffff,
            Kind::Uts => 0xefff_fffe,
            Kind::User => 0xefff_fffd,
            Kind::Pid => 0xefff_fffc,
            Kind::Cgroup => 0xefff_fffb,
            Kind::Mnt => 0xf000_0001,
            Kind::Net => 0xf000_0000,
        }
    }
}

/// The number of a new namespace: the inode number of its file.
pub fn new_id(kernel: &Kernel) -> u64 {
    0xf000_0100 + kernel.ipc.next_ino()
}

/// A task's namespaces.
#[derive(Clone)]
pub struct Namespaces {
    pub uts: Arc<UtsNamespace>,
    pub ipc: Arc<IpcNamespace>,
    pub cgroup: Arc<CgroupNamespace>,
    pub net: Arc<NetNamespace>,
    /// Where its children are born; its own is its process's.
    pub pid_for_children: PidNs,
}

impl Namespaces {
    /// The first ones, of a new container in the sandbox's network, but for those that it shares with another.
    pub fn first(
        uts: Uts,
        net: Arc<NetNamespace>,
        ipc: Option<Arc<IpcNamespace>>,
        shared_uts: Option<Arc<UtsNamespace>>,
    ) -> Arc<Namespaces> {
        Arc::new(Namespaces {
            uts: shared_uts.unwrap_or_else(|| UtsNamespace::new(Kind::Uts.first_id(), UserNs::ROOT, uts)),
            ipc: ipc.unwrap_or_else(|| IpcNamespace::new(Kind::Ipc.first_id(), UserNs::ROOT)),
            cgroup: CgroupNamespace::new(Kind::Cgroup.first_id(), UserNs::ROOT),
            net,
            pid_for_children: PidNs::ROOT,
        })
    }

    /// A set with new namespaces of the kinds in `flags`, owned by the user namespace of `creds`. What has no flag stays. (The mount namespace goes with
    /// the directories: [`FsContext`](crate::fs::FsContext).)
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` in that user namespace; `ENOSPC` when they are nested too deep; `EINVAL` for a kind that is not there.
    pub fn unshare(&self, kernel: &Kernel, creds: &Creds, active: &PidNs, flags: CloneFlags) -> Result<Namespaces, Errno> {
        let mut new = self.clone();
        if !flags.intersects(CloneFlags::NAMESPACES) {
            return Ok(new);
        }
        if !creds.has_own(Capability::SysAdmin) {
            return Err(Errno::EPERM);
        }
        if flags.contains(CloneFlags::NEWTIME) {
            return Err(Errno::EINVAL);
        }
        let owner = &creds.user_ns;
        if flags.contains(CloneFlags::NEWUTS) {
            new.uts = UtsNamespace::new(new_id(kernel), owner.clone(), self.uts.get());
        }
        if flags.contains(CloneFlags::NEWIPC) {
            new.ipc = IpcNamespace::new(new_id(kernel), owner.clone());
        }
        if flags.contains(CloneFlags::NEWNET) {
            new.net = self.net.apart(new_id(kernel), owner.clone());
        }
        if flags.contains(CloneFlags::NEWCGROUP) {
            new.cgroup = CgroupNamespace::new(new_id(kernel), owner.clone());
        }
        if flags.contains(CloneFlags::NEWPID) {
            // One that has been chosen for children is not nested further.
            if self.pid_for_children != *active || !owner.is_within(&active.owner()) {
                return Err(Errno::EINVAL);
            }
            new.pid_for_children = self.pid_for_children.nest(new_id(kernel), owner.clone())?;
        }
        Ok(new)
    }
}
