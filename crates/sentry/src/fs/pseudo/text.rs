//! [`TextFile`]: a file whose content is made when it is first read, and which may take writes.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Identity;
use crate::Errno;
use crate::fs::{File, FileKind, FileOps, Inode, Metadata, OpenFlags, SetAttr, Timestamp, WriteAt, Written};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::task::Cx;

pub type Make = dyn Fn() -> Result<Vec<u8>, Errno> + Send + Sync;

/// Takes what was written in one call.
pub type TextWrite = dyn Fn(&[u8]) -> Result<(), Errno> + Send + Sync;

/// Longest write that is looked at, in bytes.
const WRITE_MAX: usize = 4096;

/// A made-up file.
pub struct TextFile {
    identity: Identity,
    make: Arc<Make>,
    write: Option<Arc<TextWrite>>,
}

impl TextFile {
    pub fn make(
        identity: Identity,
        make: impl Fn() -> Result<Vec<u8>, Errno> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(TextFile { identity, make: Arc::new(make), write: None })
    }

    /// A file that takes writes too.
    pub fn writable(
        identity: Identity,
        make: impl Fn() -> Result<Vec<u8>, Errno> + Send + Sync + 'static,
        write: impl Fn(&[u8]) -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(TextFile { identity, make: Arc::new(make), write: Some(Arc::new(write)) })
    }
}

impl Inode for TextFile {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(self.identity.metadata(FileKind::Regular, Timestamp::default()))
    }

    /// `O_TRUNC` is allowed on writable ones and changes nothing.
    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        let only_size = SetAttr { size: None, modified: None, ..change } == SetAttr::default();
        Step::Ready(if only_size && self.write.is_some() { Ok(()) } else { Err(Errno::EPERM) })
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        if flags.writable() && self.write.is_none() {
            return Step::err(Errno::EACCES);
        }
        let open = OpenText { make: self.make.clone(), write: self.write.clone(), content: Mutex::new(None) };
        Step::ok(Arc::new(open))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenText {
    make: Arc<Make>,
    write: Option<Arc<TextWrite>>,
    content: Mutex<Option<Vec<u8>>>,
}

impl FileOps for OpenText {
    fn read<'a>(&'a self, _file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let mut content = self.content.lock();
        if offset == 0 || content.is_none() {
            match (self.make)() {
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
        let Some(write) = &self.write else { return Step::err(Errno::EINVAL) };
        let mut bytes = vec![0; from.remaining().min(WRITE_MAX)];
        let start = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::Append => 0,
        };
        Step::Ready(from.take(&mut bytes).and_then(|n| {
            bytes.truncate(n);
            write(&bytes)?;
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
    pub make: Arc<Make>,
    pub write: Option<Arc<TextWrite>>,
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
            let open: Arc<dyn FileOps> = Arc::new(OpenText { make: opened.make, write: opened.write, content: Mutex::new(None) });
            open
        }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
