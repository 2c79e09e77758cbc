//! shmget, shmat, shmdt, shmctl.

use std::sync::Arc;

use platform::Prot;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Flow};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_up};
use crate::fs::OpenFlags;
use crate::ipc::sysv::shm::{SHM_LOCKED, Segment, segment_of};
use crate::ipc::sysv::{Perm, Wanted};
use crate::ipc::tunables::Tunable;
use crate::mm::{Detail, MapRequest, MappedFile, Placement, SegmentFlags};
use crate::task::{Capability, Cx, Resource};

const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100000;
const SHM_HUGETLB: u32 = 0o4000;

const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;
const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

/// `struct shmid64_ds`.
#[repr(C)]
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct ShmidDs {
    perm: Perm,
    size: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    cpid: i32,
    lpid: i32,
    attachments: u64,
    unused: [u64; 2],
}

const _: () = assert!(size_of::<ShmidDs>() == 112);

pub fn sys_shmget(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let flags = args.u32(2);
        let ipc = cx.task.ipc_objects();
        if flags & SHM_HUGETLB != 0 {
            // As with no huge pages reserved.
            let allowed = cx.creds().has(Capability::IpcLock);
            return Err(if allowed { Errno::ENOMEM } else { Errno::EPERM });
        }
        ipc.shm.get(cx, &ipc.limits, args.i32(0), args.u64(1), flags).map(|id| id as u64)
    })())
}

pub fn sys_shmat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(attach(cx, args.i32(0), args.u64(1), args.u32(2)))
}

fn attach(cx: &Cx, id: i32, addr: u64, flags: u32) -> Result<u64, Errno> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let mut at = addr;
    if at == 0 {
        if flags & SHM_REMAP != 0 {
            return Err(Errno::EINVAL);
        }
    } else if !at.is_multiple_of(PAGE_SIZE) {
        if flags & SHM_RND == 0 {
            return Err(Errno::EINVAL);
        }
        at -= at % PAGE_SIZE;
        // Rounded to nothing: anywhere will do.
        if at == 0 && flags & SHM_REMAP != 0 {
            return Err(Errno::EINVAL);
        }
    }
    let (mut prot, mut wanted, open) = match flags & SHM_RDONLY != 0 {
        true => (Prot::READ, 0o444, OpenFlags::empty()),
        false => (Prot::READ | Prot::WRITE, 0o666, OpenFlags::RDWR),
    };
    if flags & SHM_EXEC != 0 {
        prot |= Prot::EXEC;
        wanted |= 0o111;
    }
    let segment = cx.task.ipc_objects().shm.find(id)?;
    segment.state.lock().perm.check(&cx.creds(), Wanted(wanted))?;
    let placement = match (at, flags & SHM_REMAP != 0) {
        (0, _) => Placement::Hint(0),
        (at, true) => Placement::Fixed(at),
        (at, false) => Placement::FixedNoReplace(at),
    };
    let mut how = SegmentFlags::SHARED | SegmentFlags::MAY_READ | SegmentFlags::MAY_EXEC;
    how.set(SegmentFlags::MAY_WRITE, flags & SHM_RDONLY == 0);
    let file = segment.attach(cx, open);
    let mappable = file.ops.mappable()?;
    let request = MapRequest {
        placement,
        len: segment.size,
        prot,
        flags: how,
        file: Some((Arc::new(MappedFile { mappable, file }), 0)),
        limit: cx.task.rlimit(Resource::As).soft,
    };
    cx.mm.map(&request).map_err(|errno| if errno == Errno::EEXIST { Errno::EINVAL } else { errno })
}

pub fn sys_shmdt(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(detach(cx, args.u64(0)))
}

fn detach(cx: &Cx, addr: u64) -> Result<u64, Errno> {
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    // The first piece of a segment that lies as if the segment began at `addr`, then what else there is of the same attachment.
    let mut found: Option<(Arc<MappedFile>, u64)> = None;
    let mut gone = Vec::new();
    for vma in cx.mm.vmas(Detail::Places).into_iter().filter(|vma| vma.range.start >= addr) {
        let Some((file, offset)) = &vma.file else { continue };
        if vma.range.start - addr != *offset {
            continue;
        }
        match (&found, segment_of(&*file.file)) {
            (None, Some(segment)) => found = Some((file.clone(), page_up(segment.size).unwrap_or(u64::MAX))),
            (Some((first, _)), Some(_)) if Arc::ptr_eq(first, file) => {}
            _ => continue,
        }
        if found.as_ref().is_some_and(|(_, size)| vma.range.start - addr < *size) {
            gone.push(vma.range);
        }
    }
    let (file, _) = found.ok_or(Errno::EINVAL)?;
    for range in gone {
        cx.mm.unmap(range.start, range.end - range.start)?;
    }
    if let Some(segment) = segment_of(&*file.file) {
        segment.detached(cx);
    }
    Ok(0)
}

pub fn sys_shmctl(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(control(cx, args.i32(0), args.i32(1), args.u64(2)))
}

fn control(cx: &Cx, id: i32, command: i32, addr: u64) -> Result<u64, Errno> {
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let ipc = cx.task.ipc_objects();
    let creds = cx.creds();
    match command {
        IPC_INFO => {
            let (_, max, _) = ipc.shm.totals();
            let [most, mni, all] = [&ipc.limits.shmmax, &ipc.limits.shmmni, &ipc.limits.shmall].map(Tunable::get);
            cx.mm.write_val(addr, &[most, 1, mni, mni, all, 0, 0, 0, 0])?;
            Ok(max)
        }
        SHM_INFO => {
            let (used, max, pages) = ipc.shm.totals();
            // What is resident is not known for each segment: all of it.
            cx.mm.write_val(addr, &[used as u64, pages, pages, 0, 0, 0])?;
            Ok(max)
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let segment = if command == IPC_STAT { ipc.shm.find(id)? } else { ipc.shm.at(id)? };
            if command != SHM_STAT_ANY {
                segment.state.lock().perm.check(&creds, Wanted::READ)?;
            }
            cx.mm.write_val(addr, &describe(cx, &segment))?;
            Ok(if command == IPC_STAT { 0 } else { segment.id as u64 })
        }
        IPC_SET => {
            let new: ShmidDs = cx.mm.read_val(addr)?;
            let segment = ipc.shm.find(id)?;
            let mut state = segment.state.lock();
            state.perm.control(&creds)?;
            state.perm.update(&new.perm)?;
            state.ctime = (cx.kernel().clock.realtime_ns() / 1_000_000_000) as i64;
            Ok(0)
        }
        IPC_RMID => {
            let segment = ipc.shm.find(id)?;
            segment.state.lock().perm.control(&creds)?;
            ipc.shm.remove(&segment);
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            let segment = ipc.shm.find(id)?;
            let mut state = segment.state.lock();
            if !creds.has(Capability::IpcLock) {
                if creds.euid != state.perm.uid && creds.euid != state.perm.cuid {
                    return Err(Errno::EPERM);
                }
                if command == SHM_LOCK && cx.task.rlimit(Resource::Memlock).soft == 0 {
                    return Err(Errno::EPERM);
                }
            }
            if command == SHM_LOCK {
                state.perm.mode |= SHM_LOCKED;
            } else {
                state.perm.mode &= !SHM_LOCKED;
            }
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn describe(cx: &Cx, segment: &Segment) -> ShmidDs {
    let state = *segment.state.lock();
    ShmidDs {
        perm: state.perm,
        size: segment.size,
        atime: state.atime,
        dtime: state.dtime,
        ctime: state.ctime,
        cpid: cx.local(segment.cpid),
        lpid: cx.local(state.lpid),
        attachments: segment.attachments(cx.mm.memory()),
        unused: [0; 2],
    }
}
