//! [`Creds`]: who a task is and what it may do. Immutable; a change makes a new one.
//!
//! Ids are the container's, whatever user namespace they are used in; capabilities hold in [`Creds::user_ns`] and those inside it.

use crate::ns::{Ids, UserNs};

/// Capabilities by their Linux numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    LinuxImmutable = 9,
    NetBindService = 10,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    IpcOwner = 15,
    SysChroot = 18,
    SysPtrace = 19,
    SysAdmin = 21,
    SysBoot = 22,
    SysNice = 23,
    SysResource = 24,
    SysTime = 25,
    SysTtyConfig = 26,
    Mknod = 27,
    Lease = 28,
    AuditControl = 30,
    Setfcap = 31,
    Syslog = 34,
    CheckpointRestore = 40,
}

/// Credentials, as `credentials(7)` and `capabilities(7)` describe them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Creds {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    /// Capability sets, bit n for capability n.
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
    pub no_new_privs: bool,
    pub securebits: u32,
    /// Where the capabilities hold.
    pub user_ns: UserNs,
    /// Who logged in, if anybody (/proc/PID/loginuid).
    pub login: Option<Login>,
}

/// A login, as pam_loginuid(8) marks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    pub uid: u32,
    pub session: u32,
}

impl Creds {
    /// Root with every capability.
    pub fn root() -> Creds {
        let all = (1 << 41) - 1;
        Creds { permitted: all, effective: all, bounding: all, ..Creds::default() }
    }

    /// Whether the capability is effective over the whole container (`capable`).
    pub fn has(&self, capability: Capability) -> bool {
        self.user_ns.is_root() && self.has_own(capability)
    }

    /// Whether the capability is effective in the own user namespace (`ns_capable(current_user_ns(), …)`).
    pub fn has_own(&self, capability: Capability) -> bool {
        self.effective & (1u64 << capability as u32) != 0
    }

    /// Whether the capability is effective in a user namespace (`ns_capable`): the own or one inside it, or one that this user has made inside
    /// the own.
    pub fn has_in(&self, ns: &UserNs, capability: Capability) -> bool {
        let mut at = ns.clone();
        loop {
            if at == self.user_ns {
                return self.has_own(capability);
            }
            if at.level() <= self.user_ns.level() {
                return false;
            }
            let Some(parent) = at.parent() else { return false };
            if parent == self.user_ns && at.owner() == self.euid {
                return true;
            }
            at = parent;
        }
    }

    /// Whether the capability is effective over a file with these ids (`capable_wrt_inode_uidgid`).
    pub fn has_over(&self, uid: u32, gid: u32, capability: Capability) -> bool {
        let mapped = || self.user_ns.shown(Ids::Users, uid).is_some() && self.user_ns.shown(Ids::Groups, gid).is_some();
        self.has_own(capability) && (self.user_ns.is_root() || mapped())
    }

    /// What joining a user namespace gives: all capabilities in it.
    pub fn enter(&mut self, ns: UserNs) {
        let all = (1 << 41) - 1;
        (self.permitted, self.effective, self.bounding) = (all, all, all);
        (self.inheritable, self.ambient, self.securebits) = (0, 0, 0);
        self.user_ns = ns;
    }

    /// Whether the file-system group or a supplementary group is `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }
}
