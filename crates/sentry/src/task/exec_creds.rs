//! What exec does to credentials: set-id files and the transformation of capabilities (capabilities(7)).

use std::sync::Arc;

use super::Creds;
use crate::fs::{File, MountFlags, Origin};
use crate::ns::Ids;
use crate::step::Step;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o010;

/// `SECBIT_NOROOT`.
const NO_ROOT: u32 = 1;
/// `SECBIT_KEEP_CAPS`.
const KEEP_CAPS: u32 = 1 << 4;

/// The credentials of a program run from `file`, and whether it must be careful with its environment (`AT_SECURE`).
///
/// Capabilities of files (`security.capability`) are not looked at.
pub fn exec_creds(old: &Creds, file: &File) -> (Arc<Creds>, bool) {
    let (uid, gid) = set_ids(old, file);
    let mut new = old.clone();
    if let Some(uid) = uid {
        new.euid = uid;
    }
    if let Some(gid) = gid {
        new.egid = gid;
    }
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);
    let set_id = uid.is_some() || gid.is_some();
    if set_id {
        new.ambient = 0;
    }
    let root_uid = new.user_ns.root_uid();
    let is_root = |uid: u32| root_uid == Some(uid);
    let root = new.securebits & NO_ROOT == 0 && (is_root(new.uid) || is_root(new.euid));
    let file_set = if root { u64::MAX } else { 0 };
    new.permitted = (old.inheritable & file_set) | (file_set & old.bounding) | new.ambient;
    new.effective = if root && is_root(new.euid) { new.permitted } else { new.ambient };
    new.securebits &= !KEEP_CAPS;
    let gained = !is_root(new.uid) && new.effective & !new.ambient != 0;
    let secure = new.uid != new.euid || new.gid != new.egid || gained;
    (Arc::new(new), secure)
}

/// The owner and group that a set-id file gives. Nothing with `no_new_privs` and on `nosuid` mounts.
fn set_ids(old: &Creds, file: &File) -> (Option<u32>, Option<u32>) {
    let nosuid = matches!(&file.origin, Origin::Path(path) if path.mount.has(MountFlags::NOSUID));
    if old.no_new_privs || nosuid {
        return (None, None);
    }
    let Step::Ready(Ok(metadata)) = file.inode().metadata() else { return (None, None) };
    // Ids that mean nothing to the caller change nothing.
    let ns = &old.user_ns;
    if ns.shown(Ids::Users, metadata.uid).is_none() || ns.shown(Ids::Groups, metadata.gid).is_none() {
        return (None, None);
    }
    let uid = (metadata.permissions & SETUID != 0).then_some(metadata.uid);
    let gid = (metadata.permissions & (SETGID | GROUP_EXEC) == SETGID | GROUP_EXEC).then_some(metadata.gid);
    (uid, gid)
}
