//! Sending signals: `kill` and its family.

use std::sync::Arc;

use super::{Args, Flow};
use crate::Errno;
use crate::signal::{SigInfo, Signal};
use crate::task::{Capability, Creds, Cx, Task, ThreadGroup, Tid};

/// The signal of an argument; None for 0, which only checks.
fn signal(number: i32) -> Result<Option<Signal>, Errno> {
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
    if same || continues || own.has(Capability::Kill) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Sends to a process; a zombie takes anything.
fn send(cx: &Cx, group: &ThreadGroup, signal: Option<Signal>, info: Option<SigInfo>) -> Result<(), Errno> {
    let Some(leader) = group.leader() else { return Ok(()) };
    may_signal(cx, &leader, signal)?;
    let Some(signal) = signal else { return Ok(()) };
    group.send_signal(info.unwrap_or(SigInfo::user(signal, cx.task.tgid(), cx.creds().uid)))
}

pub(super) fn kill(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(kill_inner(cx, args.i32(0), args.i32(1)).map(|()| 0))
}

fn kill_inner(cx: &Cx, pid: i32, number: i32) -> Result<(), Errno> {
    // The numbers are looked at first, then the signal's: kill(-5, 100) without such a group is EINVAL all the same.
    let signal = signal(number)?;
    let pids = &cx.task.container.pids;
    let many = |groups: Vec<Arc<ThreadGroup>>| {
        // Success when one was reached, else the last error (kill_something_info).
        let mut result = Err(Errno::ESRCH);
        for group in groups {
            match send(cx, &group, signal, None) {
                Ok(()) => result = Ok(()),
                Err(errno) if result.is_err() => result = Err(errno),
                Err(_) => {}
            }
        }
        result
    };
    match pid {
        i32::MIN => Err(Errno::ESRCH),
        -1 => {
            let own = cx.task.tgid();
            many(pids.processes().into_iter().filter(|group| !group.is_init() && group.tgid != own).collect())
        }
        0 => many(pids.process_group(cx.task.group.pgid())),
        pgid if pgid < 0 => many(pids.process_group(-pgid)),
        pid => send(cx, &*pids.process_of(pid).ok_or(Errno::ESRCH)?, signal, None),
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
    let task = cx.task.container.pids.task(tid).ok_or(Errno::ESRCH)?;
    if tgid.is_some_and(|tgid| tgid != task.tgid()) { Err(Errno::ESRCH) } else { Ok(task) }
}

fn thread_kill(cx: &Cx, tgid: Option<Tid>, tid: Tid, number: i32) -> Result<(), Errno> {
    let target = thread(cx, tgid, tid)?;
    let signal = signal(number)?;
    may_signal(cx, &target, signal)?;
    match signal {
        Some(signal) => target.send_signal(SigInfo::tkill(signal, cx.task.tgid(), cx.creds().uid)),
        None => Ok(()),
    }
}

/// Reads a guest's `siginfo`. Others than the process itself may not pretend to be the kernel or `kill`.
fn user_info(cx: &Cx, number: i32, addr: u64, own: bool) -> Result<Option<SigInfo>, Errno> {
    let bytes = cx.mm.read_val::<[u8; SigInfo::SIZE]>(addr)?;
    let Some(signal) = signal(number)? else { return Ok(None) };
    let info = SigInfo::decode(signal, &bytes).ok_or(Errno::E2BIG)?;
    // SI_TKILL is -6.
    if (info.code >= 0 || info.code == -6) && !own {
        return Err(Errno::EPERM);
    }
    Ok(Some(info))
}

pub(super) fn rt_sigqueueinfo(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let pid = args.i32(0);
        let info = user_info(cx, args.i32(1), args.u64(2), pid == cx.task.tgid())?;
        let group = cx.task.container.pids.process_of(pid).ok_or(Errno::ESRCH)?;
        send(cx, &group, info.map(|info| info.signal), info).map(|()| 0)
    })())
}

pub(super) fn rt_tgsigqueueinfo(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        if args.i32(0) <= 0 || args.i32(1) <= 0 {
            return Err(Errno::EINVAL);
        }
        let info = user_info(cx, args.i32(2), args.u64(3), args.i32(0) == cx.task.tgid())?;
        let target = thread(cx, Some(args.i32(0)), args.i32(1))?;
        may_signal(cx, &target, info.map(|info| info.signal))?;
        info.map_or(Ok(0), |info| target.send_signal(info).map(|()| 0))
    })())
}
