//! Interval timers and POSIX timers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::time::ClockId;
use super::{Args, Flow};
use crate::Errno;
use crate::signal::Signal;
use crate::task::Cx;
use crate::time::{CpuFirst, Interval, MonoTime, Notify, Setting, Timespec};

const TIMER_ABSTIME: u32 = 1;
const SECOND: u64 = 1_000_000_000;

fn interval(which: i32) -> Result<Interval, Errno> {
    match which {
        0 => Ok(Interval::Real),
        1 => Ok(Interval::Virtual),
        2 => Ok(Interval::Prof),
        _ => Err(Errno::EINVAL),
    }
}

/// Nanoseconds of a `timeval`.
fn timeval_ns([sec, usec]: [i64; 2]) -> Result<u64, Errno> {
    let sec = u64::try_from(sec).map_err(|_| Errno::EINVAL)?;
    let usec = u64::try_from(usec).ok().filter(|&usec| usec < 1_000_000).ok_or(Errno::EINVAL)?;
    Ok(sec.saturating_mul(SECOND).saturating_add(usec * 1000))
}

/// `struct itimerval`: interval, value. A time that is left is never shown as 0.
fn itimerval(setting: Setting) -> [i64; 4] {
    let pair = |ns: u64| [(ns / SECOND) as i64, (ns % SECOND / 1000) as i64];
    let [interval_sec, interval_usec] = pair(setting.interval_ns);
    let rounded = if setting.value_ns == 0 { 0 } else { setting.value_ns.max(1000) };
    let [sec, usec] = pair(rounded);
    [interval_sec, interval_usec, sec, usec]
}

pub(super) fn getitimer(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let group = &cx.task.group;
        let setting = group.timers.interval(group, cx.kernel(), interval(args.i32(0))?);
        cx.mm.write_val(args.u64(1), &itimerval(setting)).map(|()| 0)
    })())
}

pub(super) fn setitimer(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let which = interval(args.i32(0))?;
        // A null pointer disarms, as Linux still allows.
        let [interval_sec, interval_usec, sec, usec] = match args.opt_ptr(1) {
            Some(addr) => cx.mm.read_val::<[i64; 4]>(addr)?,
            None => [0; 4],
        };
        let new = Setting { value_ns: timeval_ns([sec, usec])?, interval_ns: timeval_ns([interval_sec, interval_usec])? };
        let group = &cx.task.group;
        let old = group.timers.set_interval(group, cx.kernel(), which, new);
        match args.opt_ptr(2) {
            Some(addr) => cx.mm.write_val(addr, &itimerval(old)).map(|()| 0),
            None => Ok(0),
        }
    })())
}

pub(super) fn alarm(cx: &mut Cx, args: Args) -> Flow<'_> {
    let group = &cx.task.group;
    let new = Setting { value_ns: u64::from(args.u32(0)) * SECOND, interval_ns: 0 };
    let old = group.timers.set_interval(group, cx.kernel(), Interval::Real, new).value_ns;
    // Rounded, but never to 0.
    let seconds = if old == 0 { 0 } else { ((old + SECOND / 2) / SECOND).max(1) };
    Flow::Done(Ok(seconds))
}

/// `struct sigevent`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SigEvent {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    pad: [i32; 11],
}

fn notify(cx: &Cx, addr: Option<u64>) -> Result<Notify, Errno> {
    let Some(addr) = addr else { return Ok(Notify::Process { signal: Signal::ALRM, value: None }) };
    let event: SigEvent = cx.mm.read_val(addr)?;
    let (signal, value) = (Signal::new(event.signo).ok_or(Errno::EINVAL), Some(event.value));
    match event.notify {
        0 => Ok(Notify::Process { signal: signal?, value }),
        1 => Ok(Notify::None),
        // SIGEV_THREAD is glibc's; for the kernel it is a signal.
        2 => Ok(Notify::Process { signal: signal?, value }),
        4 => {
            let task = cx.find_task(event.tid).filter(|task| task.tgid() == cx.task.tgid());
            Ok(Notify::Thread { signal: signal?, value, tid: task.ok_or(Errno::EINVAL)?.tid() })
        }
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn timer_create(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let cpu = match ClockId::new(args.i32(0))? {
            ClockId::Realtime | ClockId::Monotonic | ClockId::Boottime | ClockId::Tai => None,
            clock => Some(clock.cpu_clock(cx)?.ok_or(Errno::EOPNOTSUPP)?),
        };
        let notify = notify(cx, args.opt_ptr(1))?;
        let timers = &cx.task.group.timers;
        let id = timers.create(args.i32(0), cpu, notify)?;
        cx.mm.write_val(args.u64(2), &id).inspect_err(|_| {
            let _ = timers.delete(id);
        })?;
        Ok(0)
    })())
}

/// `struct itimerspec`: interval, value.
fn itimerspec(setting: Setting) -> [Timespec; 2] {
    [Timespec::from_ns(setting.interval_ns), Timespec::from_ns(setting.value_ns)]
}

pub(super) fn timer_settime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let [interval, value] = cx
            .mm
            .read_val::<[Timespec; 2]>(args.u64(2))
            .map_err(|_| if args.u64(2) == 0 { Errno::EINVAL } else { Errno::EFAULT })?;
        let (interval_ns, value_ns) = (interval.ns()?, value.ns()?);
        let group = &cx.task.group;
        let clock = ClockId::new(group.timers.clock(args.i32(0))?)?;
        let absolute = args.u32(1) & TIMER_ABSTIME != 0;
        if clock.is_cpu() {
            let first = match value_ns {
                0 => None,
                ns if absolute => Some(CpuFirst::At(ns)),
                ns => Some(CpuFirst::After(ns)),
            };
            let old = group.timers.set_cpu(group, cx.kernel(), args.i32(0), first, interval_ns)?;
            return match args.opt_ptr(3) {
                Some(addr) => cx.mm.write_val(addr, &itimerspec(old)).map(|()| 0),
                None => Ok(0),
            };
        }
        let at: Option<MonoTime> = match value_ns {
            0 => None,
            ns if absolute => clock.to_monotonic(cx, ns),
            ns => Some(cx.now().after(ns)),
        };
        let old = group.timers.set(group, cx.kernel(), args.i32(0), at, interval_ns)?;
        match args.opt_ptr(3) {
            Some(addr) => cx.mm.write_val(addr, &itimerspec(old)).map(|()| 0),
            None => Ok(0),
        }
    })())
}

pub(super) fn timer_gettime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let setting = cx.task.group.timers.get(cx.kernel(), args.i32(0))?;
        cx.mm.write_val(args.u64(1), &itimerspec(setting)).map(|()| 0)
    })())
}

pub(super) fn timer_getoverrun(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(cx.task.group.timers.overrun(args.i32(0)).map(|n| n as u64))
}

pub(super) fn timer_delete(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(cx.task.group.timers.delete(args.i32(0)).map(|()| 0))
}
