//! [`Perm`]: who owns a System V object and who may use it (`struct ipc64_perm`, ipc/util.c).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Errno;
use crate::task::{Capability, Creds};

/// `struct ipc64_perm`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pad: [u16; 3],
    unused: [u64; 2],
}

const _: () = assert!(size_of::<Perm>() == 48);

/// Permission bits.
pub type Mode = u32;

/// What is asked for, for the owner; groups and others need the same of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted(pub Mode);

impl Wanted {
    pub const READ: Wanted = Wanted(0o444);
    pub const WRITE: Wanted = Wanted(0o222);
}

impl Perm {
    /// A new object's, made by `creds`.
    pub fn new(key: i32, mode: Mode, creds: &Creds) -> Perm {
        let (uid, gid) = (creds.euid, creds.egid);
        Perm { key, uid, gid, cuid: uid, cgid: gid, mode: mode & 0o777, ..Perm::default() }
    }

    /// `ipcperms`.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check(&self, creds: &Creds, Wanted(wanted): Wanted) -> Result<(), Errno> {
        let requested = wanted >> 6 | wanted >> 3 | wanted;
        let in_group = |gid: u32| creds.egid == gid || creds.groups.contains(&gid);
        let granted = if creds.euid == self.cuid || creds.euid == self.uid {
            self.mode >> 6
        } else if in_group(self.cgid) || in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if requested & !granted & 7 != 0 && !creds.has(Capability::IpcOwner) { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Whether `creds` may change or remove the object (`ipcctl_obtain_check`).
    ///
    /// # Errors
    /// `EPERM`.
    pub fn control(&self, creds: &Creds) -> Result<(), Errno> {
        let owner = creds.euid == self.cuid || creds.euid == self.uid;
        if owner || creds.has(Capability::SysAdmin) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`.
    ///
    /// # Errors
    /// `EINVAL` for ids that are none.
    pub fn update(&mut self, from: &Perm) -> Result<(), Errno> {
        if from.uid == u32::MAX || from.gid == u32::MAX {
            return Err(Errno::EINVAL);
        }
        (self.uid, self.gid) = (from.uid, from.gid);
        self.mode = self.mode & !0o777 | from.mode & 0o777;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_group_and_others() {
        let creds = |uid, gid| Creds { euid: uid, egid: gid, ..Creds::default() };
        let perm = Perm::new(1, 0o640, &creds(5, 6));
        assert_eq!(perm.check(&creds(5, 0), Wanted(0o600)), Ok(()));
        assert_eq!(perm.check(&creds(7, 6), Wanted::READ), Ok(()));
        assert_eq!(perm.check(&creds(7, 6), Wanted::WRITE), Err(Errno::EACCES));
        assert_eq!(perm.check(&creds(7, 7), Wanted::READ), Err(Errno::EACCES));
        assert_eq!(perm.check(&Creds::root(), Wanted::WRITE), Ok(()));
        assert_eq!(perm.control(&creds(7, 6)), Err(Errno::EPERM));
    }
}
