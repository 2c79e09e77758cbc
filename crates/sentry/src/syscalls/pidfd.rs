//! pidfd_open, pidfd_send_signal, pidfd_getfd.

use std::sync::Arc;

use super::fds::install;
use super::fs_path::real_file;
use super::{Args, Flow};
use crate::Errno;
use crate::fs::{File, OpenFlags, proc};
use crate::ipc::pidfd::{Named, PIDFD_THREAD, PidFd};
use crate::signal::{SigInfo, Signal};
use crate::task::Cx;

pub(super) fn pidfd_open(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(open(cx, args.i32(0), args.u32(1)))
}

fn open(cx: &Cx, pid: i32, flags: u32) -> Result<u64, Errno> {
    let open = OpenFlags::from_bits_retain(flags & !PIDFD_THREAD);
    if !OpenFlags::NONBLOCK.contains(open) || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let named = if flags & PIDFD_THREAD != 0 {
        let task = cx.find_task(pid);
        // A zombie has no thread any more; its first thread's number still stands for it.
        let zombie = || cx.find_process(pid).map(Named::Process);
        task.map(|task| Named::thread(&task)).or_else(zombie).ok_or(Errno::ESRCH)?
    } else {
        match cx.find_process(pid) {
            Some(group) => Named::Process(group),
            None if cx.find_task(pid).is_some() => return Err(Errno::EINVAL),
            None => return Err(Errno::ESRCH),
        }
    };
    install(cx, PidFd::file(cx, named, open), true).map(|fd| fd as u64)
}

/// The pidfd behind a descriptor.
///
/// # Errors
/// `EBADF`, also for another kind of file.
pub(super) fn pidfd(cx: &Cx, fd: i32) -> Result<Arc<File>, Errno> {
    let file = cx.file(fd)?;
    if file.downcast::<PidFd>().is_some() { Ok(file) } else { Err(Errno::EBADF) }
}

fn of(file: &File) -> Result<&PidFd, Errno> {
    file.downcast::<PidFd>().ok_or(Errno::EBADF)
}

/// Which processes or threads of a pidfd a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Thread,
    Process,
    ProcessGroup,
}

pub(super) fn pidfd_send_signal(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(send_signal(cx, args).map(|()| 0))
}

fn send_signal(cx: &Cx, args: Args) -> Result<(), Errno> {
    let aim = match args.u32(3) {
        0 => None,
        1 => Some(Aim::Thread),
        2 => Some(Aim::Process),
        4 => Some(Aim::ProcessGroup),
        _ => return Err(Errno::EINVAL),
    };
    let file = real_file(cx, args.i32(0))?;
    // A directory of procfs names its process too (tgid_pidfd_to_pid).
    let named = match file.downcast::<PidFd>() {
        Some(pidfd) => pidfd.named.clone(),
        None => Named::Process(proc::named_by(&file)?),
    };
    let group = named.group();
    if !group.pid_ns.is_within(&cx.task.group.pid_ns) {
        return Err(Errno::EINVAL);
    }
    let aim = aim.unwrap_or(if matches!(named, Named::Thread { .. }) { Aim::Thread } else { Aim::Process });
    let number = args.i32(1);
    let own = aim != Aim::ProcessGroup && named.number() == Some(cx.task.tid());
    let info = match args.opt_ptr(2) {
        None => None,
        Some(addr) => Some(read_info(cx, addr, number, own)?),
    };
    if named.number().is_none() {
        return Err(Errno::ESRCH);
    }
    let signal = super::kill::signal(number)?;
    let info = if signal.is_some() { info } else { None };
    match aim {
        Aim::Process => super::kill::send(cx, group, signal, info),
        Aim::ProcessGroup => super::kill::send_to_group(cx, group.pgid(), signal, info),
        Aim::Thread => match named.task() {
            Some(task) => super::kill::send_to_thread(cx, &task, signal, info),
            None if group.ended().is_some() => Ok(()),
            None => Err(Errno::ESRCH),
        },
    }
}

/// The information that goes with the signal: only to oneself may it look like the kernel's or `kill`'s.
fn read_info(cx: &Cx, addr: u64, number: i32, own: bool) -> Result<SigInfo, Errno> {
    let bytes = cx.mm.read_val::<[u8; SigInfo::SIZE]>(addr)?;
    let [a, b, c, d, ..] = bytes;
    if i32::from_le_bytes([a, b, c, d]) != number {
        return Err(Errno::EINVAL);
    }
    let info = SigInfo::decode(Signal::new(number).unwrap_or(Signal::CONT), &bytes).ok_or(Errno::E2BIG)?;
    // SI_TKILL is -6.
    if !own && (info.code >= 0 || info.code == -6) { Err(Errno::EPERM) } else { Ok(info) }
}

pub(super) fn pidfd_getfd(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(getfd(cx, args))
}

fn getfd(cx: &Cx, args: Args) -> Result<u64, Errno> {
    if args.u32(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = pidfd(cx, args.i32(0))?;
    let task = of(&file)?.named.task().ok_or(Errno::ESRCH)?;
    super::process_vm::may_attach(cx, &task)?;
    let files = task.shared.read().as_ref().map(|shared| shared.files.clone()).ok_or(Errno::ESRCH)?;
    install(cx, files.get(args.i32(1))?, true).map(|fd| fd as u64)
}
