//! Sending signals: `kill` and its family.
//!
//! As in Linux the target is looked up before the signal's number is looked at.

use std::sync::Arc;

use super::{Args, Flow};
use crate::Errno;
use crate::ns::Ids;
use crate::signal::{Origin, SigInfo, Signal};
use crate::task::{Capability, Creds, Cx, PidTable, Task, ThreadGroup, Tid};

/// The signal of an argument; None for 0, which only checks.
pub(super) fn signal(number: i32) -> Result<Option<Signal>, Errno> {
    match number {
        0 => Ok(None),
        n => Signal::new(n).map(Some).ok_or(Errno::EINVAL),
    }
}

/// `check_kill_permission`: the same user (the sender's real or effective against the target's real or saved), `CAP_KILL`, or `SIGCONT`
/// within the session.
pub(crate) fn may_signal(cx: &Cx, target: &Task, signal: Option<Signal>) -> Result<(), Errno> {
    if Arc::ptr_eq(&cx.task.group, &target.group) {
        return Ok(());
    }
    let (own, other): (Arc<Creds>, Arc<Creds>) = (cx.creds(), target.creds());
    let same = [own.euid, own.uid].iter().any(|uid| [other.suid, other.uid].contains(uid));
    let continues = signal == Some(Signal::CONT) && cx.task.group.session().sid == target.group.session().sid;
    if same || continues || own.has_in(&other.user_ns, Capability::Kill) { Ok(()) } else { Err(Errno::EPERM) }
}

/// What a signal from the caller is to its target: the sender's ids as the target sees them, and whether it comes from outside of its
/// pid namespace.
fn addressed(cx: &Cx, target: &Task, info: SigInfo) -> (SigInfo, Origin) {
    let outside = target.group.pid_ns != cx.task.group.pid_ns;
    let origin = if outside { Origin::Outside } else { Origin::Inside };
    let (ours, theirs) = (&cx.creds().user_ns, &target.creds().user_ns);
    if !outside && ours == theirs {
        return (info, origin);
    }
    let pid = if outside { 0 } else { info.pid() };
    let uid = ours.kernel_id(Ids::Users, info.uid()).map_or(crate::ns::OVERFLOW_ID, |uid| theirs.show_uid(uid));
    (info.with_sender(pid, uid), origin)
}

/// What `kill` tells of the caller.
fn from_caller(cx: &Cx, make: fn(Signal, i32, u32) -> SigInfo, signal: Signal) -> SigInfo {
    let creds = cx.creds();
    make(signal, cx.local(cx.task.tgid()), creds.user_ns.show_uid(creds.uid))
}

/// Sends to a process; a zombie takes anything.
pub(super) fn send(cx: &Cx, group: &ThreadGroup, signal: Option<Signal>, info: Option<SigInfo>) -> Result<(), Errno> {
    let Some(leader) = group.leader() else { return Ok(()) };
    may_signal(cx, &leader, signal)?;
    let Some(signal) = signal else { return Ok(()) };
    let info = info.unwrap_or_else(|| from_caller(cx, SigInfo::user, signal));
    let (info, origin) = addressed(cx, &leader, info);
    group.send_signal_from(info, origin)
}

/// Sends to a thread.
pub(super) fn send_to_thread(cx: &Cx, task: &Task, signal: Option<Signal>, info: Option<SigInfo>) -> Result<(), Errno> {
    may_signal(cx, task, signal)?;
    let Some(signal) = signal else { return Ok(()) };
    let info = info.unwrap_or_else(|| from_caller(cx, SigInfo::tkill, signal));
    let (info, origin) = addressed(cx, task, info);
    task.send_signal_from(info, origin)
}

/// Sends to all of some processes: success when one was reached, else the last error (`kill_something_info`).
fn send_to_all(
    cx: &Cx,
    find: impl FnOnce(&PidTable) -> Vec<Arc<ThreadGroup>>,
    number: i32,
    info: Option<SigInfo>,
) -> Result<(), Errno> {
    let pids = &cx.task.container.pids;
    pids.broadcast(|| {
        let mut result = Err(Errno::ESRCH);
        for group in find(pids) {
            match signal(number).and_then(|signal| send(cx, &group, signal, info)) {
                Ok(()) => result = Ok(()),
                Err(errno) if result.is_err() => result = Err(errno),
                Err(_) => {}
            }
        }
        result
    })
}

/// Sends to all processes of a process group.
pub(super) fn send_to_group(cx: &Cx, pgid: Tid, signal: Option<Signal>, info: Option<SigInfo>) -> Result<(), Errno> {
    send_to_all(cx, |pids| pids.process_group(pgid), signal.map_or(0, |signal| signal.number()), info)
}

pub(super) fn kill(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(kill_inner(cx, args.i32(0), args.i32(1)).map(|()| 0))
}

fn kill_inner(cx: &Cx, pid: i32, number: i32) -> Result<(), Errno> {
    let ns = &cx.task.group.pid_ns;
    match pid {
        i32::MIN => Err(Errno::ESRCH),
        -1 => {
            let own = cx.task.tgid();
            let reached = |group: &Arc<ThreadGroup>| group.tgid != own && ns.local(group.tgid) > 1;
            send_to_all(cx, |pids| pids.processes().into_iter().filter(reached).collect(), number, None)
        }
        0 => send_to_all(cx, |pids| pids.process_group(cx.task.group.pgid()), number, None),
        pgid if pgid < 0 => {
            let pgid = ns.global(-pgid).ok_or(Errno::ESRCH)?;
            send_to_all(cx, |pids| pids.process_group(pgid), number, None)
        }
        pid => {
            let group = cx.find_process_of(pid).ok_or(Errno::ESRCH)?;
            send(cx, &group, signal(number)?, None)
        }
    }
}

pub(super) fn tkill(cx: &mut Cx, args: Args) -> Flow<'_> {
    if args.i32(0) <= 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    Flow::done(thread_kill(cx, None, args.i32(0), args.i32(1)).map(|()| 0))
}

pub(super) fn tgkill(cx: &mut Cx, args: Args) -> Flow<'_> {
    if args.i32(0) <= 0 || args.i32(1) <= 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    Flow::done(thread_kill(cx, Some(args.i32(0)), args.i32(1), args.i32(2)).map(|()| 0))
}

fn thread(cx: &Cx, tgid: Option<Tid>, tid: Tid) -> Result<Arc<Task>, Errno> {
    let task = cx.find_task(tid).ok_or(Errno::ESRCH)?;
    if tgid.is_some_and(|tgid| tgid != cx.local(task.tgid())) { Err(Errno::ESRCH) } else { Ok(task) }
}

fn thread_kill(cx: &Cx, tgid: Option<Tid>, tid: Tid, number: i32) -> Result<(), Errno> {
    let target = thread(cx, tgid, tid)?;
    send_to_thread(cx, &target, signal(number)?, None)
}

/// Reads a guest's `siginfo`. Others than the thread itself may not pretend to be the kernel or `kill`.
fn user_info(cx: &Cx, number: i32, addr: u64, target: Tid) -> Result<SigInfo, Errno> {
    let bytes = cx.mm.read_val::<[u8; SigInfo::SIZE]>(addr)?;
    // What is no signal is refused later, when the target is known.
    let info = SigInfo::decode(Signal::new(number).unwrap_or(Signal::CONT), &bytes).ok_or(Errno::E2BIG)?;
    // SI_TKILL is -6.
    if (info.code >= 0 || info.code == -6) && target != cx.local(cx.task.tid()) {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

pub(super) fn rt_sigqueueinfo(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let pid = args.i32(0);
        let info = user_info(cx, args.i32(1), args.u64(2), pid)?;
        let group = cx.find_process_of(pid).ok_or(Errno::ESRCH)?;
        send(cx, &group, signal(args.i32(1))?, Some(info)).map(|()| 0)
    })())
}

pub(super) fn rt_tgsigqueueinfo(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let bytes = args.u64(3);
        cx.mm.read_val::<[u8; SigInfo::SIZE]>(bytes)?;
        if args.i32(0) <= 0 || args.i32(1) <= 0 {
            return Err(Errno::EINVAL);
        }
        let info = user_info(cx, args.i32(2), bytes, args.i32(1))?;
        let target = thread(cx, Some(args.i32(0)), args.i32(1))?;
        send_to_thread(cx, &target, signal(args.i32(2))?, Some(info)).map(|()| 0)
    })())
}
