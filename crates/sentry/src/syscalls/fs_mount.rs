//! mount, umount, pivot_root and statfs.

use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use super::fs_path::{path, place_of, resolve, unit};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::types::{Request, Type, may_mount};
use crate::fs::walk::AT_FDCWD;
use crate::fs::{Depth, Mount, MountFlags, Moving, Path, PropagationType, ResolveFlags, Umount, View};
use crate::task::{Capability, Cx};

/// `struct statfs`.
#[repr(C)]
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
struct StatFs {
    magic: u64,
    block_size: u64,
    blocks: [u64; 3],
    files: [u64; 2],
    fsid: u64,
    name_max: u64,
    fragment_size: u64,
    flags: u64,
    spare: [u64; 4],
}

const _: () = assert!(size_of::<StatFs>() == 120);

/// `ST_VALID`.
const VALID: u64 = 0x20;

async fn put_statfs(cx: &Cx, place: &Path, addr: u64) -> Outcome {
    let stat = place.mount.fs.stat_fs().await?;
    let mut flags = place.mount.flags();
    flags.set(MountFlags::RDONLY, place.mount.writable().is_err());
    let out = StatFs {
        magic: stat.magic,
        block_size: stat.block_size,
        blocks: [stat.blocks, stat.blocks_free, stat.blocks_available],
        files: [stat.files, stat.files_free],
        fsid: stat.fsid,
        name_max: stat.name_max,
        fragment_size: stat.block_size,
        flags: VALID | flags.stat_bits(),
        spare: [0; 4],
    };
    cx.mm.write_val(addr, &out)?;
    Ok(0)
}

pub fn sys_statfs(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let (view, path) = (View::of(cx), path(cx, args.u64(0))?);
        let place = resolve(cx, &view, AT_FDCWD, &path, ResolveFlags::empty()).await?;
        put_statfs(cx, &place, args.u64(1)).await
    })
}

pub fn sys_fstatfs(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move { put_statfs(cx, &place_of(&*cx.file(args.i32(0))?), args.u64(1)).await })
}

const MS_REMOUNT: u64 = 1 << 5;
const MS_BIND: u64 = 1 << 12;
const MS_MOVE: u64 = 1 << 13;
const MS_REC: u64 = 1 << 14;
const MS_SILENT: u64 = 1 << 15;
const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;
const MS_NOUSER: u64 = 1 << 31;
const PROPAGATION: u64 = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;

pub fn sys_mount(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let view = View::of(cx);
        let text = |addr: u64| if addr == 0 { Ok(None) } else { path(cx, addr).map(Some) };
        let (kind, source, data) = (text(args.u64(2))?, text(args.u64(0))?, mount_data(cx, args.u64(4))?);
        let target = path(cx, args.u64(1))?;
        let at = resolve(cx, &view, AT_FDCWD, &target, ResolveFlags::empty()).await?;
        // The old magic number in the upper half is ignored.
        let flags = args.u64(3);
        let flags = if flags & 0xffff_0000 == 0xc0ed_0000 { flags & 0xffff } else { flags & 0xffff_ffff };
        if flags & MS_NOUSER != 0 {
            return Err(Errno::EINVAL.into());
        }
        may_mount(cx)?;
        let mut options = MountFlags::from_mount(flags);
        let atime = u64::from(MountFlags::ATIME.bits());
        if flags & MS_REMOUNT != 0 && flags & atime == 0 {
            // Without a word on access times they stay as they are.
            options = (options - MountFlags::ATIME) | at.mount.flags() & MountFlags::ATIME;
        }
        if flags & MS_REMOUNT != 0 {
            return unit(remount(cx, &at, options, flags & MS_BIND != 0, &data));
        }
        if flags & MS_BIND != 0 {
            return unit(bind(cx, &view, source, &at, flags).await);
        }
        if flags & PROPAGATION != 0 {
            return unit(change_propagation(cx, &at, flags));
        }
        if flags & MS_MOVE != 0 {
            let from = source_place(cx, &view, source).await?;
            return unit(cx.fs.namespace().edit().move_mount(&from, &at, Moving::OnTop));
        }
        let kind = kind.ok_or(Errno::EINVAL)?;
        let mut request = Request::new(cx, Type::from_name(&kind)?);
        request.source = None;
        request.set_all(cx, &data)?;
        let read_only = request.read_only || options.contains(MountFlags::RDONLY);
        let fs = request.make(cx).await?;
        let source = source.or(request.source).unwrap_or_else(|| b"none".to_vec());
        let mount = Mount::new(fs, source, options, &view.clock);
        if read_only {
            mount.super_block().set_read_only(true)?;
        }
        unit(cx.fs.namespace().edit().add(&mount, &at))
    })
}

/// Options as they stand in memory: up to a page, ended by NUL or not.
fn mount_data(cx: &Cx, addr: u64) -> Result<Vec<u8>, Errno> {
    if addr == 0 {
        return Ok(Vec::new());
    }
    match cx.mm.read_cstr(addr, crate::abi::PAGE_SIZE as usize) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::EINVAL),
        data => data,
    }
}

async fn source_place(cx: &Cx, view: &View, source: Option<Vec<u8>>) -> Result<Path, Errno> {
    let source = source.filter(|source| !source.is_empty()).ok_or(Errno::EINVAL)?;
    resolve(cx, view, AT_FDCWD, &source, ResolveFlags::empty()).await
}

async fn bind(cx: &Cx, view: &View, source: Option<Vec<u8>>, at: &Path, flags: u64) -> Result<(), Errno> {
    let from = source_place(cx, view, source).await?;
    let depth = if flags & MS_REC != 0 { Depth::Recursive } else { Depth::One };
    cx.fs.namespace().edit().bind(&from, at, depth)
}

fn remount(cx: &Cx, at: &Path, options: MountFlags, bind: bool, data: &[u8]) -> Result<(), Errno> {
    let namespace = cx.fs.namespace();
    let mount = at.mounted_here()?;
    if !namespace.edit().has(mount) {
        return Err(Errno::EINVAL);
    }
    if bind {
        return namespace.edit().change_flags(mount, options);
    }
    mount.may_change_flags((options - MountFlags::RDONLY) | mount.flags() & MountFlags::RDONLY)?;
    if let Ok(kind) = Type::from_name(mount.fs.name().as_bytes()) {
        let mut request = Request::new(cx, kind);
        request.set_all(cx, data)?;
        mount.fs.reconfigure(&request.config)?;
    }
    mount.super_block().set_read_only(options.contains(MountFlags::RDONLY))?;
    namespace.edit().change_flags(mount, options)
}

fn change_propagation(cx: &Cx, at: &Path, flags: u64) -> Result<(), Errno> {
    let to = match flags & !(MS_REC | MS_SILENT) {
        MS_SHARED => PropagationType::Shared,
        MS_PRIVATE => PropagationType::Private,
        MS_SLAVE => PropagationType::Slave,
        MS_UNBINDABLE => PropagationType::Unbindable,
        _ => return Err(Errno::EINVAL),
    };
    let depth = if flags & MS_REC != 0 { Depth::Recursive } else { Depth::One };
    let mount = at.mounted_here()?;
    cx.fs.namespace().edit().set_propagation(mount, to, depth)
}

const MNT_FORCE: u32 = 1;
const MNT_DETACH: u32 = 2;
const MNT_EXPIRE: u32 = 4;
const UMOUNT_NOFOLLOW: u32 = 8;

pub fn sys_umount2(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let flags = args.u32(1);
        if flags & !(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let at = {
            let view = View::of(cx);
            let mut how = ResolveFlags::empty();
            how.set(ResolveFlags::NOFOLLOW, flags & UMOUNT_NOFOLLOW != 0);
            let path = path(cx, args.u64(0))?;
            resolve(cx, &view, AT_FDCWD, &path, how).await?
        };
        may_mount(cx)?;
        at.mounted_here()?;
        let (namespace, mount) = (cx.fs.namespace(), at.mount);
        drop(at.dentry);
        if !namespace.edit().has(&mount) || mount.is_locked() {
            return Err(Errno::EINVAL.into());
        }
        if flags & MNT_FORCE != 0 && !cx.creds().has(Capability::SysAdmin) {
            return Err(Errno::EPERM.into());
        }
        let is_root = Arc::ptr_eq(&mount, &cx.fs.root().mount);
        if flags & MNT_EXPIRE != 0 {
            if is_root || flags & (MNT_FORCE | MNT_DETACH) != 0 {
                return Err(Errno::EINVAL.into());
            }
            // The parent's reference and ours.
            if Arc::strong_count(&mount) > 2 {
                return Err(Errno::EBUSY.into());
            }
            if !mount.expire() {
                return Err(Errno::EAGAIN.into());
            }
        }
        if is_root && flags & MNT_DETACH == 0 {
            // Linux makes the root read-only instead.
            mount.super_block().set_read_only(true)?;
            return Ok(0);
        }
        let how = if flags & MNT_DETACH != 0 { Umount::Lazy } else { Umount::Idle(1) };
        unit(namespace.edit().umount(&mount, how))
    })
}

pub fn sys_pivot_root(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        may_mount(cx)?;
        let view = View::of(cx);
        let (new, old) = (path(cx, args.u64(0))?, path(cx, args.u64(1))?);
        let new = resolve(cx, &view, AT_FDCWD, &new, ResolveFlags::DIRECTORY).await?;
        let old = resolve(cx, &view, AT_FDCWD, &old, ResolveFlags::DIRECTORY).await?;
        let root = view.root.clone();
        cx.fs.namespace().edit().pivot_root(&root, &new, &old)?;
        // Everybody whose root or working directory was the old root is at the new one.
        cx.fs.replace_root(&root, &new);
        for task in cx.task.container.pids.tasks() {
            let shared = task.shared.read().clone();
            if let Some(shared) = shared {
                shared.fs.replace_root(&root, &new);
            }
        }
        Ok(0)
    })
}
