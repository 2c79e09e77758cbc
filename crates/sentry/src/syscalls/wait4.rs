//! `wait4` and `waitid`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Fail, Flow, Outcome};
use crate::Errno;
use crate::fs::OpenFlags;
use crate::ipc::pidfd::PidFd;
use crate::signal::{SigInfo, Signal, cld};
use crate::task::{Change, Cx, ExitStatus, Found, Usage, WaitOptions, Which};

/// `struct rusage`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Rusage {
    user: [i64; 2],
    system: [i64; 2],
    max_rss: i64,
    shared: [i64; 3],
    minor_faults: i64,
    major_faults: i64,
    swaps: i64,
    blocks: [i64; 2],
    messages: [i64; 2],
    signals: i64,
    voluntary_switches: i64,
    involuntary_switches: i64,
}

/// Seconds and microseconds.
fn timeval(ns: u64) -> [i64; 2] {
    [(ns / 1_000_000_000) as i64, (ns % 1_000_000_000 / 1000) as i64]
}

impl From<&Usage> for Rusage {
    fn from(usage: &Usage) -> Rusage {
        Rusage {
            user: timeval(usage.user_ns),
            system: timeval(usage.system_ns),
            max_rss: usage.max_rss_kib as i64,
            minor_faults: usage.minor_faults as i64,
            voluntary_switches: usage.voluntary_switches as i64,
            ..Rusage::default()
        }
    }
}

/// As `wait4` stores it.
fn wait_status(change: Change) -> u32 {
    match change {
        Change::Ended(status) => status.wait_status(),
        Change::Stopped(signal) => (signal.number() as u32) << 8 | 0x7f,
        Change::Trapped(code) => (code as u32) << 8 | 0x7f,
        Change::Continued => 0xffff,
    }
}

pub(super) fn wait4(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let which = match args.i32(0) {
            i32::MIN => return Err(Errno::ESRCH.into()),
            -1 => Which::Any,
            0 => Which::ProcessGroup(cx.task.group.pgid()),
            pgid if pgid < 0 => cx.task.group.pid_ns.global(-pgid).map_or(Which::Nobody, Which::ProcessGroup),
            pid => cx.task.group.pid_ns.global(pid).map_or(Which::Nobody, Which::Process),
        };
        let allowed = WaitOptions::NOHANG
            | WaitOptions::STOPPED
            | WaitOptions::CONTINUED
            | WaitOptions::NOTHREAD
            | WaitOptions::ALL
            | WaitOptions::CLONE;
        let options = WaitOptions::from_bits(args.u32(2)).filter(|&options| allowed.contains(options)).ok_or(Errno::EINVAL)?;
        let Some(found) = cx.wait_child(which, options | WaitOptions::EXITED).await? else { return Ok(0) };
        if let Some(addr) = args.opt_ptr(1) {
            cx.mm.write_val(addr, &wait_status(found.change))?;
        }
        if let Some(addr) = args.opt_ptr(3) {
            cx.mm.write_val(addr, &Rusage::from(&found.usage))?;
        }
        Ok(found.pid as u64)
    })
}

pub(super) fn waitid(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(waitid_inner(cx, args))
}

async fn waitid_inner(cx: &mut Cx, args: Args) -> Outcome {
    let id = args.i32(1);
    let options = WaitOptions::from_bits(args.u32(3)).ok_or(Errno::EINVAL)?;
    if !options.intersects(WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED) {
        return Err(Errno::EINVAL.into());
    }
    let mut nonblocking = false;
    // P_ALL, P_PID, P_PGID, P_PIDFD.
    let which = match args.i32(0) {
        0 => Which::Any,
        1 if id > 0 => cx.task.group.pid_ns.global(id).map_or(Which::Nobody, Which::Process),
        2 if id > 0 => cx.task.group.pid_ns.global(id).map_or(Which::Nobody, Which::ProcessGroup),
        2 if id == 0 => Which::ProcessGroup(cx.task.group.pgid()),
        3 if id >= 0 => {
            let file = super::pidfd::pidfd(cx, id)?;
            nonblocking = file.flags().contains(OpenFlags::NONBLOCK) && !options.contains(WaitOptions::NOHANG);
            let pidfd = file.downcast::<PidFd>().ok_or(Errno::EBADF)?;
            pidfd.named.number().map_or(Which::Nobody, Which::Process)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let options = if nonblocking { options | WaitOptions::NOHANG } else { options };
    let found = cx.wait_child(which, options).await?;
    if nonblocking && found.is_none() {
        return Err(Errno::EAGAIN.into());
    }
    store_waitid(cx, args, found.as_ref())?;
    Ok(0)
}

/// Stores what `waitid` reports; with nothing found, zeros.
fn store_waitid(cx: &Cx, args: Args, found: Option<&Found>) -> Result<(), Fail> {
    if let Some(addr) = args.opt_ptr(4)
        && let Some(found) = found
    {
        cx.mm.write_val(addr, &Rusage::from(&found.usage))?;
    }
    let Some(addr) = args.opt_ptr(2) else { return Ok(()) };
    let bytes = found.map_or([0; SigInfo::SIZE], |found| {
        let (code, status) = match found.change {
            Change::Ended(ExitStatus::Exited(code)) => (cld::EXITED, i32::from(code)),
            Change::Ended(ExitStatus::Signaled { signal, core: false }) => (cld::KILLED, signal.number()),
            Change::Ended(ExitStatus::Signaled { signal, core: true }) => (cld::DUMPED, signal.number()),
            Change::Stopped(signal) => (cld::STOPPED, signal.number()),
            Change::Trapped(code) => (cld::TRAPPED, code),
            Change::Continued => (cld::CONTINUED, Signal::CONT.number()),
        };
        SigInfo::child(code, found.pid, cx.creds().user_ns.show_uid(found.uid), status, 0, 0).encode()
    });
    // Linux stores the fields up to si_status (28 bytes), not the whole structure.
    cx.mm.write(addr, bytes.get(..28).unwrap_or_default())?;
    Ok(())
}
