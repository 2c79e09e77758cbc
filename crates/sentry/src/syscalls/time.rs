//! Clocks and sleeping.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::task::{Cx, ticks};
use crate::time::{CpuClock, MonoTime, Timespec};
use crate::wait::WaitError;

const TIMER_ABSTIME: u32 = 1;
/// Resolution of the coarse clocks: a tick of a kernel with 250 Hz.
const COARSE_NS: u64 = 4_000_000;

/// A clock that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClockId {
    Realtime,
    Monotonic,
    Boottime,
    RealtimeCoarse,
    MonotonicCoarse,
    MonotonicRaw,
    Tai,
    /// CPU time of a process (0: the caller's).
    Process(i32),
    /// CPU time of a thread of the calling process (0: the caller).
    Thread(i32),
}

impl ClockId {
    /// `clockid_t`: small numbers, or, negative, a process or thread and which of its clocks (`MAKE_PROCESS_CPUCLOCK`).
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(id: i32) -> Result<ClockId, Errno> {
        Ok(match id {
            0 | 8 => ClockId::Realtime,
            1 => ClockId::Monotonic,
            2 => ClockId::Process(0),
            3 => ClockId::Thread(0),
            4 => ClockId::MonotonicRaw,
            5 => ClockId::RealtimeCoarse,
            6 => ClockId::MonotonicCoarse,
            7 | 9 => ClockId::Boottime,
            11 => ClockId::Tai,
            // The last two bits: which measure of CPU time (3: a clock device's descriptor).
            id if id < 0 && id & 3 != 3 && id & 4 != 0 => ClockId::Thread(!(id >> 3)),
            id if id < 0 && id & 3 != 3 => ClockId::Process(!(id >> 3)),
            _ => return Err(Errno::EINVAL),
        })
    }

    /// The time, in nanoseconds.
    ///
    /// # Errors
    /// `EINVAL` when there is no such process or thread.
    pub fn now_ns(self, cx: &Cx) -> Result<u64, Errno> {
        let clock = &cx.kernel().clock;
        Ok(match self {
            ClockId::Realtime | ClockId::RealtimeCoarse | ClockId::Tai => clock.realtime_ns(),
            ClockId::Monotonic | ClockId::MonotonicCoarse | ClockId::MonotonicRaw => clock.monotonic().0,
            ClockId::Boottime => clock.boottime_ns(),
            ClockId::Process(0) => cx.task.group.own_usage().cpu_ns(),
            ClockId::Process(pid) => cx.find_process(pid).ok_or(Errno::EINVAL)?.own_usage().cpu_ns(),
            ClockId::Thread(0) => cx.task.cpu_time_ns(),
            ClockId::Thread(tid) => {
                let task = cx.find_task(tid).filter(|task| task.tgid() == cx.task.tgid());
                task.ok_or(Errno::EINVAL)?.cpu_time_ns()
            }
        })
    }

    /// Whether it measures CPU time.
    pub fn is_cpu(self) -> bool {
        matches!(self, ClockId::Process(_) | ClockId::Thread(_))
    }

    /// The process or thread whose CPU time it is; None for other clocks.
    ///
    /// # Errors
    /// `EINVAL` when there is no such one.
    pub fn cpu_clock(self, cx: &Cx) -> Result<Option<CpuClock>, Errno> {
        Ok(Some(match self {
            ClockId::Process(0) => CpuClock::Process(Arc::downgrade(&cx.task.group)),
            ClockId::Process(pid) => CpuClock::Process(Arc::downgrade(&cx.find_process(pid).ok_or(Errno::EINVAL)?)),
            ClockId::Thread(0) => CpuClock::Thread(Arc::downgrade(&cx.task)),
            ClockId::Thread(tid) => {
                let task = cx.find_task(tid).filter(|task| task.tgid() == cx.task.tgid());
                CpuClock::Thread(Arc::downgrade(&task.ok_or(Errno::EINVAL)?))
            }
            _ => return Ok(None),
        }))
    }

    /// The point on the monotonic clock when this clock shows `ns`; None where that cannot be said.
    pub fn to_monotonic(self, cx: &Cx, ns: u64) -> Option<MonoTime> {
        match self {
            ClockId::Monotonic => Some(MonoTime(ns)),
            ClockId::Realtime | ClockId::Tai | ClockId::Boottime => {
                let left = ns.saturating_sub(self.now_ns(cx).ok()?);
                Some(cx.now().after(left))
            }
            _ => None,
        }
    }
}

pub(super) fn clock_gettime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let now = ClockId::new(args.i32(0))?.now_ns(cx)?;
        cx.mm.write_val(args.u64(1), &Timespec::from_ns(now)).map(|()| 0)
    })())
}

pub(super) fn clock_getres(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let clock = ClockId::new(args.i32(0))?;
        clock.now_ns(cx)?;
        let ns = match clock {
            ClockId::RealtimeCoarse | ClockId::MonotonicCoarse => COARSE_NS,
            _ => 1,
        };
        match args.opt_ptr(1) {
            Some(addr) => cx.mm.write_val(addr, &Timespec::from_ns(ns)).map(|()| 0),
            None => Ok(0),
        }
    })())
}

/// `clock_settime`, `settimeofday`: the clocks are the host's.
pub(super) fn clock_settime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| match ClockId::new(args.i32(0))? {
        ClockId::Realtime => cx.mm.read_val::<Timespec>(args.u64(1))?.ns().and(Err(Errno::EPERM)),
        clock if clock.is_cpu() => clock.now_ns(cx).and(Err(Errno::EPERM)),
        _ => Err(Errno::EINVAL),
    })())
}

pub(super) fn gettimeofday(cx: &mut Cx, args: Args) -> Flow<'_> {
    let now = cx.kernel().clock.realtime_ns();
    Flow::done((|| {
        if let Some(addr) = args.opt_ptr(0) {
            cx.mm.write_val(addr, &[(now / 1_000_000_000) as i64, (now % 1_000_000_000 / 1000) as i64])?;
        }
        // The kernel's own time zone is always UTC.
        match args.opt_ptr(1) {
            Some(addr) => cx.mm.write_val(addr, &[0i32; 2]).map(|()| 0),
            None => Ok(0),
        }
    })())
}

pub(super) fn time(cx: &mut Cx, args: Args) -> Flow<'_> {
    let seconds = cx.kernel().clock.realtime_ns() / 1_000_000_000;
    Flow::done(match args.opt_ptr(0) {
        Some(addr) => cx.mm.write_val(addr, &seconds).map(|()| seconds),
        None => Ok(seconds),
    })
}

pub(super) fn times(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (own, children) = (cx.task.group.own_usage(), cx.task.group.children_usage());
    let values = [own.user_ns, own.system_ns, children.user_ns, children.system_ns].map(ticks);
    let now = ticks(cx.now().0);
    Flow::done(match args.opt_ptr(0) {
        Some(addr) => cx.mm.write_val(addr, &values).map(|()| now),
        None => Ok(now),
    })
}

pub(super) fn nanosleep(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let ns = cx.mm.read_val::<Timespec>(args.u64(0))?.ns()?;
        sleep(cx, ns, args.opt_ptr(1)).await
    })
}

/// Which no task can sleep by (posix_clocks: `clock_thread`).
const CLOCK_THREAD_CPUTIME_ID: i32 = 3;

pub(super) fn clock_nanosleep(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let clock = ClockId::new(args.i32(0))?;
        if args.i32(0) == CLOCK_THREAD_CPUTIME_ID {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let absolute = args.u32(1) & TIMER_ABSTIME != 0;
        let ns = cx.mm.read_val::<Timespec>(args.u64(2))?.ns()?;
        match clock {
            ClockId::Realtime | ClockId::Monotonic | ClockId::Boottime | ClockId::Tai => {}
            // A thread cannot wait for its own CPU time.
            ClockId::Thread(0) => return Err(Errno::EINVAL.into()),
            ClockId::Thread(tid) if tid == cx.local(cx.task.tid()) => return Err(Errno::EINVAL.into()),
            ClockId::Process(_) | ClockId::Thread(_) => return sleep_cpu(cx, clock, ns, absolute, args.opt_ptr(3)).await,
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
        if !absolute {
            return sleep(cx, ns, args.opt_ptr(3)).await;
        }
        let deadline = clock.to_monotonic(cx, ns).ok_or(Errno::EOPNOTSUPP)?;
        match cx.wait(&[], deadline, || None::<()>).await {
            Ok(()) | Err(WaitError::TimedOut) => Ok(0),
            Err(WaitError::Interrupted) => Err(Fail::Restart(Restart::NoHandler)),
        }
    })
}

/// Sleeps until a process or another thread has used that much CPU time. It is looked at when that can be at the earliest.
async fn sleep_cpu(cx: &mut Cx, clock: ClockId, ns: u64, absolute: bool, remaining: Option<u64>) -> Outcome {
    /// How often it is looked at, at most.
    const CHECK_NS: u64 = 1_000_000;
    let start = clock.now_ns(cx)?;
    let until = if absolute { ns } else { start.saturating_add(ns) };
    loop {
        let left = until.saturating_sub(clock.now_ns(cx).unwrap_or(until));
        if left == 0 {
            return Ok(0);
        }
        let deadline = cx.now().after((left / cx.kernel().machine.cpus.max(1) as u64).max(CHECK_NS));
        match cx.wait(&[], deadline, || None::<()>).await {
            Ok(()) | Err(WaitError::TimedOut) => {}
            Err(WaitError::Interrupted) if absolute => return Err(Fail::Restart(Restart::NoHandler)),
            Err(WaitError::Interrupted) => {
                if let Some(addr) = remaining {
                    cx.mm.write_val(addr, &Timespec::from_ns(left))?;
                }
                return Err(Errno::EINTR.into());
            }
        }
    }
}

/// Sleeps; when interrupted, stores what is left. A restart keeps the first deadline.
async fn sleep(cx: &mut Cx, ns: u64, remaining: Option<u64>) -> Outcome {
    let deadline = cx.deadline(Some(ns));
    match cx.wait(&[], deadline, || None::<()>).await {
        Ok(()) | Err(WaitError::TimedOut) => Ok(0),
        Err(WaitError::Interrupted) => {
            let left = deadline.since(cx.now());
            if left == 0 {
                return Ok(0);
            }
            if let Some(addr) = remaining {
                cx.mm.write_val(addr, &Timespec::from_ns(left))?;
            }
            Err(Fail::Restart(Restart::Block))
        }
    }
}

/// `struct timex`: what it takes to say that the clock is not disciplined here.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Timex {
    modes: u32,
    pad: u32,
    offset: i64,
    freq: i64,
    maxerror: i64,
    esterror: i64,
    status: i32,
    pad2: i32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: [i64; 2],
    tick: i64,
    rest: [i64; 13],
}

/// `STA_UNSYNC` and `TIME_ERROR`: no statement about the clock's quality.
const STA_UNSYNC: i32 = 0x40;
const TIME_ERROR: u64 = 5;

fn adjust(cx: &Cx, addr: u64) -> Result<u64, Errno> {
    let mut timex: Timex = cx.mm.read_val(addr)?;
    if timex.modes != 0 {
        return Err(Errno::EPERM);
    }
    let now = cx.kernel().clock.realtime_ns();
    timex = Timex {
        status: STA_UNSYNC,
        tick: 10_000,
        tolerance: 32_768_000,
        precision: 1,
        maxerror: 16_000_000,
        esterror: 16_000_000,
        ..timex
    };
    timex.time = [(now / 1_000_000_000) as i64, (now % 1_000_000_000 / 1000) as i64];
    cx.mm.write_val(addr, &timex).map(|()| TIME_ERROR)
}

pub(super) fn adjtimex(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(adjust(cx, args.u64(0)))
}

pub(super) fn clock_adjtime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(match ClockId::new(args.i32(0)) {
        Ok(ClockId::Realtime) => adjust(cx, args.u64(1)),
        Ok(_) => Err(Errno::EOPNOTSUPP),
        Err(errno) => Err(errno),
    })
}
