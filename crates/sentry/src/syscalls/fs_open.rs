//! Opening: open, openat, openat2, creat, umask, working and root directory.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fds::install;
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::open::{open_how, try_open};
use crate::fs::walk::{AT_FDCWD, PATH_MAX};
use crate::fs::{Mask, OpenFlags, Origin, Ownership, Path, ResolveFlags, permission, resolve};
use crate::task::{Capability, Cx};

/// `struct open_how`, its first version.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// What open(2) knows; it ignores the rest, openat2(2) does not.
const KNOWN: u32 = OpenFlags::PATH.bits()
    | OpenFlags::TMPFILE.bits()
    | OpenFlags::CLOEXEC.bits()
    | OpenFlags::SYNC.bits()
    | OpenFlags::DSYNC.bits()
    | OpenFlags::NOATIME.bits()
    | OpenFlags::NOFOLLOW.bits()
    | OpenFlags::DIRECTORY.bits()
    | OpenFlags::LARGEFILE.bits()
    | OpenFlags::DIRECT.bits()
    | OpenFlags::ASYNC.bits()
    | OpenFlags::NONBLOCK.bits()
    | OpenFlags::APPEND.bits()
    | OpenFlags::TRUNC.bits()
    | OpenFlags::NOCTTY.bits()
    | OpenFlags::EXCL.bits()
    | OpenFlags::CREAT.bits()
    | 3;

pub(super) fn sys_open(cx: &mut Cx, args: Args) -> Flow<'_> {
    open(cx, AT_FDCWD, args.u64(0), args.u32(1), args.u32(2))
}

pub(super) fn sys_openat(cx: &mut Cx, args: Args) -> Flow<'_> {
    open(cx, args.i32(0), args.u64(1), args.u32(2), args.u32(3))
}

pub(super) fn sys_creat(cx: &mut Cx, args: Args) -> Flow<'_> {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    open(cx, AT_FDCWD, args.u64(0), flags.bits(), args.u32(1))
}

fn open(cx: &mut Cx, dirfd: i32, path: u64, flags: u32, mode: u32) -> Flow<'_> {
    let mut flags = OpenFlags::from_bits_retain(flags & KNOWN);
    if flags.contains(OpenFlags::PATH) {
        flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    }
    let path = match cx.mm.read_cstr(path, PATH_MAX) {
        Ok(path) => path,
        Err(errno) => return Flow::done(Err(errno)),
    };
    start(cx, dirfd, path, flags, mode & 0o7777, ResolveFlags::empty())
}

pub(super) fn sys_openat2(cx: &mut Cx, args: Args) -> Flow<'_> {
    match decode_how(cx, args) {
        Ok((path, flags, mode, resolve)) => start(cx, args.i32(0), path, flags, mode, resolve),
        Err(errno) => Flow::done(Err(errno)),
    }
}

fn decode_how(cx: &Cx, args: Args) -> Result<(Vec<u8>, OpenFlags, u32, ResolveFlags), Errno> {
    let how: OpenHow = super::process::read_extensible(cx, args.u64(2), usize::try_from(args.u64(3)).unwrap_or(usize::MAX))?;
    let flags = u32::try_from(how.flags).ok().filter(|flags| flags & !KNOWN == 0).ok_or(Errno::EINVAL)?;
    let flags = OpenFlags::from_bits_retain(flags);
    let makes = flags.contains(OpenFlags::CREAT) || flags.contains(OpenFlags::TMPFILE);
    if how.mode & !0o7777 != 0 || (how.mode != 0 && !makes) {
        return Err(Errno::EINVAL);
    }
    let mut resolve = ResolveFlags::empty();
    for (bit, flag) in [
        (1, ResolveFlags::NO_XDEV),
        (2, ResolveFlags::NO_MAGICLINKS),
        (4, ResolveFlags::NO_SYMLINKS),
        (8, ResolveFlags::BENEATH),
        (16, ResolveFlags::IN_ROOT),
    ] {
        resolve.set(flag, how.resolve & bit != 0);
    }
    // RESOLVE_CACHED (32): what is not at hand is "try again".
    if how.resolve & !0x3f != 0 || resolve.contains(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    if how.resolve & 32 != 0 {
        return Err(Errno::EAGAIN);
    }
    Ok((cx.mm.read_cstr(args.u64(1), PATH_MAX)?, flags, how.mode as u32, resolve))
}

/// Opens at once where everything is at hand.
fn start(cx: &mut Cx, dirfd: i32, path: Vec<u8>, flags: OpenFlags, mode: u32, resolve: ResolveFlags) -> Flow<'_> {
    let close_on_exec = flags.contains(OpenFlags::CLOEXEC);
    if flags.contains(OpenFlags::TMPFILE) && (!flags.contains(OpenFlags::DIRECTORY) || !flags.writable()) {
        return Flow::done(Err(Errno::EINVAL));
    }
    if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) {
        return Flow::done(Err(Errno::EINVAL));
    }
    if resolve.is_empty() {
        match try_open(cx, dirfd, &path, flags) {
            Ok(Some(file)) => return Flow::done(install(cx, file, close_on_exec).map(|fd| fd as u64)),
            Err(errno) => return Flow::done(Err(errno)),
            Ok(None) => {}
        }
    }
    Flow::wait(async move {
        let file = open_how(cx, dirfd, &path, flags, mode, resolve).await?;
        Ok(install(cx, file, close_on_exec)? as u64)
    })
}

pub(super) fn sys_umask(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(Ok(cx.fs.set_umask(args.u32(0)).into()))
}

pub(super) fn sys_getcwd(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(getcwd(cx, args))
}

fn getcwd(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let cwd = cx.fs.cwd();
    if !cwd.dentry.is_attached() {
        return Err(Errno::ENOENT);
    }
    let mut name = cwd.name_from(&cx.fs.root());
    name.push(0);
    if name.len() as u64 > args.u64(1) {
        return Err(Errno::ERANGE);
    }
    cx.mm.write(args.u64(0), &name)?;
    Ok(name.len() as u64)
}

/// A directory that may be searched.
async fn directory(cx: &Cx, place: Path) -> Result<Path, Errno> {
    let metadata = place.inode().metadata().await?;
    if !place.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    permission::permission(Ownership::from(&metadata), &cx.creds(), Mask::EXEC)?;
    Ok(place)
}

async fn named_directory(cx: &Cx, path: u64) -> Result<Path, Errno> {
    let path = cx.mm.read_cstr(path, PATH_MAX)?;
    directory(cx, resolve(cx, AT_FDCWD, &path, ResolveFlags::DIRECTORY).await?).await
}

pub(super) fn sys_chdir(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let place = named_directory(cx, args.u64(0)).await?;
        cx.fs.set_cwd(place);
        Ok(0)
    })
}

pub(super) fn sys_fchdir(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(fchdir(cx, args.i32(0)))
}

async fn fchdir(cx: &mut Cx, fd: i32) -> Outcome {
    let file = cx.file(fd)?;
    let Origin::Path(path) = &file.origin else { return Err(Errno::ENOTDIR.into()) };
    let place = directory(cx, path.clone()).await?;
    cx.fs.set_cwd(place);
    Ok(0)
}

pub(super) fn sys_chroot(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let place = named_directory(cx, args.u64(0)).await?;
        if !cx.creds().has(Capability::SysChroot) {
            return Err(Errno::EPERM.into());
        }
        cx.fs.set_root(place);
        Ok(0)
    })
}
