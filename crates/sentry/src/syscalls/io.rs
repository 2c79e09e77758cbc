//! read, write and their vectored and positioned forms; lseek.

use smallvec::smallvec;

use super::transfer::{self, At, Transfer, ready};
use super::{Args, Flow};
use crate::Errno;
use crate::fs::dev::MemoryDevice;
use crate::fs::dev::loops::LoopFile;
use crate::fs::{File, FileKind, OpenFlags, Whence};
use crate::ipc::epoll::Epoll;
use crate::ipc::eventfd::EventFd;
use crate::ipc::inotify::Inotify;
use crate::ipc::signalfd::SignalFd;
use crate::ipc::timerfd::TimerFd;
use crate::mm::Ranges;
use crate::task::Cx;

/// Largest file offset.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// Which way the data goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

fn open_for(cx: &Cx, fd: i32, way: Way) -> Result<std::sync::Arc<File>, Errno> {
    let file = cx.file(fd)?;
    let flags = file.flags();
    let allowed = if way == Way::In { flags.readable() } else { flags.writable() };
    if allowed { Ok(file) } else { Err(Errno::EBADF) }
}

/// The same for a call with a position: what has none says so before its mode is looked at.
fn open_at(cx: &Cx, fd: i32, way: Way, offset: i64) -> Result<(std::sync::Arc<File>, u64), Errno> {
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let file = cx.file(fd)?;
    if !file.flags().contains(OpenFlags::PATH) && !file.ops.seekable() {
        return Err(Errno::ESPIPE);
    }
    Ok((open_for(cx, fd, way)?, offset))
}

fn plain(cx: &Cx, args: &Args, way: Way) -> Result<Transfer, Errno> {
    let ranges: Ranges = smallvec![(args.u64(1), args.io_len(2))];
    let file = open_for(cx, args.i32(0), way)?;
    if args.u64(2) == 0 {
        takes_nothing(&file, way)?;
    }
    Ok(Transfer::new(file, ranges))
}

/// What is asked for no bytes by a plain call and has an answer other than 0 (vectors of no bytes never get as far).
fn takes_nothing(file: &File, way: Way) -> Result<(), Errno> {
    let any = file.ops.as_any();
    if any.is::<EventFd>() || any.is::<TimerFd>() || any.is::<SignalFd>() || any.is::<Epoll>() {
        return Err(Errno::EINVAL);
    }
    match way {
        Way::In if file.inode().kind() == FileKind::Directory => Err(Errno::EISDIR),
        Way::Out if file.downcast::<MemoryDevice>() == Some(&MemoryDevice::Full) => Err(Errno::ENOSPC),
        _ => Ok(()),
    }
}

/// No byte lies beyond the largest offset (`rw_verify_area`).
fn within_offsets(transfer: Transfer) -> Result<Transfer, Errno> {
    match transfer.at {
        At::Offset(offset) if offset.saturating_add(transfer::total(&transfer.ranges) as u64) > OFFSET_MAX => {
            Err(Errno::EINVAL)
        }
        _ => Ok(transfer),
    }
}

fn vectored(cx: &Cx, args: &Args, way: Way) -> Result<Transfer, Errno> {
    let file = open_for(cx, args.i32(0), way)?;
    Ok(Transfer::new(file, cx.mm.read_ranges(args.u64(1), args.u64(2))?))
}

fn plain_at(cx: &Cx, args: &Args, way: Way) -> Result<Transfer, Errno> {
    let (file, offset) = open_at(cx, args.i32(0), way, args.i64(3))?;
    let ranges: Ranges = smallvec![(args.u64(1), args.io_len(2))];
    within_offsets(Transfer { at: At::Offset(offset), ..Transfer::new(file, ranges) })
}

fn vectored_at(cx: &Cx, args: &Args, way: Way) -> Result<Transfer, Errno> {
    let (file, offset) = open_at(cx, args.i32(0), way, args.i64(3))?;
    let ranges = cx.mm.read_ranges(args.u64(1), args.u64(2))?;
    within_offsets(Transfer { at: At::Offset(offset), ..Transfer::new(file, ranges) })
}

pub fn sys_read(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = plain(cx, &args, Way::In);
    transfer::read(cx, transfer)
}

pub fn sys_write(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = plain(cx, &args, Way::Out);
    transfer::write(cx, transfer)
}

pub fn sys_pread64(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = plain_at(cx, &args, Way::In);
    transfer::read(cx, transfer)
}

pub fn sys_pwrite64(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = plain_at(cx, &args, Way::Out);
    transfer::write(cx, transfer)
}

pub fn sys_readv(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = vectored(cx, &args, Way::In);
    transfer::read(cx, transfer)
}

pub fn sys_writev(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = vectored(cx, &args, Way::Out);
    transfer::write(cx, transfer)
}

pub fn sys_preadv(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = vectored_at(cx, &args, Way::In);
    transfer::read(cx, transfer)
}

pub fn sys_pwritev(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = vectored_at(cx, &args, Way::Out);
    transfer::write(cx, transfer)
}

bitflags::bitflags! {
    /// `RWF_*`.
    #[derive(Clone, Copy)]
    struct Rwf: u32 {
        const HIPRI = 1;
        const DSYNC = 2;
        const SYNC = 4;
        const NOWAIT = 8;
        const APPEND = 16;
        const NOAPPEND = 32;
    }
}

/// A transfer with `RWF_*` flags (`kiocb_set_rw_flags`).
///
/// # Errors
/// `EOPNOTSUPP` for flags that are not known, `EINVAL` for those that exclude each other.
pub(super) fn rwf_transfer(mut transfer: Transfer, flags: u32) -> Result<Transfer, Errno> {
    if flags == 0 {
        return Ok(transfer);
    }
    let flags = Rwf::from_bits(flags).ok_or(Errno::EOPNOTSUPP)?;
    if flags.contains(Rwf::APPEND | Rwf::NOAPPEND) {
        return Err(Errno::EINVAL);
    }
    transfer.nonblocking |= flags.contains(Rwf::NOWAIT);
    if transfer.at != At::Stream {
        transfer.append |= flags.contains(Rwf::APPEND);
        transfer.append &= !flags.contains(Rwf::NOAPPEND);
    }
    transfer.sync = flags.intersects(Rwf::DSYNC | Rwf::SYNC);
    Ok(transfer)
}

fn flagged(cx: &Cx, args: &Args, way: Way) -> Result<Transfer, Errno> {
    let transfer = if args.i64(3) == -1 { vectored(cx, args, way)? } else { vectored_at(cx, args, way)? };
    rwf_transfer(transfer, args.u32(5))
}

pub fn sys_preadv2(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = flagged(cx, &args, Way::In);
    transfer::read(cx, transfer)
}

pub fn sys_pwritev2(cx: &mut Cx, args: Args) -> Flow<'_> {
    let transfer = match flagged(cx, &args, Way::Out) {
        Ok(transfer) if transfer.sync => transfer,
        transfer => return transfer::write(cx, transfer),
    };
    // As if the file had been opened with O_DSYNC, for this write.
    Flow::wait(async move {
        let file = transfer.file.clone();
        let written = match transfer::write(cx, Ok(transfer)) {
            Flow::Done(outcome) => outcome,
            Flow::Wait(write) => write.await,
        }?;
        match file.ops.sync().await {
            Ok(()) | Err(Errno::EINVAL) => Ok(written),
            Err(errno) => Err(errno.into()),
        }
    })
}

pub fn sys_lseek(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (offset, whence) = (args.i64(1), args.i32(2));
    let file = match cx.file(args.i32(0)) {
        Ok(file) if file.flags().contains(OpenFlags::PATH) => return Flow::done(Err(Errno::EBADF)),
        Ok(_) if !(0..=4).contains(&whence) => return Flow::done(Err(Errno::EINVAL)),
        // Objects such as eventfds have a position that never moves (noop_llseek, null_lseek).
        Ok(file) if is_object(&file) => return Flow::done(Ok(0)),
        Ok(file) if !file.ops.seekable() => return Flow::done(Err(Errno::ESPIPE)),
        Ok(file) => file,
        Err(errno) => return Flow::done(Err(errno)),
    };
    match whence {
        0 => Flow::done(seek_to(&file, Some(0), offset)),
        1 => Flow::done(seek_to(&file, None, offset)),
        2 => {
            // The inode of a device says 0.
            if let Some(device) = file.downcast::<LoopFile>() {
                return Flow::done(seek_to(&file, Some(device.size()), offset));
            }
            if let Some(metadata) = ready(file.inode().metadata()) {
                return Flow::done(metadata.and_then(|metadata| seek_to(&file, Some(metadata.size), offset)));
            }
            Flow::wait(async move {
                let metadata = file.inode().metadata().await?;
                Ok(seek_to(&file, Some(metadata.size), offset)?)
            })
        }
        3 | 4 => {
            let whence = if whence == 3 { Whence::Data } else { Whence::Hole };
            Flow::wait(async move {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                let at = file.ops.seek_data(from, whence).await?;
                Ok(seek_to(&file, Some(at), 0)?)
            })
        }
        _ => Flow::done(Err(Errno::EINVAL)),
    }
}

/// Objects whose `lseek` does nothing, whatever is asked. (Others, as pidfds, cannot be sought in.)
pub(super) fn is_object(file: &File) -> bool {
    let any = file.ops.as_any();
    any.is::<EventFd>()
        || any.is::<TimerFd>()
        || any.is::<SignalFd>()
        || any.is::<Epoll>()
        || any.is::<Inotify>()
        || any.is::<MemoryDevice>()
}

/// Moves the position to `base` (None: where it is) plus `offset`.
fn seek_to(file: &File, base: Option<u64>, offset: i64) -> Result<u64, Errno> {
    let mut position = file.position.lock();
    let base = base.unwrap_or(*position);
    let to = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
    if to > OFFSET_MAX {
        return Err(if offset > 0 { Errno::EOVERFLOW } else { Errno::EINVAL });
    }
    *position = to;
    Ok(to)
}
