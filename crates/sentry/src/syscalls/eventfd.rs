//! eventfd and timerfd.

use super::fds::install;
use super::mask;
use super::{Args, Flow};
use crate::Errno;
use crate::abi::uapi;
use crate::fs::OpenFlags;
use crate::fs::anon::{self, Anon};
use crate::ipc::eventfd::{EventFd, Mode};
use crate::ipc::timerfd::{Base, Setting, TimerFd};
use crate::task::Cx;

pub fn sys_eventfd(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(event(cx, args.u32(0), 0))
}

pub fn sys_eventfd2(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(event(cx, args.u32(0), args.u32(1)))
}

/// `EFD_SEMAPHORE`; the other two flags are `O_*`.
const EFD_SEMAPHORE: u32 = 1;

fn event(cx: &Cx, initial: u32, flags: u32) -> Result<u64, Errno> {
    let open = OpenFlags::from_bits_retain(flags & !EFD_SEMAPHORE);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(open) {
        return Err(Errno::EINVAL);
    }
    let mode = if flags & EFD_SEMAPHORE != 0 { Mode::Semaphore } else { Mode::Counter };
    let event = EventFd::new(u64::from(initial), mode);
    let file = anon::file(cx, &Anon::Object("eventfd"), event, OpenFlags::RDWR | (open & OpenFlags::NONBLOCK));
    install(cx, file, open.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
}

pub fn sys_timerfd_create(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(timer(cx, args.u32(0), OpenFlags::from_bits_retain(args.u32(1))))
}

fn timer(cx: &Cx, clock: u32, flags: OpenFlags) -> Result<u64, Errno> {
    let base = match clock {
        uapi::CLOCK_MONOTONIC | uapi::CLOCK_BOOTTIME => Base::Monotonic,
        uapi::CLOCK_REALTIME => Base::Realtime,
        uapi::CLOCK_REALTIME_ALARM | uapi::CLOCK_BOOTTIME_ALARM => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let kernel = cx.kernel();
    let timer = TimerFd::new(base, kernel.clock.clone(), kernel.scheduler.timers().clone());
    let file = anon::file(cx, &Anon::Object("timerfd"), timer, OpenFlags::RDWR | (flags & OpenFlags::NONBLOCK));
    install(cx, file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
}

const TFD_TIMER_ABSTIME: u32 = 1;
const TFD_TIMER_CANCEL_ON_SET: u32 = 2;

pub fn sys_timerfd_settime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(set(cx, &args).map(|()| 0))
}

fn set(cx: &Cx, args: &Args) -> Result<(), Errno> {
    let flags = args.u32(1);
    let [interval_sec, interval_nsec, sec, nsec] = cx.mm.read_val::<[i64; 4]>(args.u64(2))?;
    let interval = mask::nanoseconds(interval_sec, interval_nsec)?;
    let value = mask::nanoseconds(sec, nsec)?;
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = cx.file(args.i32(0))?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let first = match value {
        0 => None,
        at if flags & TFD_TIMER_ABSTIME != 0 => Some(at.saturating_sub(timer.now_ns())),
        after => Some(after),
    };
    let old = timer.set(first, interval);
    if let Some(addr) = args.opt_ptr(3) {
        store(cx, addr, old)?;
    }
    Ok(())
}

pub fn sys_timerfd_gettime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(get(cx, &args).map(|()| 0))
}

fn get(cx: &Cx, args: &Args) -> Result<(), Errno> {
    let file = cx.file(args.i32(0))?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    store(cx, args.u64(1), timer.get())
}

fn store(cx: &Cx, addr: u64, setting: Setting) -> Result<(), Errno> {
    let split = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
    let ([a, b], [c, d]) = (split(setting.interval), split(setting.value));
    cx.mm.write_val(addr, &[a, b, c, d])
}
