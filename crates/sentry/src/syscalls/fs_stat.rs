//! stat, statx and access.

use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use super::fs_path::{AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_SYMLINK_NOFOLLOW, at_flags, path_or_empty, resolve};
use super::{Args, Flow};
use crate::Errno;
use crate::fs::dev::device_parts;
use crate::fs::permission::permission;
use crate::fs::walk::{self, AT_FDCWD, Found};
use crate::fs::{Dentry, FileKind, Mask, Metadata, Mount, MountFlags, Ownership, Path, ResolveFlags, Timestamp, View};
use crate::step::Step;
use crate::task::{Creds, Cx};

/// `struct stat` on x86-64.
#[repr(C)]
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: u64,
    block_size: u64,
    blocks: u64,
    times: [[i64; 2]; 3],
    unused: [i64; 3],
}

const _: () = assert!(size_of::<Stat>() == 144);

fn pair(time: Timestamp) -> [i64; 2] {
    [time.sec, i64::from(time.nsec)]
}

impl From<&Metadata> for Stat {
    fn from(m: &Metadata) -> Stat {
        Stat {
            dev: m.dev,
            ino: m.ino,
            nlink: u64::from(m.nlink),
            mode: m.mode(),
            uid: m.uid,
            gid: m.gid,
            pad: 0,
            rdev: m.rdev,
            size: m.size,
            block_size: u64::from(m.block_size),
            blocks: m.blocks,
            times: [pair(m.accessed), pair(m.modified), pair(m.changed)],
            unused: [0; 3],
        }
    }
}

/// The attributes with the owner as the caller's user namespace shows it.
fn seen(cx: &Cx, metadata: &Metadata) -> Metadata {
    let ns = &cx.creds().user_ns;
    Metadata { uid: ns.show_uid(metadata.uid), gid: ns.show_gid(metadata.gid), ..*metadata }
}

fn put(cx: &Cx, addr: u64, metadata: &Metadata) -> Result<u64, Errno> {
    let (mm, metadata) = (&cx.mm, &seen(cx, metadata));
    mm.write_val(addr, &Stat::from(metadata)).map(|()| 0)
}

pub fn sys_stat(cx: &mut Cx, args: Args) -> Flow<'_> {
    stat_at(cx, AT_FDCWD, args.u64(0), ResolveFlags::empty(), args.u64(1))
}

pub fn sys_lstat(cx: &mut Cx, args: Args) -> Flow<'_> {
    stat_at(cx, AT_FDCWD, args.u64(0), ResolveFlags::NOFOLLOW, args.u64(1))
}

pub fn sys_newfstatat(cx: &mut Cx, args: Args) -> Flow<'_> {
    match at_flags(args.u32(3), AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT) {
        Ok(flags) => stat_at(cx, args.i32(0), args.u64(1), flags, args.u64(2)),
        Err(errno) => Flow::done(Err(errno)),
    }
}

pub fn sys_fstat(cx: &mut Cx, args: Args) -> Flow<'_> {
    let file = match cx.file(args.i32(0)) {
        Ok(file) => file,
        Err(errno) => return Flow::done(Err(errno)),
    };
    if let Step::Ready(metadata) = file.inode().metadata() {
        return Flow::done(metadata.and_then(|metadata| put(cx, args.u64(1), &metadata)));
    }
    Flow::wait(async move {
        let metadata = file.inode().metadata().await?;
        Ok(put(cx, args.u64(1), &metadata)?)
    })
}

fn stat_at(cx: &mut Cx, dirfd: i32, path_addr: u64, flags: ResolveFlags, out: u64) -> Flow<'_> {
    let path = match path_or_empty(cx, path_addr, flags) {
        Ok(path) => path,
        Err(errno) => return Flow::done(Err(errno)),
    };
    match walk::try_find(cx, dirfd, &path, flags) {
        Err(errno) => return Flow::done(Err(errno)),
        Ok(None) => {}
        Ok(Some(Found::Attributes(metadata, _))) => return Flow::done(put(cx, out, &metadata)),
        Ok(Some(Found::Place(place))) => {
            if let Step::Ready(metadata) = place.inode().metadata() {
                return Flow::done(metadata.and_then(|metadata| put(cx, out, &metadata)));
            }
        }
    }
    Flow::wait(async move {
        let place = walk::resolve(cx, dirfd, &path, flags).await?;
        let metadata = place.inode().metadata().await?;
        Ok(put(cx, out, &metadata)?)
    })
}

/// `struct statx`.
#[repr(C)]
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
struct Statx {
    mask: u32,
    block_size: u32,
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
    /// Accessed, born, changed, modified.
    times: [StatxTime; 4],
    rdev: [u32; 2],
    dev: [u32; 2],
    mount_id: u64,
    dio_align: [u32; 2],
    spare: [u64; 12],
}

#[repr(C)]
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: u32,
}

const _: () = assert!(size_of::<Statx>() == 256);

const STATX_BASIC_STATS: u32 = 0x7ff;
const STATX_BTIME: u32 = 0x800;
const STATX_MNT_ID: u32 = 0x1000;
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
const STATX_RESERVED: u32 = 0x8000_0000;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
/// `AT_STATX_FORCE_SYNC` and `AT_STATX_DONT_SYNC`, which exclude each other.
const AT_STATX_SYNC_TYPE: u32 = 0x6000;

fn statx(mount: &Mount, dentry: Option<&Arc<Dentry>>, m: &Metadata, wanted: u32) -> Statx {
    let time = |time: Timestamp| StatxTime { sec: time.sec, nsec: time.nsec, pad: 0 };
    let parts = |number| {
        let (major, minor) = device_parts(number);
        [major, minor]
    };
    let born = if m.born == Timestamp::default() { 0 } else { STATX_BTIME };
    let at_mount = dentry.is_some_and(|dentry| Arc::ptr_eq(dentry, mount.root()));
    let unique = wanted & STATX_MNT_ID_UNIQUE != 0;
    Statx {
        mask: STATX_BASIC_STATS | born | if unique { STATX_MNT_ID_UNIQUE } else { STATX_MNT_ID },
        block_size: m.block_size,
        attributes: if at_mount { STATX_ATTR_MOUNT_ROOT } else { 0 },
        nlink: m.nlink,
        uid: m.uid,
        gid: m.gid,
        mode: m.mode() as u16,
        pad: 0,
        ino: m.ino,
        size: m.size,
        blocks: m.blocks,
        attributes_mask: STATX_ATTR_MOUNT_ROOT,
        times: [time(m.accessed), time(m.born), time(m.changed), time(m.modified)],
        rdev: parts(m.rdev),
        dev: parts(m.dev),
        mount_id: if unique { mount.unique_id() } else { mount.id() },
        dio_align: [0; 2],
        spare: [0; 12],
    }
}

pub fn sys_statx(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (dirfd, flags, mask, out) = (args.i32(0), args.u32(2), args.u32(3), args.u64(4));
    let allowed = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE;
    let checked = at_flags(flags, allowed).and_then(|resolve| {
        if flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE || mask & STATX_RESERVED != 0 {
            return Err(Errno::EINVAL);
        }
        Ok((resolve, path_or_empty(cx, args.u64(1), resolve)?))
    });
    let (resolve, path) = match checked {
        Ok(checked) => checked,
        Err(errno) => return Flow::done(Err(errno)),
    };
    let write = move |cx: &Cx, mount: &Mount, dentry: Option<&Arc<Dentry>>, m: &Metadata| {
        cx.mm.write_val(out, &statx(mount, dentry, &seen(cx, m), mask)).map(|()| 0)
    };
    match walk::try_find(cx, dirfd, &path, resolve) {
        Err(errno) => return Flow::done(Err(errno)),
        Ok(None) => {}
        Ok(Some(Found::Attributes(metadata, mount))) => return Flow::done(write(cx, &mount, None, &metadata)),
        Ok(Some(Found::Place(place))) => {
            if let Step::Ready(metadata) = place.inode().metadata() {
                return Flow::done(metadata.and_then(|metadata| write(cx, &place.mount, Some(&place.dentry), &metadata)));
            }
        }
    }
    Flow::wait(async move {
        let place = walk::resolve(cx, dirfd, &path, resolve).await?;
        let metadata = place.inode().metadata().await?;
        Ok(write(cx, &place.mount, Some(&place.dentry), &metadata)?)
    })
}

const AT_EACCESS: u32 = 0x200;

pub fn sys_access(cx: &mut Cx, args: Args) -> Flow<'_> {
    access_at(cx, AT_FDCWD, args.u64(0), args.u32(1), 0)
}

pub fn sys_faccessat(cx: &mut Cx, args: Args) -> Flow<'_> {
    access_at(cx, args.i32(0), args.u64(1), args.u32(2), 0)
}

pub fn sys_faccessat2(cx: &mut Cx, args: Args) -> Flow<'_> {
    access_at(cx, args.i32(0), args.u64(1), args.u32(2), args.u32(3))
}

/// The real ids as file-system ids, with the capabilities that an exec would leave them (`access(2)`).
fn real_creds(creds: &Creds) -> Creds {
    let effective = if creds.user_ns.root_uid() == Some(creds.uid) { creds.permitted } else { 0 };
    Creds { fsuid: creds.uid, fsgid: creds.gid, effective, ..creds.clone() }
}

fn access_at(cx: &mut Cx, dirfd: i32, path_addr: u64, mode: u32, flags: u32) -> Flow<'_> {
    let checked = at_flags(flags & !AT_EACCESS, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH).and_then(|resolve| {
        let mask = Mask::from_bits(mode).ok_or(Errno::EINVAL)?;
        Ok((resolve, mask, path_or_empty(cx, path_addr, resolve)?))
    });
    let (flags_resolve, mask, path) = match checked {
        Ok(checked) => checked,
        Err(errno) => return Flow::done(Err(errno)),
    };
    let mut view = View::of(cx);
    let real = view.creds.uid == view.creds.fsuid && view.creds.gid == view.creds.fsgid;
    if flags & AT_EACCESS == 0 && !(real && view.creds.effective == real_creds(&view.creds).effective) {
        view.creds = Arc::new(real_creds(&view.creds));
    }
    let quick = walk::start(cx, &view, dirfd, &path)
        .and_then(|start| walk::try_resolve_in(&view, Some(cx), start, &path, flags_resolve));
    match quick {
        Err(errno) => return Flow::done(Err(errno)),
        Ok(None) => {}
        Ok(Some(place)) => {
            if let Some(owner) = place.inode().ownership() {
                return Flow::done(may_access(&view, &place, owner, mask).map(|()| 0));
            }
        }
    }
    Flow::wait(async move {
        let place = resolve(cx, &view, dirfd, &path, flags_resolve).await?;
        let metadata = place.inode().metadata().await?;
        may_access(&view, &place, Ownership::from(&metadata), mask)?;
        Ok(0)
    })
}

fn may_access(view: &View, place: &Path, owner: Ownership, mask: Mask) -> Result<(), Errno> {
    if mask.contains(Mask::EXEC) && owner.kind == FileKind::Regular && place.mount.has(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    permission(owner, &view.creds, mask)?;
    let special = matches!(owner.kind, FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice);
    if mask.contains(Mask::WRITE) && !special {
        place.mount.writable()?;
    }
    Ok(())
}
