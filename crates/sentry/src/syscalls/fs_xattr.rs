//! Extended attributes: who may use which names (`xattr(7)`), and the calls.

use super::fs_path::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, at_flags, path_or_empty, place_of, real_file, resolve, unit};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::fsnotify::FsEvent;
use crate::fs::permission::{STICKY, is_owner, permission};
use crate::fs::walk::AT_FDCWD;
use crate::fs::{FileKind, Mask, Metadata, Ownership, Path, ResolveFlags, View, XattrCall};
use crate::task::{Capability, Cx};

/// Largest value and largest list of names, in bytes.
const SIZE_MAX: u64 = 64 << 10;

/// Which file a call is about.
#[derive(Clone, Copy)]
enum Target {
    Path(i32, u64, ResolveFlags),
    File(i32),
}

impl Target {
    async fn place(self, cx: &Cx, view: &View) -> Result<Path, Errno> {
        match self {
            Target::File(fd) => Ok(place_of(&*real_file(cx, fd)?)),
            Target::Path(dirfd, addr, how) => {
                let path = path_or_empty(cx, addr, how)?;
                resolve(cx, view, dirfd, &path, how).await
            }
        }
    }
}

fn followed(args: &Args) -> Target {
    Target::Path(AT_FDCWD, args.u64(0), ResolveFlags::empty())
}

fn itself(args: &Args) -> Target {
    Target::Path(AT_FDCWD, args.u64(0), ResolveFlags::NOFOLLOW)
}

fn at(args: &Args) -> Result<Target, Errno> {
    let how = at_flags(args.u32(2), AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    Ok(Target::Path(args.i32(0), args.u64(1), how))
}

fn name(cx: &Cx, addr: u64) -> Result<Vec<u8>, Errno> {
    match cx.mm.read_cstr(addr, 256) {
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        name => name,
    }
}

/// Whether an attribute may be read or written (fs/xattr.c, `xattr_permission`).
fn allowed(view: &View, metadata: &Metadata, name: &[u8], mask: Mask) -> Result<(), Errno> {
    let write = mask == Mask::WRITE;
    let admin = view.creds.has(Capability::SysAdmin);
    if name.starts_with(b"security.") {
        let capability = if name == b"security.capability" { Capability::Setfcap } else { Capability::SysAdmin };
        return if write && !view.creds.has(capability) { Err(Errno::EPERM) } else { Ok(()) };
    }
    if name.starts_with(b"trusted.") {
        return match (admin, write) {
            (true, _) => Ok(()),
            (false, true) => Err(Errno::EPERM),
            (false, false) => Err(Errno::ENODATA),
        };
    }
    // Access lists and the like: no file system here keeps them.
    if !name.starts_with(b"user.") || name.len() == b"user.".len() {
        return Err(Errno::EOPNOTSUPP);
    }
    if !matches!(metadata.kind, FileKind::Regular | FileKind::Directory) {
        return Err(if write { Errno::EPERM } else { Errno::ENODATA });
    }
    let sticky = metadata.kind == FileKind::Directory && metadata.permissions & STICKY != 0;
    if write && sticky && !is_owner(metadata.uid, &view.creds) {
        return Err(Errno::EPERM);
    }
    permission(Ownership::from(metadata), &view.creds, mask)
}

/// Copies an answer out, or says how long it is.
fn answer(cx: &Cx, bytes: &[u8], addr: u64, size: u64) -> Outcome {
    if size == 0 {
        return Ok(bytes.len() as u64);
    }
    if (bytes.len() as u64) > size {
        return Err(Errno::ERANGE.into());
    }
    cx.mm.write(addr, bytes)?;
    Ok(bytes.len() as u64)
}

async fn set(cx: &Cx, target: Target, name_addr: u64, value: (u64, u64), flags: u32) -> Outcome {
    if flags & !3 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = name(cx, name_addr)?;
    if value.1 > SIZE_MAX {
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = vec![0; value.1 as usize];
    cx.mm.read(value.0, &mut bytes)?;
    let view = View::of(cx);
    let place = target.place(cx, &view).await?;
    place.mount.writable()?;
    allowed(&view, &place.inode().metadata().await?, &name, Mask::WRITE)?;
    let set = place.inode().xattr(XattrCall::Set(&name, &bytes, flags)).await;
    unit(set.map(|_| place.dentry.notify(FsEvent::ATTRIB)))
}

async fn get(cx: &Cx, target: Target, name_addr: u64, (addr, size): (u64, u64)) -> Outcome {
    let name = name(cx, name_addr)?;
    let view = View::of(cx);
    let place = target.place(cx, &view).await?;
    allowed(&view, &place.inode().metadata().await?, &name, Mask::READ)?;
    let value = place.inode().xattr(XattrCall::Get(&name)).await?;
    answer(cx, &value, addr, size)
}

async fn list(cx: &Cx, target: Target, (addr, size): (u64, u64)) -> Outcome {
    let view = View::of(cx);
    let place = target.place(cx, &view).await?;
    let names = match place.inode().xattr(XattrCall::List).await {
        Err(Errno::EOPNOTSUPP) => Vec::new(),
        names => names?,
    };
    let admin = view.creds.has(Capability::SysAdmin);
    let mut shown = Vec::with_capacity(names.len());
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if admin || !name.starts_with(b"trusted.") {
            shown.extend_from_slice(name);
            shown.push(0);
        }
    }
    answer(cx, &shown, addr, size)
}

async fn remove(cx: &Cx, target: Target, name_addr: u64) -> Outcome {
    let name = name(cx, name_addr)?;
    let view = View::of(cx);
    let place = target.place(cx, &view).await?;
    place.mount.writable()?;
    allowed(&view, &place.inode().metadata().await?, &name, Mask::WRITE)?;
    let removed = place.inode().xattr(XattrCall::Remove(&name)).await;
    unit(removed.map(|_| place.dentry.notify(FsEvent::ATTRIB)))
}

pub fn sys_setxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(set(cx, followed(&args), args.u64(1), (args.u64(2), args.u64(3)), args.u32(4)))
}

pub fn sys_lsetxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(set(cx, itself(&args), args.u64(1), (args.u64(2), args.u64(3)), args.u32(4)))
}

pub fn sys_fsetxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(set(cx, Target::File(args.i32(0)), args.u64(1), (args.u64(2), args.u64(3)), args.u32(4)))
}

pub fn sys_getxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(get(cx, followed(&args), args.u64(1), (args.u64(2), args.u64(3))))
}

pub fn sys_lgetxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(get(cx, itself(&args), args.u64(1), (args.u64(2), args.u64(3))))
}

pub fn sys_fgetxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(get(cx, Target::File(args.i32(0)), args.u64(1), (args.u64(2), args.u64(3))))
}

pub fn sys_listxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(list(cx, followed(&args), (args.u64(1), args.u64(2))))
}

pub fn sys_llistxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(list(cx, itself(&args), (args.u64(1), args.u64(2))))
}

pub fn sys_flistxattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(list(cx, Target::File(args.i32(0)), (args.u64(1), args.u64(2))))
}

pub fn sys_removexattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(remove(cx, followed(&args), args.u64(1)))
}

pub fn sys_lremovexattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(remove(cx, itself(&args), args.u64(1)))
}

pub fn sys_fremovexattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(remove(cx, Target::File(args.i32(0)), args.u64(1)))
}

/// `struct xattr_args`: value, size, flags.
fn xattr_args(cx: &Cx, addr: u64, size: u64) -> Result<(u64, u64, u32), Errno> {
    if size < 16 {
        return Err(Errno::EINVAL);
    }
    if size > 16 {
        return Err(Errno::E2BIG);
    }
    let [value, rest] = cx.mm.read_val::<[u64; 2]>(addr)?;
    Ok((value, rest & 0xffff_ffff, (rest >> 32) as u32))
}

pub fn sys_setxattrat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let (value, size, flags) = xattr_args(cx, args.u64(4), args.u64(5))?;
        set(cx, at(&args)?, args.u64(3), (value, size), flags).await
    })
}

pub fn sys_getxattrat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let (value, size, flags) = xattr_args(cx, args.u64(4), args.u64(5))?;
        if flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        get(cx, at(&args)?, args.u64(3), (value, size)).await
    })
}

pub fn sys_listxattrat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move { list(cx, at(&args)?, (args.u64(3), args.u64(4))).await })
}

pub fn sys_removexattrat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move { remove(cx, at(&args)?, args.u64(3)).await })
}
