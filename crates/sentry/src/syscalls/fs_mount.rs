//! mount, umount and statfs.

use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use super::fs_path::{path, place_of, resolve, unit};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::fs::devpts::Devpts;
use crate::fs::proc::ProcFs;
use crate::fs::sys::SysFs;
use crate::fs::tmpfs::{self, TmpFs};
use crate::fs::walk::AT_FDCWD;
use crate::fs::{FileSystem, Mount, MountFlags, Path, ResolveFlags, View, next_device};
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

fn stat_flags(flags: MountFlags) -> u64 {
    let pairs = [
        (MountFlags::RDONLY, 1),
        (MountFlags::NOSUID, 2),
        (MountFlags::NODEV, 4),
        (MountFlags::NOEXEC, 8),
        (MountFlags::NOATIME, 0x400),
        (MountFlags::NODIRATIME, 0x800),
    ];
    let bits = pairs.iter().filter(|(flag, _)| flags.contains(*flag)).fold(VALID, |bits, (_, bit)| bits | bit);
    let relatime = !flags.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME);
    bits | if relatime { 0x1000 } else { 0 }
}

async fn put_statfs(cx: &Cx, place: &Path, addr: u64) -> Outcome {
    let stat = place.mount.fs.stat_fs().await?;
    let out = StatFs {
        magic: stat.magic,
        block_size: stat.block_size,
        blocks: [stat.blocks, stat.blocks_free, stat.blocks_available],
        files: [stat.files, stat.files_free],
        fsid: stat.fsid,
        name_max: stat.name_max,
        fragment_size: stat.block_size,
        flags: stat_flags(place.mount.flags()),
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
const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;

/// The options of a mount among `mount`'s flags.
fn mount_flags(flags: u64) -> MountFlags {
    MountFlags::from_bits_truncate(flags as u32)
}

pub fn sys_mount(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let view = View::of(cx);
        // A null source, type or data is an empty one.
        let text = |addr: u64| if addr == 0 { Ok(Vec::new()) } else { path(cx, addr) };
        let (source, target, kind) = (text(args.u64(0))?, path(cx, args.u64(1))?, text(args.u64(2))?);
        let at = resolve(cx, &view, AT_FDCWD, &target, ResolveFlags::empty()).await?;
        if !view.creds.has(Capability::SysAdmin) {
            return Err(Errno::EPERM.into());
        }
        // The old magic number in the upper half is ignored.
        let flags = if args.u64(3) >> 16 == 0xc0ed { args.u64(3) & 0xffff } else { args.u64(3) };
        if flags & MS_REMOUNT != 0 {
            return unit(remount(&at, mount_flags(flags)));
        }
        if flags & MS_BIND != 0 {
            let from = resolve(cx, &view, AT_FDCWD, &source, ResolveFlags::empty()).await?;
            let mount = if flags & MS_REC != 0 { Mount::copy_below(&from)? } else { Mount::bind(&from) };
            return unit(mount.attach(&at));
        }
        if flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE) != 0 {
            // There is no propagation: every mount is private, and a slave of nothing.
            let possible = flags & (MS_SHARED | MS_UNBINDABLE) == 0;
            return unit(if possible { Ok(()) } else { Err(Errno::EINVAL) });
        }
        if flags & MS_MOVE != 0 {
            let from = resolve(cx, &view, AT_FDCWD, &source, ResolveFlags::empty()).await?;
            return unit(move_mount(&from, &at));
        }
        let data = text(args.u64(4))?;
        let fs = make_fs(cx, &kind, &data)?;
        unit(Mount::new(fs, source, mount_flags(flags), &view.clock).attach(&at))
    })
}

fn make_fs(cx: &Cx, kind: &[u8], data: &[u8]) -> Result<Arc<dyn FileSystem>, Errno> {
    let kernel = cx.kernel();
    match kind {
        b"tmpfs" | b"ramfs" => {
            let limit = cx.task.container.memory_limit.unwrap_or(kernel.machine.memory_bytes);
            let mut options = tmpfs::Options::parse(data, limit)?;
            if options.size == 0 && kind == b"tmpfs" {
                // Half of the memory, as on Linux.
                options.size = limit / 2 & !(PAGE_SIZE - 1);
            }
            Ok(TmpFs::new(cx.task.container.memory.clone(), kernel.clock.clone(), next_device(), options))
        }
        b"sysfs" => Ok(SysFs::new(kernel, next_device())),
        b"proc" => Ok(ProcFs::new(kernel.clone(), cx.task.container.clone(), next_device())),
        b"devpts" => Ok(Devpts::new(&cx.task.container.terminals)),
        _ => Err(Errno::ENODEV),
    }
}

/// The mount whose root this is.
fn mounted_here(at: &Path) -> Result<&Arc<Mount>, Errno> {
    if Arc::ptr_eq(&at.dentry, at.mount.root()) { Ok(&at.mount) } else { Err(Errno::EINVAL) }
}

fn remount(at: &Path, flags: MountFlags) -> Result<(), Errno> {
    mounted_here(at)?.set_flags(flags);
    Ok(())
}

fn move_mount(from: &Path, to: &Path) -> Result<(), Errno> {
    let mount = mounted_here(from)?;
    let mut above = Some(to.mount.clone());
    while let Some(at) = above {
        if Arc::ptr_eq(&at, mount) {
            return Err(Errno::ELOOP);
        }
        above = at.mount_point().map(|point| point.mount);
    }
    let back = mount.mount_point().ok_or(Errno::EINVAL)?;
    mount.detach()?;
    // What cannot stand there goes back.
    mount.attach(to).inspect_err(|_| drop(mount.attach(&back)))
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
        let view = View::of(cx);
        let mut how = ResolveFlags::empty();
        how.set(ResolveFlags::NOFOLLOW, flags & UMOUNT_NOFOLLOW != 0);
        let path = path(cx, args.u64(0))?;
        let at = resolve(cx, &view, AT_FDCWD, &path, how).await?;
        if !view.creds.has(Capability::SysAdmin) {
            return Err(Errno::EPERM.into());
        }
        let mount = mounted_here(&at)?;
        // The mark that MNT_EXPIRE sets is not kept: a first call always says so.
        if flags & MNT_EXPIRE != 0 {
            return Err(if flags == MNT_EXPIRE { Errno::EAGAIN } else { Errno::EINVAL }.into());
        }
        // Held by its parent, and by us; more are users.
        let busy = !mount.children().is_empty() || Arc::strong_count(mount) > 2;
        if busy && flags & MNT_DETACH == 0 {
            return Err(Errno::EBUSY.into());
        }
        unit(mount.detach())
    })
}
