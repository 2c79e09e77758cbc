//! The epoll calls.

use std::sync::Arc;

use super::fds::install;
use super::fs_path::real_file;
use super::mask;
use super::{Args, Fail, Flow, Outcome};
use crate::Errno;
use crate::abi::uapi;
use crate::fs::anon::{self, Anon};
use crate::fs::{File, OpenFlags};
use crate::ipc::epoll::{Epoll, Interest, Trigger};
use crate::task::Cx;
use crate::time::MonoTime;
use crate::wait::{PollEvents, WaitError};

/// Size of the packed `struct epoll_event`.
const EVENT_SIZE: usize = 12;

pub fn sys_epoll_create(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(if args.i32(0) <= 0 { Err(Errno::EINVAL) } else { create(cx, false) })
}

pub fn sys_epoll_create1(cx: &mut Cx, args: Args) -> Flow<'_> {
    let flags = args.u32(0);
    Flow::done(if flags & !uapi::EPOLL_CLOEXEC != 0 { Err(Errno::EINVAL) } else { create(cx, flags != 0) })
}

fn create(cx: &Cx, close_on_exec: bool) -> Result<u64, Errno> {
    let file = anon::file(cx, &Anon::Object("eventpoll"), Epoll::new(), OpenFlags::RDWR);
    install(cx, file, close_on_exec).map(|fd| fd as u64)
}

pub fn sys_epoll_ctl(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(control(cx, &args).map(|()| 0))
}

fn control(cx: &Cx, args: &Args) -> Result<(), Errno> {
    let (operation, fd) = (args.u32(1), args.i32(2));
    let interest = match operation {
        uapi::EPOLL_CTL_DEL => None,
        _ => Some(read_event(cx, args.u64(3))?),
    };
    let epoll_file = real_file(cx, args.i32(0))?;
    let file = real_file(cx, fd)?;
    if file.ops.wait_queue().is_none() {
        return Err(Errno::EPERM);
    }
    let epoll = epoll_file.downcast::<Epoll>().filter(|_| !Arc::ptr_eq(&epoll_file, &file)).ok_or(Errno::EINVAL)?;
    match (operation, interest) {
        (uapi::EPOLL_CTL_ADD, Some(interest)) => epoll.add(&cx.kernel().ipc.epoll_topology, &file, fd, interest),
        (uapi::EPOLL_CTL_MOD, Some(interest)) => epoll.modify(&file, fd, interest),
        (uapi::EPOLL_CTL_DEL, _) => epoll.remove(&file, fd),
        _ => Err(Errno::EINVAL),
    }
}

fn read_event(cx: &Cx, addr: u64) -> Result<Interest, Errno> {
    let [events, low, high] = cx.mm.read_val::<[u32; 3]>(addr)?;
    let data = u64::from(low) | u64::from(high) << 32;
    Ok(Interest { events: PollEvents::from_bits_truncate(events), trigger: Trigger::from_bits_truncate(events), data })
}

pub fn sys_epoll_wait(cx: &mut Cx, args: Args) -> Flow<'_> {
    let timeout_ns = u64::try_from(args.i32(3)).ok().map(|ms| ms * 1_000_000);
    wait(cx, args, timeout_ns)
}

pub fn sys_epoll_pwait(cx: &mut Cx, args: Args) -> Flow<'_> {
    match mask::set_temporary(cx, args.u64(4), args.u64(5)) {
        Ok(()) => sys_epoll_wait(cx, args),
        Err(errno) => Flow::done(Err(errno)),
    }
}

pub fn sys_epoll_pwait2(cx: &mut Cx, args: Args) -> Flow<'_> {
    let timeout_ns = mask::timespec(cx, args.u64(3))
        .and_then(|timeout_ns| mask::set_temporary(cx, args.u64(4), args.u64(5)).map(|()| timeout_ns));
    match timeout_ns {
        Ok(timeout_ns) => wait(cx, args, timeout_ns),
        Err(errno) => Flow::done(Err(errno)),
    }
}

fn wait(cx: &mut Cx, args: Args, timeout_ns: Option<u64>) -> Flow<'_> {
    let addr = args.u64(1);
    let file = match real_file(cx, args.i32(0)) {
        Ok(file) => file,
        Err(errno) => return Flow::done(Err(errno)),
    };
    let max = match usize::try_from(args.i32(2)) {
        Ok(max @ 1..) if max <= i32::MAX as usize / EVENT_SIZE => max,
        _ => return Flow::done(Err(Errno::EINVAL)),
    };
    let Some(epoll) = file.downcast::<Epoll>() else { return Flow::done(Err(Errno::EINVAL)) };
    let events = epoll.collect(max);
    if !events.is_empty() || timeout_ns == Some(0) {
        return Flow::done(store(cx, addr, &events));
    }
    let deadline = cx.deadline(timeout_ns);
    Flow::wait(wait_for_events(cx, file, addr, max, deadline))
}

async fn wait_for_events(cx: &mut Cx, file: Arc<File>, addr: u64, max: usize, deadline: MonoTime) -> Outcome {
    let epoll = file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    let attempt = || Some(epoll.collect(max)).filter(|events| !events.is_empty());
    let queues = [(epoll.queue(), PollEvents::IN)];
    match cx.wait(&queues, deadline, attempt).await {
        Ok(events) => Ok(store(cx, addr, &events)?),
        Err(WaitError::TimedOut) => Ok(0),
        // Never restarted, whatever SA_RESTART says (signal(7)).
        Err(WaitError::Interrupted) => Err(Fail::Errno(Errno::EINTR)),
    }
}

fn store(cx: &Cx, addr: u64, events: &[(PollEvents, u64)]) -> Result<u64, Errno> {
    let mut bytes = Vec::with_capacity(events.len() * EVENT_SIZE);
    for (ready, data) in events {
        bytes.extend_from_slice(&ready.bits().to_le_bytes());
        bytes.extend_from_slice(&data.to_le_bytes());
    }
    cx.mm.write(addr, &bytes)?;
    Ok(events.len() as u64)
}
