//! Opening files: `open(2)`'s rules, from the path to an open file description.

use std::sync::Arc;

use super::fsnotify::FsEvent;
use super::namei::{self, Entry};
use super::permission::{Mask, is_owner, permission};
use super::walk::{self, Walker};
use super::{
    File, FileKind, FileOps, Last, Metadata, MountFlags, NewInode, OpenFlags, Origin, Ownership, Path, ResolveFlags, SetAttr,
    View,
};
use crate::Errno;
use crate::ipc::leases::Breaker;
use crate::step::{BoxFuture, Step};
use crate::syscalls::Fail;
use crate::task::Cx;

/// What `open(2)` keeps of its flags in the description (`F_GETFL`).
fn status(flags: OpenFlags) -> OpenFlags {
    flags - (OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::NOCTTY | OpenFlags::TRUNC | OpenFlags::CLOEXEC)
}

/// Opens a file.
///
/// # Errors
/// `open(2)`'s; an interrupted wait (fifos).
pub async fn open(cx: &Cx, dirfd: i32, path: &[u8], flags: OpenFlags, mode: u32) -> Result<Arc<File>, Fail> {
    open_how(cx, dirfd, path, flags, mode, ResolveFlags::empty()).await
}

/// [`open`] with `openat2`'s restrictions.
///
/// # Errors
/// As [`open`].
pub async fn open_how(
    cx: &Cx,
    dirfd: i32,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    resolve: ResolveFlags,
) -> Result<Arc<File>, Fail> {
    let view = View::of(cx);
    // With RESOLVE_IN_ROOT the directory is the root.
    let from = if resolve.contains(ResolveFlags::IN_ROOT) { b".".as_slice() } else { path };
    let start = walk::start(cx, &view, dirfd, from)?;
    if flags.contains(OpenFlags::TMPFILE) {
        return unnamed(cx, &view, start, path, flags, mode, resolve).await;
    }
    if flags.contains(OpenFlags::CREAT) && !flags.contains(OpenFlags::PATH) {
        return open_or_create(cx, &view, start, path, flags, mode, resolve).await;
    }
    let place = walk::resolve_in(&view, Some(cx), start, path, resolve | resolve_flags(flags)).await?;
    open_place(cx, &view, place, flags, false).await
}

fn resolve_flags(flags: OpenFlags) -> ResolveFlags {
    let mut resolve = ResolveFlags::empty();
    resolve.set(ResolveFlags::NOFOLLOW, flags.contains(OpenFlags::NOFOLLOW));
    resolve.set(ResolveFlags::DIRECTORY, flags.contains(OpenFlags::DIRECTORY));
    resolve
}

/// Opens what exists, if nothing has to be waited for; None otherwise.
///
/// # Errors
/// As [`open`].
pub fn try_open(cx: &Cx, dirfd: i32, path: &[u8], flags: OpenFlags) -> Result<Option<Arc<File>>, Errno> {
    try_open_how(cx, dirfd, path, flags, ResolveFlags::empty())
}

/// [`try_open`] with `openat2`'s restrictions.
///
/// # Errors
/// As [`open`].
pub fn try_open_how(
    cx: &Cx,
    dirfd: i32,
    path: &[u8],
    flags: OpenFlags,
    resolve: ResolveFlags,
) -> Result<Option<Arc<File>>, Errno> {
    if flags.intersects(OpenFlags::CREAT | OpenFlags::TRUNC | OpenFlags::TMPFILE) && !flags.contains(OpenFlags::PATH) {
        return Ok(None);
    }
    let view = View::of(cx);
    let from = if resolve.contains(ResolveFlags::IN_ROOT) { b".".as_slice() } else { path };
    let start = walk::start(cx, &view, dirfd, from)?;
    let Some(place) = walk::try_resolve_in(&view, Some(cx), start, path, resolve | resolve_flags(flags))? else {
        return Ok(None);
    };
    if flags.contains(OpenFlags::PATH) {
        return Ok(Some(path_file(place, flags)));
    }
    let Some(owner) = place.inode().ownership() else { return Ok(None) };
    if !matches!(owner.kind, FileKind::Regular | FileKind::Directory) {
        return Ok(None);
    }
    may_open(&view, &place, owner, flags)?;
    if cx.kernel().ipc.leases.any() {
        return Ok(None);
    }
    match place.inode().clone().open(cx, status(flags)) {
        Step::Ready(ops) => direct(File::new(ops?, Origin::Path(place), status(flags))).map(|file| Some(opened(file))),
        Step::Wait(_) => Ok(None),
    }
}

/// Opens a file to run it: a regular file that may be executed, on a mount that allows it.
///
/// # Errors
/// `EACCES`, and `open(2)`'s.
pub async fn open_exec(cx: &Cx, dirfd: i32, path: &[u8], resolve: ResolveFlags) -> Result<Arc<File>, Errno> {
    let view = View::of(cx);
    let start = walk::start(cx, &view, dirfd, path)?;
    let place = walk::resolve_in(&view, Some(cx), start, path, resolve).await?;
    let metadata = place.inode().metadata().await?;
    let owner = Ownership::from(&metadata);
    match owner.kind {
        FileKind::Symlink => return Err(Errno::ELOOP),
        FileKind::Regular if !place.mount.has(MountFlags::NOEXEC) => {}
        _ => return Err(Errno::EACCES),
    }
    permission(owner, &view.creds, Mask::EXEC)?;
    place.dentry.may_run()?;
    let ops = place.inode().clone().open(cx, OpenFlags::empty()).await?;
    Ok(opened(File::new(ops, Origin::Path(place), OpenFlags::empty())))
}

fn opened(file: Arc<File>) -> Arc<File> {
    file.notify(FsEvent::OPEN);
    file
}

/// Permissions of an open of something that exists.
fn may_open(view: &View, place: &Path, owner: Ownership, flags: OpenFlags) -> Result<(), Errno> {
    let mut mask = Mask::empty();
    mask.set(Mask::READ, flags.bits() & 3 != 1);
    mask.set(Mask::WRITE, flags.bits() & 3 != 0 || flags.contains(OpenFlags::TRUNC));
    match owner.kind {
        FileKind::Symlink => return Err(Errno::ELOOP),
        FileKind::Directory if mask.contains(Mask::WRITE) || flags.contains(OpenFlags::CREAT) => return Err(Errno::EISDIR),
        FileKind::CharDevice | FileKind::BlockDevice if place.mount.has(MountFlags::NODEV) => return Err(Errno::EACCES),
        FileKind::Regular if mask.contains(Mask::WRITE) => {
            place.mount.writable()?;
            permission(owner, &view.creds, mask)?;
            place.dentry.may_write()?;
        }
        _ => {}
    }
    permission(owner, &view.creds, mask)?;
    if flags.contains(OpenFlags::NOATIME) && !is_owner(owner.uid, &view.creds) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// A descriptor that is only a place (`O_PATH`).
fn path_file(place: Path, flags: OpenFlags) -> Arc<File> {
    let kept = flags & (OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW);
    File::new(Arc::new(PathOps), Origin::Path(place), kept)
}

/// Opens a place. `created`: just now and by us, so that permissions do not count.
async fn open_place(cx: &Cx, view: &View, place: Path, flags: OpenFlags, created: bool) -> Result<Arc<File>, Fail> {
    if flags.contains(OpenFlags::PATH) {
        return Ok(path_file(place, flags));
    }
    let metadata = place.inode().metadata().await?;
    let owner = Ownership::from(&metadata);
    if !created {
        may_open(view, &place, owner, flags)?;
    }
    match owner.kind {
        FileKind::Fifo => return crate::ipc::pipe::open_fifo(cx, place, status(flags)).await.map(opened),
        FileKind::Socket => return Err(Errno::ENXIO.into()),
        FileKind::BlockDevice => {
            let ops = super::dev::open_block_device(cx, metadata.rdev, flags)?;
            return Ok(opened(File::new(ops, Origin::Path(place), status(flags))));
        }
        FileKind::CharDevice => {
            let ops = super::dev::open_char_device(cx, &place, metadata.rdev, flags)?;
            return Ok(opened(File::new(ops, Origin::Path(place), status(flags))));
        }
        FileKind::Regular if !created && cx.kernel().ipc.leases.any() => break_leases(cx, &metadata, flags).await?,
        _ => {}
    }
    match owner.kind {
        FileKind::Regular if flags.contains(OpenFlags::TRUNC) && !created => {
            let change = SetAttr { size: Some(0), ..SetAttr::default() };
            place.inode().set_attr(super::attr::after_write(change, &metadata, &view.creds)).await?;
            place.dentry.notify(FsEvent::MODIFY);
        }
        _ => {}
    }
    let ops = place.inode().clone().open(cx, status(flags)).await?;
    Ok(opened(direct(File::new(ops, Origin::Path(place), status(flags)))?))
}

/// Waits until no lease is in the way of an open; with `O_NONBLOCK`, says so.
async fn break_leases(cx: &Cx, metadata: &Metadata, flags: OpenFlags) -> Result<(), Fail> {
    let writes = flags.writable() || flags.contains(OpenFlags::TRUNC);
    let breaker = if writes { Breaker::Writes } else { Breaker::Reads };
    cx.break_leases((metadata.dev, metadata.ino), breaker, flags.contains(OpenFlags::NONBLOCK)).await
}

/// `O_DIRECT` is for files with data of their own.
fn direct(file: Arc<File>) -> Result<Arc<File>, Errno> {
    if file.flags().contains(OpenFlags::DIRECT) && !may_be_direct(&file) { Err(Errno::EINVAL) } else { Ok(file) }
}

/// Whether a file can be used with `O_DIRECT`: one that can be mapped can.
pub fn may_be_direct(file: &File) -> bool {
    file.inode().kind() == FileKind::Regular && file.ops.seekable() && (file.ops.mappable().is_ok() || !file.flags().readable())
}

/// `O_CREAT`.
fn open_or_create<'a>(
    cx: &'a Cx,
    view: &'a View,
    start: Path,
    path: &'a [u8],
    flags: OpenFlags,
    mode: u32,
    resolve: ResolveFlags,
) -> BoxFuture<'a, Result<Arc<File>, Fail>> {
    Box::pin(async move {
        if flags.contains(OpenFlags::DIRECTORY) {
            return Err(Errno::EINVAL.into());
        }
        let mut walker: Walker<'_> = walk::to_parent(view, start, path, resolve)?;
        loop {
            walk::drive(&mut walker, Some(cx)).await?;
            let dir = walker.place();
            let name = match walker.last() {
                Last::Name { slash: true, .. } => return Err(Errno::EISDIR.into()),
                Last::Name { name, .. } => name.clone(),
                _ if flags.contains(OpenFlags::EXCL) => return Err(Errno::EEXIST.into()),
                _ => return Err(Errno::EISDIR.into()),
            };
            let new = NewInode {
                kind: FileKind::Regular,
                permissions: mode & 0o7777,
                uid: view.creds.fsuid,
                gid: view.creds.fsgid,
                rdev: 0,
                target: Vec::new(),
            };
            let (place, created) = match namei::create_or_find(view, &dir, &name, new).await? {
                Entry::Made(place) => (place, true),
                Entry::Found(place) => (place, false),
            };
            if !created && flags.contains(OpenFlags::EXCL) {
                return Err(Errno::EEXIST.into());
            }
            if place.dentry.kind() != FileKind::Symlink {
                let file = open_place(cx, view, place, flags, created).await?;
                if created {
                    file.set_created();
                }
                return Ok(file);
            }
            if flags.contains(OpenFlags::NOFOLLOW) {
                return Err(Errno::ELOOP.into());
            }
            walker.skip_last();
            match place.inode().read_link(cx).await? {
                super::Link::Text(text) => walker.follow_text(&text)?,
                super::Link::Magic { place, .. } => {
                    walker.admit_magic(&place)?;
                    return open_place(cx, view, place, flags, false).await;
                }
            }
        }
    })
}

/// `O_TMPFILE`.
async fn unnamed(
    cx: &Cx,
    view: &View,
    start: Path,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    resolve: ResolveFlags,
) -> Result<Arc<File>, Fail> {
    if !flags.contains(OpenFlags::DIRECTORY) || flags.contains(OpenFlags::CREAT) || !flags.writable() {
        return Err(Errno::EINVAL.into());
    }
    let dir = walk::resolve_in(view, Some(cx), start, path, resolve | resolve_flags(flags)).await?;
    let owner = Ownership::from(&dir.inode().metadata().await?);
    permission(owner, &view.creds, Mask::WRITE | Mask::EXEC)?;
    dir.mount.writable()?;
    let (gid, permissions) = super::permission::inherit(owner, &view.creds, view.umask, FileKind::Regular, mode & 0o7777);
    let new = NewInode { kind: FileKind::Regular, permissions, uid: view.creds.fsuid, gid, rdev: 0, target: Vec::new() };
    let inode = dir.inode().create_unnamed(&new).await?;
    let ops = inode.clone().open(cx, status(flags)).await?;
    let place = dir.unnamed(inode);
    if flags.contains(OpenFlags::EXCL) {
        place.dentry.never_link();
    }
    Ok(opened(File::new(ops, Origin::Path(place), status(flags))))
}

/// The operations of an `O_PATH` descriptor: none.
struct PathOps;

impl FileOps for PathOps {
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
