//! inotify_init, inotify_add_watch, inotify_rm_watch.

use super::fds::install;
use super::fs_path::{path, real_file, resolve};
use super::{Args, Flow};
use crate::Errno;
use crate::fs::anon::{self, Anon};
use crate::fs::fsnotify::FsEvent;
use crate::fs::namei::ownership;
use crate::fs::permission::permission;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{Mask, OpenFlags, ResolveFlags, View};
use crate::ipc::inotify::Inotify;
use crate::task::Cx;

pub fn sys_inotify_init(cx: &mut Cx, _args: Args) -> Flow<'_> {
    Flow::done(init(cx, OpenFlags::empty()))
}

pub fn sys_inotify_init1(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(init(cx, OpenFlags::from_bits_retain(args.u32(0))))
}

fn init(cx: &Cx, flags: OpenFlags) -> Result<u64, Errno> {
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let file = anon::file(cx, &Anon::Object("inotify"), Inotify::new(cx)?, flags & OpenFlags::NONBLOCK);
    install(cx, file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
}

/// All bits that mean something (`ALL_INOTIFY_BITS`).
const KNOWN: FsEvent = FsEvent::ALL
    .union(FsEvent::UNMOUNT)
    .union(FsEvent::Q_OVERFLOW)
    .union(FsEvent::IGNORED)
    .union(FsEvent::ONLYDIR)
    .union(FsEvent::DONT_FOLLOW)
    .union(FsEvent::EXCL_UNLINK)
    .union(FsEvent::MASK_ADD)
    .union(FsEvent::MASK_CREATE)
    .union(FsEvent::ISDIR)
    .union(FsEvent::ONESHOT);

pub fn sys_inotify_add_watch(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let mask = FsEvent::from_bits_retain(args.u32(2));
        if !mask.intersects(KNOWN) {
            return Err(Errno::EINVAL.into());
        }
        let file = real_file(cx, args.i32(0))?;
        if mask.contains(FsEvent::MASK_ADD | FsEvent::MASK_CREATE) {
            return Err(Errno::EINVAL.into());
        }
        let inotify = file.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
        let mut how = ResolveFlags::empty();
        how.set(ResolveFlags::NOFOLLOW, mask.contains(FsEvent::DONT_FOLLOW));
        how.set(ResolveFlags::DIRECTORY, mask.contains(FsEvent::ONLYDIR));
        let (view, path) = (View::of(cx), path(cx, args.u64(1))?);
        let place = resolve(cx, &view, AT_FDCWD, &path, how).await?;
        permission(ownership(place.inode()).await?, &view.creds, Mask::READ)?;
        let outside = match place.inode().watch_outside(place.dentry.cache(), mask) {
            Some(watched) => match watched.await {
                // The host has no name of it any more: what this sandbox does to it is told.
                Err(Errno::ENOENT) => None,
                watched => Some(watched?),
            },
            None => None,
        };
        Ok(inotify.add(&place.dentry, mask, outside)? as u64)
    })
}

pub fn sys_inotify_rm_watch(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let file = real_file(cx, args.i32(0))?;
        file.downcast::<Inotify>().ok_or(Errno::EINVAL)?.remove(args.i32(1)).map(|()| 0)
    })())
}
