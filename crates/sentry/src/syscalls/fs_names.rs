//! Making, linking, renaming and removing names.

use super::fs_stat::{AT_EMPTY_PATH, place};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::walk::{AT_FDCWD, PATH_MAX};
use crate::fs::{FileKind, Last, NewInode, Path, RenameFlags, ResolveFlags, UnlinkKind, View, namei, resolve_parent};
use crate::task::{Capability, Cx};

/// `AT_REMOVEDIR`.
const AT_REMOVEDIR: u32 = 0x200;
/// `AT_SYMLINK_FOLLOW`.
const AT_SYMLINK_FOLLOW: u32 = 0x400;

async fn parent(cx: &Cx, dirfd: i32, path: u64) -> Result<(Path, Last), Errno> {
    let path = cx.mm.read_cstr(path, PATH_MAX)?;
    resolve_parent(cx, dirfd, &path).await
}

fn new_inode(cx: &Cx, kind: FileKind, mode: u32, rdev: u64, target: Vec<u8>) -> NewInode {
    let creds = cx.creds();
    NewInode { kind, permissions: mode & 0o7777, uid: creds.fsuid, gid: creds.fsgid, rdev, target }
}

async fn make(cx: &Cx, dirfd: i32, path: u64, new: NewInode) -> Outcome {
    let (dir, last) = parent(cx, dirfd, path).await?;
    namei::create(&View::of(cx), &dir, &last, new).await?;
    Ok(0)
}

pub(super) fn sys_mkdir(cx: &mut Cx, args: Args) -> Flow<'_> {
    mkdir(cx, AT_FDCWD, args.u64(0), args.u32(1))
}

pub(super) fn sys_mkdirat(cx: &mut Cx, args: Args) -> Flow<'_> {
    mkdir(cx, args.i32(0), args.u64(1), args.u32(2))
}

fn mkdir(cx: &mut Cx, dirfd: i32, path: u64, mode: u32) -> Flow<'_> {
    Flow::wait(async move {
        // Set-id bits cannot be asked for (mkdir(2)).
        let new = new_inode(cx, FileKind::Directory, mode & 0o1777, 0, Vec::new());
        make(cx, dirfd, path, new).await
    })
}

pub(super) fn sys_mknod(cx: &mut Cx, args: Args) -> Flow<'_> {
    mknod(cx, AT_FDCWD, args.u64(0), args.u32(1), args.u32(2))
}

pub(super) fn sys_mknodat(cx: &mut Cx, args: Args) -> Flow<'_> {
    mknod(cx, args.i32(0), args.u64(1), args.u32(2), args.u32(3))
}

fn mknod(cx: &mut Cx, dirfd: i32, path: u64, mode: u32, rdev: u32) -> Flow<'_> {
    Flow::wait(async move {
        let kind = match FileKind::from_mode(mode) {
            Some(FileKind::Directory) => return Err(Errno::EPERM.into()),
            Some(FileKind::Symlink) => return Err(Errno::EINVAL.into()),
            Some(kind) => kind,
            None if mode & 0o170000 == 0 => FileKind::Regular,
            None => return Err(Errno::EINVAL.into()),
        };
        let rdev = match kind {
            FileKind::CharDevice | FileKind::BlockDevice => u64::from(rdev),
            _ => 0,
        };
        namei::may_make_node(&View::of(cx), kind, rdev)?;
        let new = new_inode(cx, kind, mode, rdev, Vec::new());
        make(cx, dirfd, path, new).await
    })
}

pub(super) fn sys_symlink(cx: &mut Cx, args: Args) -> Flow<'_> {
    symlink(cx, args.u64(0), AT_FDCWD, args.u64(1))
}

pub(super) fn sys_symlinkat(cx: &mut Cx, args: Args) -> Flow<'_> {
    symlink(cx, args.u64(0), args.i32(1), args.u64(2))
}

fn symlink(cx: &mut Cx, target: u64, dirfd: i32, path: u64) -> Flow<'_> {
    Flow::wait(async move {
        let target = cx.mm.read_cstr(target, PATH_MAX)?;
        if target.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        let new = new_inode(cx, FileKind::Symlink, 0o777, 0, target);
        make(cx, dirfd, path, new).await
    })
}

pub(super) fn sys_link(cx: &mut Cx, args: Args) -> Flow<'_> {
    link(cx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0)
}

pub(super) fn sys_linkat(cx: &mut Cx, args: Args) -> Flow<'_> {
    link(cx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.u32(4))
}

fn link(cx: &mut Cx, from: (i32, u64), to: (i32, u64), flags: u32) -> Flow<'_> {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    Flow::wait(async move {
        let mut resolve = ResolveFlags::empty();
        resolve.set(ResolveFlags::NOFOLLOW, flags & AT_SYMLINK_FOLLOW == 0);
        if flags & AT_EMPTY_PATH != 0 {
            if !cx.creds().has(Capability::DacReadSearch) {
                return Err(Errno::ENOENT.into());
            }
            resolve |= ResolveFlags::EMPTY_PATH;
        }
        let old = place(cx, from.0, from.1, resolve).await?;
        let (dir, last) = parent(cx, to.0, to.1).await?;
        namei::link(&View::of(cx), &old, &dir, &last).await?;
        Ok(0)
    })
}

pub(super) fn sys_unlink(cx: &mut Cx, args: Args) -> Flow<'_> {
    unlink(cx, AT_FDCWD, args.u64(0), UnlinkKind::NotDirectory)
}

pub(super) fn sys_rmdir(cx: &mut Cx, args: Args) -> Flow<'_> {
    unlink(cx, AT_FDCWD, args.u64(0), UnlinkKind::Directory)
}

pub(super) fn sys_unlinkat(cx: &mut Cx, args: Args) -> Flow<'_> {
    let kind = match args.u32(2) {
        0 => UnlinkKind::NotDirectory,
        AT_REMOVEDIR => UnlinkKind::Directory,
        _ => return Flow::done(Err(Errno::EINVAL)),
    };
    unlink(cx, args.i32(0), args.u64(1), kind)
}

fn unlink(cx: &mut Cx, dirfd: i32, path: u64, kind: UnlinkKind) -> Flow<'_> {
    Flow::wait(async move {
        let (dir, last) = parent(cx, dirfd, path).await?;
        namei::unlink(&View::of(cx), &dir, &last, kind).await?;
        Ok(0)
    })
}

pub(super) fn sys_rename(cx: &mut Cx, args: Args) -> Flow<'_> {
    rename(cx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0)
}

pub(super) fn sys_renameat(cx: &mut Cx, args: Args) -> Flow<'_> {
    rename(cx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), 0)
}

pub(super) fn sys_renameat2(cx: &mut Cx, args: Args) -> Flow<'_> {
    rename(cx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.u32(4))
}

fn rename(cx: &mut Cx, from: (i32, u64), to: (i32, u64), flags: u32) -> Flow<'_> {
    let Some(flags) = RenameFlags::from_bits(flags) else { return Flow::done(Err(Errno::EINVAL)) };
    if flags.contains(RenameFlags::EXCHANGE) && flags != RenameFlags::EXCHANGE {
        return Flow::done(Err(Errno::EINVAL));
    }
    Flow::wait(async move {
        let (old_dir, old) = parent(cx, from.0, from.1).await?;
        let (new_dir, new) = parent(cx, to.0, to.1).await?;
        namei::rename(&View::of(cx), (&old_dir, &old), (&new_dir, &new), flags).await?;
        Ok(0)
    })
}

