//! What system calls with paths have in common.

use super::Fail;
use crate::Errno;
use crate::fs::walk::{self, PATH_MAX};
use crate::fs::{File, Last, OpenFlags, Origin, Path, ResolveFlags, View};
use crate::task::Cx;

pub(super) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
pub(super) const AT_SYMLINK_FOLLOW: u32 = 0x400;
pub(super) const AT_NO_AUTOMOUNT: u32 = 0x800;
pub(super) const AT_EMPTY_PATH: u32 = 0x1000;

/// A path in guest memory.
pub(super) fn path(cx: &Cx, addr: u64) -> Result<Vec<u8>, Errno> {
    cx.mm.read_cstr(addr, PATH_MAX)
}

/// A path that may be null where an empty one is allowed.
pub(super) fn path_or_empty(cx: &Cx, addr: u64, flags: ResolveFlags) -> Result<Vec<u8>, Errno> {
    let may_be_empty = flags.contains(ResolveFlags::EMPTY_PATH);
    if addr == 0 && may_be_empty {
        return Ok(Vec::new());
    }
    path(cx, addr).and_then(|path| if path.is_empty() && !may_be_empty { Err(Errno::ENOENT) } else { Ok(path) })
}

/// `AT_*` flags, of which only `allowed` may be given.
pub(super) fn at_flags(flags: u32, allowed: u32) -> Result<ResolveFlags, Errno> {
    if flags & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    let mut resolve = ResolveFlags::empty();
    resolve.set(ResolveFlags::NOFOLLOW, flags & AT_SYMLINK_NOFOLLOW != 0);
    resolve.set(ResolveFlags::EMPTY_PATH, flags & AT_EMPTY_PATH != 0);
    Ok(resolve)
}

/// The place of a path, for a given view.
pub(super) async fn resolve(cx: &Cx, view: &View, dirfd: i32, path: &[u8], flags: ResolveFlags) -> Result<Path, Errno> {
    // Before the descriptor is looked at.
    if path.is_empty() && !flags.contains(ResolveFlags::EMPTY_PATH) {
        return Err(Errno::ENOENT);
    }
    let start = walk::start(cx, view, dirfd, path)?;
    walk::resolve_in(view, Some(cx), start, path, flags).await
}

/// The directory of a path's last component, for a given view.
pub(super) async fn parent(cx: &Cx, view: &View, dirfd: i32, path: &[u8]) -> Result<(Path, Last), Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let start = walk::start(cx, view, dirfd, path)?;
    walk::parent_in(view, Some(cx), start, path).await
}

/// The file of a descriptor that is more than a place (not `O_PATH`).
pub(super) fn real_file(cx: &Cx, fd: i32) -> Result<std::sync::Arc<File>, Errno> {
    let file = cx.file(fd)?;
    if file.flags().contains(OpenFlags::PATH) { Err(Errno::EBADF) } else { Ok(file) }
}

/// Where a file is; objects without a place get one of their own.
pub(super) fn place_of(file: &File) -> Path {
    match &file.origin {
        Origin::Path(path) => path.clone(),
        Origin::Anonymous { inode, name } => Path::disconnected(inode.clone(), name.as_bytes()),
    }
}

/// A result without a value.
pub(super) fn unit(result: Result<(), Errno>) -> Result<u64, Fail> {
    result.map(|()| 0).map_err(Fail::from)
}
