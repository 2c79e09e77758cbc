//! mmap and its family.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use platform::Prot;

use super::fs_path::real_file;
use super::prctl::persona;
use super::{Args, Flow};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down, page_up, uapi};
use crate::fs::dev::MemoryDevice;
use crate::fs::{FileKind, MountFlags, Origin};
use crate::ipc::memfd::MemFd;
use crate::mm::{MapRequest, MappedFile, Placement, SegmentFlags};
use crate::task::Cx;

const PROT_KNOWN: u32 = uapi::PROT_READ | uapi::PROT_WRITE | uapi::PROT_EXEC | uapi::PROT_SEM;

/// Rights from `PROT_*`. Linux ignores unknown bits in mmap.
fn prot_of(bits: u32) -> Prot {
    Prot::from_bits_truncate(bits)
}

pub(super) fn mmap(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(map(cx, args))
}

fn map(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let (addr, len, prot, flags, offset) = (args.u64(0), args.u64(1), prot_of(args.u32(2)), args.u32(3), args.u64(5));
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let file = if flags & uapi::MAP_ANONYMOUS == 0 { Some(real_file(cx, args.i32(4))?) } else { None };
    // A mapping of /dev/zero is anonymous memory.
    let zero =
        file.as_ref().filter(|file| file.downcast::<MemoryDevice>() == Some(&MemoryDevice::Zero)).map(|file| file.flags());
    let file = file.filter(|file| file.downcast::<MemoryDevice>() != Some(&MemoryDevice::Zero));
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    if let Some(file) = &file
        && matches!(file.inode().kind(), FileKind::Regular | FileKind::BlockDevice | FileKind::Socket)
        && len <= u64::MAX >> 17 // longer than the address space: ENOMEM, below
        && offset.saturating_add(len) > i64::MAX as u64
    {
        return Err(Errno::EOVERFLOW);
    }
    // Held until it is mapped: no seal comes in between.
    let sealed = file.as_ref().and_then(|file| file.downcast::<MemFd>()).map(|memfd| memfd.inode().clone());
    let seals = sealed.as_ref().map(|inode| inode.seals());
    let kind = flags & uapi::MAP_TYPE;
    let shared = match kind {
        uapi::MAP_PRIVATE => false,
        uapi::MAP_SHARED => true,
        uapi::MAP_SHARED_VALIDATE if file.is_some() => {
            // No file here supports MAP_SYNC, and unknown flags are refused.
            const LEGACY: u32 = uapi::MAP_SHARED_VALIDATE
                | uapi::MAP_FIXED
                | uapi::MAP_FIXED_NOREPLACE
                | uapi::MAP_GROWSDOWN
                | uapi::MAP_DENYWRITE
                | uapi::MAP_EXECUTABLE
                | uapi::MAP_LOCKED
                | uapi::MAP_NORESERVE
                | uapi::MAP_POPULATE
                | uapi::MAP_NONBLOCK
                | uapi::MAP_STACK
                | uapi::MAP_HUGETLB
                | uapi::MAP_UNINITIALIZED;
            if flags & !LEGACY != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            true
        }
        _ => return Err(Errno::EINVAL),
    };
    if flags & uapi::MAP_HUGETLB != 0 {
        // As with no huge pages reserved.
        return Err(Errno::ENOMEM);
    }
    let implies = prot.contains(Prot::READ) && implies_exec(cx);
    let mut prot = prot;
    let mut how = SegmentFlags::MAY_READ | SegmentFlags::MAY_WRITE | SegmentFlags::MAY_EXEC;
    how.set(SegmentFlags::SHARED, shared);
    how.set(SegmentFlags::NORESERVE, flags & uapi::MAP_NORESERVE != 0);
    how.set(SegmentFlags::GROWS_DOWN, flags & uapi::MAP_GROWSDOWN != 0);
    how.set(SegmentFlags::LOCKED, flags & uapi::MAP_LOCKED != 0);
    let file = match file {
        None => {
            if let Some(open) = zero {
                if !open.readable() || shared && prot.contains(Prot::WRITE) && !open.writable() {
                    return Err(Errno::EACCES);
                }
                if shared && !open.writable() {
                    how -= SegmentFlags::MAY_WRITE;
                }
            }
            None
        }
        Some(file) => {
            let open = file.flags();
            if !open.readable() || shared && prot.contains(Prot::WRITE) && !open.writable() {
                return Err(Errno::EACCES);
            }
            if flags & uapi::MAP_GROWSDOWN != 0 {
                return Err(Errno::EINVAL);
            }
            if shared && !open.writable() {
                how -= SegmentFlags::MAY_WRITE;
            }
            if let Origin::Path(path) = &file.origin
                && path.mount.has(MountFlags::NOEXEC)
            {
                if prot.contains(Prot::EXEC) {
                    return Err(Errno::EPERM);
                }
                how -= SegmentFlags::MAY_EXEC;
            }
            // Linux keeps pipes, sockets and the like where nothing is executed.
            if prot.contains(Prot::EXEC)
                && matches!(file.origin, Origin::Anonymous { .. })
                && file.downcast::<MemFd>().is_none()
            {
                return Err(Errno::EPERM);
            }
            if let Some(seals) = &seals {
                how = seals.admit_mapping(prot, how)?;
            }
            let mappable = file.ops.mappable()?;
            Some((Arc::new(MappedFile { mappable, file }), offset))
        }
    };
    prot.set(Prot::EXEC, prot.contains(Prot::EXEC) || implies && how.contains(SegmentFlags::MAY_EXEC));
    let placement = if flags & uapi::MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedNoReplace(addr)
    } else if flags & uapi::MAP_FIXED != 0 {
        Placement::Fixed(addr)
    } else {
        let low = flags & uapi::MAP_32BIT != 0;
        if low { Placement::Low(page_down(addr)) } else { Placement::Hint(page_down(addr)) }
    };
    let limit = limits::address_space(cx);
    if !shared && prot.contains(Prot::WRITE) && flags & uapi::MAP_GROWSDOWN == 0 {
        limits::data_room(cx, len)?;
    }
    let writable_memory = if shared { file.is_none() } else { prot.contains(Prot::WRITE) };
    if writable_memory && flags & uapi::MAP_NORESERVE == 0 {
        limits::promise(cx, len)?;
    }
    limits::lock(cx, how, page_up(len).ok_or(Errno::ENOMEM)?)?;
    let at = cx.mm.map(&MapRequest { placement, len, prot, flags: how, file, limit })?;
    Ok(at)
}

/// `READ_IMPLIES_EXEC`: what can be read can be run.
fn implies_exec(cx: &Cx) -> bool {
    cx.task.group.personality.load(Ordering::Relaxed) & persona::READ_IMPLIES_EXEC != 0
}

pub(super) fn munmap(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(cx.mm.unmap(args.u64(0), args.u64(1)).map(|()| 0))
}

pub(super) fn mprotect(cx: &mut Cx, args: Args) -> Flow<'_> {
    let bits = args.u32(2);
    let growth = uapi::PROT_GROWSDOWN | uapi::PROT_GROWSUP;
    let bits = if bits & uapi::PROT_READ != 0 && implies_exec(cx) { bits | uapi::PROT_EXEC } else { bits };
    let result = if bits & !(PROT_KNOWN | growth) != 0 || bits & growth == growth {
        Err(Errno::EINVAL)
    } else if bits & uapi::PROT_GROWSDOWN != 0 {
        cx.mm.protect_from_start(args.u64(0), args.u64(1), prot_of(bits))
    } else if bits & uapi::PROT_GROWSUP != 0 {
        Err(Errno::EINVAL)
    } else {
        cx.mm.protect(args.u64(0), args.u64(1), prot_of(bits))
    };
    Flow::done(result.map(|()| 0))
}

pub(super) fn brk(cx: &mut Cx, args: Args) -> Flow<'_> {
    let brk = |to| cx.mm.brk(to, limits::data(cx), limits::address_space(cx));
    let (old, to) = (brk(0), args.u64(0));
    let growth = to.saturating_sub(old);
    let promised =
        limits::promise(cx, growth).is_ok() && (growth == 0 || limits::lock(cx, SegmentFlags::empty(), growth).is_ok());
    Flow::done(Ok(if promised { brk(to) } else { old }))
}

pub(super) fn arch_prctl(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(bases(cx, args.u32(0), args.u64(1)))
}

fn bases(cx: &mut Cx, code: u32, addr: u64) -> Result<u64, Errno> {
    let user_end = cx.kernel().platform.layout().user.end;
    match code {
        uapi_prctl::ARCH_SET_FS | uapi_prctl::ARCH_SET_GS if addr >= user_end => return Err(Errno::EPERM),
        uapi_prctl::ARCH_SET_FS => cx.context.registers_mut().fs_base = addr,
        uapi_prctl::ARCH_SET_GS => {
            // Patched sites find their way by %gs.
            cx.mm.disable_patching();
            cx.context.registers_mut().gs_base = addr;
        }
        uapi_prctl::ARCH_GET_FS => cx.mm.write_val(addr, &cx.context.registers().fs_base)?,
        uapi_prctl::ARCH_GET_GS => cx.mm.write_val(addr, &cx.context.registers().gs_base)?,
        uapi_prctl::ARCH_GET_CPUID => return Ok(1),
        uapi_prctl::ARCH_SET_CPUID => return Err(Errno::ENODEV),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Linux's arch/x86/include/uapi/asm/prctl.h.
mod uapi_prctl {
    pub const ARCH_SET_GS: u32 = 0x1001;
    pub const ARCH_SET_FS: u32 = 0x1002;
    pub const ARCH_GET_FS: u32 = 0x1003;
    pub const ARCH_GET_GS: u32 = 0x1004;
    pub const ARCH_GET_CPUID: u32 = 0x1011;
    pub const ARCH_SET_CPUID: u32 = 0x1012;
}

/// Limits of the process that the address space must keep.
pub(super) mod limits {
    use crate::Errno;
    use crate::mm::SegmentFlags;
    use crate::task::{Capability, Cx, Resource};

    pub fn address_space(cx: &Cx) -> u64 {
        cx.task.rlimit(Resource::As).soft
    }

    pub fn data(cx: &Cx) -> u64 {
        cx.task.rlimit(Resource::Data).soft
    }

    /// Whether there may be `len` more bytes of private writable memory.
    pub fn data_room(cx: &Cx, len: u64) -> Result<(), Errno> {
        let limit = data(cx);
        let over = limit != u64::MAX && cx.mm.data_bytes().saturating_add(len) > limit;
        if over { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Whether `len` bytes of memory may be promised at once, as Linux does it by default (`vm.overcommit_memory` 0): not more than the host has. (What a
    /// container may use of it is found out when it is touched.)
    pub fn promise(cx: &Cx, len: u64) -> Result<(), Errno> {
        if len > cx.kernel().machine.host_memory_bytes { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Whether a new mapping of `len` bytes, if it is to be locked in memory, may be.
    pub fn lock(cx: &Cx, flags: SegmentFlags, len: u64) -> Result<(), Errno> {
        if !flags.contains(SegmentFlags::LOCKED) && !cx.mm.locks_future() {
            return Ok(());
        }
        let limit = cx.task.rlimit(Resource::Memlock).soft;
        let over = cx.mm.locked_bytes().saturating_add(len) > limit;
        if over && !cx.creds().has(Capability::IpcLock) { Err(Errno::EAGAIN) } else { Ok(()) }
    }
}
