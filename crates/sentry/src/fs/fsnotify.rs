//! Changes of files, told to those who watch them (Linux's fs/notify).
//!
//! A [`Mark`] is one listener's interest in one inode. The marks of a file system are kept with its names ([`Marks`], in the dentry cache), so a dentry
//! finds them without asking anybody; while there are none, a hook costs one load. The VFS fires one hook for each change:
//! [`Dentry::notify`] for what happens to a file (its directory's watchers hear of it by name), [`Dentry::notify_name`] for names,
//! [`Dentry::notify_self`] for what is the inode's alone.
//!
//! Where others than this VFS change files and somebody tells of it ([`Outside`]), he tells of all changes; a hook then only sees to it that those
//! that have been made are told.
//!
//! Locking: the list of marks is a leaf; listeners are called after it is released.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Dentry, Inode};

bitflags::bitflags! {
    /// `IN_*` values: what has happened, and what a watch asks for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct FsEvent: u32 {
        const ACCESS = 0x1;
        const MODIFY = 0x2;
        const ATTRIB = 0x4;
        const CLOSE_WRITE = 0x8;
        const CLOSE_NOWRITE = 0x10;
        const OPEN = 0x20;
        const MOVED_FROM = 0x40;
        const MOVED_TO = 0x80;
        const CREATE = 0x100;
        const DELETE = 0x200;
        const DELETE_SELF = 0x400;
        const MOVE_SELF = 0x800;
        const UNMOUNT = 0x2000;
        const Q_OVERFLOW = 0x4000;
        const IGNORED = 0x8000;
        const ONLYDIR = 0x0100_0000;
        const DONT_FOLLOW = 0x0200_0000;
        const EXCL_UNLINK = 0x0400_0000;
        const MASK_CREATE = 0x1000_0000;
        const MASK_ADD = 0x2000_0000;
        const ISDIR = 0x4000_0000;
        const ONESHOT = 0x8000_0000;
        /// What can be asked for.
        const ALL = 0xfff;
        /// What [`Outside`] tells, and the hooks do not.
        const CHANGES = Self::MODIFY.bits() | Self::ATTRIB.bits() | Self::NAMES.bits() | Self::MOVE_SELF.bits();
        /// Names that come and go.
        const NAMES = Self::MOVED_FROM.bits() | Self::MOVED_TO.bits() | Self::CREATE.bits() | Self::DELETE.bits();
        /// What it may tell: others' closes too.
        const HOST = Self::CHANGES.bits() | Self::CLOSE_WRITE.bits();
    }
}

/// Who is told.
pub trait Listener: Send + Sync {
    /// Something happened to the marked inode, or (`name`) to that name in it.
    fn event(&self, mark: &Arc<Mark>, event: FsEvent, cookie: u32, name: Option<&[u8]>);
    /// The inode is gone or not to be reached any more: the mark has been taken off.
    fn ended(&self, mark: &Arc<Mark>, why: FsEvent);
}

/// Somebody who tells of changes to an inode, whoever makes them, as long as he is kept.
pub trait Outside: Send + Sync {
    /// Tells of what has been changed until now ([`Marks::tell_outside`]).
    fn catch_up(&self);
}

/// One listener's interest in an inode.
pub struct Mark {
    /// The listener's name for it.
    pub id: i32,
    inode: Arc<dyn Inode>,
    mask: AtomicU32,
    listener: Weak<dyn Listener>,
    /// The inode has no name any more: it is gone with its last user.
    deleted: AtomicBool,
    outside: Option<Box<dyn Outside>>,
}

impl Mark {
    pub fn mask(&self) -> FsEvent {
        FsEvent::from_bits_retain(self.mask.load(Ordering::Relaxed))
    }

    pub fn set_mask(&self, mask: FsEvent) {
        self.mask.store(mask.bits(), Ordering::Relaxed);
    }

    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// The marked inode's identity.
    pub fn key(&self) -> InodeId {
        InodeId::of(&self.inode)
    }
}

/// An inode's identity while somebody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InodeId(usize);

impl InodeId {
    pub fn of(inode: &Arc<dyn Inode>) -> InodeId {
        InodeId(Arc::as_ptr(inode).cast::<()>().addr())
    }
}

type List = SmallVec<[Arc<Mark>; 2]>;

/// The marks of one file system.
#[derive(Default)]
pub struct Marks {
    count: AtomicUsize,
    by_inode: Mutex<HashMap<InodeId, List>>,
}

impl Marks {
    fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    fn of(&self, inode: &Arc<dyn Inode>) -> List {
        self.by_inode.lock().get(&InodeId::of(inode)).cloned().unwrap_or_default()
    }

    fn tell(&self, inode: &Arc<dyn Inode>, event: FsEvent, cookie: u32, name: Option<&[u8]>, unlinked: bool) {
        let mut marks = self.of(inode);
        if let Some(outside) = marks.iter().find_map(|mark| mark.outside.as_ref()) {
            outside.catch_up();
            marks = self.of(inode);
            if event.intersects(FsEvent::CHANGES) {
                marks.retain(|mark| mark.outside.is_none());
            }
        }
        self.tell_marks(marks, event, cookie, name, unlinked);
    }

    /// What [`Outside`] has to tell of an inode.
    pub fn tell_outside(&self, inode: &Arc<dyn Inode>, event: FsEvent, cookie: u32, name: Option<&[u8]>) {
        self.tell_marks(self.of(inode), event, cookie, name, false);
    }

    /// [`Outside`] has lost events.
    pub fn overflowed(&self, inode: &Arc<dyn Inode>) {
        for mark in self.of(inode) {
            if let Some(listener) = mark.listener.upgrade() {
                listener.event(&mark, FsEvent::Q_OVERFLOW, 0, None);
            }
        }
    }

    /// [`Outside`] has seen the inode's end.
    pub fn inode_ended(&self, inode: &Arc<dyn Inode>, why: FsEvent) {
        self.end(self.of(inode), why);
    }

    fn tell_marks(&self, marks: List, event: FsEvent, cookie: u32, name: Option<&[u8]>, unlinked: bool) {
        for mark in marks {
            let mask = mark.mask();
            if !mask.intersects(event & FsEvent::ALL) || (unlinked && mask.contains(FsEvent::EXCL_UNLINK)) {
                continue;
            }
            let Some(listener) = mark.listener.upgrade() else { continue };
            listener.event(&mark, event, cookie, name);
            if mask.contains(FsEvent::ONESHOT) && self.remove(&mark) {
                listener.ended(&mark, FsEvent::empty());
            }
        }
    }

    /// Takes a mark off. False if it was off already.
    pub fn remove(&self, mark: &Arc<Mark>) -> bool {
        let mut by_inode = self.by_inode.lock();
        let Some(list) = by_inode.get_mut(&mark.key()) else { return false };
        let before = list.len();
        list.retain(|other| !Arc::ptr_eq(other, mark));
        let removed = list.len() != before;
        if list.is_empty() {
            by_inode.remove(&mark.key());
        }
        if removed {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    fn end(&self, marks: List, why: FsEvent) {
        for mark in marks {
            if self.remove(&mark)
                && let Some(listener) = mark.listener.upgrade()
            {
                listener.ended(&mark, why);
            }
        }
    }

    /// The file system's last mount is gone.
    pub fn unmounted(&self) {
        if self.any() {
            let all: Vec<List> = self.by_inode.lock().values().cloned().collect();
            for marks in all {
                self.end(marks, FsEvent::UNMOUNT);
            }
        }
    }
}

/// Links the two halves of a rename.
pub fn next_cookie() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Dentry {
    fn marks(&self) -> &Marks {
        &self.cache().marks
    }

    fn with_kind(&self, event: FsEvent) -> FsEvent {
        if self.is_dir() { event | FsEvent::ISDIR } else { event }
    }

    /// Something happened to the file: its directory's watchers hear of it, and its own.
    #[inline]
    pub fn notify(&self, event: FsEvent) {
        if self.marks().any() {
            self.notify_watchers(event);
        }
    }

    #[cold]
    fn notify_watchers(&self, event: FsEvent) {
        let event = self.with_kind(event);
        if let Some(parent) = self.parent() {
            self.marks().tell(parent.inode(), event, 0, Some(&self.name()), !self.is_attached());
        }
        self.marks().tell(self.inode(), event, 0, None, false);
    }

    /// Something happened to the inode, by whatever name.
    pub fn notify_self(&self, event: FsEvent) {
        if self.marks().any() {
            self.marks().tell(self.inode(), self.with_kind(event), 0, None, false);
        }
    }

    /// A name in this directory was made, removed or moved; `of` is what it leads to.
    pub fn notify_name(&self, event: FsEvent, name: &[u8], of: &Dentry, cookie: u32) {
        self.notify_name_of(of.with_kind(event), name, cookie);
    }

    /// The same where the file is gone already and `event` says whether it was a directory.
    pub fn notify_name_of(&self, event: FsEvent, name: &[u8], cookie: u32) {
        if self.marks().any() {
            self.marks().tell(self.inode(), event, cookie, Some(name), false);
        }
    }

    /// Whether anybody watches the inode.
    pub fn is_watched(&self) -> bool {
        self.marks().any() && !self.marks().of(self.inode()).is_empty()
    }

    /// The inode's last name was removed: it goes with its last user.
    pub fn inode_deleted(&self) {
        for mark in self.marks().of(self.inode()) {
            mark.deleted.store(true, Ordering::Relaxed);
        }
    }

    /// This dentry, a user of the inode, goes.
    pub(super) fn inode_released(&self) {
        if !self.marks().any() {
            return;
        }
        let mut marks = self.marks().of(self.inode());
        marks.retain(|mark| mark.deleted.load(Ordering::Relaxed));
        self.marks().end(marks, FsEvent::DELETE_SELF);
    }

    /// Marks the inode for a listener; with who tells of it, if that is not this VFS ([`Inode::watch_outside`]).
    pub fn watch(&self, id: i32, mask: FsEvent, listener: Weak<dyn Listener>, outside: Option<Box<dyn Outside>>) -> Arc<Mark> {
        let (inode, mask) = (self.inode().clone(), AtomicU32::new(mask.bits()));
        let mark = Arc::new(Mark { id, inode, mask, listener, deleted: AtomicBool::new(false), outside });
        let marks = self.marks();
        marks.by_inode.lock().entry(mark.key()).or_default().push(mark.clone());
        marks.count.fetch_add(1, Ordering::Relaxed);
        mark
    }
}
