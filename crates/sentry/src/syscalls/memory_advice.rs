//! mremap, madvise, msync, mincore, the mlock family, memory protection keys.

use crate::Errno;
use crate::abi::{PAGE_SIZE, page_up, uapi};
use crate::fs::File;
use crate::ipc::memfd::MemFd;
use crate::mm::{Locked, Remap, RemapTo, SegmentFlags};
use crate::syscalls::memory::limits;
use crate::syscalls::{Args, Flow};
use crate::task::{Capability, Cx, Resource};

pub(super) fn mremap(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(remap(cx, args))
}

/// So often in a row other threads may put another mapping where one is to be moved, before that fails.
const RACES: usize = 100;

fn remap(cx: &Cx, args: Args) -> Result<u64, Errno> {
    const KNOWN: u32 = uapi::MREMAP_MAYMOVE | uapi::MREMAP_FIXED | uapi::MREMAP_DONTUNMAP;
    let flags = args.u32(3);
    let movable = flags & uapi::MREMAP_MAYMOVE != 0;
    if flags & !KNOWN != 0 || !movable && flags != 0 {
        return Err(Errno::EINVAL);
    }
    let to = match (flags & uapi::MREMAP_FIXED != 0, movable) {
        (true, _) => RemapTo::Fixed(args.u64(4)),
        (_, true) => RemapTo::Anywhere,
        _ => RemapTo::Stay,
    };
    let (old_len, new_len) = (args.u64(1), args.u64(2));
    let growth = new_len.saturating_sub(old_len);
    limits::promise(cx, growth)?;
    if growth > 0 && cx.mm.has_locked(args.u64(0), 1) {
        limits::lock(cx, SegmentFlags::LOCKED, growth)?;
    }
    let request = Remap {
        addr: args.u64(0),
        old_len,
        new_len,
        to,
        keep_old: flags & uapi::MREMAP_DONTUNMAP != 0,
        limit: cx.task.rlimit(Resource::As).soft,
    };
    for _ in 0..RACES {
        let mapped = cx.mm.file_at(request.addr);
        // Held until it is done: no seal is set while its mapping is doubled, to go from where it is looked for. Another thread may have mapped another
        // file there meanwhile, whose seals these are not.
        let memfd = mapped.as_ref().and_then(|mapped| mapped.file.downcast_ref::<File>()?.downcast::<MemFd>());
        let _seals = memfd.map(|memfd| memfd.inode().seals());
        if let Some(at) = cx.mm.remap(&request, mapped.as_ref())? {
            return Ok(at);
        }
    }
    Err(Errno::EAGAIN)
}

pub(super) fn madvise(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(advise(cx, args.u64(0), args.u64(1), args.u32(2)).map(|()| 0))
}

fn advise(cx: &Cx, addr: u64, len: u64, advice: u32) -> Result<(), Errno> {
    /// `MADV_DONTNEED_LOCKED`.
    const DONTNEED_LOCKED: u32 = 24;
    let mm = &cx.mm;
    let flag = |flag, on| Change::Flag(flag, on);
    let change = match advice {
        uapi::MADV_DONTNEED | uapi::MADV_FREE => Change::Empty(Locked::Refused),
        DONTNEED_LOCKED => Change::Empty(Locked::Emptied),
        uapi::MADV_NORMAL | uapi::MADV_RANDOM | uapi::MADV_SEQUENTIAL | uapi::MADV_WILLNEED => Change::Nothing,
        uapi::MADV_COLD | uapi::MADV_PAGEOUT => Change::Reclaim,
        uapi::MADV_DONTDUMP => flag(SegmentFlags::DONT_DUMP, true),
        uapi::MADV_DODUMP => flag(SegmentFlags::DONT_DUMP, false),
        uapi::MADV_DONTFORK => flag(SegmentFlags::DONT_FORK, true),
        uapi::MADV_DOFORK => flag(SegmentFlags::DONT_FORK, false),
        uapi::MADV_WIPEONFORK => flag(SegmentFlags::WIPE_ON_FORK, true),
        uapi::MADV_KEEPONFORK => flag(SegmentFlags::WIPE_ON_FORK, false),
        uapi::MADV_HUGEPAGE => flag(SegmentFlags::HUGE, true),
        uapi::MADV_NOHUGEPAGE => flag(SegmentFlags::HUGE, false),
        uapi::MADV_POPULATE_READ => Change::Populate { write: false },
        uapi::MADV_POPULATE_WRITE => Change::Populate { write: true },
        _ => return Err(Errno::EINVAL),
    };
    if !addr.is_multiple_of(PAGE_SIZE) || page_up(len).is_none() {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(());
    }
    match change {
        Change::Empty(locked) => mm.dont_need(addr, len, locked),
        Change::Flag(flag, on) => mm.set_flag(addr, len, flag, on),
        Change::Populate { write } => mm.populate(addr, len, write),
        Change::Reclaim if mm.has_locked(addr, len) => Err(Errno::EINVAL),
        Change::Nothing | Change::Reclaim if mm.is_mapped(addr, len) => Ok(()),
        Change::Nothing | Change::Reclaim => Err(Errno::ENOMEM),
    }
}

enum Change {
    Nothing,
    /// Not here, but what is locked is refused.
    Reclaim,
    Empty(Locked),
    Flag(SegmentFlags, bool),
    Populate {
        write: bool,
    },
}

pub(super) fn msync(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (addr, len, flags) = (args.u64(0), args.u64(1), args.u32(2));
    let both = uapi::MS_ASYNC | uapi::MS_SYNC;
    if flags & !(both | uapi::MS_INVALIDATE) != 0 || flags & both == both || !addr.is_multiple_of(PAGE_SIZE) {
        return Flow::done(Err(Errno::EINVAL));
    }
    if len == 0 {
        return Flow::done(Ok(0));
    }
    let files =
        match page_up(len).ok_or(Errno::ENOMEM).and_then(|len| cx.mm.shared_files(addr, len, flags & uapi::MS_INVALIDATE != 0))
        {
            Ok(files) => files,
            Err(errno) => return Flow::done(Err(errno)),
        };
    if flags & uapi::MS_SYNC == 0 || files.is_empty() {
        return Flow::done(Ok(0));
    }
    Flow::wait(async move {
        for mapped in files {
            if let Some(file) = mapped.file.downcast_ref::<File>() {
                match file.ops.sync().await {
                    // Files without a store have nothing to write back.
                    Ok(()) | Err(Errno::EINVAL) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(0)
    })
}

pub(super) fn mincore(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(in_core(cx, args.u64(0), args.u64(1), args.u64(2)).map(|()| 0))
}

fn in_core(cx: &Cx, addr: u64, len: u64, vector: u64) -> Result<(), Errno> {
    const STEP: u64 = 4096;
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let pages = page_up(len).ok_or(Errno::ENOMEM)? / PAGE_SIZE;
    let mut done = 0;
    while done < pages {
        let now = STEP.min(pages - done);
        let mut present = vec![0; now as usize];
        let at = addr.checked_add(done * PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        cx.mm.present(at, &mut present)?;
        cx.mm.write(vector.checked_add(done).ok_or(Errno::EFAULT)?, &present)?;
        done += now;
    }
    Ok(())
}

/// Most bytes this process may lock.
///
/// # Errors
/// `EPERM` when it may lock none.
fn lock_limit(cx: &Cx) -> Result<u64, Errno> {
    if cx.creds().has(Capability::IpcLock) {
        return Ok(u64::MAX);
    }
    match cx.task.rlimit(Resource::Memlock).soft {
        0 => Err(Errno::EPERM),
        limit => Ok(limit),
    }
}

pub(super) fn mlock(cx: &mut Cx, args: Args) -> Flow<'_> {
    let result = lock_limit(cx).and_then(|limit| cx.mm.lock(args.u64(0), args.u64(1), true, limit));
    Flow::done(result.map(|()| 0))
}

pub(super) fn mlock2(cx: &mut Cx, args: Args) -> Flow<'_> {
    if args.u32(2) & !uapi::MLOCK_ONFAULT != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    mlock(cx, args)
}

pub(super) fn munlock(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(cx.mm.lock(args.u64(0), args.u64(1), false, u64::MAX).map(|()| 0))
}

pub(super) fn mlockall(cx: &mut Cx, args: Args) -> Flow<'_> {
    let flags = args.u32(0);
    let (now, future) = (flags & uapi::MCL_CURRENT != 0, flags & uapi::MCL_FUTURE != 0);
    if flags & !(uapi::MCL_CURRENT | uapi::MCL_FUTURE | uapi::MCL_ONFAULT) != 0 || !(now || future) {
        return Flow::done(Err(Errno::EINVAL));
    }
    let result = lock_limit(cx).and_then(|limit| cx.mm.lock_all(now, future, limit));
    Flow::done(result.map(|()| 0))
}

pub(super) fn munlockall(cx: &mut Cx, _args: Args) -> Flow<'_> {
    Flow::done(cx.mm.lock_all(false, false, u64::MAX).map(|()| 0))
}

/// As on a processor without protection keys: only key -1 (none) can be used.
pub(super) fn pkey_mprotect(cx: &mut Cx, args: Args) -> Flow<'_> {
    if args.i32(3) != -1 {
        return Flow::done(Err(Errno::EINVAL));
    }
    super::memory::mprotect(cx, args)
}
