//! Resource limits and use.

use std::sync::Arc;

use super::wait4::Rusage;
use super::{Args, Flow};
use crate::Errno;
use crate::task::{Capability, Cx, Limit, Resource, ThreadGroup};

/// `fs.nr_open`: the most that `RLIMIT_NOFILE` may allow.
const NR_OPEN: u64 = 1 << 20;

fn resource(args: Args, n: usize) -> Result<Resource, Errno> {
    Resource::new(args.u32(n)).ok_or(Errno::EINVAL)
}

/// Sets a limit as far as the caller may (`do_prlimit`).
fn set(cx: &Cx, group: &Arc<ThreadGroup>, resource: Resource, new: Limit) -> Result<Limit, Errno> {
    if new.soft > new.hard {
        return Err(Errno::EINVAL);
    }
    if resource == Resource::Nofile && new.hard > NR_OPEN {
        return Err(Errno::EPERM);
    }
    let old = {
        let mut limits = group.rlimits.write();
        let old = limits.get(resource);
        if new.hard > old.hard && !cx.creds().has(Capability::SysResource) {
            return Err(Errno::EPERM);
        }
        limits.set(resource, new);
        old
    };
    if resource == Resource::Cpu {
        group.timers.watch_cpu_limit(group, cx.kernel());
    }
    Ok(old)
}

fn read(cx: &Cx, addr: u64) -> Result<Limit, Errno> {
    let [soft, hard] = cx.mm.read_val::<[u64; 2]>(addr)?;
    Ok(Limit { soft, hard })
}

fn write(cx: &Cx, addr: u64, limit: Limit) -> Result<u64, Errno> {
    cx.mm.write_val(addr, &[limit.soft, limit.hard]).map(|()| 0)
}

pub(super) fn getrlimit(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(resource(args, 0).and_then(|resource| write(cx, args.u64(1), cx.task.rlimit(resource))))
}

pub(super) fn setrlimit(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let new = read(cx, args.u64(1))?;
        set(cx, &cx.task.group, resource(args, 0)?, new).map(|_| 0)
    })())
}

pub(super) fn prlimit64(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(prlimit(cx, args))
}

fn prlimit(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let resource = resource(args, 1)?;
    let new = match args.opt_ptr(2) {
        Some(addr) => Some(read(cx, addr)?),
        None => None,
    };
    let group = super::process::process(cx, args.i32(0))?;
    may_limit(cx, &group)?;
    let old = match new {
        Some(new) => set(cx, &group, resource, new)?,
        None => group.rlimit(resource),
    };
    match args.opt_ptr(3) {
        Some(addr) => write(cx, addr, old),
        None => Ok(0),
    }
}

/// `check_prlimit_permission`: all the target's ids are the caller's real ones, or `CAP_SYS_RESOURCE`.
fn may_limit(cx: &Cx, group: &Arc<ThreadGroup>) -> Result<(), Errno> {
    if Arc::ptr_eq(group, &cx.task.group) {
        return Ok(());
    }
    let other = group.leader().ok_or(Errno::ESRCH)?.creds();
    let own = cx.creds();
    let uids = [other.uid, other.euid, other.suid].iter().all(|&uid| uid == own.uid);
    let gids = [other.gid, other.egid, other.sgid].iter().all(|&gid| gid == own.gid);
    if (uids && gids) || own.has_in(&other.user_ns, Capability::SysResource) { Ok(()) } else { Err(Errno::EPERM) }
}

pub(super) fn getrusage(cx: &mut Cx, args: Args) -> Flow<'_> {
    let mut usage = match args.i32(0) {
        0 => cx.task.group.own_usage(),
        -1 => cx.task.group.children_usage(),
        1 => cx.task.usage(),
        _ => return Flow::done(Err(Errno::EINVAL)),
    };
    // Counting pages is too dear for where else use is looked at.
    if args.i32(0) >= 0 {
        usage.max_rss_kib = usage.max_rss_kib.max(cx.mm.usage().resident_kib());
    }
    Flow::done(cx.mm.write_val(args.u64(1), &Rusage::from(&usage)).map(|()| 0))
}
