//! Inodes of objects without a path: pipes, sockets, eventfds and the like.

use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::dev::device_number;
use super::{File, FileKind, FileOps, Inode, Metadata, OpenFlags, Origin, SetAttr, Timestamp, XattrCall, XattrReply};
use crate::Errno;
use crate::ipc::pipe::Pipe;
use crate::step::Step;
use crate::task::Cx;

/// What kind of object it is; decides its name in /proc/PID/fd, its device number and its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anon {
    /// `pipe:[7]`
    Pipe,
    /// `socket:[7]`
    Socket,
    /// `anon_inode:[eventfd]`
    Object(&'static str),
    /// `/memfd:name (deleted)`
    Memory(String),
}

impl Anon {
    fn kind(&self) -> FileKind {
        match self {
            Anon::Pipe => FileKind::Fifo,
            Anon::Socket => FileKind::Socket,
            Anon::Object(_) | Anon::Memory(_) => FileKind::Regular,
        }
    }

    fn permissions(&self) -> u32 {
        match self {
            Anon::Pipe | Anon::Object(_) => 0o600,
            Anon::Socket | Anon::Memory(_) => 0o777,
        }
    }

    /// Unnamed devices, one for each of Linux's internal mounts.
    fn device_minor(&self) -> u32 {
        match self {
            Anon::Memory(_) => 1,
            Anon::Socket => 8,
            Anon::Pipe => 14,
            Anon::Object(_) => 15,
        }
    }

    fn name(&self, ino: u64) -> String {
        match self {
            Anon::Pipe => format!("pipe:[{ino}]"),
            Anon::Socket => format!("socket:[{ino}]"),
            Anon::Object(what) => format!("anon_inode:[{what}]"),
            Anon::Memory(name) => format!("/memfd:{name} (deleted)"),
        }
    }
}

/// The inode and name of a new anonymous object of the calling task.
pub fn origin(cx: &Cx, what: &Anon) -> Origin {
    let creds = cx.creds();
    let now = cx.kernel().clock.realtime_ns();
    let ino = cx.kernel().ipc.next_ino();
    let inode = AnonInode::new(what, ino, (creds.fsuid, creds.fsgid), now);
    Origin::Anonymous { inode, name: what.name(ino) }
}

/// An open file of a new anonymous object.
pub fn file(cx: &Cx, what: &Anon, ops: Arc<dyn FileOps>, flags: OpenFlags) -> Arc<File> {
    File::new(ops, origin(cx, what), flags)
}

/// The inode number of an anonymous object's file.
pub fn number(file: &File) -> Option<u64> {
    let Origin::Anonymous { inode, .. } = &file.origin else { return None };
    Some(inode.as_any().downcast_ref::<AnonInode>()?.metadata.lock().ino)
}

/// The inode of an anonymous object: attributes only.
pub struct AnonInode {
    /// Of no kind of file, to Linux.
    object: bool,
    metadata: Mutex<Metadata>,
    /// The pipe, to open it once more by /proc/PID/fd.
    pipe: OnceLock<Weak<Pipe>>,
}

impl AnonInode {
    /// An inode owned by `owner` (uid, gid), made at `now_ns` (real time).
    pub fn new(what: &Anon, ino: u64, owner: (u32, u32), now_ns: u64) -> Arc<AnonInode> {
        let now = Timestamp { sec: (now_ns / 1_000_000_000) as i64, nsec: (now_ns % 1_000_000_000) as u32 };
        let metadata = Metadata {
            dev: device_number(0, what.device_minor()),
            ino,
            kind: what.kind(),
            permissions: what.permissions(),
            nlink: if matches!(what, Anon::Memory(_)) { 0 } else { 1 },
            uid: owner.0,
            gid: owner.1,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: 4096,
            accessed: now,
            modified: now,
            changed: now,
            born: Timestamp::default(),
        };
        Arc::new(AnonInode { object: matches!(what, Anon::Object(_)), metadata: Mutex::new(metadata), pipe: OnceLock::new() })
    }

    /// Says which pipe this is the inode of.
    pub fn set_pipe(&self, pipe: &Arc<Pipe>) {
        let _ = self.pipe.set(Arc::downgrade(pipe));
    }

    /// The pipe that this is the inode of.
    pub fn pipe(&self) -> Option<Arc<Pipe>> {
        self.pipe.get()?.upgrade()
    }
}

impl Inode for AnonInode {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(*self.metadata.lock())
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        if change.size.is_some() {
            return Step::err(Errno::EINVAL);
        }
        let mut metadata = self.metadata.lock();
        let now = metadata.changed;
        change.apply(&mut metadata, now);
        Step::ok(())
    }

    /// Opening one again by /proc/PID/fd: pipes have their own way; for others Linux gives `ENXIO`.
    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::err(Errno::ENXIO)
    }

    /// None of them has any, and only what is a file or has no name for its kind is asked this far.
    fn xattr<'a>(&'a self, call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
        match call {
            XattrCall::Get(_) => Step::err(Errno::ENODATA),
            XattrCall::List => Step::ok(Vec::new()),
            XattrCall::Set(..) | XattrCall::Remove(_) => Step::err(if self.object { Errno::EPERM } else { Errno::EOPNOTSUPP }),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
