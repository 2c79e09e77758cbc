//! poll, ppoll, select, pselect6.

use std::sync::Arc;

use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::mask;
use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::fs::{File, OpenFlags};
use crate::task::{Cx, Resource};
use crate::time::MonoTime;
use crate::wait::{PollEvents, WaitError, WaitQueue};

/// Files to be watched and for what.
type Watched = SmallVec<[(Arc<File>, PollEvents); 8]>;

/// What each is ready for now; and how many are ready for something.
fn look(watched: &Watched, ready: &mut [PollEvents]) -> usize {
    let mut count = 0;
    for ((file, wanted), ready) in watched.iter().zip(ready.iter_mut()) {
        *ready = file.ops.poll(file) & (*wanted | PollEvents::ALWAYS);
        count += usize::from(!ready.is_empty());
    }
    count
}

/// Waits until something is ready. 0 is a time-out.
async fn wait(cx: &Cx, watched: &Watched, ready: &mut [PollEvents], deadline: MonoTime) -> Result<usize, WaitError> {
    let mut queues: SmallVec<[(&WaitQueue, PollEvents); 8]> = SmallVec::new();
    for (file, wanted) in watched {
        if let Some(queue) = file.ops.wait_queue() {
            queues.push((queue, *wanted | PollEvents::ALWAYS));
        }
    }
    let attempt = || Some(look(watched, ready)).filter(|&count| count > 0);
    match cx.wait(&queues, deadline, attempt).await {
        Err(WaitError::TimedOut) => Ok(0),
        result => result,
    }
}

/// `struct pollfd`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

/// A call of poll: the guest's array, and the files in it with their places.
struct PollCall {
    addr: u64,
    fds: Vec<PollFd>,
    watched: Watched,
    places: SmallVec<[usize; 8]>,
    bad: usize,
}

impl PollCall {
    fn read(cx: &Cx, addr: u64, count: u32) -> Result<PollCall, Errno> {
        let count = count as usize;
        if count as u64 > cx.task.rlimit(Resource::Nofile).soft {
            return Err(Errno::EINVAL);
        }
        let mut fds = vec![PollFd { fd: 0, events: 0, revents: 0 }; count];
        cx.mm.read(addr, fds.as_mut_slice().as_mut_bytes())?;
        let mut call = PollCall { addr, fds, watched: Watched::new(), places: SmallVec::new(), bad: 0 };
        for (at, entry) in call.fds.iter_mut().enumerate() {
            entry.revents = 0;
            match cx.file(entry.fd) {
                Ok(file) if !file.flags().contains(OpenFlags::PATH) => {
                    call.watched.push((file, PollEvents::from_bits_truncate(u32::from(entry.events))));
                    call.places.push(at);
                }
                _ if entry.fd >= 0 => {
                    entry.revents = PollEvents::NVAL.bits() as u16;
                    call.bad += 1;
                }
                _ => {}
            }
        }
        Ok(call)
    }

    fn finish(&mut self, cx: &Cx, ready: &[PollEvents], count: usize) -> Outcome {
        for (&place, ready) in self.places.iter().zip(ready) {
            if let Some(entry) = self.fds.get_mut(place) {
                entry.revents = ready.bits() as u16;
            }
        }
        cx.mm.write(self.addr, self.fds.as_slice().as_bytes())?;
        Ok((count + self.bad) as u64)
    }

    /// The result if there is one without waiting.
    fn now(&mut self, cx: &Cx, timeout_ns: Option<u64>) -> Option<Outcome> {
        let mut ready: SmallVec<[PollEvents; 8]> = SmallVec::from_elem(PollEvents::empty(), self.watched.len());
        let count = look(&self.watched, &mut ready);
        (count + self.bad > 0 || timeout_ns == Some(0)).then(|| self.finish(cx, &ready, count))
    }

    async fn later(mut self, cx: &Cx, deadline: MonoTime, restart: Restart) -> Outcome {
        let mut ready = vec![PollEvents::empty(); self.watched.len()];
        let count = wait(cx, &self.watched, &mut ready, deadline).await;
        match count {
            Ok(count) => self.finish(cx, &ready, count),
            Err(error) => Err(Fail::from_wait(error, Errno::EINTR, restart)),
        }
    }
}

pub fn sys_poll(cx: &mut Cx, args: Args) -> Flow<'_> {
    let timeout_ns = u64::try_from(args.i32(2)).ok().map(|ms| ms * 1_000_000);
    let mut call = match PollCall::read(cx, args.u64(0), args.u32(1)) {
        Ok(call) => call,
        Err(errno) => return Flow::done(Err(errno)),
    };
    if let Some(outcome) = call.now(cx, timeout_ns) {
        return Flow::Done(outcome);
    }
    let deadline = cx.deadline(timeout_ns);
    Flow::wait(async move { call.later(cx, deadline, Restart::Block).await })
}

pub fn sys_ppoll(cx: &mut Cx, args: Args) -> Flow<'_> {
    let prepared = mask::timespec(cx, args.u64(2))
        .and_then(|timeout_ns| mask::set_temporary(cx, args.u64(3), args.u64(4)).map(|()| timeout_ns))
        .and_then(|timeout_ns| Ok((timeout_ns, PollCall::read(cx, args.u64(0), args.u32(1))?)));
    let (timeout_ns, mut call) = match prepared {
        Ok(prepared) => prepared,
        Err(errno) => return Flow::done(Err(errno)),
    };
    let deadline = cx.deadline(timeout_ns);
    if let Some(outcome) = call.now(cx, timeout_ns) {
        mask::store_remaining(cx, args.u64(2), deadline, 1);
        return Flow::Done(outcome);
    }
    Flow::wait(async move {
        let outcome = call.later(cx, deadline, Restart::NoHandler).await;
        mask::store_remaining(cx, args.u64(2), deadline, 1);
        outcome
    })
}

/// What the three sets of select stand for.
const SETS: [PollEvents; 3] = [
    PollEvents::IN.union(PollEvents::RDNORM).union(PollEvents::RDBAND).union(PollEvents::HUP).union(PollEvents::ERR),
    PollEvents::OUT.union(PollEvents::WRNORM).union(PollEvents::WRBAND).union(PollEvents::ERR),
    PollEvents::PRI,
];

/// A call of select: three bitmaps, and the files in them.
struct SelectCall {
    addrs: [u64; 3],
    sets: [Vec<u64>; 3],
    watched: Watched,
    fds: SmallVec<[usize; 8]>,
}

fn bit(set: &[u64], fd: usize) -> bool {
    set.get(fd / 64).is_some_and(|word| word & (1 << (fd % 64)) != 0)
}

impl SelectCall {
    fn read(cx: &Cx, count: i32, addrs: [u64; 3]) -> Result<SelectCall, Errno> {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(crate::fs::FdTable::MAX);
        let mut sets = [(); 3].map(|()| vec![0u64; count.div_ceil(64)]);
        for (set, addr) in sets.iter_mut().zip(addrs) {
            if addr != 0 {
                cx.mm.read(addr, set.as_mut_slice().as_mut_bytes())?;
            }
        }
        let mut call = SelectCall { addrs, sets, watched: Watched::new(), fds: SmallVec::new() };
        for fd in 0..count {
            let mut wanted = PollEvents::empty();
            for (set, events) in call.sets.iter().zip(SETS) {
                if bit(set, fd) {
                    wanted |= events;
                }
            }
            if !wanted.is_empty() {
                call.watched.push((cx.file(fd as i32)?, wanted));
                call.fds.push(fd);
            }
        }
        Ok(call)
    }

    /// Files that are ready for what their sets ask (a hang-up alone is nothing to those who only write).
    fn finish(&self, cx: &Cx, ready: &[PollEvents]) -> Outcome {
        let mut count = 0;
        for ((set, addr), events) in self.sets.iter().zip(self.addrs).zip(SETS) {
            if addr == 0 {
                continue;
            }
            let mut result = vec![0u64; set.len()];
            for (&fd, ready) in self.fds.iter().zip(ready) {
                if bit(set, fd) && ready.intersects(events) {
                    count += 1;
                    if let Some(word) = result.get_mut(fd / 64) {
                        *word |= 1 << (fd % 64);
                    }
                }
            }
            cx.mm.write(addr, result.as_slice().as_bytes())?;
        }
        Ok(count)
    }

    /// As [`look`], but counts only what the sets ask for.
    fn look(&self, ready: &mut [PollEvents]) -> bool {
        look(&self.watched, ready);
        self.watched.iter().zip(ready.iter_mut()).any(|((_, wanted), ready)| {
            *ready &= *wanted;
            !ready.is_empty()
        })
    }

    async fn later(self, cx: &Cx, deadline: MonoTime) -> Outcome {
        let mut ready = vec![PollEvents::empty(); self.watched.len()];
        let waited = {
            let queues: SmallVec<[_; 8]> =
                self.watched.iter().filter_map(|(file, wanted)| Some((file.ops.wait_queue()?, *wanted))).collect();
            cx.wait(&queues, deadline, || self.look(&mut ready).then_some(())).await
        };
        match waited {
            Ok(()) | Err(WaitError::TimedOut) => self.finish(cx, &ready),
            Err(WaitError::Interrupted) => Err(Fail::Restart(Restart::NoHandler)),
        }
    }
}

/// The common part: `timeout` is a time-out, where to store what is left of it, and its unit in nanoseconds.
fn select(cx: &mut Cx, args: Args, timeout_ns: Option<u64>, unit_ns: u64) -> Flow<'_> {
    let addrs = [args.u64(1), args.u64(2), args.u64(3)];
    let call = match SelectCall::read(cx, args.i32(0), addrs) {
        Ok(call) => call,
        Err(errno) => return Flow::done(Err(errno)),
    };
    let deadline = cx.deadline(timeout_ns);
    let mut ready: SmallVec<[PollEvents; 8]> = SmallVec::from_elem(PollEvents::empty(), call.watched.len());
    if call.look(&mut ready) || timeout_ns == Some(0) {
        let outcome = call.finish(cx, &ready);
        mask::store_remaining(cx, args.u64(4), deadline, unit_ns);
        return Flow::Done(outcome);
    }
    Flow::wait(async move {
        let outcome = call.later(cx, deadline).await;
        mask::store_remaining(cx, args.u64(4), deadline, unit_ns);
        outcome
    })
}

pub fn sys_select(cx: &mut Cx, args: Args) -> Flow<'_> {
    let timeout_ns = match args.opt_ptr(4).map(|addr| cx.mm.read_val::<[i64; 2]>(addr)) {
        None => Ok(None),
        Some(Err(errno)) => Err(errno),
        // Microseconds above a second are carried over.
        Some(Ok([sec, usec])) if sec >= 0 && usec >= 0 => {
            Ok(Some((sec as u64).saturating_mul(1_000_000_000).saturating_add((usec as u64).saturating_mul(1000))))
        }
        Some(Ok(_)) => Err(Errno::EINVAL),
    };
    match timeout_ns {
        Ok(timeout_ns) => select(cx, args, timeout_ns, 1000),
        Err(errno) => Flow::done(Err(errno)),
    }
}

pub fn sys_pselect6(cx: &mut Cx, args: Args) -> Flow<'_> {
    let [mask_addr, size] = match args.opt_ptr(5).map(|addr| cx.mm.read_val::<[u64; 2]>(addr)) {
        None => [0, 0],
        Some(Ok(pair)) => pair,
        Some(Err(errno)) => return Flow::done(Err(errno)),
    };
    let timeout_ns =
        mask::timespec(cx, args.u64(4)).and_then(|timeout_ns| mask::set_temporary(cx, mask_addr, size).map(|()| timeout_ns));
    match timeout_ns {
        Ok(timeout_ns) => select(cx, args, timeout_ns, 1),
        Err(errno) => Flow::done(Err(errno)),
    }
}
