//! User and group ids (credentials(7)).
//!
//! An id of -1 means "leave it" in the calls that set several.

use super::{Args, Flow};
use crate::Errno;
use crate::ns::Ids;
use crate::task::{Capability, Creds, Cx};

/// Most supplementary groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// `SECBIT_NO_SETUID_FIXUP`.
const NO_SETUID_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`.
const KEEP_CAPS: u32 = 1 << 4;

pub fn sys_getuid(cx: &mut Cx, _args: Args) -> Flow<'_> {
    let creds = cx.creds();
    Flow::done(Ok(creds.user_ns.show_uid(creds.uid).into()))
}

pub fn sys_geteuid(cx: &mut Cx, _args: Args) -> Flow<'_> {
    let creds = cx.creds();
    Flow::done(Ok(creds.user_ns.show_uid(creds.euid).into()))
}

pub fn sys_getgid(cx: &mut Cx, _args: Args) -> Flow<'_> {
    let creds = cx.creds();
    Flow::done(Ok(creds.user_ns.show_gid(creds.gid).into()))
}

pub fn sys_getegid(cx: &mut Cx, _args: Args) -> Flow<'_> {
    let creds = cx.creds();
    Flow::done(Ok(creds.user_ns.show_gid(creds.egid).into()))
}

pub fn sys_getresuid(cx: &mut Cx, args: Args) -> Flow<'_> {
    let creds = cx.creds();
    Flow::done(write_ids(cx, args, [creds.uid, creds.euid, creds.suid].map(|uid| creds.user_ns.show_uid(uid))))
}

pub fn sys_getresgid(cx: &mut Cx, args: Args) -> Flow<'_> {
    let creds = cx.creds();
    Flow::done(write_ids(cx, args, [creds.gid, creds.egid, creds.sgid].map(|gid| creds.user_ns.show_gid(gid))))
}

fn write_ids(cx: &Cx, args: Args, ids: [u32; 3]) -> Result<u64, Errno> {
    for (n, id) in ids.iter().enumerate() {
        cx.mm.write_val(args.u64(n), id)?;
    }
    Ok(0)
}

/// An id argument as the container's id; None leaves the old one.
///
/// # Errors
/// `EINVAL` when it is not mapped in the caller's user namespace.
fn id(creds: &Creds, which: Ids, raw: u32) -> Result<Option<u32>, Errno> {
    if raw == u32::MAX {
        return Ok(None);
    }
    creds.user_ns.kernel_id(which, raw).map(Some).ok_or(Errno::EINVAL)
}

/// Makes new credentials from the old, with capabilities changed as uids become or cease to be 0.
fn change(cx: &mut Cx, edit: impl FnOnce(&mut Creds) -> Result<(), Errno>) -> Result<u64, Errno> {
    let old = cx.creds();
    let mut new = (*old).clone();
    edit(&mut new)?;
    fix_capabilities(&old, &mut new);
    cx.set_creds(new);
    Ok(0)
}

/// "Effect of user ID changes on capabilities" (capabilities(7)).
fn fix_capabilities(old: &Creds, new: &mut Creds) {
    const FS: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << 27 | 1 << 32;
    if new.securebits & NO_SETUID_FIXUP != 0 {
        return;
    }
    let Some(root) = new.user_ns.root_uid() else { return };
    let had_root = [old.uid, old.euid, old.suid].contains(&root);
    let has_root = [new.uid, new.euid, new.suid].contains(&root);
    if had_root && !has_root {
        if new.securebits & KEEP_CAPS == 0 {
            new.permitted = 0;
            new.effective = 0;
        }
        new.ambient = 0;
    }
    match (old.euid == root, new.euid == root) {
        (true, false) => new.effective = 0,
        (false, true) => new.effective = new.permitted,
        _ => {}
    }
    match (old.fsuid == root, new.fsuid == root) {
        (true, false) => new.effective &= !FS,
        (false, true) => new.effective |= new.permitted & FS,
        _ => {}
    }
}

pub fn sys_setuid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(change(cx, |creds| {
        let uid = id(creds, Ids::Users, args.u32(0))?.ok_or(Errno::EINVAL)?;
        if creds.has_own(Capability::Setuid) {
            (creds.uid, creds.suid) = (uid, uid);
        } else if uid != creds.uid && uid != creds.suid {
            return Err(Errno::EPERM);
        }
        (creds.euid, creds.fsuid) = (uid, uid);
        Ok(())
    }))
}

pub fn sys_setgid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(change(cx, |creds| {
        let gid = id(creds, Ids::Groups, args.u32(0))?.ok_or(Errno::EINVAL)?;
        if creds.has_own(Capability::Setgid) {
            (creds.gid, creds.sgid) = (gid, gid);
        } else if gid != creds.gid && gid != creds.sgid {
            return Err(Errno::EPERM);
        }
        (creds.egid, creds.fsgid) = (gid, gid);
        Ok(())
    }))
}

pub fn sys_setreuid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(change(cx, |creds| {
        let (real, effective) = (id(creds, Ids::Users, args.u32(0))?, id(creds, Ids::Users, args.u32(1))?);
        let privileged = creds.has_own(Capability::Setuid);
        let old = creds.uid;
        if let Some(uid) = real {
            if !privileged && uid != old && uid != creds.euid {
                return Err(Errno::EPERM);
            }
            creds.uid = uid;
        }
        if let Some(uid) = effective {
            if !privileged && uid != old && uid != creds.euid && uid != creds.suid {
                return Err(Errno::EPERM);
            }
            creds.euid = uid;
        }
        if real.is_some() || effective.is_some_and(|uid| uid != old) {
            creds.suid = creds.euid;
        }
        creds.fsuid = creds.euid;
        Ok(())
    }))
}

pub fn sys_setregid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(change(cx, |creds| {
        let (real, effective) = (id(creds, Ids::Groups, args.u32(0))?, id(creds, Ids::Groups, args.u32(1))?);
        let privileged = creds.has_own(Capability::Setgid);
        let old = creds.gid;
        if let Some(gid) = real {
            if !privileged && gid != old && gid != creds.egid {
                return Err(Errno::EPERM);
            }
            creds.gid = gid;
        }
        if let Some(gid) = effective {
            if !privileged && gid != old && gid != creds.egid && gid != creds.sgid {
                return Err(Errno::EPERM);
            }
            creds.egid = gid;
        }
        if real.is_some() || effective.is_some_and(|gid| gid != old) {
            creds.sgid = creds.egid;
        }
        creds.fsgid = creds.egid;
        Ok(())
    }))
}

/// For `setresuid` and `setresgid`: what each of the three becomes; an unprivileged caller may only choose among the old three.
fn set_three(creds: &Creds, which: Ids, args: Args, old: [u32; 3]) -> Result<[u32; 3], Errno> {
    let privileged = creds.has_own(if which == Ids::Users { Capability::Setuid } else { Capability::Setgid });
    let mut wanted = [None; 3];
    for (n, slot) in wanted.iter_mut().enumerate() {
        *slot = id(creds, which, args.u32(n))?;
    }
    let mut new = old;
    for (slot, wanted) in new.iter_mut().zip(wanted) {
        if let Some(id) = wanted {
            if !privileged && !old.contains(&id) {
                return Err(Errno::EPERM);
            }
            *slot = id;
        }
    }
    Ok(new)
}

pub fn sys_setresuid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(change(cx, |creds| {
        let old = [creds.uid, creds.euid, creds.suid];
        [creds.uid, creds.euid, creds.suid] = set_three(creds, Ids::Users, args, old)?;
        creds.fsuid = creds.euid;
        Ok(())
    }))
}

pub fn sys_setresgid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(change(cx, |creds| {
        let old = [creds.gid, creds.egid, creds.sgid];
        [creds.gid, creds.egid, creds.sgid] = set_three(creds, Ids::Groups, args, old)?;
        creds.fsgid = creds.egid;
        Ok(())
    }))
}

/// Returns the old id, whether it was changed or not.
pub fn sys_setfsuid(cx: &mut Cx, args: Args) -> Flow<'_> {
    let creds = cx.creds();
    let old = creds.user_ns.show_uid(creds.fsuid);
    let _ = change(cx, |creds| {
        let new = id(creds, Ids::Users, args.u32(0))?.ok_or(Errno::EINVAL)?;
        let known = [creds.uid, creds.euid, creds.suid, creds.fsuid].contains(&new);
        if known || creds.has_own(Capability::Setuid) {
            creds.fsuid = new;
        }
        Ok(())
    });
    Flow::done(Ok(old.into()))
}

/// As [`sys_setfsuid`].
pub fn sys_setfsgid(cx: &mut Cx, args: Args) -> Flow<'_> {
    let creds = cx.creds();
    let old = creds.user_ns.show_gid(creds.fsgid);
    let _ = change(cx, |creds| {
        let new = id(creds, Ids::Groups, args.u32(0))?.ok_or(Errno::EINVAL)?;
        let known = [creds.gid, creds.egid, creds.sgid, creds.fsgid].contains(&new);
        if known || creds.has_own(Capability::Setgid) {
            creds.fsgid = new;
        }
        Ok(())
    });
    Flow::done(Ok(old.into()))
}

pub fn sys_getgroups(cx: &mut Cx, args: Args) -> Flow<'_> {
    let creds = cx.creds();
    Flow::done(getgroups(cx, &creds, args.i32(0), args.u64(1)))
}

fn getgroups(cx: &Cx, creds: &Creds, size: i32, list: u64) -> Result<u64, Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let count = creds.groups.len();
    if size != 0 {
        if count > size {
            return Err(Errno::EINVAL);
        }
        let bytes: Vec<u8> = creds.groups.iter().flat_map(|&gid| creds.user_ns.show_gid(gid).to_le_bytes()).collect();
        cx.mm.write(list, &bytes)?;
    }
    Ok(count as u64)
}

pub fn sys_setgroups(cx: &mut Cx, args: Args) -> Flow<'_> {
    let groups = match read_groups(cx, args) {
        Ok(groups) => groups,
        Err(errno) => return Flow::done(Err(errno)),
    };
    Flow::done(change(cx, |creds| {
        creds.groups = groups;
        Ok(())
    }))
}

fn read_groups(cx: &Cx, args: Args) -> Result<Vec<u32>, Errno> {
    let creds = cx.creds();
    if !creds.has_own(Capability::Setgid) || !creds.user_ns.may_set_groups() {
        return Err(Errno::EPERM);
    }
    let count = args.u32(0) as usize;
    if count > GROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; count * 4];
    cx.mm.read(args.u64(1), &mut bytes)?;
    let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
    let known = |raw: u32| creds.user_ns.kernel_id(Ids::Groups, raw).ok_or(Errno::EINVAL);
    bytes.chunks_exact(4).map(|bytes| known(id(bytes))).collect()
}
