//! /proc/PID/mem: a process's memory as a file.

use std::any::Any;
use std::sync::{Arc, Weak};

use super::Subject;
use crate::Errno;
use crate::fs::pseudo::Identity;
use crate::fs::{File, FileKind, FileOps, Inode, Metadata, OpenFlags, SetAttr, Timestamp, WriteAt, Written};
use crate::mm::{Mm, Sink, Source};
use crate::step::Step;
use crate::task::Cx;

/// Bytes copied at a time.
const PIECE: usize = 64 << 10;

pub(super) fn file(subject: &Subject) -> Arc<dyn Inode> {
    Arc::new(MemInode { identity: subject.identity(0o600, "mem"), subject: subject.clone() })
}

struct MemInode {
    identity: Identity,
    subject: Subject,
}

impl Inode for MemInode {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(self.identity.metadata(FileKind::Regular, Timestamp::default()))
    }

    fn set_attr(&self, _: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::err(Errno::EPERM)
    }

    /// Whoever may look into the task may write, too. The file is the memory it has now, also after an exec.
    fn open<'a>(self: Arc<Self>, cx: &'a Cx, _: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::Ready((|| {
            let task = self.subject.may_inspect(&cx.task)?;
            let mm = task.shared.read().as_ref().map(|shared| shared.mm.clone());
            let open: Arc<dyn FileOps> = Arc::new(OpenMem { mm: Arc::downgrade(&mm.ok_or(Errno::ESRCH)?) });
            Ok(open)
        })())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenMem {
    /// It lives no longer for being open; then there is nothing in it.
    mm: Weak<Mm>,
}

impl FileOps for OpenMem {
    fn read<'a>(&'a self, _: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let Some(mm) = self.mm.upgrade() else { return Step::ok(0) };
        let mut buffer = vec![0; into.remaining().min(PIECE)];
        Step::Ready(match mm.read_forced(offset, &mut buffer) {
            Ok(n) => into.put(buffer.get(..n).unwrap_or_default()),
            Err(_) => Err(Errno::EIO),
        })
    }

    fn write<'a>(&'a self, _: &'a File, at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        let Some(mm) = self.mm.upgrade() else { return Step::ok(Written { bytes: 0, end: 0 }) };
        let WriteAt::Offset(offset) = at else { return Step::err(Errno::EIO) };
        let mut buffer = vec![0; from.remaining().min(PIECE)];
        Step::Ready(from.take(&mut buffer).and_then(|n| {
            let bytes = buffer.get(..n).unwrap_or_default();
            let done = mm.write_forced(offset, bytes).map_err(|_| Errno::EIO)?;
            Ok(Written { bytes: done, end: offset.saturating_add(done as u64) })
        }))
    }

    fn seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
