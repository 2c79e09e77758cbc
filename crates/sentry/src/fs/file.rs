//! [`File`]: an open file description, and [`FileOps`]: what can be done with one.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::dentry::User;
use super::fsnotify::FsEvent;
use super::{FileKind, Inode, Path};
use crate::Errno;
use crate::mm::{Mappable, Sink, Source};
use crate::step::Step;
use crate::syscalls::Fail;
use crate::task::Cx;
use crate::wait::{PollEvents, Registration, WaitQueue};

bitflags::bitflags! {
    /// `O_*` flags of an open file, x86-64 values.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        const WRONLY = 0o1;
        const RDWR = 0o2;
        const CREAT = 0o100;
        const EXCL = 0o200;
        const NOCTTY = 0o400;
        const TRUNC = 0o1000;
        const APPEND = 0o2000;
        const NONBLOCK = 0o4000;
        const DSYNC = 0o10000;
        const ASYNC = 0o20000;
        const DIRECT = 0o40000;
        const LARGEFILE = 0o100000;
        const DIRECTORY = 0o200000;
        const NOFOLLOW = 0o400000;
        const NOATIME = 0o1000000;
        const CLOEXEC = 0o2000000;
        const SYNC = 0o4000000;
        const PATH = 0o10000000;
        const TMPFILE = 0o20000000;
        const _ = !0;
    }
}

impl OpenFlags {
    pub fn readable(self) -> bool {
        // 3 is neither: only for ioctl.
        !self.contains(OpenFlags::PATH) && matches!(self.bits() & 3, 0 | 2)
    }

    pub fn writable(self) -> bool {
        !self.contains(OpenFlags::PATH) && matches!(self.bits() & 3, 1 | 2)
    }
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteAt {
    Offset(u64),
    /// At the end, atomically.
    Append,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub bytes: usize,
    /// The file position after it.
    pub end: u64,
}

/// `lseek`'s origins beyond the three that the VFS computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    Data,
    Hole,
}

/// What a task is about to do with a file's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
    /// A change of a terminal's settings.
    Control,
}

impl Direction {
    /// The events that a task waits for before it goes on.
    pub fn events(self) -> PollEvents {
        match self {
            Direction::Read => PollEvents::IN,
            Direction::Write | Direction::Control => PollEvents::OUT,
        }
    }
}

/// How long a blocking read or write waits for the file to become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// None: for ever.
    pub timeout_ns: Option<u64>,
    /// What it gives then.
    pub then: Expired,
}

/// The result of a read or write that ran out of [`Patience`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expired {
    /// `EAGAIN` (socket time-outs).
    #[default]
    Again,
    /// 0 bytes (terminals' `VTIME`).
    Nothing,
}

/// One directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry<'a> {
    pub ino: u64,
    pub kind: super::FileKind,
    pub name: &'a [u8],
    /// The position after this entry.
    pub next: u64,
}

/// An open file's operations. All are non-blocking: what would wait gives `EAGAIN` and an event on the wait queue later. (A `Step` that waits
/// is waiting for the host, not for other tasks. It has done nothing before it is first polled: callers may drop it and call again. A read may
/// have put bytes by then, so it is called again with a new [`Sink`].)
pub trait FileOps: Send + Sync + Any {
    /// Reads at `offset` (ignored by streams).
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, _into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::err(Errno::EINVAL)
    }

    fn write<'a>(&'a self, _file: &'a File, _at: WriteAt, _from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        Step::err(Errno::EINVAL)
    }

    /// What is ready now. Files without a wait queue are always ready.
    fn poll(&self, _file: &File) -> PollEvents {
        PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Asked before each read or write: job control of terminals.
    ///
    /// # Errors
    /// What the read or write gives instead.
    fn admit(&self, _file: &File, _cx: &Cx, _direction: Direction) -> Result<(), Fail> {
        Ok(())
    }

    /// How long a blocking read or write waits.
    fn patience(&self, _direction: Direction) -> Patience {
        Patience::default()
    }

    /// `ENOTTY` for what is not known.
    fn ioctl<'a>(&'a self, _file: &'a File, _cx: &'a mut Cx, _command: u32, _argument: u64) -> Step<'a, Result<u64, Errno>> {
        Step::err(Errno::ENOTTY)
    }

    /// Whether there is a position (regular files, directories); otherwise `lseek` and `pread` give `ESPIPE`.
    fn seekable(&self) -> bool {
        false
    }

    /// `SEEK_DATA` and `SEEK_HOLE`; `SEEK_END` takes the inode's size.
    fn seek_data<'a>(&'a self, _offset: u64, _whence: Whence) -> Step<'a, Result<u64, Errno>> {
        Step::err(Errno::EINVAL)
    }

    /// Entries from position `from` (0 is the start), until `emit` says false.
    fn read_dir<'a>(
        &'a self,
        _file: &'a File,
        _from: u64,
        _emit: &'a mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send),
    ) -> Step<'a, Result<(), Errno>> {
        Step::err(Errno::ENOTDIR)
    }

    /// What `mmap` maps.
    ///
    /// # Errors
    /// `ENODEV`.
    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Err(Errno::ENODEV)
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        Step::err(Errno::EINVAL)
    }

    /// `fallocate` with mode bits.
    fn allocate(&self, _mode: u32, _offset: u64, _len: u64) -> Step<'_, Result<(), Errno>> {
        Step::err(Errno::EOPNOTSUPP)
    }

    /// Called once, when the last reference to the description is gone.
    fn release(&self, _file: &File) {}

    /// For callers that need the object itself (epoll, sockets, terminals).
    fn as_any(&self) -> &dyn Any;
}

/// An open file description: what descriptors refer to.
pub struct File {
    pub ops: Arc<dyn FileOps>,
    /// Where it was opened; anonymous objects have a name like `pipe:[7]` instead.
    pub origin: Origin,
    flags: AtomicU32,
    /// The file position. Held over a read or write that uses it only while no host is awaited; those that wait take the turn.
    pub position: Mutex<u64>,
    /// Whether a read or write at the position awaits the host.
    turn_taken: AtomicBool,
    turn: WaitQueue,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
    owner: Mutex<SignalOwner>,
    /// Keeps `O_ASYNC`'s watcher on the file's wait queue, and that of urgent data.
    async_io: Mutex<[Option<Registration>; 2]>,
    /// `F_SET_RW_HINT`.
    rw_hint: AtomicU32,
    /// Its `open` made the file.
    created: AtomicBool,
    /// A process runs it: nobody writes to it meanwhile.
    running: AtomicBool,
}

/// The identity of an open file description while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(usize);

/// Somebody to be told when a description is closed for good (epoll instances, lock tables).
pub trait Watcher: Send + Sync {
    fn file_closed(&self, file: FileId);
}

/// Who is signalled, how, and by whose right: `F_SETOWN_EX`, `F_SETSIG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalOwner {
    /// `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub kind: i32,
    pub id: i32,
    pub signal: i32,
    /// Of the process that set it.
    pub uid: u32,
    pub euid: u32,
}

impl SignalOwner {
    /// `F_OWNER_TID`, `F_OWNER_PID`, `F_OWNER_PGRP`.
    pub const TID: i32 = 0;
    pub const PROCESS: i32 = 1;
    pub const GROUP: i32 = 2;
}

/// What an open file is called.
pub enum Origin {
    Path(Path),
    /// An object without a path: its inode (for `fstat`) and its name (for /proc/PID/fd).
    Anonymous {
        inode: Arc<dyn Inode>,
        name: String,
    },
}

impl File {
    pub fn new(ops: Arc<dyn FileOps>, origin: Origin, flags: OpenFlags) -> Arc<File> {
        if let Some(path) = written(&origin, flags) {
            path.mount.add_writer();
            path.dentry.count(User::Writer, 1);
        }
        Arc::new(File {
            ops,
            origin,
            flags: AtomicU32::new(flags.bits()),
            position: Mutex::new(0),
            turn_taken: AtomicBool::new(false),
            turn: WaitQueue::new(),
            watchers: Mutex::new(Vec::new()),
            owner: Mutex::new(SignalOwner::default()),
            async_io: Mutex::default(),
            rw_hint: AtomicU32::new(0),
            created: AtomicBool::new(false),
            running: AtomicBool::new(false),
        })
    }

    /// This description's identity.
    pub fn id(&self) -> FileId {
        FileId(std::ptr::from_ref(self).addr())
    }

    /// Tells `watcher` when the description is closed for good.
    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&watcher));
        watchers.push(watcher);
    }

    /// Who gets this file's signals.
    pub fn owner(&self) -> SignalOwner {
        *self.owner.lock()
    }

    pub fn set_owner(&self, owner: SignalOwner) {
        *self.owner.lock() = owner;
    }

    /// Exchanges what `O_ASYNC` keeps.
    pub fn set_async(&self, registration: Option<Registration>) -> Option<Registration> {
        let [readiness, _] = &mut *self.async_io.lock();
        std::mem::replace(readiness, registration)
    }

    /// Exchanges what watches for urgent data.
    pub fn set_urgent(&self, registration: Option<Registration>) -> Option<Registration> {
        let [_, urgent] = &mut *self.async_io.lock();
        std::mem::replace(urgent, registration)
    }

    /// A process runs it from now on, as long as the description lives.
    pub fn begin_running(&self) {
        if let Origin::Path(path) = &self.origin
            && !self.running.swap(true, Ordering::Relaxed)
        {
            path.dentry.count(User::Runner, 1);
        }
    }

    /// Whether the open that made this description also made the file (`F_CREATED_QUERY`).
    pub fn created(&self) -> bool {
        self.created.load(Ordering::Relaxed)
    }

    pub fn set_created(&self) {
        self.created.store(true, Ordering::Relaxed);
    }

    pub fn rw_hint(&self) -> u32 {
        self.rw_hint.load(Ordering::Relaxed)
    }

    pub fn set_rw_hint(&self, hint: u32) {
        self.rw_hint.store(hint, Ordering::Relaxed);
    }

    /// Whether the position belongs to an operation that awaits the host. Look at it with the position locked.
    pub fn turn_taken(&self) -> bool {
        self.turn_taken.load(Ordering::Relaxed)
    }

    /// Takes the position for an operation that awaits the host; None while another has it. It is given back on drop.
    pub fn take_turn(&self) -> Option<Turn<'_>> {
        let _position = self.position.lock();
        (!self.turn_taken.swap(true, Ordering::Relaxed)).then_some(Turn(self))
    }

    /// Woken when the turn is given back.
    pub fn turn_queue(&self) -> &WaitQueue {
        &self.turn
    }

    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Replaces the flags (`fcntl F_SETFL`; the caller keeps the access mode).
    pub fn set_flags(&self, flags: OpenFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// The inode behind it.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        match &self.origin {
            Origin::Path(path) => path.inode(),
            Origin::Anonymous { inode, .. } => inode,
        }
    }

    /// Tells those who watch the file what happened to it.
    #[inline]
    pub fn notify(&self, event: FsEvent) {
        if let Origin::Path(path) = &self.origin {
            path.dentry.notify(event);
        }
    }

    /// Its name as seen from `root`, or what an object without a path is called.
    pub fn name_from(&self, root: &Path) -> Vec<u8> {
        match &self.origin {
            Origin::Path(path) => path.name_from(root),
            Origin::Anonymous { name, .. } => name.clone().into_bytes(),
        }
    }

    /// The operations as type `T`.
    pub fn downcast<T: FileOps>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }
}

/// The right to use the file position, see [`File::take_turn`].
pub struct Turn<'a>(&'a File);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        {
            let _position = self.0.position.lock();
            self.0.turn_taken.store(false, Ordering::Relaxed);
        }
        self.0.turn.wake(PollEvents::IN);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let flags = self.flags();
        if !flags.contains(OpenFlags::PATH) {
            self.notify(if flags.writable() { FsEvent::CLOSE_WRITE } else { FsEvent::CLOSE_NOWRITE });
        }
        let id = self.id();
        for watcher in std::mem::take(self.watchers.get_mut()) {
            if let Some(watcher) = watcher.upgrade() {
                watcher.file_closed(id);
            }
        }
        let ops = self.ops.clone();
        ops.release(self);
        if let Some(path) = written(&self.origin, self.flags()) {
            path.mount.remove_writer();
            path.dentry.count(User::Writer, -1);
        }
        if let (true, Origin::Path(path)) = (*self.running.get_mut(), &self.origin) {
            path.dentry.count(User::Runner, -1);
        }
    }
}

/// The place of a regular file that may be written through this description: its mount must not become read-only meanwhile. (`F_SETFL` keeps the access
/// mode.)
fn written(origin: &Origin, flags: OpenFlags) -> Option<&Path> {
    match origin {
        Origin::Path(path) if flags.writable() && path.dentry.kind() == FileKind::Regular => Some(path),
        _ => None,
    }
}
