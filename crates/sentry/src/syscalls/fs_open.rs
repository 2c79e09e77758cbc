//! open and its kin.

use super::fds::install;
use super::fs_path::path;
use super::{Args, Flow};
use crate::Errno;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{self, OpenFlags, ResolveFlags};
use crate::task::Cx;

pub fn sys_open(cx: &mut Cx, args: Args) -> Flow<'_> {
    open_at(cx, AT_FDCWD, args.u64(0), args.u32(1), args.u32(2))
}

pub fn sys_openat(cx: &mut Cx, args: Args) -> Flow<'_> {
    open_at(cx, args.i32(0), args.u64(1), args.u32(2), args.u32(3))
}

pub fn sys_creat(cx: &mut Cx, args: Args) -> Flow<'_> {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    open_at(cx, AT_FDCWD, args.u64(0), flags.bits(), args.u32(1))
}

/// All flags Linux knows; `open` and `openat` ignore others.
const KNOWN: u32 = 0o37777703;

fn open_at(cx: &mut Cx, dirfd: i32, path_addr: u64, flags: u32, mode: u32) -> Flow<'_> {
    let mut flags = OpenFlags::from_bits_retain(flags & KNOWN);
    if flags.contains(OpenFlags::PATH) {
        flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    } else {
        flags |= OpenFlags::LARGEFILE;
    }
    let path = match path(cx, path_addr) {
        // Before the descriptor is looked at.
        Ok(path) if path.is_empty() => return Flow::done(Err(Errno::ENOENT)),
        Ok(path) => path,
        Err(errno) => return Flow::done(Err(errno)),
    };
    let close_on_exec = flags.contains(OpenFlags::CLOEXEC);
    match fs::try_open(cx, dirfd, &path, flags) {
        Ok(None) => {}
        Ok(Some(file)) => return Flow::done(install(cx, file, close_on_exec).map(|fd| fd as u64)),
        Err(errno) => return Flow::done(Err(errno)),
    }
    Flow::wait(async move {
        let file = fs::open(cx, dirfd, &path, flags, mode & 0o7777).await?;
        Ok(install(cx, file, close_on_exec)? as u64)
    })
}

/// `struct open_how`'s size.
const OPEN_HOW: u64 = 24;

const RESOLVE_CACHED: u64 = 0x20;

fn resolve_flags(bits: u64) -> Result<ResolveFlags, Errno> {
    let known = [
        ResolveFlags::NO_XDEV,
        ResolveFlags::NO_MAGICLINKS,
        ResolveFlags::NO_SYMLINKS,
        ResolveFlags::BENEATH,
        ResolveFlags::IN_ROOT,
    ];
    if bits & !0x3f != 0 {
        return Err(Errno::EINVAL);
    }
    let mut flags = ResolveFlags::empty();
    for (bit, flag) in known.into_iter().enumerate() {
        flags.set(flag, bits >> bit & 1 != 0);
    }
    if flags.contains(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    // No symbolic links: no magic ones either.
    if flags.contains(ResolveFlags::NO_SYMLINKS) {
        flags |= ResolveFlags::NO_MAGICLINKS;
    }
    Ok(flags)
}

pub fn sys_openat2(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let (dirfd, how, size) = (args.i32(0), args.u64(2), args.u64(3));
        if size < OPEN_HOW {
            return Err(Errno::EINVAL.into());
        }
        if size > crate::abi::PAGE_SIZE {
            return Err(Errno::E2BIG.into());
        }
        let mut rest = vec![0; (size - OPEN_HOW) as usize];
        let [flags, mode, resolve] = cx.mm.read_val::<[u64; 3]>(how)?;
        cx.mm.read(how.wrapping_add(OPEN_HOW), &mut rest)?;
        if rest.iter().any(|&byte| byte != 0) {
            return Err(Errno::E2BIG.into());
        }
        if flags & !u64::from(KNOWN) != 0 || mode & !0o7777 != 0 {
            return Err(Errno::EINVAL.into());
        }
        let mut flags = OpenFlags::from_bits_retain(flags as u32);
        if mode != 0 && !flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE) {
            return Err(Errno::EINVAL.into());
        }
        let place_only = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
        if flags.contains(OpenFlags::PATH) {
            if !place_only.contains(flags) {
                return Err(Errno::EINVAL.into());
            }
        } else {
            flags |= OpenFlags::LARGEFILE;
        }
        let cached = resolve & RESOLVE_CACHED != 0;
        let resolve = resolve_flags(resolve)?;
        let path = path(cx, args.u64(1))?;
        if cached {
            // What is not to be had at once is left to a second call (openat2(2)).
            let file = fs::try_open_how(cx, dirfd, &path, flags, resolve)?.ok_or(Errno::EAGAIN)?;
            return Ok(install(cx, file, flags.contains(OpenFlags::CLOEXEC))? as u64);
        }
        let file = fs::open_how(cx, dirfd, &path, flags, mode as u32, resolve).await?;
        Ok(install(cx, file, flags.contains(OpenFlags::CLOEXEC))? as u64)
    })
}
