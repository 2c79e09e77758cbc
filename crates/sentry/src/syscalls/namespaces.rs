//! unshare and setns.

use std::sync::Arc;

use super::fs_path::real_file;
use super::{Args, Flow};
use crate::Errno;
use crate::ns::{Held, Kind, Namespaces, NsFile, UserNs, new_id};
use crate::task::{Capability, CloneFlags, Creds, Cx};

pub(super) fn unshare(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(unshare_inner(cx, args.u64(0)).map(|()| 0))
}

/// `ksys_unshare`: everything that may fail comes before the first change.
fn unshare_inner(cx: &mut Cx, flags: u64) -> Result<(), Errno> {
    use CloneFlags as F;
    let mut flags = CloneFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if flags.contains(F::NEWUSER) {
        flags |= F::THREAD | F::FS;
    }
    if flags.contains(F::VM) {
        flags |= F::SIGHAND;
    }
    if flags.contains(F::SIGHAND) {
        flags |= F::THREAD;
    }
    if flags.contains(F::NEWNS) {
        flags |= F::FS;
    }
    let known = F::NAMESPACES | F::NEWUSER | F::FS | F::FILES | F::SYSVSEM | F::THREAD | F::SIGHAND | F::VM;
    if !known.contains(flags) || (flags.contains(F::THREAD) && cx.task.group.threads().len() > 1) {
        return Err(Errno::EINVAL);
    }
    // One reference is the caller's, one its published copy.
    if flags.contains(F::VM) && Arc::strong_count(&cx.mm) > 2 {
        return Err(Errno::EINVAL);
    }
    let creds = new_user(cx, flags)?;
    let old = cx.task.namespaces();
    let new = match flags.intersects(F::NAMESPACES) {
        true => Some(old.unshare(cx.kernel(), creds.as_ref().unwrap_or(&*cx.creds()), &cx.task.group.pid_ns, flags)?),
        false => None,
    };
    if flags.contains(F::FS) {
        let fs = cx.fs.duplicate();
        if flags.contains(F::NEWNS) {
            fs.unshare_mounts(creds.as_ref().unwrap_or(&*cx.creds()).user_ns.clone())?;
        }
        cx.fs = fs;
    }
    if flags.contains(F::FILES) {
        cx.files = cx.files.duplicate();
    }
    cx.share_again();
    if flags.intersects(F::SYSVSEM | F::NEWIPC) {
        // Its adjustments are made now, unless others share them.
        let undo = cx.task.sem_undo.lock().take();
        drop(undo);
    }
    if let Some(creds) = creds {
        cx.set_creds(creds);
    }
    if let Some(new) = new {
        cx.set_namespaces(new);
    }
    Ok(())
}

/// The credentials in a new user namespace, if one is asked for.
fn new_user(cx: &Cx, flags: CloneFlags) -> Result<Option<Creds>, Errno> {
    if !flags.contains(CloneFlags::NEWUSER) {
        return Ok(None);
    }
    let mut creds = (*cx.creds()).clone();
    let ns = UserNs::make(new_id(cx.kernel()), &creds)?;
    creds.enter(ns);
    Ok(Some(creds))
}

pub(super) fn setns(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(setns_inner(cx, args).map(|()| 0))
}

fn setns_inner(cx: &mut Cx, args: Args) -> Result<(), Errno> {
    let file = real_file(cx, args.i32(0))?;
    let wanted = u64::from(args.u32(1));
    let flags = CloneFlags::from_bits(wanted).filter(|flags| (CloneFlags::NAMESPACES | CloneFlags::NEWUSER).contains(*flags));
    if let Some(ns) = file.downcast::<NsFile>() {
        if wanted != 0 && flags != Some(ns.held.kind().flag()) {
            return Err(Errno::EINVAL);
        }
        return join(cx, vec![ns.held.clone()]);
    }
    let Some(pidfd) = file.downcast::<crate::ipc::pidfd::PidFd>() else { return Err(Errno::EINVAL) };
    let flags = flags.filter(|flags| !flags.is_empty()).ok_or(Errno::EINVAL)?;
    let target = pidfd.named.task().ok_or(Errno::ESRCH)?;
    super::process_vm::may_inspect(cx, &target)?;
    // The user namespace first: what follows needs its capabilities.
    let kinds = [Kind::User, Kind::Mnt, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Cgroup, Kind::Net];
    let wanted = kinds.into_iter().filter(|kind| flags.contains(kind.flag()));
    let held: Result<Vec<Held>, Errno> = wanted.map(|kind| Held::of(&target, kind)).collect();
    join(cx, held?)
}

/// Joins namespaces, all or none.
fn join(cx: &mut Cx, all: Vec<Held>) -> Result<(), Errno> {
    let mut creds = (*cx.creds()).clone();
    let mut set = (*cx.task.namespaces()).clone();
    let entering = creds.user_ns.clone();
    let mut mounts = None;
    for held in all {
        if let Held::Mnt(namespace) = &held {
            mounts = Some(namespace.clone());
        }
        join_one(cx, &mut creds, &mut set, held)?;
    }
    if let Some(namespace) = mounts {
        cx.fs.enter_mounts(namespace)?;
    }
    if creds.user_ns != entering {
        cx.set_creds(creds);
    }
    cx.set_namespaces(set);
    Ok(())
}

fn join_one(cx: &Cx, creds: &mut Creds, set: &mut Namespaces, held: Held) -> Result<(), Errno> {
    let owner = held.owner().unwrap_or(UserNs::ROOT);
    let admin = creds.has_in(&owner, Capability::SysAdmin) && creds.has_own(Capability::SysAdmin);
    match held {
        Held::User(ns) => {
            // The one it is in already, or where others share what goes with it.
            if ns == creds.user_ns || cx.task.group.threads().len() > 1 || Arc::strong_count(&cx.fs) > 2 {
                return Err(Errno::EINVAL);
            }
            if !creds.has_in(&ns, Capability::SysAdmin) {
                return Err(Errno::EPERM);
            }
            creds.enter(ns);
        }
        _ if !admin => return Err(Errno::EPERM),
        Held::Pid(ns) if !ns.is_within(&cx.task.group.pid_ns) => return Err(Errno::EINVAL),
        Held::Pid(ns) => set.pid_for_children = ns,
        Held::Cgroup(ns) => set.cgroup = ns,
        Held::Ipc(ns) => set.ipc = ns,
        Held::Net(ns) => set.net = ns,
        Held::Uts(ns) => set.uts = ns,
        // Whoever shares the directories would be moved too.
        Held::Mnt(_) if Arc::strong_count(&cx.fs) > 2 => return Err(Errno::EINVAL),
        Held::Mnt(_) if !creds.has_own(Capability::SysChroot) => return Err(Errno::EPERM),
        Held::Mnt(_) => {}
    }
    Ok(())
}
