//! Changing attributes: mode, owner, size, times; sync and allocation.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fs_stat::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, at_flags, place};
use super::{Args, Flow};
use crate::Errno;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{FileKind, OpenFlags, Origin, Path, ResolveFlags, SetTime, Timestamp, View, attr};
use crate::task::Cx;

/// The place of an open file. `O_PATH` descriptors only where a call allows them.
fn file_place(cx: &Cx, fd: i32) -> Result<Path, Errno> {
    let file = cx.file(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    Ok(match &file.origin {
        Origin::Path(path) => path.clone(),
        Origin::Anonymous { inode, name } => Path::disconnected(inode.clone(), name.as_bytes()),
    })
}

pub(super) fn sys_chmod(cx: &mut Cx, args: Args) -> Flow<'_> {
    chmod(cx, AT_FDCWD, args.u64(0), args.u32(1), 0)
}

pub(super) fn sys_fchmodat(cx: &mut Cx, args: Args) -> Flow<'_> {
    chmod(cx, args.i32(0), args.u64(1), args.u32(2), 0)
}

pub(super) fn sys_fchmodat2(cx: &mut Cx, args: Args) -> Flow<'_> {
    chmod(cx, args.i32(0), args.u64(1), args.u32(2), args.u32(3))
}

fn chmod(cx: &mut Cx, dirfd: i32, path: u64, mode: u32, flags: u32) -> Flow<'_> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    Flow::wait(async move {
        let place = place(cx, dirfd, path, at_flags(flags)).await?;
        attr::chmod(&View::of(cx), &place, mode).await?;
        Ok(0)
    })
}

pub(super) fn sys_fchmod(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        attr::chmod(&View::of(cx), &file_place(cx, args.i32(0))?, args.u32(1)).await?;
        Ok(0)
    })
}

/// An id argument; -1 leaves it as it is.
fn id(value: u32) -> Option<u32> {
    Some(value).filter(|&id| id != u32::MAX)
}

pub(super) fn sys_chown(cx: &mut Cx, args: Args) -> Flow<'_> {
    chown(cx, AT_FDCWD, args.u64(0), (args.u32(1), args.u32(2)), 0)
}

pub(super) fn sys_lchown(cx: &mut Cx, args: Args) -> Flow<'_> {
    chown(cx, AT_FDCWD, args.u64(0), (args.u32(1), args.u32(2)), AT_SYMLINK_NOFOLLOW)
}

pub(super) fn sys_fchownat(cx: &mut Cx, args: Args) -> Flow<'_> {
    chown(cx, args.i32(0), args.u64(1), (args.u32(2), args.u32(3)), args.u32(4))
}

fn chown(cx: &mut Cx, dirfd: i32, path: u64, ids: (u32, u32), flags: u32) -> Flow<'_> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    Flow::wait(async move {
        let place = place(cx, dirfd, path, at_flags(flags)).await?;
        attr::chown(&View::of(cx), &place, id(ids.0), id(ids.1)).await?;
        Ok(0)
    })
}

pub(super) fn sys_fchown(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let place = file_place(cx, args.i32(0))?;
        attr::chown(&View::of(cx), &place, id(args.u32(1)), id(args.u32(2))).await?;
        Ok(0)
    })
}

pub(super) fn sys_truncate(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let size = u64::try_from(args.i64(1)).map_err(|_| Errno::EINVAL)?;
        let place = place(cx, AT_FDCWD, args.u64(0), ResolveFlags::empty()).await?;
        attr::truncate(&View::of(cx), &place, size).await?;
        Ok(0)
    })
}

pub(super) fn sys_ftruncate(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let size = u64::try_from(args.i64(1)).map_err(|_| Errno::EINVAL)?;
        let file = cx.file(args.i32(0))?;
        let metadata = file.inode().metadata().await?;
        if !file.flags().writable() || metadata.kind != FileKind::Regular {
            return Err(Errno::EINVAL.into());
        }
        attr::resize(&View::of(cx), &file_place(cx, args.i32(0))?, size, &metadata).await?;
        Ok(0)
    })
}

pub(super) fn sys_fallocate(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let (offset, len) = (args.i64(2), args.i64(3));
        let file = cx.file(args.i32(0))?;
        if offset < 0 || len <= 0 {
            return Err(Errno::EINVAL.into());
        }
        if offset.checked_add(len).is_none() {
            return Err(Errno::EFBIG.into());
        }
        if !file.flags().writable() {
            return Err(Errno::EBADF.into());
        }
        match file.inode().metadata().await?.kind {
            FileKind::Regular => {}
            FileKind::Fifo => return Err(Errno::ESPIPE.into()),
            _ => return Err(Errno::ENODEV.into()),
        }
        file.ops.allocate(args.u32(1), offset as u64, len as u64).await?;
        Ok(0)
    })
}

pub(super) fn sys_fsync(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let file = cx.file(args.i32(0))?;
        if file.flags().contains(OpenFlags::PATH) {
            return Err(Errno::EBADF.into());
        }
        file.ops.sync().await?;
        Ok(0)
    })
}

/// File systems in memory have nothing to write back; host files are the host's to write.
pub(super) fn sys_sync(_cx: &mut Cx, _args: Args) -> Flow<'_> {
    Flow::done(Ok(0))
}

pub(super) fn sys_syncfs(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(cx.file(args.i32(0)).map(|_| 0))
}

pub(super) fn sys_sync_file_range(cx: &mut Cx, args: Args) -> Flow<'_> {
    if args.i64(1) < 0 || args.i64(2) < 0 || args.u32(3) & !7 != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    sys_fsync(cx, args)
}

/// Advice is checked and not followed.
pub(super) fn sys_fadvise64(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(cx.file(args.i32(0)).and_then(|file| match args.i32(3) {
        _ if !file.ops.seekable() => Err(Errno::ESPIPE),
        _ if args.i64(2) < 0 => Err(Errno::EINVAL),
        0..=5 => Ok(0),
        _ => Err(Errno::EINVAL),
    }))
}

const UTIME_NOW: i64 = 0x3fff_ffff;
const UTIME_OMIT: i64 = 0x3fff_fffe;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Pair {
    sec: i64,
    fraction: i64,
}

/// `utimensat`'s two times.
fn nanosecond_times(cx: &Cx, addr: u64) -> Result<[Option<SetTime>; 2], Errno> {
    let pairs: [Pair; 2] = cx.mm.read_val(addr)?;
    let mut times = [None; 2];
    for (time, pair) in times.iter_mut().zip(pairs) {
        *time = match pair.fraction {
            UTIME_OMIT => None,
            UTIME_NOW => Some(SetTime::Now),
            nsec @ 0..=999_999_999 => Some(SetTime::At(Timestamp { sec: pair.sec, nsec: nsec as u32 })),
            _ => return Err(Errno::EINVAL),
        };
    }
    Ok(times)
}

/// `utimes`' two times.
fn microsecond_times(cx: &Cx, addr: u64) -> Result<[Option<SetTime>; 2], Errno> {
    let pairs: [Pair; 2] = cx.mm.read_val(addr)?;
    let mut times = [None; 2];
    for (time, pair) in times.iter_mut().zip(pairs) {
        let usec = u32::try_from(pair.fraction).ok().filter(|&usec| usec < 1_000_000).ok_or(Errno::EINVAL)?;
        *time = Some(SetTime::At(Timestamp { sec: pair.sec, nsec: usec * 1000 }));
    }
    Ok(times)
}

const NOW: [Option<SetTime>; 2] = [Some(SetTime::Now); 2];

pub(super) fn sys_utimensat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let flags = args.u32(3);
        if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let times = args.opt_ptr(2).map_or(Ok(NOW), |addr| nanosecond_times(cx, addr))?;
        if times == [None; 2] {
            return Ok(0);
        }
        let at = match args.opt_ptr(1) {
            None if flags & AT_SYMLINK_NOFOLLOW != 0 => return Err(Errno::EINVAL.into()),
            None => file_place(cx, args.i32(0))?,
            Some(path) => place(cx, args.i32(0), path, at_flags(flags)).await?,
        };
        attr::set_times(&View::of(cx), &at, times[0], times[1]).await?;
        Ok(0)
    })
}

pub(super) fn sys_futimesat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let times = args.opt_ptr(2).map_or(Ok(NOW), |addr| microsecond_times(cx, addr))?;
        let at = match args.opt_ptr(1) {
            None => file_place(cx, args.i32(0))?,
            Some(path) => place(cx, args.i32(0), path, ResolveFlags::empty()).await?,
        };
        attr::set_times(&View::of(cx), &at, times[0], times[1]).await?;
        Ok(0)
    })
}

pub(super) fn sys_utimes(cx: &mut Cx, args: Args) -> Flow<'_> {
    let at_cwd = Args([AT_FDCWD as u64, args.u64(0), args.u64(1), 0, 0, 0]);
    if args.u64(0) == 0 {
        return Flow::done(Err(Errno::EFAULT));
    }
    sys_futimesat(cx, at_cwd)
}

pub(super) fn sys_utime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let times = match args.opt_ptr(1) {
            None => NOW,
            Some(addr) => {
                let seconds: [i64; 2] = cx.mm.read_val(addr)?;
                seconds.map(|sec| Some(SetTime::At(Timestamp { sec, nsec: 0 })))
            }
        };
        let at = place(cx, AT_FDCWD, args.u64(0), ResolveFlags::empty()).await?;
        attr::set_times(&View::of(cx), &at, times[0], times[1]).await?;
        Ok(0)
    })
}
