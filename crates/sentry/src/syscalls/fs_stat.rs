//! Looking at files: the stat family, access, readlink, statfs.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Flow};
use crate::Errno;
use crate::fs::dev::device_parts;
use crate::fs::walk::{AT_FDCWD, PATH_MAX};
use crate::fs::{
    Inode, Link, Mask, Metadata, MountFlags, Origin, Ownership, Path, ResolveFlags, StatFs, Timestamp, View, permission,
    resolve, try_resolve, walk,
};
use crate::step::Step;
use crate::task::{Creds, Cx};

pub(super) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
pub(super) const AT_EACCESS: u32 = 0x200;
pub(super) const AT_NO_AUTOMOUNT: u32 = 0x800;
pub(super) const AT_EMPTY_PATH: u32 = 0x1000;
/// `AT_STATX_SYNC_TYPE`.
const AT_STATX_SYNC: u32 = 0x6000;

/// `struct stat`.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: i64,
    blksize: i64,
    blocks: i64,
    times: [i64; 6],
    unused: [i64; 3],
}

/// `struct statx_timestamp`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: i32,
}

/// `struct statx`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    accessed: StatxTime,
    born: StatxTime,
    changed: StatxTime,
    modified: StatxTime,
    rdev: [u32; 2],
    dev: [u32; 2],
    mount_id: u64,
    spare: [u64; 13],
}

impl Stat {
    fn new(m: &Metadata) -> Stat {
        let [a, b, c] = [m.accessed, m.modified, m.changed].map(|time| [time.sec, time.nsec.into()]);
        Stat {
            dev: m.dev,
            ino: m.ino,
            nlink: m.nlink.into(),
            mode: m.mode(),
            uid: m.uid,
            gid: m.gid,
            rdev: m.rdev,
            size: m.size as i64,
            blksize: m.block_size.into(),
            blocks: m.blocks as i64,
            times: [a[0], a[1], b[0], b[1], c[0], c[1]],
            ..Stat::default()
        }
    }
}

impl Statx {
    fn new(m: &Metadata, mount_id: u64, mount_root: bool) -> Statx {
        /// `STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID`.
        const MASK: u32 = 0x7ff | 0x800 | 0x1000;
        /// `STATX_ATTR_MOUNT_ROOT`.
        const MOUNT_ROOT: u64 = 0x2000;
        let time = |at: Timestamp| StatxTime { sec: at.sec, nsec: at.nsec, pad: 0 };
        let parts = |device| <[u32; 2]>::from(device_parts(device));
        Statx {
            mask: MASK,
            blksize: m.block_size,
            attributes: if mount_root { MOUNT_ROOT } else { 0 },
            nlink: m.nlink,
            uid: m.uid,
            gid: m.gid,
            mode: m.mode() as u16,
            pad: 0,
            ino: m.ino,
            size: m.size,
            blocks: m.blocks,
            attributes_mask: MOUNT_ROOT,
            accessed: time(m.accessed),
            born: time(m.born),
            changed: time(m.changed),
            modified: time(m.modified),
            rdev: parts(m.rdev),
            dev: parts(m.dev),
            mount_id,
            spare: [0; 13],
        }
    }
}

/// How `AT_*` flags resolve a name.
pub(super) fn at_flags(flags: u32) -> ResolveFlags {
    let mut resolve = ResolveFlags::empty();
    resolve.set(ResolveFlags::NOFOLLOW, flags & AT_SYMLINK_NOFOLLOW != 0);
    resolve.set(ResolveFlags::EMPTY_PATH, flags & AT_EMPTY_PATH != 0);
    resolve
}

/// The place that a name argument means.
pub(super) async fn place(cx: &Cx, dirfd: i32, path: u64, flags: ResolveFlags) -> Result<Path, Errno> {
    let path = cx.mm.read_cstr(path, PATH_MAX)?;
    resolve(cx, dirfd, &path, flags).await
}

pub(super) fn sys_stat(cx: &mut Cx, args: Args) -> Flow<'_> {
    stat_at(cx, AT_FDCWD, args.u64(0), args.u64(1), ResolveFlags::empty())
}

pub(super) fn sys_lstat(cx: &mut Cx, args: Args) -> Flow<'_> {
    stat_at(cx, AT_FDCWD, args.u64(0), args.u64(1), ResolveFlags::NOFOLLOW)
}

pub(super) fn sys_newfstatat(cx: &mut Cx, args: Args) -> Flow<'_> {
    let flags = args.u32(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    stat_at(cx, args.i32(0), args.u64(1), args.u64(2), at_flags(flags))
}

pub(super) fn sys_fstat(cx: &mut Cx, args: Args) -> Flow<'_> {
    let file = match cx.file(args.i32(0)) {
        Ok(file) => file,
        Err(errno) => return Flow::done(Err(errno)),
    };
    stat_inode(cx, file.inode().clone(), args.u64(1))
}

/// An `fstat` written as `newfstatat(fd, "", …, AT_EMPTY_PATH)` is common: glibc's.
fn stat_at(cx: &mut Cx, dirfd: i32, path: u64, into: u64, flags: ResolveFlags) -> Flow<'_> {
    let path = match cx.mm.read_cstr(path, PATH_MAX) {
        Ok(path) => path,
        Err(errno) => return Flow::done(Err(errno)),
    };
    if path.is_empty() && flags.contains(ResolveFlags::EMPTY_PATH) && dirfd != AT_FDCWD {
        return match cx.file(dirfd) {
            Ok(file) => stat_inode(cx, file.inode().clone(), into),
            Err(errno) => Flow::done(Err(errno)),
        };
    }
    match try_resolve(cx, dirfd, &path, flags) {
        Ok(Some(place)) => stat_inode(cx, place.inode().clone(), into),
        Err(errno) => Flow::done(Err(errno)),
        Ok(None) => Flow::wait(async move {
            let place = resolve(cx, dirfd, &path, flags).await?;
            let metadata = place.inode().metadata().await?;
            cx.mm.write_val(into, &Stat::new(&metadata))?;
            Ok(0)
        }),
    }
}

fn stat_inode(cx: &mut Cx, inode: Arc<dyn Inode>, into: u64) -> Flow<'_> {
    if let Step::Ready(metadata) = inode.metadata() {
        return Flow::done(metadata.and_then(|metadata| cx.mm.write_val(into, &Stat::new(&metadata))).map(|()| 0));
    }
    Flow::wait(async move {
        let metadata = inode.metadata().await?;
        cx.mm.write_val(into, &Stat::new(&metadata))?;
        Ok(0)
    })
}

pub(super) fn sys_statx(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (flags, mask) = (args.u32(2), args.u32(3));
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC;
    // STATX__RESERVED; both kinds of synchronisation at once.
    if flags & !known != 0 || mask & 0x8000_0000 != 0 || flags & AT_STATX_SYNC == AT_STATX_SYNC {
        return Flow::done(Err(Errno::EINVAL));
    }
    Flow::wait(async move {
        // Since Linux 6.11 a null path with AT_EMPTY_PATH is an empty one.
        let path = match args.opt_ptr(1) {
            None if flags & AT_EMPTY_PATH != 0 => Vec::new(),
            _ => cx.mm.read_cstr(args.u64(1), PATH_MAX)?,
        };
        let place = resolve(cx, args.i32(0), &path, at_flags(flags)).await?;
        let metadata = place.inode().metadata().await?;
        let mount_root = Arc::ptr_eq(&place.dentry, place.mount.root());
        cx.mm.write_val(args.u64(4), &Statx::new(&metadata, place.mount.id(), mount_root))?;
        Ok(0)
    })
}

pub(super) fn sys_access(cx: &mut Cx, args: Args) -> Flow<'_> {
    access(cx, AT_FDCWD, args.u64(0), args.u32(1), 0)
}

pub(super) fn sys_faccessat(cx: &mut Cx, args: Args) -> Flow<'_> {
    access(cx, args.i32(0), args.u64(1), args.u32(2), 0)
}

pub(super) fn sys_faccessat2(cx: &mut Cx, args: Args) -> Flow<'_> {
    access(cx, args.i32(0), args.u64(1), args.u32(2), args.u32(3))
}

/// With real ids, unless `AT_EACCESS`; capabilities count only for a real root.
fn access_creds(cx: &Cx, flags: u32) -> Arc<Creds> {
    let creds = cx.creds();
    if flags & AT_EACCESS != 0 || (creds.uid == creds.fsuid && creds.gid == creds.fsgid) {
        return creds;
    }
    let effective = if creds.uid == 0 { creds.permitted } else { 0 };
    Arc::new(Creds { fsuid: creds.uid, fsgid: creds.gid, effective, ..(*creds).clone() })
}

fn access(cx: &mut Cx, dirfd: i32, path: u64, mode: u32, flags: u32) -> Flow<'_> {
    if mode & !7 != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    Flow::wait(async move {
        let path = cx.mm.read_cstr(path, PATH_MAX)?;
        let view = View { creds: access_creds(cx, flags), ..View::of(cx) };
        let start = walk::start(cx, &view, dirfd, &path)?;
        let place = walk::resolve_in(&view, Some(cx), start, &path, at_flags(flags)).await?;
        let metadata = place.inode().metadata().await?;
        let mask = Mask::from_bits_truncate(mode);
        if mask.contains(Mask::WRITE) && place.mount.has(MountFlags::RDONLY) {
            return Err(Errno::EROFS.into());
        }
        if mask.contains(Mask::EXEC) && !place.dentry.is_dir() && place.mount.has(MountFlags::NOEXEC) {
            return Err(Errno::EACCES.into());
        }
        permission::permission(Ownership::from(&metadata), &view.creds, mask)?;
        Ok(0)
    })
}

pub(super) fn sys_readlink(cx: &mut Cx, args: Args) -> Flow<'_> {
    readlink(cx, AT_FDCWD, args.u64(0), args.u64(1), args.i32(2))
}

pub(super) fn sys_readlinkat(cx: &mut Cx, args: Args) -> Flow<'_> {
    readlink(cx, args.i32(0), args.u64(1), args.u64(2), args.i32(3))
}

fn readlink(cx: &mut Cx, dirfd: i32, path: u64, into: u64, size: i32) -> Flow<'_> {
    let Some(size) = usize::try_from(size).ok().filter(|&size| size > 0) else {
        return Flow::done(Err(Errno::EINVAL));
    };
    Flow::wait(async move {
        let path = cx.mm.read_cstr(path, PATH_MAX)?;
        let flags = ResolveFlags::NOFOLLOW | ResolveFlags::EMPTY_PATH;
        // An empty path means the descriptor itself, if that is a link (readlinkat(2)).
        if path.is_empty() && dirfd == AT_FDCWD {
            return Err(Errno::ENOENT.into());
        }
        let place = resolve(cx, dirfd, &path, flags).await?;
        let text = match place.inode().read_link(cx).await {
            Ok(Link::Text(text) | Link::Magic { text, .. }) => text,
            Err(Errno::EINVAL) if path.is_empty() => return Err(Errno::ENOENT.into()),
            Err(errno) => return Err(errno.into()),
        };
        let text = text.get(..size).unwrap_or(&text);
        cx.mm.write(into, text)?;
        Ok(text.len() as u64)
    })
}

/// `struct statfs`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StatFsLayout {
    magic: u64,
    block_size: u64,
    blocks: u64,
    blocks_free: u64,
    blocks_available: u64,
    files: u64,
    files_free: u64,
    fsid: u64,
    name_len: u64,
    fragment_size: u64,
    flags: u64,
    spare: [u64; 4],
}

fn statfs_layout(stat: &StatFs, flags: MountFlags) -> StatFsLayout {
    /// `ST_VALID`.
    const VALID: u64 = 0x20;
    let mut bits = VALID;
    for (flag, bit) in [
        (MountFlags::RDONLY, 1),
        (MountFlags::NOSUID, 2),
        (MountFlags::NODEV, 4),
        (MountFlags::NOEXEC, 8),
        (MountFlags::NOATIME, 0x400),
        (MountFlags::NODIRATIME, 0x800),
        (MountFlags::RELATIME, 0x1000),
    ] {
        if flags.contains(flag) {
            bits |= bit;
        }
    }
    StatFsLayout {
        magic: stat.magic,
        block_size: stat.block_size,
        blocks: stat.blocks,
        blocks_free: stat.blocks_free,
        blocks_available: stat.blocks_available,
        files: stat.files,
        files_free: stat.files_free,
        fsid: stat.fsid,
        name_len: stat.name_max,
        fragment_size: stat.block_size,
        flags: bits,
        spare: [0; 4],
    }
}

pub(super) fn sys_statfs(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let place = place(cx, AT_FDCWD, args.u64(0), ResolveFlags::empty()).await?;
        let stat = place.mount.fs.stat_fs().await?;
        cx.mm.write_val(args.u64(1), &statfs_layout(&stat, place.mount.flags()))?;
        Ok(0)
    })
}

pub(super) fn sys_fstatfs(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let file = cx.file(args.i32(0))?;
        let place = match &file.origin {
            Origin::Path(path) => path.clone(),
            Origin::Anonymous { inode, name } => Path::disconnected(inode.clone(), name.as_bytes()),
        };
        let stat = place.mount.fs.stat_fs().await?;
        cx.mm.write_val(args.u64(1), &statfs_layout(&stat, place.mount.flags()))?;
        Ok(0)
    })
}
