//! Shared memory segments (`shmget(2)`, `shmop(2)`, `shmctl(2)`; ipc/shm.c).
//!
//! A segment's bytes are a nameless tmpfs file of the container's memory file; an attachment is a shared mapping of it. A segment that was removed lives
//! until its last attachment goes.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::ids::{Found, Ids, NextId};
use super::{Mode, Perm, Wanted, now_sec};
use crate::Errno;
use crate::abi::page_up;
use crate::fs::tmpfs::{self, TmpFs};
use crate::fs::{File, FileKind, FileOps, Inode, NewInode, OpenFlags, Origin, SetAttr, next_device};
use crate::ipc::limits::IpcLimits;
use crate::kernel::Container;
use crate::mm::{Mappable, MemoryFile, VmaInfo};
use crate::step::Step;
use crate::task::{Cx, Tid};

/// Largest segment, and most bytes (here: pages) of all, as Linux's defaults.
pub const SHMMAX: u64 = u64::MAX - (1 << 24);
pub const SHMALL: u64 = u64::MAX - (1 << 24);
/// Most segments.
pub const SHMMNI: usize = 4096;
/// In a segment's mode: it goes with its last attachment; it is locked in memory.
pub const SHM_DEST: Mode = 0o1000;
pub const SHM_LOCKED: Mode = 0o2000;
/// Bytes of a new segment that get their place at once; of a larger one, as they are touched.
const EAGER_MAX: u64 = 1 << 30;

/// The segments of a namespace.
#[derive(Default)]
pub struct SharedSegments {
    ids: Mutex<Ids<Slot>>,
    pub next_id: NextId,
    pages: Arc<AtomicU64>,
}

/// A place in the table: strong until the segment is removed.
struct Slot {
    kept: Mutex<Option<Arc<Segment>>>,
    segment: Weak<Segment>,
}

/// What changes of a segment.
#[derive(Debug, Clone, Copy)]
pub struct State {
    pub perm: Perm,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub lpid: Tid,
}

/// A segment.
pub struct Segment {
    pub id: i32,
    /// As asked for, in bytes.
    pub size: u64,
    pub cpid: Tid,
    pub state: Mutex<State>,
    inode: Arc<dyn Inode>,
    data: Arc<dyn FileOps>,
    /// Where all segments' pages are counted.
    pages: Arc<AtomicU64>,
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.pages.fetch_sub(page_up(self.size).unwrap_or(0) >> 12, Ordering::Relaxed);
    }
}

impl Slot {
    fn live(&self) -> Option<Arc<Segment>> {
        self.segment.upgrade()
    }
}

impl SharedSegments {
    /// `shmget`.
    ///
    /// # Errors
    /// As shmget(2).
    pub fn get(&self, cx: &Cx, limits: &IpcLimits, key: i32, size: u64, flags: u32) -> Result<i32, Errno> {
        let creds = cx.creds();
        let mut ids = self.ids.lock();
        collect(&mut ids);
        if let Found::Old(id, slot) = ids.find_key(key, flags)? {
            let segment = slot.live().ok_or(Errno::EINVAL)?;
            if size > segment.size {
                return Err(Errno::EINVAL);
            }
            segment.state.lock().perm.check(&creds, Wanted(flags & 0o777))?;
            return Ok(id);
        }
        if !(1..=limits.shmmax.get()).contains(&size) {
            return Err(Errno::EINVAL);
        }
        let len = page_up(size).ok_or(Errno::ENOSPC)?;
        if len > i64::MAX as u64 {
            return Err(Errno::ENOMEM);
        }
        let total = self.pages.load(Ordering::Relaxed);
        if total.saturating_add(len >> 12) > limits.shmall.get() {
            return Err(Errno::ENOSPC);
        }
        ids.room(limits.shmmni.count())?;
        let (inode, data) = backing(cx, &cx.task.container, size, len, flags & 0o777)?;
        let mut perm = Perm::new(key, flags, &creds);
        let (cpid, ctime) = (cx.task.tgid(), now_sec(cx));
        ids.insert(key, &self.next_id, |id, seq| {
            self.pages.fetch_add(len >> 12, Ordering::Relaxed);
            perm.seq = seq;
            let state = Mutex::new(State { perm, atime: 0, dtime: 0, ctime, lpid: 0 });
            let segment = Arc::new(Segment { id, size, cpid, state, inode, data, pages: self.pages.clone() });
            Arc::new(Slot { segment: Arc::downgrade(&segment), kept: Mutex::new(Some(segment)) })
        })
    }

    /// A segment by id.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn find(&self, id: i32) -> Result<Arc<Segment>, Errno> {
        self.ids.lock().get(id)?.live().ok_or(Errno::EINVAL)
    }

    /// A segment by the index of `SHM_STAT`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn at(&self, index: i32) -> Result<Arc<Segment>, Errno> {
        self.ids.lock().at(index)?.1.live().ok_or(Errno::EINVAL)
    }

    /// `IPC_RMID`: it goes now or with its last attachment.
    pub fn remove(&self, segment: &Segment) {
        let mut ids = self.ids.lock();
        ids.forget_key(segment.id);
        let Ok(slot) = ids.get(segment.id) else { return };
        {
            let mut state = segment.state.lock();
            state.perm.mode |= SHM_DEST;
            state.perm.key = super::IPC_PRIVATE;
        }
        let kept = slot.kept.lock().take();
        drop(ids);
        drop(kept);
    }

    /// How many there are, the largest index, and pages of all.
    pub fn totals(&self) -> (usize, u64, u64) {
        let mut ids = self.ids.lock();
        collect(&mut ids);
        (ids.in_use(), ids.max_index(), self.pages.load(Ordering::Relaxed))
    }

    /// All segments, by index.
    pub fn list(&self) -> Vec<Arc<Segment>> {
        self.ids.lock().iter().filter_map(|(_, slot)| slot.live()).collect()
    }
}

/// Takes out the places of segments that have gone.
fn collect(ids: &mut Ids<Slot>) {
    let dead: Vec<i32> = ids.iter().filter(|(_, slot)| slot.segment.strong_count() == 0).map(|(id, _)| id).collect();
    for id in dead {
        ids.remove(id);
    }
}

/// The file behind a segment of `len` bytes.
fn backing(
    cx: &Cx,
    container: &Container,
    size: u64,
    len: u64,
    mode: Mode,
) -> Result<(Arc<dyn Inode>, Arc<dyn FileOps>), Errno> {
    let options = tmpfs::Options { size: 0, inodes: 0, ..tmpfs::Options::default() };
    let fs = TmpFs::new(container.memory.clone(), cx.kernel().clock.clone(), next_device(), options);
    let creds = cx.creds();
    let new =
        NewInode { kind: FileKind::Regular, permissions: mode, uid: creds.euid, gid: creds.egid, rdev: 0, target: Vec::new() };
    let inode: Arc<dyn Inode> = fs.unnamed(&new)?;
    at_once(inode.set_attr(SetAttr { size: Some(size), ..SetAttr::default() }))?;
    let data = at_once(inode.clone().open(cx, OpenFlags::RDWR))?;
    if len <= EAGER_MAX {
        // Where that fails, pages come as they are touched.
        let _ = at_once(data.allocate(0, 0, size));
    }
    Ok((inode, data))
}

/// tmpfs never waits.
fn at_once<T>(step: Step<'_, Result<T, Errno>>) -> Result<T, Errno> {
    match step {
        Step::Ready(result) => result,
        Step::Wait(_) => Err(Errno::EIO),
    }
}

impl Segment {
    /// The file of a new attachment by `cx`.
    pub fn attach(self: &Arc<Segment>, cx: &Cx, flags: OpenFlags) -> Arc<File> {
        {
            let mut state = self.state.lock();
            (state.atime, state.lpid) = (now_sec(cx), cx.task.tgid());
        }
        let name = format!("/SYSV{:08x} (deleted)", self.state.lock().perm.key);
        let ops = Arc::new(Attachment { segment: self.clone() });
        File::new(ops, Origin::Anonymous { inode: self.inode.clone(), name }, flags)
    }

    /// An attachment was given up by `cx`.
    pub fn detached(&self, cx: &Cx) {
        let mut state = self.state.lock();
        (state.dtime, state.lpid) = (now_sec(cx), cx.task.tgid());
    }

    /// How many mappings of it there are in the container.
    pub fn attachments(&self, memory: &MemoryFile) -> u64 {
        let ours = |vma: &VmaInfo| {
            let segment = vma.file.as_ref().and_then(|(file, _)| segment_of(&*file.file));
            segment.is_some_and(|segment| std::ptr::eq(&**segment, self))
        };
        memory.count_vmas(ours)
    }
}

/// The segment that a mapped file is.
pub fn segment_of(file: &(dyn Any + Send + Sync)) -> Option<&Arc<Segment>> {
    file.downcast_ref::<File>()?.downcast::<Attachment>().map(|attachment| &attachment.segment)
}

/// A mapping's file.
pub struct Attachment {
    segment: Arc<Segment>,
}

impl FileOps for Attachment {
    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        self.segment.data.mappable()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
