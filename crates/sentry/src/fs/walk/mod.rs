//! Path walking: from a name to a place, by the rules of `path_resolution(7)`.
//!
//! A [`Walker`] goes as far as the dentry cache (and file systems that answer at once) lead, and says where it must wait: for a lookup, for a link's text or
//! for attributes. [`try_resolve`] is for callers that have something better to do than to wait; [`resolve`] and [`resolve_parent`] await.
//!
//! No lock is held from one component to the next, and none over an await.

mod lookup;
mod walker;

use crate::Errno;
use crate::fs::namei::ownership;
use crate::fs::permission::permission;
use crate::fs::{Mask, Origin, Path, View};
use crate::step::BoxFuture;
use crate::task::Cx;
pub(super) use lookup::lookup;
pub(super) use walker::Walker;
pub use walker::{Found, Last, ResolveFlags};
use walker::{Goal, Progress};

/// `AT_FDCWD`.
pub const AT_FDCWD: i32 = -100;

/// Longest path with its NUL, in bytes.
pub const PATH_MAX: usize = 4096;

/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// Where a walk begins that is relative to a directory descriptor.
///
/// # Errors
/// `EBADF`; `ENOTDIR` for an object without a place.
pub fn start(cx: &Cx, view: &View, dirfd: i32, path: &[u8]) -> Result<Path, Errno> {
    if path.first() == Some(&b'/') || dirfd == AT_FDCWD {
        return Ok(view.cwd.clone());
    }
    let file = cx.file(dirfd)?;
    match &file.origin {
        Origin::Path(path) => Ok(path.clone()),
        Origin::Anonymous { inode, name } if path.is_empty() => Ok(Path::disconnected(inode.clone(), name.as_bytes())),
        Origin::Anonymous { .. } => Err(Errno::ENOTDIR),
    }
}

/// The place of a path.
///
/// # Errors
/// `path_resolution(7)`'s.
pub async fn resolve(cx: &Cx, dirfd: i32, path: &[u8], flags: ResolveFlags) -> Result<Path, Errno> {
    let view = View::of(cx);
    let start = start(cx, &view, dirfd, path)?;
    resolve_in(&view, Some(cx), start, path, flags).await
}

/// A directory to go to (`chdir`): it must be one, and be searchable.
///
/// # Errors
/// As [`resolve`]; `EACCES`.
pub async fn resolve_directory(cx: &Cx, path: &[u8]) -> Result<Path, Errno> {
    let place = resolve(cx, AT_FDCWD, path, ResolveFlags::DIRECTORY).await?;
    permission(ownership(place.inode()).await?, &cx.creds(), Mask::EXEC)?;
    Ok(place)
}

/// As [`resolve`], if nothing has to be waited for; otherwise None.
///
/// # Errors
/// As [`resolve`].
pub fn try_resolve(cx: &Cx, dirfd: i32, path: &[u8], flags: ResolveFlags) -> Result<Option<Path>, Errno> {
    let view = View::of(cx);
    let start = start(cx, &view, dirfd, path)?;
    try_resolve_in(&view, Some(cx), start, path, flags)
}

/// As [`try_resolve`], for somebody who wants attributes only.
///
/// # Errors
/// As [`resolve`].
pub fn try_find(cx: &Cx, dirfd: i32, path: &[u8], flags: ResolveFlags) -> Result<Option<Found>, Errno> {
    let view = View::of(cx);
    let start = start(cx, &view, dirfd, path)?;
    try_find_in(&view, Some(cx), start, path, flags)
}

/// [`try_find`] for a given view and start.
///
/// # Errors
/// As [`resolve`].
pub fn try_find_in(
    view: &View,
    cx: Option<&Cx>,
    start: Path,
    path: &[u8],
    flags: ResolveFlags,
) -> Result<Option<Found>, Errno> {
    let mut walker = Walker::new(view, start, path, flags, Goal::Attributes)?;
    match walker.run(cx)? {
        Progress::Done => Ok(Some(walker.into_found())),
        _ => Ok(None),
    }
}

/// The directory that a path's last component is (to be) in, and that component.
///
/// # Errors
/// As [`resolve`].
pub async fn resolve_parent(cx: &Cx, dirfd: i32, path: &[u8]) -> Result<(Path, Last), Errno> {
    let view = View::of(cx);
    let start = start(cx, &view, dirfd, path)?;
    parent_in(&view, Some(cx), start, path).await
}

/// [`resolve`] for a given view and start. Without `cx`, links of /proc cannot be followed.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_in<'a>(
    view: &'a View,
    cx: Option<&'a Cx>,
    start: Path,
    path: &'a [u8],
    flags: ResolveFlags,
) -> BoxFuture<'a, Result<Path, Errno>> {
    Box::pin(async move {
        let mut walker = Walker::new(view, start, path, flags, Goal::Target)?;
        drive(&mut walker, cx).await?;
        Ok(walker.into_place())
    })
}

/// [`try_resolve`] for a given view and start.
///
/// # Errors
/// As [`resolve`].
pub fn try_resolve_in(
    view: &View,
    cx: Option<&Cx>,
    start: Path,
    path: &[u8],
    flags: ResolveFlags,
) -> Result<Option<Path>, Errno> {
    let mut walker = Walker::new(view, start, path, flags, Goal::Target)?;
    match walker.run(cx)? {
        Progress::Done => Ok(Some(walker.into_place())),
        _ => Ok(None),
    }
}

/// [`resolve_parent`] for a given view and start.
///
/// # Errors
/// As [`resolve`].
pub async fn parent_in(view: &View, cx: Option<&Cx>, start: Path, path: &[u8]) -> Result<(Path, Last), Errno> {
    let mut walker = Walker::new(view, start, path, ResolveFlags::empty(), Goal::Parent)?;
    drive(&mut walker, cx).await?;
    Ok(walker.into_parent())
}

/// A walk that can go on from the last component (open with `O_CREAT`).
pub(super) fn to_parent<'v>(view: &'v View, start: Path, path: &'v [u8], flags: ResolveFlags) -> Result<Walker<'v>, Errno> {
    Walker::new(view, start, path, flags, Goal::Parent)
}

/// Walks to the end.
pub(super) async fn drive(walker: &mut Walker<'_>, cx: Option<&Cx>) -> Result<(), Errno> {
    loop {
        match walker.run(cx)? {
            Progress::Done => return Ok(()),
            Progress::Lookup => {
                let (dir, names) = walker.ahead();
                let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
                let found = lookup::lookup_ahead(&dir, &names).await?;
                walker.supply(found);
            }
            Progress::ReadLink(link) => {
                let cx = cx.ok_or(Errno::ELOOP)?;
                let to = link.inode().read_link(cx).await?;
                walker.follow(to)?;
            }
            Progress::Search(dir) => {
                let metadata = dir.inode().metadata().await?;
                walker.search(&metadata)?;
            }
        }
    }
}

#[cfg(test)]
mod tests;
