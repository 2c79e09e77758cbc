//! Who may do what with an inode: mode bits, capabilities, sticky and set-group-id rules (`path_resolution(7)`, `inode(7)`).

use super::{FileKind, Metadata};
use crate::Errno;
use crate::ns::Ids;
use crate::task::{Capability, Creds};

bitflags::bitflags! {
    /// What somebody wants to do; the values of `R_OK`, `W_OK`, `X_OK`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Mask: u32 {
        const EXEC = 1;
        const WRITE = 2;
        const READ = 4;
    }
}

/// Sticky, set-group-id and set-user-id bits.
pub const STICKY: u32 = 0o1000;
pub const SET_GID: u32 = 0o2000;
pub const SET_UID: u32 = 0o4000;

/// The part of an inode's attributes that permission checks look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    pub kind: FileKind,
    /// 0o7777 bits.
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
}

impl From<&Metadata> for Ownership {
    fn from(m: &Metadata) -> Ownership {
        Ownership { kind: m.kind, permissions: m.permissions, uid: m.uid, gid: m.gid }
    }
}

/// Whether `creds` may access an inode (Linux's `generic_permission`).
///
/// # Errors
/// `EACCES`.
pub fn permission(owner: Ownership, creds: &Creds, mask: Mask) -> Result<(), Errno> {
    let bits = if creds.fsuid == owner.uid {
        owner.permissions >> 6
    } else if creds.in_group(owner.gid) {
        owner.permissions >> 3
    } else {
        owner.permissions
    };
    if mask.bits() & !bits == 0 {
        return Ok(());
    }
    let directory = owner.kind == FileKind::Directory;
    let reads_only = if directory { !mask.contains(Mask::WRITE) } else { mask == Mask::READ };
    let runnable = directory || !mask.contains(Mask::EXEC) || owner.permissions & 0o111 != 0;
    let capable = (reads_only && creds.has_over(owner.uid, owner.gid, Capability::DacReadSearch))
        || (runnable && creds.has_over(owner.uid, owner.gid, Capability::DacOverride));
    if capable { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether `creds` may search a directory. The common case is decided without looking at who asks.
///
/// # Errors
/// `EACCES`.
pub fn may_search(owner: Ownership, creds: &Creds) -> Result<(), Errno> {
    if owner.permissions & 0o111 == 0o111 { Ok(()) } else { permission(owner, creds, Mask::EXEC) }
}

/// Whether `creds` own the inode or may act as if.
pub fn is_owner(uid: u32, creds: &Creds) -> bool {
    let mapped = || creds.user_ns.shown(Ids::Users, uid).is_some();
    creds.fsuid == uid || (creds.has_own(Capability::Fowner) && mapped())
}

/// Whether an entry may be removed from a directory by somebody who may write to it (the sticky bit).
///
/// # Errors
/// `EPERM`.
pub fn may_remove(directory: Ownership, victim: Ownership, creds: &Creds) -> Result<(), Errno> {
    let sticky = directory.permissions & STICKY != 0;
    if !sticky
        || creds.fsuid == victim.uid
        || creds.fsuid == directory.uid
        || creds.has_over(victim.uid, victim.gid, Capability::Fowner)
    {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// Group and mode of a new entry in a directory: set-group-id directories hand their group down, and subdirectories the bit. The umask
/// is taken off last: a bit for executing that it hides does not save set-group-id.
pub fn inherit(directory: Ownership, creds: &Creds, umask: u32, kind: FileKind, permissions: u32) -> (u32, u32) {
    let masked = if kind == FileKind::Symlink { permissions } else { permissions & !umask };
    if directory.permissions & SET_GID == 0 {
        return (creds.fsgid, masked);
    }
    if kind == FileKind::Directory {
        return (directory.gid, masked | SET_GID);
    }
    let stripped = permissions & (SET_GID | 0o010) == SET_GID | 0o010
        && !creds.in_group(directory.gid)
        && !creds.has_over(creds.fsuid, directory.gid, Capability::Fsetid);
    (directory.gid, if stripped { masked & !SET_GID } else { masked })
}

/// The mode after data was written or the owner changed: without set-user-id, and without set-group-id where the group may
/// execute.
pub fn without_set_id(permissions: u32) -> u32 {
    let gid = if permissions & 0o010 != 0 { SET_GID } else { 0 };
    permissions & !(SET_UID | gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creds(uid: u32, gid: u32, groups: &[u32], capabilities: &[Capability]) -> Creds {
        let effective = capabilities.iter().fold(0, |set, capability| set | 1 << *capability as u32);
        Creds { fsuid: uid, fsgid: gid, groups: groups.to_vec(), effective, ..Creds::default() }
    }

    /// The table of `path_resolution(7)`: one class decides, capabilities add.
    #[test]
    fn one_class_decides_and_capabilities_add() {
        use Capability::{DacOverride, DacReadSearch};
        let file = |permissions| Ownership { kind: FileKind::Regular, permissions, uid: 10, gid: 20 };
        let dir = |permissions| Ownership { kind: FileKind::Directory, ..file(permissions) };
        let (owner, member, extra, other) =
            (creds(10, 1, &[], &[]), creds(11, 20, &[], &[]), creds(11, 1, &[20], &[]), creds(11, 1, &[], &[]));
        let reader = creds(11, 1, &[], &[DacReadSearch]);
        let root = creds(11, 1, &[], &[DacOverride]);
        let (r, w, x) = (Mask::READ, Mask::WRITE, Mask::EXEC);
        let cases = [
            (file(0o400), &owner, r, true),
            (file(0o077), &owner, r, false),
            (file(0o707), &member, r, false),
            (file(0o040), &extra, r, true),
            (file(0o770), &other, r, false),
            (file(0o006), &other, r | w, true),
            (file(0o000), &reader, r, true),
            (file(0o000), &reader, w, false),
            (file(0o111), &reader, r | x, false),
            (dir(0o000), &reader, r | x, true),
            (dir(0o000), &reader, w, false),
            (file(0o000), &root, r | w, true),
            (file(0o000), &root, x, false),
            (file(0o001), &root, x, true),
            (dir(0o000), &root, r | w | x, true),
        ];
        for (n, (what, who, mask, allowed)) in cases.into_iter().enumerate() {
            assert_eq!(permission(what, who, mask).is_ok(), allowed, "case {n}");
        }
    }

    #[test]
    fn sticky_and_set_group_id() {
        let tmp = Ownership { kind: FileKind::Directory, permissions: 0o1777, uid: 0, gid: 0 };
        let mine = Ownership { kind: FileKind::Regular, permissions: 0o644, uid: 7, gid: 7 };
        assert_eq!(may_remove(tmp, mine, &creds(7, 7, &[], &[])), Ok(()));
        assert_eq!(may_remove(tmp, mine, &creds(8, 8, &[], &[])), Err(Errno::EPERM));
        assert_eq!(may_remove(tmp, mine, &creds(8, 8, &[], &[Capability::Fowner])), Ok(()));
        let shared = Ownership { permissions: 0o2775, gid: 50, ..tmp };
        let user = creds(7, 7, &[], &[]);
        assert_eq!(inherit(shared, &user, 0o022, FileKind::Directory, 0o777), (50, 0o2755));
        assert_eq!(inherit(shared, &user, 0o022, FileKind::Regular, 0o2777), (50, 0o755));
        assert_eq!(inherit(shared, &user, 0o010, FileKind::Regular, 0o2777), (50, 0o767));
        assert_eq!(inherit(tmp, &user, 0o022, FileKind::Regular, 0o2777), (7, 0o2755));
        assert_eq!(inherit(tmp, &user, 0o022, FileKind::Symlink, 0o777), (7, 0o777));
        assert_eq!(without_set_id(0o6755), 0o755);
        assert_eq!(without_set_id(0o6745), 0o2745);
    }
}
