//! Descriptors that stand for something else than a file: eventfd, timerfd, signalfd, memfd.

use super::fds::install;
use super::fs_path::real_file;
use super::mask;
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::abi::uapi;
use crate::fs::OpenFlags;
use crate::fs::anon::{self, Anon};
use crate::ipc::eventfd::{EventFd, Mode};
use crate::ipc::memfd;
use crate::ipc::signalfd::SignalFd;
use crate::ipc::timerfd::{Base, Setting, TimerFd};
use crate::signal::SigSet;
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
    let file = real_file(cx, args.i32(0))?;
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
    let file = real_file(cx, args.i32(0))?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    store(cx, args.u64(1), timer.get())
}

fn store(cx: &Cx, addr: u64, setting: Setting) -> Result<(), Errno> {
    let split = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
    let ([a, b], [c, d]) = (split(setting.interval), split(setting.value));
    cx.mm.write_val(addr, &[a, b, c, d])
}

pub fn sys_signalfd(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(signals(cx, &args, 0))
}

pub fn sys_signalfd4(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(signals(cx, &args, args.u32(3)))
}

fn signals(cx: &Cx, args: &Args, flags: u32) -> Result<u64, Errno> {
    let flags = OpenFlags::from_bits_retain(flags);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    args.sigset_size(2)?;
    let mask = SigSet(cx.mm.read_val::<u64>(args.u64(1))?);
    if args.i32(0) != -1 {
        let file = real_file(cx, args.i32(0))?;
        file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
        return Ok(args.i32(0) as u64);
    }
    let ops = SignalFd::new(&cx.task, mask);
    let file = anon::file(cx, &Anon::Object("signalfd"), ops, OpenFlags::RDWR | (flags & OpenFlags::NONBLOCK));
    install(cx, file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
}

/// Longest name of a memfd, in bytes.
const MEMFD_NAME_MAX: usize = 249;

pub fn sys_memfd_create(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(memory_file(cx, args))
}

async fn memory_file(cx: &mut Cx, args: Args) -> Outcome {
    let flags = args.u32(1);
    let known = uapi::MFD_CLOEXEC | uapi::MFD_ALLOW_SEALING | uapi::MFD_NOEXEC_SEAL | uapi::MFD_EXEC;
    let both = uapi::MFD_NOEXEC_SEAL | uapi::MFD_EXEC;
    if flags & !known != 0 || flags & both == both {
        return Err(Errno::EINVAL.into());
    }
    let name = match cx.mm.read_cstr(args.u64(0), MEMFD_NAME_MAX + 1) {
        Ok(name) => name,
        Err(Errno::ENAMETOOLONG) => return Err(Errno::EINVAL.into()),
        Err(errno) => return Err(errno.into()),
    };
    let no_exec = flags & uapi::MFD_NOEXEC_SEAL != 0;
    let permissions = if no_exec { 0o666 } else { 0o777 };
    let name = String::from_utf8_lossy(&name);
    let file = memfd::create(cx, &name, flags & uapi::MFD_ALLOW_SEALING != 0 || no_exec, permissions).await?;
    if no_exec && let Some(memfd) = file.downcast::<memfd::MemFd>() {
        memfd.add_seals(uapi::F_SEAL_EXEC, &cx.task.container.memory)?;
    }
    Ok(install(cx, file, flags & uapi::MFD_CLOEXEC != 0)? as u64)
}
