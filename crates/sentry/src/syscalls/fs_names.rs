//! Making, removing, linking and renaming names.

use super::fs_path::{AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, parent, path, resolve, unit};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::dev::device_number;
use crate::fs::namei;
use crate::fs::walk::{AT_FDCWD, PATH_MAX};
use crate::fs::{FileKind, Link, NewInode, RenameFlags, ResolveFlags, UnlinkKind, View};
use crate::task::{Capability, Cx};

async fn make(cx: &Cx, dirfd: i32, path_addr: u64, mut new: NewInode) -> Outcome {
    let view = View::of(cx);
    let path = path(cx, path_addr)?;
    let (dir, last) = parent(cx, &view, dirfd, &path).await?;
    (new.uid, new.gid) = (view.creds.fsuid, view.creds.fsgid);
    namei::create(&view, &dir, &last, new).await?;
    Ok(0)
}

fn new_inode(kind: FileKind, permissions: u32) -> NewInode {
    NewInode { kind, permissions, uid: 0, gid: 0, rdev: 0, target: Vec::new() }
}

pub fn sys_mkdir(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(make(cx, AT_FDCWD, args.u64(0), new_inode(FileKind::Directory, args.u32(1) & 0o1777)))
}

pub fn sys_mkdirat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(make(cx, args.i32(0), args.u64(1), new_inode(FileKind::Directory, args.u32(2) & 0o1777)))
}

pub fn sys_mknod(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(mknod(cx, AT_FDCWD, args.u64(0), args.u32(1), args.u32(2)))
}

pub fn sys_mknodat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(mknod(cx, args.i32(0), args.u64(1), args.u32(2), args.u32(3)))
}

async fn mknod(cx: &Cx, dirfd: i32, path_addr: u64, mode: u32, dev: u32) -> Outcome {
    let kind = match mode & 0o170_000 {
        0 => FileKind::Regular,
        _ => FileKind::from_mode(mode).ok_or(Errno::EINVAL)?,
    };
    let (major, minor) = (dev >> 8 & 0xfff, dev & 0xff | dev >> 12 & 0xf_ff00);
    let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    let rdev = if device { device_number(major, minor) } else { 0 };
    namei::may_make_node(&View::of(cx), kind, rdev)?;
    make(cx, dirfd, path_addr, NewInode { rdev, ..new_inode(kind, mode & 0o7777) }).await
}

pub fn sys_symlink(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(symlink(cx, args.u64(0), AT_FDCWD, args.u64(1)))
}

pub fn sys_symlinkat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(symlink(cx, args.u64(0), args.i32(1), args.u64(2)))
}

async fn symlink(cx: &Cx, target_addr: u64, dirfd: i32, path_addr: u64) -> Outcome {
    let target = path(cx, target_addr)?;
    if target.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    make(cx, dirfd, path_addr, NewInode { target, ..new_inode(FileKind::Symlink, 0o777) }).await
}

pub fn sys_link(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(link(cx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0))
}

pub fn sys_linkat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(link(cx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.u32(4)))
}

async fn link(cx: &Cx, from: (i32, u64), to: (i32, u64), flags: u32) -> Outcome {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let view = View::of(cx);
    let mut how = ResolveFlags::empty();
    how.set(ResolveFlags::NOFOLLOW, flags & AT_SYMLINK_FOLLOW == 0);
    how.set(ResolveFlags::EMPTY_PATH, flags & AT_EMPTY_PATH != 0);
    let (old, new) = (path(cx, from.1)?, path(cx, to.1)?);
    if old.is_empty() && !view.creds.has(Capability::DacReadSearch) {
        return Err(Errno::ENOENT.into());
    }
    let from = resolve(cx, &view, from.0, &old, how).await?;
    let (dir, last) = parent(cx, &view, to.0, &new).await?;
    unit(namei::link(&view, &from, &dir, &last).await)
}

pub fn sys_unlink(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(remove(cx, AT_FDCWD, args.u64(0), UnlinkKind::NotDirectory))
}

pub fn sys_rmdir(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(remove(cx, AT_FDCWD, args.u64(0), UnlinkKind::Directory))
}

const AT_REMOVEDIR: u32 = 0x200;

pub fn sys_unlinkat(cx: &mut Cx, args: Args) -> Flow<'_> {
    let kind = match args.u32(2) {
        0 => UnlinkKind::NotDirectory,
        AT_REMOVEDIR => UnlinkKind::Directory,
        _ => return Flow::done(Err(Errno::EINVAL)),
    };
    Flow::wait(remove(cx, args.i32(0), args.u64(1), kind))
}

async fn remove(cx: &Cx, dirfd: i32, path_addr: u64, kind: UnlinkKind) -> Outcome {
    let view = View::of(cx);
    let path = path(cx, path_addr)?;
    let (dir, last) = parent(cx, &view, dirfd, &path).await?;
    unit(namei::unlink(&view, &dir, &last, kind).await)
}

pub fn sys_rename(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(rename(cx, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0))
}

pub fn sys_renameat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(rename(cx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), 0))
}

pub fn sys_renameat2(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(rename(cx, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.u32(4)))
}

async fn rename(cx: &Cx, from: (i32, u64), to: (i32, u64), flags: u32) -> Outcome {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if flags.contains(RenameFlags::EXCHANGE) && flags != RenameFlags::EXCHANGE {
        return Err(Errno::EINVAL.into());
    }
    let view = View::of(cx);
    let (old, new) = (path(cx, from.1)?, path(cx, to.1)?);
    let (from, from_last) = parent(cx, &view, from.0, &old).await?;
    let (to, to_last) = parent(cx, &view, to.0, &new).await?;
    unit(namei::rename(&view, (&from, &from_last), (&to, &to_last), flags).await)
}

pub fn sys_readlink(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(read_link(cx, AT_FDCWD, args.u64(0), args.u64(1), args.i32(2)))
}

pub fn sys_readlinkat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(read_link(cx, args.i32(0), args.u64(1), args.u64(2), args.i32(3)))
}

async fn read_link(cx: &Cx, dirfd: i32, path_addr: u64, out: u64, size: i32) -> Outcome {
    let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or(Errno::EINVAL)?;
    let view = View::of(cx);
    let path = path(cx, path_addr)?;
    // An empty path is the link that an O_PATH descriptor stands for.
    let how = ResolveFlags::NOFOLLOW | ResolveFlags::EMPTY_PATH;
    if path.is_empty() && dirfd == AT_FDCWD {
        return Err(Errno::ENOENT.into());
    }
    let place = resolve(cx, &view, dirfd, &path, how).await?;
    if place.dentry.kind() != FileKind::Symlink {
        return Err(if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL }.into());
    }
    let text = match place.inode().read_link(cx).await? {
        Link::Text(text) => text,
        Link::Magic { text, .. } if text.len() >= PATH_MAX => return Err(Errno::ENAMETOOLONG.into()),
        Link::Magic { text, .. } => text,
    };
    let part = text.get(..size.min(text.len())).unwrap_or_default();
    cx.mm.write(out, part)?;
    Ok(part.len() as u64)
}
