//! `prctl`: what a process may set of itself.

use std::sync::atomic::Ordering;

use super::{Args, Flow};
use crate::Errno;
use crate::signal::Signal;
use crate::task::{Capability, Creds, Cx};

const SET_PDEATHSIG: i32 = 1;
const GET_PDEATHSIG: i32 = 2;
const GET_DUMPABLE: i32 = 3;
const SET_DUMPABLE: i32 = 4;
const GET_KEEPCAPS: i32 = 7;
const SET_KEEPCAPS: i32 = 8;
const GET_TIMING: i32 = 13;
const SET_TIMING: i32 = 14;
const SET_NAME: i32 = 15;
const GET_NAME: i32 = 16;
const GET_SECCOMP: i32 = 21;
const TASK_PERF_EVENTS_DISABLE: i32 = 31;
const TASK_PERF_EVENTS_ENABLE: i32 = 32;
const MCE_KILL: i32 = 33;
const MCE_KILL_GET: i32 = 34;
const SET_MM: i32 = 35;
const SET_THP_DISABLE: i32 = 41;
const GET_THP_DISABLE: i32 = 42;
const GET_SPECULATION_CTRL: i32 = 52;
const SET_SPECULATION_CTRL: i32 = 53;
const SET_IO_FLUSHER: i32 = 57;
const GET_IO_FLUSHER: i32 = 58;
const SET_SECCOMP: i32 = 22;
const CAPBSET_READ: i32 = 23;
const CAPBSET_DROP: i32 = 24;
const GET_TSC: i32 = 25;
const GET_SECUREBITS: i32 = 27;
const SET_SECUREBITS: i32 = 28;
const SET_TIMERSLACK: i32 = 29;
const GET_TIMERSLACK: i32 = 30;
const SET_CHILD_SUBREAPER: i32 = 36;
const GET_CHILD_SUBREAPER: i32 = 37;
const SET_NO_NEW_PRIVS: i32 = 38;
const GET_NO_NEW_PRIVS: i32 = 39;
const GET_TID_ADDRESS: i32 = 40;
const CAP_AMBIENT: i32 = 47;
const GET_AUXV: i32 = 0x4155_5856;

const KEEP_CAPS: u32 = 1 << 4;
const KEEP_CAPS_LOCKED: u32 = 1 << 5;
const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
/// Each bit of the security bits has its lock above it.
const ALL_SECUREBITS: u32 = 0x55;
const ALL_SECURELOCKS: u32 = 0xaa;
/// The last capability's number.
const LAST_CAP: u64 = 40;

pub(super) fn prctl(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(option(cx, args))
}

fn option(cx: &mut Cx, args: Args) -> Result<u64, Errno> {
    let value = args.u64(1);
    let task = cx.task.clone();
    let zeros = |from: usize| if (from..5).all(|n| args.u64(n) == 0) { Ok(()) } else { Err(Errno::EINVAL) };
    match args.i32(0) {
        SET_PDEATHSIG => {
            let signal =
                if value == 0 { 0 } else { i32::try_from(value).ok().and_then(Signal::new).ok_or(Errno::EINVAL)?.number() };
            task.parent_death_signal.store(signal, Ordering::Relaxed);
            Ok(0)
        }
        GET_PDEATHSIG => cx.mm.write_val(value, &task.parent_death_signal.load(Ordering::Relaxed)).map(|()| 0),
        GET_DUMPABLE => Ok(task.group.dumpable.load(Ordering::Relaxed) as u64),
        SET_DUMPABLE if value <= 1 => {
            task.group.dumpable.store(value as i32, Ordering::Relaxed);
            Ok(0)
        }
        GET_KEEPCAPS => Ok(u64::from(cx.creds().securebits & KEEP_CAPS != 0)),
        SET_KEEPCAPS => set_keep_caps(cx, value),
        GET_TIMING => Ok(0),
        SET_TIMING if value == 0 => Ok(0),
        // There are no performance counters to be turned off.
        TASK_PERF_EVENTS_DISABLE | TASK_PERF_EVENTS_ENABLE => Ok(0),
        MCE_KILL => zeros(3).and_then(|()| machine_checks(cx, value, args.u64(2))),
        MCE_KILL_GET => zeros(1).map(|()| task.group.flags.machine_checks.load(Ordering::Relaxed).into()),
        SET_MM if !cx.creds().has(Capability::SysResource) => Err(Errno::EPERM),
        SET_THP_DISABLE => zeros(2).map(|()| {
            task.group.flags.thp_disabled.store(value != 0, Ordering::Relaxed);
            0
        }),
        GET_THP_DISABLE => zeros(1).map(|()| task.group.flags.thp_disabled.load(Ordering::Relaxed).into()),
        // What is speculated on is the host's affair: as for a processor that is not affected.
        GET_SPECULATION_CTRL => zeros(2).and(if value <= 2 { Ok(0) } else { Err(Errno::ENODEV) }),
        SET_SPECULATION_CTRL => zeros(3).and(Err(if value <= 2 { Errno::ENXIO } else { Errno::ENODEV })),
        SET_IO_FLUSHER | GET_IO_FLUSHER if !cx.creds().has(Capability::SysResource) => Err(Errno::EPERM),
        SET_IO_FLUSHER if value <= 1 => zeros(2).map(|()| {
            task.group.flags.io_flusher.store(value == 1, Ordering::Relaxed);
            0
        }),
        GET_IO_FLUSHER => zeros(1).map(|()| task.group.flags.io_flusher.load(Ordering::Relaxed).into()),
        SET_NAME => {
            // At most 15 bytes, whatever follows.
            let mut name = Vec::new();
            for at in 0..15 {
                match cx.mm.read_val::<u8>(value.wrapping_add(at))? {
                    0 => break,
                    byte => name.push(byte),
                }
            }
            *task.name.lock() = name;
            Ok(0)
        }
        GET_NAME => {
            let mut name = task.name.lock().clone();
            name.resize(16, 0);
            cx.mm.write(value, &name).map(|()| 0)
        }
        GET_AUXV => {
            zeros(3)?;
            let vector = cx.mm.auxiliary_vector();
            let most = usize::try_from(args.u64(2)).unwrap_or(usize::MAX).min(vector.len());
            cx.mm.write(value, vector.get(..most).unwrap_or_default())?;
            Ok(vector.len() as u64)
        }
        GET_SECCOMP => Ok(task.seccomp().mode as u64),
        SET_SECCOMP => super::seccomp::set_mode(cx, value, args.u64(2)),
        CAPBSET_READ if value <= LAST_CAP => Ok(cx.creds().bounding >> value & 1),
        CAPBSET_DROP => drop_bounding(cx, value),
        // PR_TSC_ENABLE.
        GET_TSC => cx.mm.write_val(value, &1i32).map(|()| 0),
        GET_SECUREBITS => Ok(cx.creds().securebits.into()),
        SET_SECUREBITS => set_securebits(cx, value),
        SET_TIMERSLACK => {
            task.timer_slack_ns.store(if value as i64 <= 0 { task.default_slack_ns } else { value }, Ordering::Relaxed);
            Ok(0)
        }
        GET_TIMERSLACK => Ok(task.timer_slack_ns.load(Ordering::Relaxed)),
        SET_CHILD_SUBREAPER => {
            task.group.set_subreaper(value != 0);
            Ok(0)
        }
        GET_CHILD_SUBREAPER => cx.mm.write_val(value, &i32::from(task.group.is_subreaper())).map(|()| 0),
        SET_NO_NEW_PRIVS => {
            zeros(2)?;
            if value != 1 {
                return Err(Errno::EINVAL);
            }
            edit(cx, |creds| creds.no_new_privs = true)
        }
        GET_NO_NEW_PRIVS => zeros(1).map(|()| cx.creds().no_new_privs.into()),
        GET_TID_ADDRESS => cx.mm.write_val(value, &task.clear_child_tid.load(Ordering::Relaxed)).map(|()| 0),
        CAP_AMBIENT => zeros(3).and_then(|()| ambient(cx, value, args.u64(2))),
        _ => Err(Errno::EINVAL),
    }
}

/// `PR_MCE_KILL`: when a process wants to hear of broken memory. Kept and reported.
fn machine_checks(cx: &Cx, what: u64, when: u64) -> Result<u64, Errno> {
    const DEFAULT: u32 = 2;
    let kept = match (what, when) {
        (0, 0) => DEFAULT,
        (1, 0..=2) => when as u32,
        _ => return Err(Errno::EINVAL),
    };
    cx.task.group.flags.machine_checks.store(kept, Ordering::Relaxed);
    Ok(0)
}

fn edit(cx: &mut Cx, change: impl FnOnce(&mut Creds)) -> Result<u64, Errno> {
    let mut creds = (*cx.creds()).clone();
    change(&mut creds);
    cx.set_creds(creds);
    Ok(0)
}

fn set_keep_caps(cx: &mut Cx, value: u64) -> Result<u64, Errno> {
    if value > 1 {
        return Err(Errno::EINVAL);
    }
    if cx.creds().securebits & KEEP_CAPS_LOCKED != 0 {
        return Err(Errno::EPERM);
    }
    edit(cx, |creds| creds.securebits = creds.securebits & !KEEP_CAPS | if value == 1 { KEEP_CAPS } else { 0 })
}

fn drop_bounding(cx: &mut Cx, value: u64) -> Result<u64, Errno> {
    if !cx.creds().has_own(Capability::Setpcap) {
        return Err(Errno::EPERM);
    }
    if value > LAST_CAP {
        return Err(Errno::EINVAL);
    }
    edit(cx, |creds| creds.bounding &= !(1 << value))
}

/// `cap_task_prctl`: locked bits stay as they are, locks are not taken off, unknown bits are refused.
fn set_securebits(cx: &mut Cx, value: u64) -> Result<u64, Errno> {
    let creds = cx.creds();
    let new = u32::try_from(value).map_err(|_| Errno::EPERM)?;
    let locked = (creds.securebits & ALL_SECURELOCKS) >> 1;
    let lock_lost = creds.securebits & ALL_SECURELOCKS & !new != 0;
    let unknown = new & !(ALL_SECUREBITS | ALL_SECURELOCKS) != 0;
    if locked & (creds.securebits ^ new) != 0 || lock_lost || unknown || !creds.has_own(Capability::Setpcap) {
        return Err(Errno::EPERM);
    }
    edit(cx, |creds| creds.securebits = new)
}

fn ambient(cx: &mut Cx, operation: u64, capability: u64) -> Result<u64, Errno> {
    const CLEAR_ALL: u64 = 4;
    if operation == CLEAR_ALL {
        return if capability == 0 { edit(cx, |creds| creds.ambient = 0) } else { Err(Errno::EINVAL) };
    }
    if capability > LAST_CAP {
        return Err(Errno::EINVAL);
    }
    let bit = 1u64 << capability;
    let creds = cx.creds();
    match operation {
        // PR_CAP_AMBIENT_IS_SET, _RAISE, _LOWER
        1 => Ok(u64::from(creds.ambient & bit != 0)),
        2 if creds.permitted & creds.inheritable & bit == 0 || creds.securebits & NO_CAP_AMBIENT_RAISE != 0 => {
            Err(Errno::EPERM)
        }
        2 => edit(cx, |creds| creds.ambient |= bit),
        3 => edit(cx, |creds| creds.ambient &= !bit),
        _ => Err(Errno::EINVAL),
    }
}

/// What of a personality changes anything here: see `memory` (`READ_IMPLIES_EXEC`), `mask` (`STICKY_TIMEOUTS`), `uname`, and the
/// loader (`ADDR_NO_RANDOMIZE`).
pub(crate) mod persona {
    pub const ADDR_NO_RANDOMIZE: u64 = 0x0004_0000;
    pub const READ_IMPLIES_EXEC: u64 = 0x0040_0000;
    pub const STICKY_TIMEOUTS: u64 = 0x0400_0000;
    pub const UNAME26: u64 = 0x0002_0000;
    pub const LINUX32: u64 = 8;
}

/// `personality`: any value, kept and inherited.
pub(super) fn personality(cx: &mut Cx, args: Args) -> Flow<'_> {
    const QUERY: u32 = 0xffff_ffff;
    let group = &cx.task.group;
    let old = group.personality.load(Ordering::Relaxed);
    let new = args.u32(0);
    if new != QUERY {
        group.personality.store(new.into(), Ordering::Relaxed);
    }
    Flow::Done(Ok(old))
}
