//! io_setup, io_submit, io_getevents and their kin.

use std::sync::Arc;

use platform::Prot;
use smallvec::smallvec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fs_path::real_file;
use super::io::rwf_transfer;
use super::mask;
use super::transfer::{self, At, Transfer};
use super::{Args, Fail, Flow, Outcome};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::executor::yield_now;
use crate::fs::File;
use crate::ipc::aio::{Context, EVENT, Event, RING_HEADER};
use crate::ipc::eventfd::EventFd;
use crate::mm::{MapRequest, Placement, Ranges};
use crate::task::Cx;
use crate::wait::{PollEvents, WaitError};

/// `struct iocb`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: i32,
    buf: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: i32,
}

const _: () = assert!(size_of::<Iocb>() == 64);

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const FSYNC: u16 = 2;
const FDSYNC: u16 = 3;
const POLL: u16 = 5;
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;
const FLAG_RESFD: u32 = 1;
const FLAG_IOPRIO: u32 = 2;

pub fn sys_io_setup(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(setup(cx, u64::from(args.u32(0)), args.u64(1)).map(|()| 0))
}

fn setup(cx: &Cx, requests: u64, addr: u64) -> Result<(), Errno> {
    let old = cx.mm.read_val::<u64>(addr)?;
    if old != 0 || requests == 0 || requests > 0x1000_0000 / EVENT {
        return Err(Errno::EINVAL);
    }
    let mut contexts = cx.mm.attached();
    let claim = cx.kernel().ipc.aio.take(requests)?;
    let len = (RING_HEADER + (2 * requests.max(4) + 2) * EVENT).next_multiple_of(PAGE_SIZE);
    let slots = ((len - RING_HEADER) / EVENT) as u32;
    let ring = cx.mm.map(&MapRequest::anonymous(Placement::Hint(0), len, Prot::READ | Prot::WRITE))?;
    let made = Context::new(&cx.mm, ring, slots, claim).and_then(|context| cx.mm.write_val(addr, &ring).map(|()| context));
    match made {
        Ok(context) => {
            contexts.insert(ring, context);
            Ok(())
        }
        Err(errno) => {
            let _ = cx.mm.unmap(ring, len);
            Err(errno)
        }
    }
}

fn context(cx: &Cx, id: u64) -> Result<Arc<Context>, Errno> {
    let attached = cx.mm.attached().get(&id).cloned();
    attached.and_then(|any| any.downcast().ok()).ok_or(Errno::EINVAL)
}

pub fn sys_io_destroy(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let context = context(cx, args.u64(0))?;
        cx.mm.attached().remove(&context.ring);
        context.destroy();
        cx.mm.unmap(context.ring, context.ring_len())?;
        Ok(0)
    })())
}

pub fn sys_io_submit(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let count = args.i64(1);
        if count < 0 {
            return Err(Errno::EINVAL.into());
        }
        let context = context(cx, args.u64(0))?;
        let mut done = 0;
        while done < count.min(i64::from(context.slots())) {
            match submit_one(cx, &context, args.u64(2).wrapping_add(done as u64 * 8)).await {
                Ok(()) => done += 1,
                Err(_) if done > 0 => break,
                Err(fail) => return Err(fail),
            }
            yield_now().await;
        }
        Ok(done as u64)
    })
}

async fn submit_one(cx: &mut Cx, context: &Arc<Context>, pointer: u64) -> Result<(), Fail> {
    let request = cx.mm.read_val::<u64>(pointer)?;
    let iocb: Iocb = cx.mm.read_val(request)?;
    if iocb.reserved != 0 || (iocb.bytes as i64) < 0 || iocb.flags & !(FLAG_RESFD | FLAG_IOPRIO) != 0 {
        return Err(Errno::EINVAL.into());
    }
    context.admit(&cx.mm)?;
    let file = real_file(cx, iocb.fd)?;
    let signal = match iocb.flags & FLAG_RESFD != 0 {
        false => None,
        true => Some(real_file(cx, iocb.result_fd)?)
            .map(|file| file.downcast::<EventFd>().map(|_| ()).ok_or(Errno::EINVAL).map(|()| file))
            .transpose()?,
    };
    // KIOCB_KEY, by which io_cancel knows a request of ours.
    cx.mm.write_val(request + 8, &0u32)?;
    let event = Event { data: iocb.data, request, result: 0, result2: 0 };
    let result = match iocb.opcode {
        PREAD | PWRITE | PREADV | PWRITEV => transfer(cx, file, &iocb).await?,
        FSYNC | FDSYNC => {
            if iocb.buf != 0 || iocb.offset != 0 || iocb.bytes != 0 || iocb.rw_flags != 0 {
                return Err(Errno::EINVAL.into());
            }
            match file.ops.sync().await {
                Err(Errno::EINVAL) => return Err(Errno::EINVAL.into()),
                result => result.map(|()| 0),
            }
        }
        POLL => {
            if iocb.buf > u64::from(u16::MAX) || iocb.offset != 0 || iocb.bytes != 0 || iocb.rw_flags != 0 {
                return Err(Errno::EINVAL.into());
            }
            let mask = PollEvents::from_bits_truncate(iocb.buf as u32);
            return Ok(context.poll(&cx.mm, &file, mask, event, signal)?);
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let result = match result {
        Ok(n) => n as i64,
        Err(errno) => -i64::from(errno.raw()),
    };
    context.complete(&cx.mm, Event { result, ..event }, signal.as_deref());
    Ok(())
}

/// A read or write: an error of the request itself, or its result.
async fn transfer(cx: &mut Cx, file: Arc<File>, iocb: &Iocb) -> Result<Result<u64, Errno>, Fail> {
    let reads = matches!(iocb.opcode, PREAD | PREADV);
    let flags = file.flags();
    if (reads && !flags.readable()) || (!reads && !flags.writable()) {
        return Err(Errno::EBADF.into());
    }
    let ranges: Ranges = match iocb.opcode {
        PREAD | PWRITE => smallvec![(iocb.buf, iocb.bytes.min(0x7fff_f000) as usize)],
        _ => cx.mm.read_ranges(iocb.buf, iocb.bytes)?,
    };
    let mut transfer = Transfer::new(file, ranges);
    if transfer.at != At::Stream {
        transfer.at = At::Offset(u64::try_from(iocb.offset).map_err(|_| Errno::EINVAL)?);
    }
    let transfer = rwf_transfer(transfer, iocb.rw_flags)?;
    let flow = if reads { transfer::read(cx, Ok(transfer)) } else { transfer::write(cx, Ok(transfer)) };
    let outcome = match flow {
        Flow::Done(outcome) => outcome,
        Flow::Wait(future) => future.await,
    };
    Ok(outcome.map_err(|fail| match fail {
        Fail::Errno(errno) => errno,
        Fail::Restart(_) => Errno::EINTR,
    }))
}

pub fn sys_io_cancel(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let key = cx.mm.read_val::<u32>(args.u64(1).wrapping_add(8))?;
        if key != 0 {
            return Err(Errno::EINVAL);
        }
        // The event comes by the ring, as always: "in progress".
        if context(cx, args.u64(0))?.cancel(args.u64(1)) { Err(Errno::EINPROGRESS) } else { Err(Errno::EINVAL) }
    })())
}

pub fn sys_io_getevents(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(get_events(cx, args))
}

pub fn sys_io_pgetevents(cx: &mut Cx, args: Args) -> Flow<'_> {
    // `struct __aio_sigset`: the mask's address and size.
    let set = match args.opt_ptr(5).map(|addr| cx.mm.read_val::<[u64; 2]>(addr)).transpose() {
        Ok(set) => set.unwrap_or_default(),
        Err(errno) => return Flow::done(Err(errno)),
    };
    match mask::set_temporary(cx, set[0], set[1]) {
        Ok(()) => Flow::wait(get_events(cx, args)),
        Err(errno) => Flow::done(Err(errno)),
    }
}

async fn get_events(cx: &mut Cx, args: Args) -> Outcome {
    let (least, most, addr) = (args.i64(1), args.i64(2), args.u64(3));
    let timeout_ns = match args.opt_ptr(4) {
        None => None,
        Some(addr) => {
            let [sec, nsec] = cx.mm.read_val::<[i64; 2]>(addr)?;
            // Not checked by Linux either; a negative time is for ever.
            sec.checked_mul(1_000_000_000).and_then(|ns| u64::try_from(ns.checked_add(nsec)?).ok())
        }
    };
    let context = context(cx, args.u64(0))?;
    if least < 0 || least > most {
        return Err(Errno::EINVAL.into());
    }
    let deadline = cx.deadline(timeout_ns);
    let mut done = 0i64;
    let cx = &*cx;
    let mut attempt = || {
        let room = usize::try_from(most - done).unwrap_or(0);
        let stored = context.take(&cx.mm, room).and_then(|events| {
            for event in events {
                cx.mm.write_val(addr.wrapping_add(done as u64 * EVENT), &event)?;
                done += 1;
            }
            Ok(())
        });
        match stored {
            Err(errno) => Some(Err(errno)),
            Ok(()) if done >= least => Some(Ok(())),
            Ok(()) => None,
        }
    };
    let queues = [(context.queue(), PollEvents::IN)];
    let waited = if timeout_ns == Some(0) {
        attempt().ok_or(WaitError::TimedOut)
    } else {
        cx.wait(&queues, deadline, &mut attempt).await
    };
    match waited {
        Ok(Err(errno)) if done == 0 => Err(errno.into()),
        Err(WaitError::Interrupted) if done == 0 => Err(Errno::EINTR.into()),
        _ => Ok(done as u64),
    }
}
