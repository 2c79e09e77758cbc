//! fcntl and flock.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::abi::uapi;
use crate::fs::permission::is_owner;
use crate::fs::{FdEntry, File, FileKind, OpenFlags, Origin, SignalOwner, Watcher, tmpfs};
use crate::ipc::async_io;
use crate::ipc::leases::LeaseKind;
use crate::ipc::locks::{Family, Held, InodeKey, LockKind, LockTable, Owner, Range, RecordLocks, Refusal};
use crate::ipc::memfd::{self, MemFd};
use crate::ipc::pipe::PipeEnd;
use crate::signal::Signal;
use crate::task::{Capability, Cx};
use crate::time::MonoTime;
use crate::wait::{PollEvents, WaitError};

/// What `F_SETFL` can change.
const SETTABLE: OpenFlags =
    OpenFlags::APPEND.union(OpenFlags::NONBLOCK).union(OpenFlags::DIRECT).union(OpenFlags::NOATIME).union(OpenFlags::ASYNC);

/// What `F_GETFL` does not show.
const HIDDEN: OpenFlags =
    OpenFlags::CREAT.union(OpenFlags::EXCL).union(OpenFlags::NOCTTY).union(OpenFlags::TRUNC).union(OpenFlags::CLOEXEC);

pub fn sys_fcntl(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (fd, command, argument) = (args.i32(0), args.u32(1), args.u64(2));
    let entry = match cx.files.entry(fd) {
        Ok(entry) => entry,
        Err(errno) => return Flow::done(Err(errno)),
    };
    let path_only = entry.file.flags().contains(OpenFlags::PATH);
    let allowed = [uapi::F_DUPFD, uapi::F_DUPFD_CLOEXEC, uapi::F_GETFD, uapi::F_SETFD, uapi::F_GETFL];
    if path_only && !allowed.contains(&command) {
        return Flow::done(Err(Errno::EBADF));
    }
    let wait = match command {
        uapi::F_SETLKW | uapi::F_OFD_SETLKW => true,
        uapi::F_SETLEASE | uapi::F_GETLEASE => return Flow::wait(lease(cx, fd, entry.file, command, argument)),
        uapi::F_SETLK | uapi::F_OFD_SETLK | uapi::F_GETLK | uapi::F_OFD_GETLK => false,
        _ => return Flow::done(control(cx, fd, &entry, command, argument)),
    };
    Flow::wait(record_lock(cx, entry.file, command, argument, wait))
}

fn control(cx: &Cx, fd: i32, entry: &FdEntry, command: u32, argument: u64) -> Result<u64, Errno> {
    let file = &entry.file;
    match command {
        uapi::F_DUPFD | uapi::F_DUPFD_CLOEXEC => {
            let limit = cx.fd_limit();
            let from = usize::try_from(argument as i32).ok().filter(|&from| from < limit).ok_or(Errno::EINVAL)?;
            let copy = FdEntry { file: file.clone(), close_on_exec: command == uapi::F_DUPFD_CLOEXEC };
            cx.files.insert(copy, from, limit).map(|fd| fd as u64)
        }
        uapi::F_GETFD => Ok(u64::from(entry.close_on_exec)),
        uapi::F_SETFD => cx.files.set_close_on_exec(fd, argument & 1 != 0).map(|()| 0),
        uapi::F_GETFL => Ok(u64::from((file.flags() - HIDDEN).bits())),
        uapi::F_SETFL => set_flags(cx, fd, file, OpenFlags::from_bits_retain(argument as u32)),
        uapi::F_SETOWN => own(cx, file, argument as i32),
        uapi::F_GETOWN => Ok(i64::from(owner_of(cx, file)) as u64),
        uapi::F_SETSIG => {
            let signal = argument as i32;
            if signal != 0 && Signal::new(signal).is_none() {
                return Err(Errno::EINVAL);
            }
            file.set_owner(SignalOwner { signal, ..file.owner() });
            Ok(0)
        }
        uapi::F_GETSIG => Ok(file.owner().signal as u64),
        uapi::F_SETOWN_EX => {
            let [kind, id] = cx.mm.read_val::<[i32; 2]>(argument)?;
            if !(0..=2).contains(&kind) {
                return Err(Errno::EINVAL);
            }
            set_owner(cx, file, kind, id)
        }
        uapi::F_GETOWN_EX => {
            let owner = file.owner();
            cx.mm.write_val(argument, &[owner.kind, cx.local(owner.id)]).map(|()| 0)
        }
        F_GETOWNER_UIDS => {
            let owner = file.owner();
            cx.mm.write_val(argument, &[owner.uid, owner.euid]).map(|()| 0)
        }
        F_CREATED_QUERY => Ok(u64::from(file.created())),
        F_DUPFD_QUERY => Ok(u64::from(Arc::ptr_eq(&cx.file(argument as i32)?, file))),
        F_GET_RW_HINT => cx.mm.write_val(argument, &u64::from(file.rw_hint())).map(|()| 0),
        F_SET_RW_HINT => {
            let hint = cx.mm.read_val::<u64>(argument)?;
            // RWH_WRITE_LIFE_NOT_SET to EXTREME.
            file.set_rw_hint(u32::try_from(hint).ok().filter(|&hint| hint <= 5).ok_or(Errno::EINVAL)?);
            Ok(0)
        }
        uapi::F_GETPIPE_SZ => pipe_of(file).map(|end| end.pipe().capacity() as u64),
        uapi::F_SETPIPE_SZ => {
            let unlimited = cx.creds().has(Capability::SysResource);
            let most = cx.kernel().ipc.tunables.pipe_size.count();
            pipe_of(file)?.pipe().set_capacity(argument as u32 as usize, most, unlimited).map(|size| size as u64)
        }
        uapi::F_ADD_SEALS => {
            if !file.flags().writable() {
                return Err(Errno::EPERM);
            }
            match file.downcast::<MemFd>() {
                Some(memfd) => memfd.add_seals(argument as u32, &cx.task.container.memory).map(|()| 0),
                None if argument as u32 & !memfd::SEALS == 0 && is_of_memory(file) => Err(Errno::EPERM),
                None => Err(Errno::EINVAL),
            }
        }
        uapi::F_GET_SEALS => match file.downcast::<MemFd>() {
            Some(memfd) => Ok(u64::from(memfd.seals())),
            None if is_of_memory(file) => Ok(u64::from(uapi::F_SEAL_SEAL)),
            None => Err(Errno::EINVAL),
        },
        _ => Err(Errno::EINVAL),
    }
}

/// Whether a file is a regular one of a tmpfs: those can have no seals, and are sealed against them.
fn is_of_memory(file: &File) -> bool {
    matches!(&file.origin, Origin::Path(path) if path.inode().kind() == FileKind::Regular && path.inode().as_any().is::<tmpfs::Node>())
}

/// `F_GETOWNER_UIDS`, `F_DUPFD_QUERY`, `F_CREATED_QUERY`, `F_GET_RW_HINT`, `F_SET_RW_HINT`.
const F_GETOWNER_UIDS: u32 = 17;
const F_DUPFD_QUERY: u32 = 1027;
const F_CREATED_QUERY: u32 = 1028;
const F_GET_RW_HINT: u32 = 1035;
const F_SET_RW_HINT: u32 = 1036;

fn set_flags(cx: &Cx, fd: i32, file: &Arc<File>, wanted: OpenFlags) -> Result<u64, Errno> {
    let (old, wanted) = (file.flags(), wanted & SETTABLE);
    if wanted.contains(OpenFlags::NOATIME) && !old.contains(OpenFlags::NOATIME) {
        // Of what is on a disk, its owner says this.
        let owner = file.inode().ownership();
        if owner.is_some_and(|owner| !is_owner(owner.uid, &cx.creds())) {
            return Err(Errno::EPERM);
        }
    }
    let fifo = file.inode().kind() == FileKind::Fifo;
    if wanted.contains(OpenFlags::DIRECT) && !fifo && !crate::fs::open::may_be_direct(file) {
        return Err(Errno::EINVAL);
    }
    match (old.contains(OpenFlags::ASYNC), wanted.contains(OpenFlags::ASYNC)) {
        (false, true) => async_io::start(cx, file, fd),
        (true, false) => async_io::stop(file),
        _ => {}
    }
    file.set_flags((old - SETTABLE) | wanted);
    Ok(0)
}

/// The process or group of `F_SETOWN`, negative for a group.
pub(super) fn own(cx: &Cx, file: &Arc<File>, id: i32) -> Result<u64, Errno> {
    let kind = if id < 0 { SignalOwner::GROUP } else { SignalOwner::PROCESS };
    set_owner(cx, file, kind, id.checked_abs().ok_or(Errno::EINVAL)?)
}

/// As `F_GETOWN` gives it.
pub(super) fn owner_of(cx: &Cx, file: &File) -> i32 {
    let owner = file.owner();
    let id = cx.local(owner.id);
    if owner.kind == SignalOwner::GROUP { -id } else { id }
}

fn set_owner(cx: &Cx, file: &Arc<File>, kind: i32, id: i32) -> Result<u64, Errno> {
    let pids = &cx.task.container.pids;
    let id = if id == 0 { 0 } else { cx.task.group.pid_ns.global(id).ok_or(Errno::ESRCH)? };
    let exists = match kind {
        _ if id == 0 => true,
        SignalOwner::TID => pids.task(id).is_some(),
        SignalOwner::PROCESS => pids.process_of(id).is_some(),
        _ => !pids.process_group(id).is_empty(),
    };
    if !exists {
        return Err(Errno::ESRCH);
    }
    let creds = cx.creds();
    file.set_owner(SignalOwner { kind, id, uid: creds.uid, euid: creds.euid, ..file.owner() });
    async_io::owner_changed(cx, file);
    Ok(0)
}

/// `F_SETLEASE` and `F_GETLEASE`.
async fn lease(cx: &Cx, fd: i32, file: Arc<File>, command: u32, argument: u64) -> Outcome {
    let table = &cx.kernel().ipc.leases;
    let metadata = file.inode().metadata().await?;
    let inode = (metadata.dev, metadata.ino);
    if command == uapi::F_GETLEASE {
        let kind = match table.get(&file, inode) {
            Some(LeaseKind::Read) => F_RDLCK,
            Some(LeaseKind::Write) => F_WRLCK,
            None => F_UNLCK,
        };
        return Ok(kind as u64);
    }
    let kind = match argument as i32 as i16 {
        F_RDLCK => Some(LeaseKind::Read),
        F_WRLCK => Some(LeaseKind::Write),
        F_UNLCK => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    let creds = cx.creds();
    if creds.fsuid != metadata.uid && !creds.has(Capability::Lease) {
        return Err(Errno::EACCES.into());
    }
    if metadata.kind != FileKind::Regular || !matches!(file.origin, Origin::Path(_)) {
        return Err(Errno::EINVAL.into());
    }
    match kind {
        None if !table.holds(&file, inode) => return Err(Errno::EAGAIN.into()),
        None => {}
        Some(kind) => {
            // Who else has it open is found by looking.
            let (mut opens, mut writers) = (0, 0);
            for other in open_files(cx, &file) {
                opens += 1;
                writers += usize::from(other.flags().writable());
            }
            if (kind == LeaseKind::Read && writers > 0) || (kind == LeaseKind::Write && opens > 1) {
                return Err(Errno::EAGAIN.into());
            }
        }
    }
    table.set(cx, &file, fd, inode, kind)?;
    if kind.is_some() && file.owner().id == 0 {
        file.set_owner(SignalOwner {
            kind: SignalOwner::PROCESS,
            id: cx.task.tgid(),
            uid: creds.uid,
            euid: creds.euid,
            ..file.owner()
        });
    }
    Ok(0)
}

/// The open descriptions of a file in the container's processes.
fn open_files(cx: &Cx, file: &Arc<File>) -> Vec<Arc<File>> {
    let mut found: Vec<Arc<File>> = vec![file.clone()];
    for task in cx.task.container.pids.tasks() {
        let Some(files) = task.shared.read().as_ref().map(|shared| shared.files.clone()) else { continue };
        for (_, entry) in files.list() {
            let same = std::ptr::addr_eq(Arc::as_ptr(entry.file.inode()), Arc::as_ptr(file.inode()));
            let real = !entry.file.flags().contains(OpenFlags::PATH);
            if same && real && !found.iter().any(|other| Arc::ptr_eq(other, &entry.file)) {
                found.push(entry.file);
            }
        }
    }
    found
}

fn pipe_of(file: &File) -> Result<&PipeEnd, Errno> {
    file.downcast::<PipeEnd>().ok_or(Errno::EBADF)
}

/// `struct flock`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    pad: i32,
    start: i64,
    len: i64,
    pid: i32,
    pad_end: i32,
}

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

async fn record_lock(cx: &mut Cx, file: Arc<File>, command: u32, addr: u64, wait: bool) -> Outcome {
    let mut flock: Flock = cx.mm.read_val(addr)?;
    let kind = match flock.kind {
        F_RDLCK => LockKind::Shared,
        F_WRLCK => LockKind::Exclusive,
        F_UNLCK => LockKind::Unlock,
        _ => return Err(Errno::EINVAL.into()),
    };
    let metadata = file.inode().metadata().await?;
    let base = match flock.whence {
        0 => 0,
        1 => *file.position.lock(),
        2 => metadata.size,
        _ => return Err(Errno::EINVAL.into()),
    };
    let range = range_of(base, &flock)?;
    let by_description = matches!(command, uapi::F_OFD_GETLK | uapi::F_OFD_SETLK | uapi::F_OFD_SETLKW);
    if by_description && flock.pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let table = cx.kernel().ipc.locks.clone();
    let (owner, pid) = if by_description {
        (description_owner(&table, &file), -1)
    } else {
        (cx.files.record_locks(|| RecordLocks::new(&table)).owner(), cx.task.tgid())
    };
    let wanted = Held { owner, range, kind, pid };
    let inode = (metadata.dev, metadata.ino);
    if matches!(command, uapi::F_GETLK | uapi::F_OFD_GETLK) {
        match table.conflict(Family::Record, inode, wanted).filter(|_| kind != LockKind::Unlock) {
            None => flock.kind = F_UNLCK,
            Some(held) => {
                flock.kind = if held.kind == LockKind::Shared { F_RDLCK } else { F_WRLCK };
                flock.whence = 0;
                flock.start = held.range.start as i64;
                flock.len = if held.range.last == Range::MAX { 0 } else { (held.range.last - held.range.start + 1) as i64 };
                flock.pid = if held.pid > 0 { cx.local(held.pid) } else { held.pid };
            }
        }
        cx.mm.write_val(addr, &flock)?;
        return Ok(0);
    }
    let flags = file.flags();
    if (kind == LockKind::Shared && !flags.readable()) || (kind == LockKind::Exclusive && !flags.writable()) {
        return Err(Errno::EBADF.into());
    }
    take(cx, &table, Family::Record, inode, wanted, wait).await
}

fn range_of(base: u64, flock: &Flock) -> Result<Range, Errno> {
    let start = base.checked_add_signed(flock.start).filter(|&start| start <= Range::MAX);
    let start = start.ok_or(if flock.start > 0 { Errno::EOVERFLOW } else { Errno::EINVAL })?;
    match flock.len {
        0 => Ok(Range { start, last: Range::MAX }),
        len if len > 0 => {
            let last = start.checked_add(len as u64 - 1).filter(|&last| last <= Range::MAX).ok_or(Errno::EOVERFLOW)?;
            Ok(Range { start, last })
        }
        // The bytes before the start.
        len => {
            let first = start.checked_add_signed(len).ok_or(Errno::EINVAL)?;
            Ok(Range { start: first, last: start - 1 })
        }
    }
}

fn description_owner(table: &Arc<LockTable>, file: &File) -> Owner {
    let table: Arc<dyn Watcher> = table.clone();
    file.watch(Arc::downgrade(&table));
    Owner::Description(file.id())
}

async fn take(cx: &Cx, table: &LockTable, family: Family, inode: InodeKey, wanted: Held, wait: bool) -> Outcome {
    let posix = matches!(wanted.owner, Owner::Process(_));
    let attempt = || match table.set(family, inode, wanted) {
        Ok(()) => Some(Ok(0)),
        Err(Refusal::TooMany) => Some(Err(Errno::ENOLCK)),
        Err(_) if !wait => Some(Err(Errno::EAGAIN)),
        Err(Refusal::Held(held)) if posix => table.wait_for(wanted.owner, held.owner).err().map(Err),
        Err(_) => None,
    };
    let queues = [(table.queue(), PollEvents::IN)];
    let result = cx.wait(&queues, MonoTime::NEVER, attempt).await;
    if posix {
        table.stop_waiting(wanted.owner);
    }
    match result {
        Ok(result) => Ok(result?),
        Err(WaitError::Interrupted | WaitError::TimedOut) => Err(Fail::Restart(Restart::Sys)),
    }
}

pub fn sys_flock(cx: &mut Cx, args: Args) -> Flow<'_> {
    let operation = args.u32(1);
    // Mandatory locks are gone from Linux; asking for one does nothing.
    if operation & uapi::LOCK_MAND != 0 {
        return Flow::done(Ok(0));
    }
    let kind = match operation & !uapi::LOCK_NB {
        uapi::LOCK_SH => LockKind::Shared,
        uapi::LOCK_EX => LockKind::Exclusive,
        uapi::LOCK_UN => LockKind::Unlock,
        _ => return Flow::done(Err(Errno::EINVAL)),
    };
    let file = match cx.file(args.i32(0)) {
        Ok(file) if !file.flags().contains(OpenFlags::PATH) => file,
        _ => return Flow::done(Err(Errno::EBADF)),
    };
    let wait = operation & uapi::LOCK_NB == 0;
    Flow::wait(async move {
        let metadata = file.inode().metadata().await?;
        let table = cx.kernel().ipc.locks.clone();
        let owner = description_owner(&table, &file);
        let inode = (metadata.dev, metadata.ino);
        // A conversion is not atomic: the old lock goes first (flock(2)).
        if kind != LockKind::Unlock {
            let held = Held { owner, range: Range::WHOLE, kind, pid: cx.task.tgid() };
            if table.conflict(Family::Flock, inode, held).is_some() {
                let _ = table.set(Family::Flock, inode, Held { kind: LockKind::Unlock, ..held });
            }
        }
        let wanted = Held { owner, range: Range::WHOLE, kind, pid: cx.task.tgid() };
        take(cx, &table, Family::Flock, inode, wanted, wait).await
    })
}
