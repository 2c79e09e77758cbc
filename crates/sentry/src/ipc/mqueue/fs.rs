//! [`MqueueFs`]: the names of a namespace's message queues.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::queue::{Attributes, OpenQueue, Queue};
use crate::Errno;
use crate::fs::{
    DirEntry, File, FileKind, FileOps, FileSystem, Inode, Metadata, NewInode, OpenFlags, SetAttr, StatFs, Timestamp,
    UnlinkKind, next_device,
};
use crate::ipc::limits::IpcLimits;
use crate::step::Step;
use crate::task::Cx;
use crate::time::Clock;

/// `MQUEUE_MAGIC`.
const MAGIC: u64 = 0x1980_0202;
/// Most queues (`fs.mqueue.queues_max`); a new queue's attributes, and the most that can be asked for, as long as no sysctl changes them; the most that can be asked for with
/// `CAP_SYS_RESOURCE`.
pub const QUEUES_MAX: u64 = 256;
pub const DEFAULT: Attributes = Attributes { max_messages: 10, message_size: 8192 };
pub const HARD: Attributes = Attributes { max_messages: 65536, message_size: 16 << 20 };
/// `st_size` of a queue.
const FILE_SIZE: u64 = 80;

/// A namespace's queues by name.
pub struct MqueueFs {
    root: Arc<Root>,
}

struct Root {
    dev: u64,
    clock: Clock,
    limits: Arc<IpcLimits>,
    metadata: Mutex<Metadata>,
    names: Mutex<BTreeMap<Vec<u8>, Arc<QueueInode>>>,
    next_ino: AtomicU64,
    /// Bytes that each user's queues could hold (`RLIMIT_MSGQUEUE`).
    by_user: Arc<Mutex<HashMap<u32, u64>>>,
    total: Arc<AtomicU64>,
}

/// Who makes a queue, and within what.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    /// `RLIMIT_MSGQUEUE`.
    pub bytes_max: u64,
    /// Has `CAP_SYS_RESOURCE`.
    pub privileged: bool,
}

/// A queue's inode.
pub struct QueueInode {
    pub queue: Arc<Queue>,
    clock: Clock,
    metadata: Mutex<Metadata>,
    charged: (u32, u64),
    by_user: Arc<Mutex<HashMap<u32, u64>>>,
}

impl Drop for QueueInode {
    fn drop(&mut self) {
        let mut users = self.by_user.lock();
        if let Some(bytes) = users.get_mut(&self.charged.0) {
            *bytes = bytes.saturating_sub(self.charged.1);
            if *bytes == 0 {
                users.remove(&self.charged.0);
            }
        }
    }
}

fn now(clock: &Clock) -> Timestamp {
    let ns = clock.realtime_ns();
    Timestamp { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
}

fn new_metadata(dev: u64, ino: u64, kind: FileKind, permissions: u32, (uid, gid): (u32, u32), now: Timestamp) -> Metadata {
    let directory = kind == FileKind::Directory;
    Metadata {
        dev,
        ino,
        kind,
        permissions,
        nlink: if directory { 2 } else { 1 },
        uid,
        gid,
        rdev: 0,
        size: if directory { 40 } else { FILE_SIZE },
        blocks: 0,
        block_size: 4096,
        accessed: now,
        modified: now,
        changed: now,
        born: Timestamp::default(),
    }
}

/// `set_attr` of what has no data.
fn change(metadata: &mut Metadata, change: SetAttr, now: Timestamp) -> Result<(), Errno> {
    change.apply(metadata, now);
    metadata.changed = now;
    Ok(())
}

impl MqueueFs {
    pub fn new(clock: Clock, limits: Arc<IpcLimits>) -> Arc<MqueueFs> {
        let dev = next_device();
        let metadata = new_metadata(dev, 1, FileKind::Directory, 0o1777, (0, 0), now(&clock));
        let root = Arc::new(Root {
            dev,
            clock,
            limits,
            metadata: Mutex::new(metadata),
            names: Mutex::default(),
            next_ino: AtomicU64::new(2),
            by_user: Arc::default(),
            total: Arc::default(),
        });
        Arc::new(MqueueFs { root })
    }

    pub fn find(&self, name: &[u8]) -> Option<Arc<QueueInode>> {
        self.root.names.lock().get(name).cloned()
    }

    /// The directory's attributes, for permission checks.
    pub fn directory(&self) -> Metadata {
        *self.root.metadata.lock()
    }

    /// Makes a queue.
    ///
    /// # Errors
    /// `EEXIST`, `ENOSPC`, `EINVAL`, `EMFILE` (the user's bytes).
    pub fn create(
        &self,
        name: &[u8],
        permissions: u32,
        attributes: Option<Attributes>,
        owner: Owner,
    ) -> Result<Arc<QueueInode>, Errno> {
        self.root.make(name, permissions, attributes, owner)
    }

    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        self.root.take(name)
    }
}

impl Root {
    fn make(
        &self,
        name: &[u8],
        permissions: u32,
        attributes: Option<Attributes>,
        owner: Owner,
    ) -> Result<Arc<QueueInode>, Errno> {
        let limits = &self.limits;
        let mut names = self.names.lock();
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if names.len() >= limits.mq_queues.count() && !owner.privileged {
            return Err(Errno::ENOSPC);
        }
        let most = Attributes { max_messages: limits.mq_msg_max.get(), message_size: limits.mq_msgsize_max.get() };
        // As Linux: what is given unasked is never more than may be asked for.
        let wanted = attributes.unwrap_or(Attributes {
            max_messages: limits.mq_msg_default.get().min(most.max_messages),
            message_size: limits.mq_msgsize_default.get().min(most.message_size),
        });
        let most = if owner.privileged { HARD } else { most };
        let within = |value: u64, max: u64| (1..=max).contains(&value);
        if !within(wanted.max_messages, most.max_messages) || !within(wanted.message_size, most.message_size) {
            return Err(Errno::EINVAL);
        }
        // As Linux reckons on 64 bits: a header for each message, a node for each priority that can be in use, and the bytes.
        let bytes = wanted.max_messages * 48 + wanted.max_messages.min(32768) * 48 + wanted.max_messages * wanted.message_size;
        {
            let mut users = self.by_user.lock();
            let used = users.entry(owner.uid).or_default();
            if used.saturating_add(bytes) > owner.bytes_max {
                return Err(Errno::EMFILE);
            }
            *used += bytes;
        }
        let now = now(&self.clock);
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        let inode = Arc::new(QueueInode {
            queue: Queue::new(wanted, self.total.clone()),
            clock: self.clock.clone(),
            metadata: Mutex::new(new_metadata(self.dev, ino, FileKind::Regular, permissions, (owner.uid, owner.gid), now)),
            charged: (owner.uid, bytes),
            by_user: self.by_user.clone(),
        });
        names.insert(name.to_vec(), inode.clone());
        self.touched(now);
        Ok(inode)
    }

    fn take(&self, name: &[u8]) -> Result<(), Errno> {
        let gone = self.names.lock().remove(name).ok_or(Errno::ENOENT)?;
        gone.metadata.lock().nlink = 0;
        self.touched(now(&self.clock));
        Ok(())
    }

    fn touched(&self, now: Timestamp) {
        let mut metadata = self.metadata.lock();
        (metadata.modified, metadata.changed, metadata.accessed) = (now, now, now);
    }
}

impl FileSystem for MqueueFs {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        Step::ok(StatFs { magic: MAGIC, block_size: 4096, name_max: 255, fsid: self.root.dev, ..StatFs::default() })
    }

    /// `mq_open` and `mq_unlink` change it behind the VFS.
    fn name_ttl_ns(&self) -> u64 {
        0
    }
}

impl Inode for Root {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(*self.metadata.lock())
    }

    fn set_attr(&self, wanted: SetAttr) -> Step<'_, Result<(), Errno>> {
        if wanted.size.is_some() {
            return Step::err(Errno::EISDIR);
        }
        Step::Ready(change(&mut self.metadata.lock(), wanted, now(&self.clock)))
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        let found = self.names.lock().get(name).cloned();
        Step::Ready(found.map(|inode| inode as Arc<dyn Inode>).ok_or(Errno::ENOENT))
    }

    fn create<'a>(&'a self, name: &'a [u8], new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        if new.kind != FileKind::Regular {
            return Step::err(Errno::EPERM);
        }
        // Not by `mq_open`: the user's limit is not known here, the default's size is small.
        let owner = Owner { uid: new.uid, gid: new.gid, bytes_max: 819_200, privileged: false };
        Step::Ready(self.make(name, new.permissions, None, owner).map(|inode| inode as Arc<dyn Inode>))
    }

    fn unlink<'a>(&'a self, name: &'a [u8], _kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        Step::Ready(self.take(name))
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::ok(Arc::new(OpenDir(self)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Inode for QueueInode {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(*self.metadata.lock())
    }

    /// `O_TRUNC` is allowed and does nothing.
    fn set_attr(&self, wanted: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::Ready(change(&mut self.metadata.lock(), wanted, now(&self.clock)))
    }

    fn open<'a>(self: Arc<Self>, cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::ok(Arc::new(OpenQueue { queue: self.queue.clone(), opener: cx.task.tgid() }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenDir(Arc<Root>);

impl FileOps for OpenDir {
    fn seekable(&self) -> bool {
        true
    }

    /// Positions 0 and 1 are `.` and `..`; a queue's is its inode number.
    fn read_dir<'a>(
        &'a self,
        _file: &'a File,
        from: u64,
        emit: &'a mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send),
    ) -> Step<'a, Result<(), Errno>> {
        let mut queues: Vec<(u64, Vec<u8>)> =
            self.0.names.lock().iter().map(|(name, inode)| (inode.metadata.lock().ino, name.clone())).collect();
        queues.sort_unstable();
        for (at, name) in [b".".as_slice(), b".."].into_iter().enumerate().skip(usize::try_from(from).unwrap_or(2).min(2)) {
            if !emit(DirEntry { ino: 1, kind: FileKind::Directory, name, next: at as u64 + 1 }) {
                return Step::ok(());
            }
        }
        for (ino, name) in queues.iter().filter(|(ino, _)| *ino >= from.max(2)) {
            if !emit(DirEntry { ino: *ino, kind: FileKind::Regular, name, next: ino + 1 }) {
                break;
            }
        }
        Step::ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
