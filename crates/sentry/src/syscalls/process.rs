//! Making processes, their numbers, groups and sessions.

use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, IntoBytes};

use super::{Args, Flow};
use crate::Errno;
use crate::signal::Signal;
use crate::task::{CloneArgs, CloneFlags, Cx, ThreadGroup, Tid};

fn number(tid: Tid) -> Flow<'static> {
    Flow::Done(Ok(tid as u64))
}

pub(super) fn getpid(cx: &mut Cx, _: Args) -> Flow<'_> {
    number(cx.local(cx.task.tgid()))
}

pub(super) fn gettid(cx: &mut Cx, _: Args) -> Flow<'_> {
    number(cx.local(cx.task.tid()))
}

pub(super) fn getppid(cx: &mut Cx, _: Args) -> Flow<'_> {
    number(cx.local(cx.task.group.ppid()))
}

pub(super) fn set_tid_address(cx: &mut Cx, args: Args) -> Flow<'_> {
    cx.task.clear_child_tid.store(args.u64(0), Ordering::Relaxed);
    number(cx.local(cx.task.tid()))
}

fn clone_flow(cx: &mut Cx, args: CloneArgs) -> Flow<'_> {
    Flow::wait(async move { cx.clone_task(args).await.map(|tid| tid as u64) })
}

pub(super) fn fork(cx: &mut Cx, _: Args) -> Flow<'_> {
    clone_flow(cx, CloneArgs { exit_signal: Some(Signal::CHLD), ..CloneArgs::default() })
}

pub(super) fn vfork(cx: &mut Cx, _: Args) -> Flow<'_> {
    let flags = CloneFlags::VM | CloneFlags::VFORK;
    clone_flow(cx, CloneArgs { flags, exit_signal: Some(Signal::CHLD), ..CloneArgs::default() })
}

pub(super) fn clone(cx: &mut Cx, args: Args) -> Flow<'_> {
    // The low byte is the exit signal; the upper half of the word is not looked at.
    let flags = CloneFlags::from_bits_truncate(args.u64(0) & 0xffff_ff00);
    // Both numbers would go to one place; without a pidfd the old flag is ignored.
    let ignored = if flags.contains(CloneFlags::PIDFD) { CloneFlags::empty() } else { CloneFlags::DETACHED };
    clone_flow(
        cx,
        CloneArgs {
            flags: flags.difference(ignored),
            exit_signal: Signal::new((args.u64(0) & 0xff) as i32),
            stack: args.u64(1),
            parent_tid: args.u64(2),
            child_tid: args.u64(3),
            tls: args.u64(4),
            pidfd: args.u64(2),
            set_tid: Vec::new(),
            cgroup: -1,
        },
    )
}

/// `struct clone_args`, version 2.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes)]
#[repr(C)]
struct Clone3 {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_ARGS_SIZE_VER0: usize = 64;
const CLONE_ARGS_SIZE_VER2: usize = 88;
/// Most numbers asked for (`MAX_PID_NS_LEVEL`).
const SET_TID_MAX: u64 = 32;

pub(super) fn clone3(cx: &mut Cx, args: Args) -> Flow<'_> {
    match decode_clone3(cx, args) {
        Ok(args) => clone_flow(cx, args),
        Err(errno) => Flow::done(Err(errno)),
    }
}

/// `copy_clone_args_from_user` and `clone3_args_valid`, in their order.
fn decode_clone3(cx: &Cx, args: Args) -> Result<CloneArgs, Errno> {
    let size = usize::try_from(args.u64(1)).map_err(|_| Errno::E2BIG)?;
    if size > crate::abi::PAGE_SIZE as usize {
        return Err(Errno::E2BIG);
    }
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL);
    }
    let raw: Clone3 = read_extensible(cx, args.u64(0), size)?;
    if raw.set_tid_size > SET_TID_MAX || (raw.set_tid == 0) != (raw.set_tid_size == 0) {
        return Err(Errno::EINVAL);
    }
    let exit_signal = match raw.exit_signal {
        0 => None,
        n => Some(i32::try_from(n).ok().and_then(Signal::new).ok_or(Errno::EINVAL)?),
    };
    let into_cgroup = raw.flags & CloneFlags::INTO_CGROUP.bits() != 0;
    if into_cgroup && (raw.cgroup > i32::MAX as u64 || size < CLONE_ARGS_SIZE_VER2) {
        return Err(Errno::EINVAL);
    }
    let mut set_tid = Vec::new();
    for n in 0..raw.set_tid_size {
        set_tid.push(cx.mm.read_val::<i32>(raw.set_tid.wrapping_add(n * 4))?);
    }
    let flags = CloneFlags::from_bits(raw.flags).ok_or(Errno::EINVAL)?;
    if flags.contains(CloneFlags::DETACHED) || flags.contains(CloneFlags::SIGHAND | CloneFlags::CLEAR_SIGHAND) {
        return Err(Errno::EINVAL);
    }
    if flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && exit_signal.is_some() {
        return Err(Errno::EINVAL);
    }
    let user_end = cx.kernel().platform.layout().user.end;
    let stack_fits = raw.stack.checked_add(raw.stack_size).is_some_and(|end| end <= user_end);
    if (raw.stack == 0) != (raw.stack_size == 0) || !stack_fits {
        return Err(Errno::EINVAL);
    }
    Ok(CloneArgs {
        flags,
        exit_signal,
        stack: raw.stack.wrapping_add(raw.stack_size),
        tls: raw.tls,
        parent_tid: raw.parent_tid,
        child_tid: raw.child_tid,
        pidfd: raw.pidfd,
        set_tid,
        cgroup: raw.cgroup as i32,
    })
}

/// Reads a structure that may grow (`copy_struct_from_user`): a shorter one is filled up with zeros, a longer one must end in zeros.
///
/// # Errors
/// `E2BIG`, `EFAULT`.
pub(super) fn read_extensible<T: FromBytes + IntoBytes>(cx: &Cx, addr: u64, size: usize) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    let known = value.as_mut_bytes();
    let common = size.min(known.len());
    if size > crate::abi::PAGE_SIZE as usize {
        return Err(Errno::E2BIG);
    }
    if let Some(place) = known.get_mut(..common) {
        cx.mm.read(addr, place)?;
    }
    let mut rest = vec![0; size - common];
    cx.mm.read(addr.wrapping_add(common as u64), &mut rest)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    Ok(value)
}

/// The process of a `pid` argument, where 0 is the caller.
pub(super) fn process(cx: &Cx, pid: Tid) -> Result<std::sync::Arc<ThreadGroup>, Errno> {
    match pid {
        0 => Ok(cx.task.group.clone()),
        pid => cx.find_process_of(pid).ok_or(Errno::ESRCH),
    }
}

pub(super) fn setpgid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let caller = cx.task.group.clone();
        let (target, pgid) = (args.i32(0), args.i32(1));
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        let target = match target {
            0 => caller.tgid,
            target => caller.pid_ns.global(target).ok_or(Errno::ESRCH)?,
        };
        let pgid = match pgid {
            0 => target,
            // What names nothing is a group without members.
            pgid => caller.pid_ns.global(pgid).unwrap_or(-1),
        };
        ThreadGroup::set_process_group(&caller, target, pgid).map(|()| 0)
    })())
}

pub(super) fn getpgid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(process(cx, args.i32(0)).map(|group| cx.local(group.pgid()) as u64))
}

pub(super) fn getpgrp(cx: &mut Cx, _: Args) -> Flow<'_> {
    number(cx.local(cx.task.group.pgid()))
}

pub(super) fn setsid(cx: &mut Cx, _: Args) -> Flow<'_> {
    Flow::done(cx.task.group.new_session().map(|sid| cx.local(sid) as u64))
}

pub(super) fn getsid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(process(cx, args.i32(0)).map(|group| cx.local(group.session().sid) as u64))
}
