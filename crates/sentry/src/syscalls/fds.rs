//! Descriptors: close, dup and their kin.

use std::sync::Arc;

use super::transfer::ready;
use super::{Args, Flow};
use crate::Errno;
use crate::fs::{FdEntry, File, OpenFlags};
use crate::ipc::locks::RecordLocks;
use crate::task::Cx;

/// Gives a new file the lowest free descriptor.
///
/// # Errors
/// `EMFILE`.
pub fn install(cx: &Cx, file: Arc<File>, close_on_exec: bool) -> Result<i32, Errno> {
    cx.files.insert(FdEntry { file, close_on_exec }, 0, cx.fd_limit())
}

/// Gives two new files descriptors and stores their numbers at `addr`. All or nothing.
///
/// # Errors
/// `EMFILE`, `EFAULT`.
pub fn install_pair(cx: &Cx, files: (Arc<File>, Arc<File>), close_on_exec: bool, addr: u64) -> Result<u64, Errno> {
    let first = install(cx, files.0, close_on_exec)?;
    let stored = install(cx, files.1, close_on_exec)
        .and_then(|second| cx.mm.write_val(addr, &[first, second]).inspect_err(|_| drop(cx.files.remove(second))));
    stored.map(|()| 0).inspect_err(|_| drop(cx.files.remove(first)))
}

pub fn sys_close(cx: &mut Cx, args: Args) -> Flow<'_> {
    match cx.files.remove(args.i32(0)) {
        Ok(entry) => close(cx, entry),
        Err(errno) => Flow::done(Err(errno)),
    }
}

/// Ends a closed descriptor: with any descriptor of a file a process's record locks on it go.
fn close(cx: &mut Cx, entry: FdEntry) -> Flow<'_> {
    if !cx.files.has_record_locks() {
        drop(entry);
        return Flow::done(Ok(0));
    }
    if let Some(metadata) = ready(entry.file.inode().metadata()) {
        if let Ok(metadata) = metadata {
            release_records(cx, (metadata.dev, metadata.ino));
        }
        return Flow::done(Ok(0));
    }
    Flow::wait(async move {
        if let Ok(metadata) = entry.file.inode().metadata().await {
            release_records(cx, (metadata.dev, metadata.ino));
        }
        Ok(0)
    })
}

fn release_records(cx: &Cx, inode: (u64, u64)) {
    let locks = &cx.kernel().ipc.locks;
    let owner = cx.files.record_locks(|| RecordLocks::new(locks)).owner();
    locks.release(owner, Some(inode));
}

pub fn sys_dup(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(cx.file(args.i32(0)).and_then(|file| install(cx, file, false)).map(|fd| fd as u64))
}

pub fn sys_dup2(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (old, new) = (args.i32(0), args.i32(1));
    if old == new {
        return Flow::done(cx.file(old).map(|_| new as u64));
    }
    duplicate_at(cx, old, new, false)
}

pub fn sys_dup3(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (old, new, flags) = (args.i32(0), args.i32(1), args.u32(2));
    if old == new || flags & !OpenFlags::CLOEXEC.bits() != 0 {
        return Flow::done(Err(Errno::EINVAL));
    }
    duplicate_at(cx, old, new, flags != 0)
}

fn duplicate_at(cx: &mut Cx, old: i32, new: i32, close_on_exec: bool) -> Flow<'_> {
    let limit = cx.fd_limit();
    let replaced = cx.file(old).and_then(|file| cx.files.replace(new, FdEntry { file, close_on_exec }, limit));
    let closing = match replaced {
        Ok(None) => return Flow::done(Ok(new as u64)),
        Ok(Some(entry)) => close(cx, entry),
        Err(errno) => return Flow::done(Err(errno)),
    };
    match closing {
        Flow::Done(_) => Flow::done(Ok(new as u64)),
        Flow::Wait(closing) => Flow::wait(async move { closing.await.map(|_| new as u64) }),
    }
}

bitflags::bitflags! {
    /// `CLOSE_RANGE_*`.
    #[derive(Clone, Copy)]
    struct CloseRange: u32 {
        const UNSHARE = 2;
        const CLOEXEC = 4;
    }
}

pub fn sys_close_range(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (first, last) = (args.u32(0), args.u32(1));
    let Some(flags) = CloseRange::from_bits(args.u32(2)).filter(|_| first <= last) else {
        return Flow::done(Err(Errno::EINVAL));
    };
    if flags.contains(CloseRange::UNSHARE) {
        cx.files = cx.files.duplicate();
        if let Some(shared) = &mut *cx.task.shared.write() {
            shared.files = cx.files.clone();
        }
    }
    if flags.contains(CloseRange::CLOEXEC) {
        cx.files.set_close_on_exec_range(first as usize, last as usize);
        return Flow::done(Ok(0));
    }
    let removed = cx.files.remove_if(|fd, _| (first..=last).contains(&(fd as u32)));
    if !cx.files.has_record_locks() {
        return Flow::done(Ok(0));
    }
    Flow::wait(async move {
        for entry in removed {
            match close(cx, entry) {
                Flow::Done(_) => {}
                Flow::Wait(closing) => drop(closing.await),
            }
        }
        Ok(0)
    })
}
