//! [`FileNode`]: a group's file.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Shared;
use super::control::{Ask, File};
use super::dir::{metadata, set_owner};
use crate::Errno;
use crate::cgroup::Cgroup;
use crate::fs::{self, FileKind, FileOps, Inode, Metadata, OpenFlags, SetAttr, WriteAt, Written};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::task::{Cx, Task};
use crate::wait::{PollEvents, WaitQueue};

pub(super) struct FileNode {
    pub shared: Arc<Shared>,
    pub group: Arc<Cgroup>,
    pub file: &'static File,
    pub ino: u64,
}

impl FileNode {
    /// Whoever made the group owns its files.
    fn default_owner(&self) -> (u32, u32, u32) {
        let settings = self.group.settings.lock();
        let (uid, gid, _) = settings.owners.get("").copied().unwrap_or((0, 0, 0));
        (uid, gid, self.file.permissions(&self.group))
    }
}

impl Inode for FileNode {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        let default = self.default_owner();
        let owner = self.group.settings.lock().owners.get(self.file.name).copied().unwrap_or(default);
        Step::ok(metadata(&self.shared, &self.group, FileKind::Regular, self.ino, owner))
    }

    fn kind(&self) -> FileKind {
        FileKind::Regular
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::Ready(set_owner(&self.group, self.file.name, self.default_owner(), change))
    }

    fn open<'a>(self: Arc<Self>, cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        if self.group.is_removed() {
            return Step::err(Errno::ENODEV);
        }
        let seen = AtomicU64::new(self.group.event());
        let opener = Arc::downgrade(&cx.task);
        Step::ok(Arc::new(Open { node: self, opener, seen, text: Mutex::default() }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Open {
    node: Arc<FileNode>,
    opener: Weak<Task>,
    /// The event that the last read has shown.
    seen: AtomicU64,
    text: Mutex<Option<Vec<u8>>>,
}

impl Open {
    fn ask(&self) -> Result<Ask<'_>, Errno> {
        let FileNode { shared, group, .. } = &*self.node;
        if group.is_removed() {
            return Err(Errno::ENODEV);
        }
        Ok(Ask { container: &shared.container, group, opener: self.opener.upgrade() })
    }
}

/// Longest write that is looked at.
const WRITE_MAX: usize = 4096;

impl FileOps for Open {
    fn read<'a>(&'a self, _file: &'a fs::File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let Some(read) = self.node.file.read else { return Step::err(Errno::EINVAL) };
        let mut text = self.text.lock();
        if offset == 0 || text.is_none() {
            self.seen.store(self.node.group.event(), Ordering::Release);
            match self.ask().and_then(|ask| read(&ask)) {
                Ok(made) => *text = Some(made.into_bytes()),
                Err(errno) => return Step::err(errno),
            }
        }
        let all = text.as_deref().unwrap_or_default();
        let rest = usize::try_from(offset).ok().and_then(|from| all.get(from..)).unwrap_or_default();
        let n = rest.len().min(into.remaining());
        Step::Ready(into.put(rest.get(..n).unwrap_or_default()))
    }

    fn write<'a>(&'a self, _file: &'a fs::File, at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        let Some(write) = self.node.file.write else { return Step::err(Errno::EINVAL) };
        let mut bytes = vec![0; from.remaining().min(WRITE_MAX)];
        let start = if let WriteAt::Offset(offset) = at { offset } else { 0 };
        Step::Ready(from.take(&mut bytes).and_then(|n| {
            bytes.truncate(n);
            let text = std::str::from_utf8(&bytes).map_err(|_| Errno::EINVAL)?;
            write(&self.ask()?, text.trim())?;
            Ok(Written { bytes: n, end: start.saturating_add(n as u64) })
        }))
    }

    /// `cgroup.events` tells of changes that were not read yet.
    fn poll(&self, _file: &fs::File) -> PollEvents {
        let always = PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM;
        let changed = self.node.file.name == "cgroup.events" && self.seen.load(Ordering::Acquire) != self.node.group.event();
        if changed { always | PollEvents::ERR | PollEvents::PRI } else { always }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.node.group.queue())
    }

    fn seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
