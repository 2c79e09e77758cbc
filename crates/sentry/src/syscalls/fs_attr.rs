//! Modes, owners and times.

use super::fs_path::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, at_flags, path, path_or_empty, place_of, real_file, resolve, unit};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{ResolveFlags, SetTime, Timestamp, View, attr};
use crate::ns::Ids;
use crate::task::Cx;

pub fn sys_umask(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(Ok(u64::from(cx.fs.set_umask(args.u32(0) & 0o777))))
}

pub fn sys_chmod(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(chmod(cx, AT_FDCWD, args.u64(0), args.u32(1), 0))
}

pub fn sys_fchmodat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(chmod(cx, args.i32(0), args.u64(1), args.u32(2), 0))
}

pub fn sys_fchmodat2(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(chmod(cx, args.i32(0), args.u64(1), args.u32(2), args.u32(3)))
}

async fn chmod(cx: &Cx, dirfd: i32, path_addr: u64, mode: u32, flags: u32) -> Outcome {
    let how = at_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let (view, path) = (View::of(cx), path_or_empty(cx, path_addr, how)?);
    let place = resolve(cx, &view, dirfd, &path, how).await?;
    unit(attr::chmod(&view, &place, mode).await)
}

pub fn sys_fchmod(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let place = place_of(&*real_file(cx, args.i32(0))?);
        unit(attr::chmod(&View::of(cx), &place, args.u32(1)).await)
    })
}

/// An owner of the caller's user namespace as the container's ids; -1 is "as it is".
fn owner(cx: &Cx, (uid, gid): (u32, u32)) -> Result<(Option<u32>, Option<u32>), Errno> {
    let ns = &cx.creds().user_ns;
    let id = |which, raw| if raw == u32::MAX { Ok(None) } else { ns.kernel_id(which, raw).map(Some).ok_or(Errno::EINVAL) };
    Ok((id(Ids::Users, uid)?, id(Ids::Groups, gid)?))
}

pub fn sys_chown(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(chown(cx, AT_FDCWD, args.u64(0), (args.u32(1), args.u32(2)), 0))
}

pub fn sys_lchown(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(chown(cx, AT_FDCWD, args.u64(0), (args.u32(1), args.u32(2)), AT_SYMLINK_NOFOLLOW))
}

pub fn sys_fchownat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(chown(cx, args.i32(0), args.u64(1), (args.u32(2), args.u32(3)), args.u32(4)))
}

async fn chown(cx: &Cx, dirfd: i32, path_addr: u64, ids: (u32, u32), flags: u32) -> Outcome {
    let how = at_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let (view, path) = (View::of(cx), path_or_empty(cx, path_addr, how)?);
    let place = resolve(cx, &view, dirfd, &path, how).await?;
    let (uid, gid) = owner(cx, ids)?;
    unit(attr::chown(&view, &place, uid, gid).await)
}

pub fn sys_fchown(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let place = place_of(&*real_file(cx, args.i32(0))?);
        let (uid, gid) = owner(cx, (args.u32(1), args.u32(2)))?;
        unit(attr::chown(&View::of(cx), &place, uid, gid).await)
    })
}

const UTIME_NOW: i64 = 0x3fff_ffff;
const UTIME_OMIT: i64 = 0x3fff_fffe;

/// Access and modification time.
type Times = (Option<SetTime>, Option<SetTime>);

const NOW: Times = (Some(SetTime::Now), Some(SetTime::Now));

/// Two `timespec`s; null: now.
fn timespecs(cx: &Cx, addr: u64) -> Result<Times, Errno> {
    if addr == 0 {
        return Ok(NOW);
    }
    let [accessed, modified] = cx.mm.read_val::<[[i64; 2]; 2]>(addr)?;
    let time = |[sec, nsec]: [i64; 2]| match nsec {
        UTIME_NOW => Ok(Some(SetTime::Now)),
        UTIME_OMIT => Ok(None),
        0..=999_999_999 => Ok(Some(SetTime::At(Timestamp { sec, nsec: nsec as u32 }))),
        _ => Err(Errno::EINVAL),
    };
    Ok((time(accessed)?, time(modified)?))
}

/// Two `timeval`s; null: now.
fn timevals(cx: &Cx, addr: u64) -> Result<Times, Errno> {
    if addr == 0 {
        return Ok(NOW);
    }
    let [accessed, modified] = cx.mm.read_val::<[[i64; 2]; 2]>(addr)?;
    let time = |[sec, usec]: [i64; 2]| match usec {
        0..=999_999 => Ok(Some(SetTime::At(Timestamp { sec, nsec: usec as u32 * 1000 }))),
        _ => Err(Errno::EINVAL),
    };
    Ok((time(accessed)?, time(modified)?))
}

/// Sets times by name; a null path (`futimens`) is the descriptor's file.
async fn set_times(cx: &Cx, dirfd: i32, path_addr: u64, times: Times, how: ResolveFlags) -> Outcome {
    let (accessed, modified) = times;
    if accessed.is_none() && modified.is_none() {
        return Ok(0);
    }
    let view = View::of(cx);
    let place = if path_addr == 0 && dirfd != AT_FDCWD {
        if how != ResolveFlags::empty() {
            return Err(Errno::EINVAL.into());
        }
        place_of(&*real_file(cx, dirfd)?)
    } else {
        let path = path(cx, path_addr)?;
        resolve(cx, &view, dirfd, &path, how).await?
    };
    unit(attr::set_times(&view, &place, accessed, modified).await)
}

pub fn sys_utimensat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let times = timespecs(cx, args.u64(2))?;
        let how = at_flags(args.u32(3), AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
        set_times(cx, args.i32(0), args.u64(1), times, how).await
    })
}

pub fn sys_futimesat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let times = timevals(cx, args.u64(2))?;
        set_times(cx, args.i32(0), args.u64(1), times, ResolveFlags::empty()).await
    })
}

pub fn sys_utimes(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let times = timevals(cx, args.u64(1))?;
        set_times(cx, AT_FDCWD, args.u64(0), times, ResolveFlags::empty()).await
    })
}

pub fn sys_utime(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let times = match args.opt_ptr(1) {
            None => NOW,
            Some(addr) => {
                let [accessed, modified] = cx.mm.read_val::<[i64; 2]>(addr)?;
                let at = |sec| Some(SetTime::At(Timestamp { sec, nsec: 0 }));
                (at(accessed), at(modified))
            }
        };
        set_times(cx, AT_FDCWD, args.u64(0), times, ResolveFlags::empty()).await
    })
}
