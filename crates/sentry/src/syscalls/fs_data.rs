//! Sizes, space and synchronisation of files.

use super::fs_path::{path, place_of, real_file, resolve, unit};
use super::io::is_object;
use super::{Args, Fail, Flow};
use crate::Errno;
use crate::fs::fsnotify::FsEvent;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{FileKind, ResolveFlags, View, attr};
use crate::ipc::leases::Breaker;
use crate::task::Cx;

/// A length argument, within `RLIMIT_FSIZE`.
fn length(cx: &Cx, raw: i64) -> Result<u64, Errno> {
    let len = u64::try_from(raw).map_err(|_| Errno::EINVAL)?;
    match super::fsize::limit(cx) {
        Some(limit) if len > limit => Err(super::fsize::exceeded(cx)),
        _ => Ok(len),
    }
}

pub fn sys_truncate(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let len = length(cx, args.i64(1))?;
        let (view, path) = (View::of(cx), path(cx, args.u64(0))?);
        let place = resolve(cx, &view, AT_FDCWD, &path, ResolveFlags::empty()).await?;
        if cx.kernel().ipc.leases.any() && place.dentry.kind() == FileKind::Regular {
            let metadata = place.inode().metadata().await?;
            cx.break_leases((metadata.dev, metadata.ino), Breaker::Writes, false).await?;
        }
        unit(attr::truncate(&view, &place, len).await)
    })
}

pub fn sys_ftruncate(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let len = length(cx, args.i64(1))?;
        let file = real_file(cx, args.i32(0))?;
        if !file.flags().writable() {
            return Err(Errno::EINVAL.into());
        }
        let metadata = file.inode().metadata().await?;
        if metadata.kind != FileKind::Regular {
            return Err(Errno::EINVAL.into());
        }
        unit(attr::resize(&View::of(cx), &place_of(&file), len, &metadata).await)
    })
}

/// Mode bits that make no room: punching and the like.
const KEEP_SIZE: u32 = 1;

/// Whether Linux has such a mode at all (`vfs_fallocate`): room, or zeros, with the size kept or not; a hole with it kept; the others change it.
fn is_fallocate_mode(mode: u32) -> bool {
    const PUNCH_HOLE: u32 = 0x02;
    const COLLAPSE_RANGE: u32 = 0x08;
    const ZERO_RANGE: u32 = 0x10;
    const INSERT_RANGE: u32 = 0x20;
    const UNSHARE_RANGE: u32 = 0x40;
    const WRITE_ZEROES: u32 = 0x80;
    match mode & !KEEP_SIZE {
        0 | ZERO_RANGE | UNSHARE_RANGE => true,
        PUNCH_HOLE => mode & KEEP_SIZE != 0,
        COLLAPSE_RANGE | INSERT_RANGE | WRITE_ZEROES => mode & KEEP_SIZE == 0,
        _ => false,
    }
}

pub fn sys_fallocate(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let (mode, offset, len) = (args.u32(1), args.i64(2), args.i64(3));
        let file = real_file(cx, args.i32(0))?;
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let len = u64::try_from(len).ok().filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        if !is_fallocate_mode(mode) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if !file.flags().writable() {
            return Err(Errno::EBADF.into());
        }
        match file.inode().kind() {
            FileKind::Regular if !is_object(&file) => {}
            FileKind::Fifo => return Err(Errno::ESPIPE.into()),
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::ENODEV.into()),
        }
        let end = offset.checked_add(len).filter(|&end| i64::try_from(end).is_ok()).ok_or(Errno::EFBIG)?;
        if mode & KEEP_SIZE == 0 {
            length(cx, end as i64)?;
        }
        file.ops.allocate(mode, offset, len).await?;
        file.notify(FsEvent::MODIFY);
        Ok(0)
    })
}

pub fn sys_fsync(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move { unit(real_file(cx, args.i32(0))?.ops.sync().await) })
}

pub fn sys_sync(_cx: &mut Cx, _args: Args) -> Flow<'_> {
    Flow::done(Ok(0))
}

pub fn sys_syncfs(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let file = real_file(cx, args.i32(0))?;
        match file.ops.sync().await {
            // What cannot be synchronised has nothing on a disk.
            Ok(()) | Err(Errno::EINVAL) => Ok(0),
            Err(errno) => Err(Fail::from(errno)),
        }
    })
}

pub fn sys_sync_file_range(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let file = real_file(cx, args.i32(0))?;
        if args.i64(1) < 0 || args.i64(2) < 0 || args.u32(3) & !7 != 0 {
            return Err(Errno::EINVAL.into());
        }
        match file.inode().kind() {
            _ if is_object(&file) => return Err(Errno::ESPIPE.into()),
            FileKind::Regular | FileKind::Directory | FileKind::Symlink | FileKind::BlockDevice => {}
            _ => return Err(Errno::ESPIPE.into()),
        }
        match file.ops.sync().await {
            // What has nothing on a disk.
            Err(Errno::EINVAL) => Ok(0),
            synchronised => unit(synchronised),
        }
    })
}

/// What is read ahead is the host's affair; the arguments are checked.
pub fn sys_readahead(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(real_file(cx, args.i32(0)).and_then(|file| match file.inode().kind() {
        _ if !file.flags().readable() => Err(Errno::EBADF),
        FileKind::Regular | FileKind::BlockDevice if file.ops.seekable() => Ok(0),
        _ => Err(Errno::EINVAL),
    }))
}

/// Advice is checked, and not needed.
pub fn sys_fadvise64(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(real_file(cx, args.i32(0)).and_then(|file| match file.inode().kind() {
        FileKind::Fifo => Err(Errno::ESPIPE),
        _ if args.i64(2) < 0 || args.u32(3) > 5 => Err(Errno::EINVAL),
        _ => Ok(0),
    }))
}
