//! [`TextFile`]: a file whose content is made when it is first read, and which may take writes.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Identity;
use crate::Errno;
use crate::fs::{File, FileKind, FileOps, Inode, Metadata, OpenFlags, SetAttr, Timestamp, WriteAt, Written};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::task::{Cx, Task};

/// Makes the content, for the task that opened the file.
type Make = dyn Fn(&Arc<Task>) -> Result<Vec<u8>, Errno> + Send + Sync;

/// Takes what the task that opened the file has written in one call.
pub type TextWrite = dyn Fn(&Arc<Task>, &[u8]) -> Result<(), Errno> + Send + Sync;

/// Decides at open.
type Guard = dyn Fn(&Cx) -> Result<(), Errno> + Send + Sync;

/// Longest write that is looked at, in bytes.
const WRITE_MAX: usize = 4096;

/// A made-up file.
pub struct TextFile {
    identity: Identity,
    make: Arc<Make>,
    write: TakesWrites,
    guard: Option<Box<Guard>>,
}

/// What a file does with writes.
#[derive(Clone)]
pub enum TakesWrites {
    /// Opening it for writing fails, even for root (sysctls, sysfs).
    NotOpened,
    /// Writing fails with this.
    Refused(Errno),
    Taken(Arc<TextWrite>),
}

impl TextFile {
    /// A file that is the same for everyone.
    pub fn make(identity: Identity, make: impl Fn() -> Result<Vec<u8>, Errno> + Send + Sync + 'static) -> Arc<dyn Inode> {
        TextFile::for_opener(identity, move |_| make()).into_inode()
    }

    /// A file that takes writes too.
    pub fn writable(
        identity: Identity,
        make: impl Fn() -> Result<Vec<u8>, Errno> + Send + Sync + 'static,
        write: impl Fn(&[u8]) -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        let taken = TakesWrites::Taken(Arc::new(move |_, bytes| write(bytes)));
        TextFile::for_opener(identity, move |_| make()).writes(taken).into_inode()
    }

    /// A file that depends on who opens it. Writing it gives `EINVAL`.
    pub fn for_opener(
        identity: Identity,
        make: impl Fn(&Arc<Task>) -> Result<Vec<u8>, Errno> + Send + Sync + 'static,
    ) -> TextFile {
        TextFile { identity, make: Arc::new(make), write: TakesWrites::Refused(Errno::EINVAL), guard: None }
    }

    /// What it does with writes.
    pub fn writes(self, write: TakesWrites) -> TextFile {
        TextFile { write, ..self }
    }

    /// Who may open it, beside those whom its permissions let.
    pub fn guarded(self, guard: impl Fn(&Cx) -> Result<(), Errno> + Send + Sync + 'static) -> TextFile {
        TextFile { guard: Some(Box::new(guard)), ..self }
    }

    pub fn into_inode(self) -> Arc<dyn Inode> {
        Arc::new(self)
    }
}

impl Inode for TextFile {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(self.identity.metadata(FileKind::Regular, Timestamp::default()))
    }

    /// `O_TRUNC` is allowed on writable ones and changes nothing.
    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        let only_size = SetAttr { size: None, modified: None, ..change } == SetAttr::default();
        let writable = matches!(self.write, TakesWrites::Taken(_));
        Step::Ready(if only_size && writable { Ok(()) } else { Err(Errno::EPERM) })
    }

    fn open<'a>(self: Arc<Self>, cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        if flags.writable() && matches!(self.write, TakesWrites::NotOpened) {
            return Step::err(Errno::EACCES);
        }
        if let Some(guard) = &self.guard
            && let Err(errno) = guard(cx)
        {
            return Step::err(errno);
        }
        let opener = cx.task.clone();
        Step::ok(Arc::new(OpenText { make: self.make.clone(), write: self.write.clone(), opener, content: Mutex::new(None) }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenText {
    make: Arc<Make>,
    write: TakesWrites,
    opener: Arc<Task>,
    content: Mutex<Option<Vec<u8>>>,
}

impl FileOps for OpenText {
    fn read<'a>(&'a self, _file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let mut content = self.content.lock();
        if offset == 0 || content.is_none() {
            match (self.make)(&self.opener) {
                Ok(made) => *content = Some(made),
                Err(errno) => return Step::err(errno),
            }
        }
        let all = content.as_deref().unwrap_or_default();
        let rest = usize::try_from(offset).ok().and_then(|from| all.get(from..)).unwrap_or_default();
        let n = rest.len().min(into.remaining());
        Step::Ready(into.put(rest.get(..n).unwrap_or_default()))
    }

    fn write<'a>(&'a self, _file: &'a File, at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        let write = match &self.write {
            TakesWrites::Taken(write) => write,
            TakesWrites::Refused(errno) => return Step::err(*errno),
            TakesWrites::NotOpened => return Step::err(Errno::EINVAL),
        };
        let mut bytes = vec![0; from.remaining().min(WRITE_MAX)];
        let start = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::Append => 0,
        };
        Step::Ready(from.take(&mut bytes).and_then(|n| {
            bytes.truncate(n);
            write(&self.opener, &bytes)?;
            Ok(Written { bytes: n, end: start.saturating_add(n as u64) })
        }))
    }

    fn seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What reads and takes an open file: made when it is opened, for whoever opens it.
pub struct Opened {
    pub make: Arc<dyn Fn() -> Result<Vec<u8>, Errno> + Send + Sync>,
    pub write: Option<Arc<dyn Fn(&[u8]) -> Result<(), Errno> + Send + Sync>>,
}

/// A made-up file whose content depends on who has opened it.
pub struct OpenerFile {
    identity: Identity,
    open: Box<dyn Fn(&Cx) -> Result<Opened, Errno> + Send + Sync>,
}

impl OpenerFile {
    pub fn make(identity: Identity, open: impl Fn(&Cx) -> Result<Opened, Errno> + Send + Sync + 'static) -> Arc<dyn Inode> {
        Arc::new(OpenerFile { identity, open: Box::new(open) })
    }
}

impl Inode for OpenerFile {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(self.identity.metadata(FileKind::Regular, Timestamp::default()))
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        let only_size = SetAttr { size: None, modified: None, ..change } == SetAttr::default();
        Step::Ready(if only_size { Ok(()) } else { Err(Errno::EPERM) })
    }

    fn open<'a>(self: Arc<Self>, cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::Ready((self.open)(cx).map(|opened| {
            let Opened { make, write } = opened;
            let write = match write {
                Some(write) => TakesWrites::Taken(Arc::new(move |_: &Arc<Task>, bytes: &[u8]| write(bytes)) as Arc<TextWrite>),
                None => TakesWrites::Refused(Errno::EINVAL),
            };
            let make: Arc<Make> = Arc::new(move |_: &Arc<Task>| make());
            let open: Arc<dyn FileOps> = Arc::new(OpenText { make, write, opener: cx.task.clone(), content: Mutex::new(None) });
            open
        }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
