//! Extended attributes (xattr(7)).

use super::fs_stat::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, at_flags, place};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{FileKind, Mask, OpenFlags, Origin, Ownership, Path, ResolveFlags, XattrCall, permission};
use crate::task::{Capability, Cx};

/// Longest name with its NUL, value, and list, in bytes.
const NAME_MAX: usize = 256;
const VALUE_MAX: usize = 64 << 10;

/// What a call is about.
#[derive(Clone, Copy)]
enum Target {
    Path(i32, u64, ResolveFlags),
    File(i32),
}

impl Target {
    async fn place(self, cx: &Cx) -> Result<Path, Errno> {
        match self {
            Target::Path(dirfd, path, flags) => place(cx, dirfd, path, flags).await,
            Target::File(fd) => {
                let file = cx.file(fd)?;
                if file.flags().contains(OpenFlags::PATH) {
                    return Err(Errno::EBADF);
                }
                match &file.origin {
                    Origin::Path(path) => Ok(path.clone()),
                    Origin::Anonymous { inode, name } => Ok(Path::disconnected(inode.clone(), name.as_bytes())),
                }
            }
        }
    }
}

fn followed(args: Args) -> Target {
    Target::Path(AT_FDCWD, args.u64(0), ResolveFlags::empty())
}

fn not_followed(args: Args) -> Target {
    Target::Path(AT_FDCWD, args.u64(0), ResolveFlags::NOFOLLOW)
}

fn by_file(args: Args) -> Target {
    Target::File(args.i32(0))
}

/// A place with `AT_*` flags, of the newer calls.
fn at(args: Args) -> Result<Target, Errno> {
    let flags = args.u32(2);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Target::Path(args.i32(0), args.u64(1), at_flags(flags)))
}

fn read_name(cx: &Cx, addr: u64) -> Result<Vec<u8>, Errno> {
    match cx.mm.read_cstr(addr, NAME_MAX) {
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        other => other,
    }
}

/// Whether the caller may read or write an attribute of this name.
async fn may(cx: &Cx, place: &Path, name: &[u8], mask: Mask) -> Result<(), Errno> {
    let creds = cx.creds();
    if mask == Mask::WRITE {
        place.mount.writable()?;
    }
    let metadata = place.inode().metadata().await?;
    if name.starts_with(b"user.") {
        if !matches!(metadata.kind, FileKind::Regular | FileKind::Directory) {
            return Err(if mask == Mask::WRITE { Errno::EPERM } else { Errno::ENODATA });
        }
        return permission::permission(Ownership::from(&metadata), &creds, mask);
    }
    if name.starts_with(b"trusted.") {
        let denied = if mask == Mask::WRITE { Errno::EPERM } else { Errno::ENODATA };
        return if creds.has(Capability::SysAdmin) { Ok(()) } else { Err(denied) };
    }
    if name.starts_with(b"security.") || name.starts_with(b"system.") {
        let owner = permission::is_owner(metadata.uid, &creds) || creds.has(Capability::SysAdmin);
        return if mask == Mask::READ || owner { Ok(()) } else { Err(Errno::EPERM) };
    }
    Err(Errno::EOPNOTSUPP)
}

async fn set(cx: &Cx, target: Target, [name, value, size]: [u64; 3], flags: u32) -> Outcome {
    if flags & !3 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = read_name(cx, name)?;
    let size = usize::try_from(size).ok().filter(|&size| size <= VALUE_MAX).ok_or(Errno::E2BIG)?;
    let mut bytes = vec![0; size];
    cx.mm.read(value, &mut bytes)?;
    let place = target.place(cx).await?;
    may(cx, &place, &name, Mask::WRITE).await?;
    place.inode().xattr(XattrCall::Set(&name, &bytes, flags)).await?;
    Ok(0)
}

async fn get(cx: &Cx, target: Target, name: u64, into: u64, size: u64) -> Outcome {
    let name = read_name(cx, name)?;
    let place = target.place(cx).await?;
    may(cx, &place, &name, Mask::READ).await?;
    let value = place.inode().xattr(XattrCall::Get(&name)).await?;
    answer(cx, &value, into, size)
}

async fn list(cx: &Cx, target: Target, into: u64, size: u64) -> Outcome {
    let place = target.place(cx).await?;
    let mut names = match place.inode().xattr(XattrCall::List).await {
        Err(Errno::EOPNOTSUPP) => Vec::new(),
        names => names?,
    };
    if !cx.creds().has(Capability::SysAdmin) {
        let shown = names.split_inclusive(|&byte| byte == 0).filter(|name| !name.starts_with(b"trusted."));
        names = shown.flatten().copied().collect();
    }
    answer(cx, &names, into, size)
}

/// A size of 0 asks for the length.
fn answer(cx: &Cx, bytes: &[u8], into: u64, size: u64) -> Outcome {
    if size != 0 {
        if bytes.len() as u64 > size {
            return Err(Errno::ERANGE.into());
        }
        cx.mm.write(into, bytes)?;
    }
    Ok(bytes.len() as u64)
}

async fn remove(cx: &Cx, target: Target, name: u64) -> Outcome {
    let name = read_name(cx, name)?;
    let place = target.place(cx).await?;
    may(cx, &place, &name, Mask::WRITE).await?;
    place.inode().xattr(XattrCall::Remove(&name)).await?;
    Ok(0)
}

macro_rules! by_target {
    ($target:ident: $set:ident, $get:ident, $list:ident, $remove:ident) => {
        pub(super) fn $set(cx: &mut Cx, args: Args) -> Flow<'_> {
            Flow::wait(set(cx, $target(args), [args.u64(1), args.u64(2), args.u64(3)], args.u32(4)))
        }

        pub(super) fn $get(cx: &mut Cx, args: Args) -> Flow<'_> {
            Flow::wait(get(cx, $target(args), args.u64(1), args.u64(2), args.u64(3)))
        }

        pub(super) fn $list(cx: &mut Cx, args: Args) -> Flow<'_> {
            Flow::wait(list(cx, $target(args), args.u64(1), args.u64(2)))
        }

        pub(super) fn $remove(cx: &mut Cx, args: Args) -> Flow<'_> {
            Flow::wait(remove(cx, $target(args), args.u64(1)))
        }
    };
}

by_target!(followed: sys_setxattr, sys_getxattr, sys_listxattr, sys_removexattr);
by_target!(not_followed: sys_lsetxattr, sys_lgetxattr, sys_llistxattr, sys_lremovexattr);
by_target!(by_file: sys_fsetxattr, sys_fgetxattr, sys_flistxattr, sys_fremovexattr);

/// `struct xattr_args`: value, size, flags.
async fn xattr_args(cx: &Cx, args: Args) -> Result<[u64; 3], Errno> {
    if args.u64(5) != 16 {
        return Err(Errno::EINVAL);
    }
    let [value, size_and_flags]: [u64; 2] = cx.mm.read_val(args.u64(4))?;
    Ok([value, size_and_flags & 0xffff_ffff, size_and_flags >> 32])
}

pub(super) fn sys_setxattrat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let [value, size, flags] = xattr_args(cx, args).await?;
        set(cx, at(args)?, [args.u64(3), value, size], flags as u32).await
    })
}

pub(super) fn sys_getxattrat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let [value, size, flags] = xattr_args(cx, args).await?;
        if flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        get(cx, at(args)?, args.u64(3), value, size).await
    })
}

pub(super) fn sys_listxattrat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move { list(cx, at(args)?, args.u64(3), args.u64(4)).await })
}

pub(super) fn sys_removexattrat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move { remove(cx, at(args)?, args.u64(3)).await })
}
