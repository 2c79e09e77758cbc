//! [`Dentry`]: a name in a directory, and the cache of names.
//!
//! A directory's dentry has a map of the names known in it: names that exist (a child dentry) and names known not to exist. An entry stays
//! valid for the file system's `name_ttl_ns`; where that is 0 nothing is kept, except what is mounted on. A [`DentryCache`] (one for each
//! mounted file system) bounds the number of entries, by the clock algorithm.
//!
//! A child holds its parent, and the parent's map holds the child: entries that nobody else uses go when the cache is full, and all of them
//! when the file system's last mount goes ([`Dentry::prune`]).
//!
//! Locking: `children` of one directory (of two, for a rename: in the order of their addresses) before `place` of a child before the cache's `pool`. None
//! is held over an await. [`Dentry::lock`] is the directory's async mutex: held while names are made or removed.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::async_mutex::{AsyncMutex, Lock};
use super::fsnotify::Marks;
use super::{FileKind, Inode};
use crate::Errno;
use crate::time::Clock;

type Children = HashMap<Box<[u8]>, Slot>;

/// A name that leads to an inode.
pub struct Dentry {
    inode: Arc<dyn Inode>,
    kind: FileKind,
    cache: Arc<DentryCache>,
    place: RwLock<Place>,
    children: RwLock<Children>,
    /// Counts changes of the directory's names: a lookup that overlapped one is not kept.
    changes: AtomicU64,
    /// When the entry is to be looked up again (monotonic nanoseconds).
    valid_until: AtomicU64,
    used: AtomicBool,
    /// How many mounts (in any namespace) are on this dentry.
    mounted: AtomicU32,
    mutex: AsyncMutex,
    /// Made with `O_TMPFILE | O_EXCL`: it never gets a name.
    nameless: AtomicBool,
    /// Descriptions that may write to it, and that are being run. Linux counts them by inode: other names of the same file go unnoticed here.
    writers: AtomicU32,
    runners: AtomicU32,
}

/// Whom [`Dentry::count`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    Writer,
    Runner,
}

/// Where a dentry is.
#[derive(Clone)]
struct Place {
    /// None at the root.
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
    /// False once removed.
    attached: bool,
}

enum Slot {
    Positive(Arc<Dentry>),
    Negative { valid_until: u64, used: AtomicBool },
}

/// What the cache knows of a name.
pub(super) enum Cached {
    Found(Arc<Dentry>),
    /// There is no such name.
    Absent,
    Unknown,
}

/// The cache of one file system's names.
pub struct DentryCache {
    ttl_ns: u64,
    limit: usize,
    clock: Clock,
    /// One for each entry of the maps, in the order of the clock's hand.
    pool: Mutex<VecDeque<(Weak<Dentry>, Box<[u8]>)>>,
    /// Held by renames between directories: the tree's shape does not change otherwise.
    pub(super) rename: AsyncMutex,
    /// Who watches inodes of this file system.
    pub marks: Marks,
    /// What is true up to this time was said before [`DentryCache::distrust`], and how often that was called.
    untrue_until: AtomicU64,
    distrusted: AtomicU64,
}

/// Names kept for each file system.
const LIMIT: usize = 1 << 16;

impl DentryCache {
    pub fn new(ttl_ns: u64, clock: Clock) -> Arc<DentryCache> {
        DentryCache::with_limit(ttl_ns, clock, LIMIT)
    }

    fn with_limit(ttl_ns: u64, clock: Clock, limit: usize) -> Arc<DentryCache> {
        Arc::new(DentryCache {
            ttl_ns,
            limit,
            clock,
            pool: Mutex::default(),
            rename: AsyncMutex::default(),
            marks: Marks::default(),
            untrue_until: AtomicU64::new(0),
            distrusted: AtomicU64::new(0),
        })
    }

    fn expiry(&self) -> u64 {
        match self.ttl_ns {
            u64::MAX => u64::MAX,
            ttl => self.clock.monotonic().0.saturating_add(ttl),
        }
    }

    fn valid(&self, until: u64) -> bool {
        until == u64::MAX || (until > self.untrue_until.load(Ordering::Acquire) && self.clock.monotonic().0 < until)
    }

    /// Names have been changed by others: all are to be looked up again, unless only this VFS changes them.
    pub(super) fn distrust(&self) {
        self.distrusted.fetch_add(1, Ordering::AcqRel);
        self.untrue_until.fetch_max(self.expiry(), Ordering::AcqRel);
    }

    /// Notes a new entry; takes others out when there are too many. Call without locks.
    fn note(&self, parent: &Arc<Dentry>, name: &[u8]) {
        let mut pool = self.pool.lock();
        pool.push_back((Arc::downgrade(parent), name.into()));
        for _ in 0..2 {
            if pool.len() <= self.limit {
                return;
            }
            let Some((parent, name)) = pool.pop_front() else { return };
            drop(pool);
            let kept = parent.upgrade().is_some_and(|dir| !dir.evict(&name));
            pool = self.pool.lock();
            if kept {
                pool.push_back((parent, name));
            }
        }
    }
}

impl Dentry {
    /// The root of a tree of names.
    pub fn root(inode: Arc<dyn Inode>, cache: Arc<DentryCache>) -> Arc<Dentry> {
        Dentry::new(inode, cache, Place { parent: None, name: Box::default(), attached: true })
    }

    fn new(inode: Arc<dyn Inode>, cache: Arc<DentryCache>, place: Place) -> Arc<Dentry> {
        Arc::new(Dentry {
            kind: inode.kind(),
            inode,
            valid_until: AtomicU64::new(cache.expiry()),
            cache,
            place: RwLock::new(place),
            children: RwLock::default(),
            changes: AtomicU64::new(0),
            used: AtomicBool::new(false),
            mounted: AtomicU32::new(0),
            mutex: AsyncMutex::default(),
            nameless: AtomicBool::new(false),
            writers: AtomicU32::new(0),
            runners: AtomicU32::new(0),
        })
    }

    fn child(self: &Arc<Dentry>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        Dentry::new(inode, self.cache.clone(), Place { parent: Some(self.clone()), name: name.into(), attached: true })
    }

    /// A dentry of this directory that is not among its names.
    pub(super) fn unnamed(self: &Arc<Dentry>, inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let name = inode_name(&inode);
        let place = Place { parent: Some(self.clone()), name: name.into(), attached: false };
        Dentry::new(inode, self.cache.clone(), place)
    }

    /// Whether it may be written to: it is not being run.
    ///
    /// # Errors
    /// `ETXTBSY`.
    pub(super) fn may_write(&self) -> Result<(), Errno> {
        if self.runners.load(Ordering::Relaxed) == 0 { Ok(()) } else { Err(Errno::ETXTBSY) }
    }

    /// Whether it may be run: nobody writes to it.
    ///
    /// # Errors
    /// `ETXTBSY`.
    pub(super) fn may_run(&self) -> Result<(), Errno> {
        if self.writers.load(Ordering::Relaxed) == 0 { Ok(()) } else { Err(Errno::ETXTBSY) }
    }

    /// A description that may write to it, or that is being run, comes (1) or goes (-1).
    pub(super) fn count(&self, who: User, change: i32) {
        let counter = if who == User::Writer { &self.writers } else { &self.runners };
        counter.fetch_add(change as u32, Ordering::Relaxed);
    }

    /// Says that it never gets a name.
    pub(super) fn never_link(&self) {
        self.nameless.store(true, Ordering::Relaxed);
    }

    pub(super) fn may_link(&self) -> bool {
        !self.nameless.load(Ordering::Relaxed)
    }

    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    pub fn kind(&self) -> FileKind {
        self.kind
    }

    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.read().parent.clone()
    }

    pub fn name(&self) -> Box<[u8]> {
        self.place.read().name.clone()
    }

    /// False once the name was removed.
    pub fn is_attached(&self) -> bool {
        self.place.read().attached
    }

    /// Whether `other` is this dentry or below it.
    pub fn is_ancestor_of(&self, other: &Arc<Dentry>) -> bool {
        let mut at = Some(other.clone());
        while let Some(dentry) = at {
            if std::ptr::eq(self, Arc::as_ptr(&dentry)) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    pub fn cache(&self) -> &Arc<DentryCache> {
        &self.cache
    }

    /// The directory's async mutex.
    pub(super) fn lock(&self) -> Lock<'_> {
        self.mutex.lock()
    }

    /// How often the directory's names were changed, here and by others; read it before asking the file system.
    pub(super) fn changes(&self) -> Seen {
        Seen { here: self.changes.load(Ordering::Acquire), outside: self.cache.distrusted.load(Ordering::Acquire) }
    }

    /// What is known of a name.
    pub(super) fn cached(&self, name: &[u8]) -> Cached {
        let children = self.children.read();
        match children.get(name) {
            None => Cached::Unknown,
            Some(Slot::Positive(child)) => {
                if !self.cache.valid(child.valid_until.load(Ordering::Relaxed)) && !child.is_mounted() {
                    return Cached::Unknown;
                }
                if !child.used.load(Ordering::Relaxed) {
                    child.used.store(true, Ordering::Relaxed);
                }
                Cached::Found(child.clone())
            }
            Some(Slot::Negative { valid_until, used }) => {
                if !self.cache.valid(*valid_until) {
                    return Cached::Unknown;
                }
                used.store(true, Ordering::Relaxed);
                Cached::Absent
            }
        }
    }

    /// The child of a name, if it is known without asking.
    pub(super) fn child_if_known(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        match self.cached(name) {
            Cached::Found(child) => Some(child),
            _ => None,
        }
    }

    /// Takes in what the file system said of a name (None: there is none), asked when `changes` was `seen`.
    pub(super) fn learn(self: &Arc<Dentry>, name: &[u8], inode: Option<Arc<dyn Inode>>, seen: Seen) -> Option<Arc<Dentry>> {
        let mut old = None;
        let mut children = self.children.write();
        let now = self.changes();
        // What others have changed since may be in the answer or not: it is used, but not kept.
        let (overtaken, doubtful) = (now.here != seen.here, now.outside != seen.outside);
        let known = match children.get(name) {
            Some(Slot::Positive(child)) => Some(child.clone()),
            _ => None,
        };
        if let Some(child) = known {
            let same = inode.as_ref().is_some_and(|inode| std::ptr::addr_eq(Arc::as_ptr(inode), Arc::as_ptr(&child.inode)));
            if same || child.is_mounted() {
                if !doubtful {
                    child.valid_until.store(self.cache.expiry(), Ordering::Relaxed);
                }
                return Some(child);
            }
            if overtaken {
                // Somebody who changed the directory knows better.
                return Some(child);
            }
            if doubtful {
                return inode.map(|inode| self.child(name, inode));
            }
            child.place.write().attached = false;
            old = Some(child);
        }
        let found = inode.map(|inode| self.child(name, inode));
        if overtaken || doubtful || (self.cache.ttl_ns == 0 && old.is_none()) {
            return found;
        }
        let slot = self.slot(found.as_ref());
        let fresh = children.insert(name.into(), slot).is_none();
        drop(children);
        drop(old);
        if fresh {
            self.cache.note(self, name);
        }
        found
    }

    fn slot(&self, child: Option<&Arc<Dentry>>) -> Slot {
        match child {
            Some(child) => Slot::Positive(child.clone()),
            None => Slot::Negative { valid_until: self.cache.expiry(), used: AtomicBool::new(false) },
        }
    }

    /// A name was made. The directory is locked.
    pub(super) fn added(self: &Arc<Dentry>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let child = self.child(name, inode);
        self.set(name, Some(&child));
        child
    }

    /// A name was removed. The directory is locked.
    pub(super) fn removed(self: &Arc<Dentry>, name: &[u8], child: &Arc<Dentry>) {
        child.place.write().attached = false;
        self.set(name, None);
    }

    fn set(self: &Arc<Dentry>, name: &[u8], child: Option<&Arc<Dentry>>) {
        let mut children = self.children.write();
        self.changes.fetch_add(1, Ordering::Release);
        if self.cache.ttl_ns == 0 {
            let gone = children.remove(name);
            drop(children);
            drop(gone);
            return;
        }
        let slot = self.slot(child);
        let old = children.insert(name.into(), slot);
        drop(children);
        if old.is_none() {
            self.cache.note(self, name);
        }
    }

    /// `child` was renamed from `self`/`name` to `to`/`to_name`; what was there is gone or, with an exchange, is in the old place now. Both directories are
    /// locked.
    pub(super) fn moved(
        self: &Arc<Dentry>,
        name: &[u8],
        child: &Arc<Dentry>,
        to: &Arc<Dentry>,
        to_name: &[u8],
        displaced: Option<(&Arc<Dentry>, Exchange)>,
    ) {
        let back = match displaced {
            Some((other, Exchange::Yes)) => {
                *other.place.write() = Place { parent: Some(self.clone()), name: name.into(), attached: true };
                Some(other)
            }
            Some((other, Exchange::No)) => {
                other.place.write().attached = false;
                None
            }
            None => None,
        };
        let former = {
            let mut place = child.place.write();
            std::mem::replace(&mut *place, Place { parent: Some(to.clone()), name: to_name.into(), attached: true })
        };
        drop(former);
        self.set(name, back);
        to.set(to_name, Some(child));
    }

    /// Forgets what is known of a name, unless something is mounted there.
    pub(super) fn forget(self: &Arc<Dentry>, name: &[u8]) {
        let mut children = self.children.write();
        self.changes.fetch_add(1, Ordering::Release);
        let gone = match children.get(name) {
            Some(Slot::Positive(child)) if child.is_mounted() => None,
            _ => children.remove(name),
        };
        drop(children);
        drop(gone);
    }

    /// Whether anything is mounted here, in any namespace.
    pub fn is_mounted(&self) -> bool {
        self.mounted.load(Ordering::Acquire) != 0
    }

    /// Something is mounted here now: the entry is kept.
    pub(super) fn add_mount(self: &Arc<Dentry>) {
        self.mounted.fetch_add(1, Ordering::AcqRel);
        let Place { parent, name, .. } = self.place.read().clone();
        if let Some(parent) = parent {
            let fresh = parent.children.write().insert(name.clone(), Slot::Positive(self.clone())).is_none();
            if fresh {
                self.cache.note(&parent, &name);
            }
        }
    }

    pub(super) fn remove_mount(&self) {
        self.mounted.fetch_sub(1, Ordering::AcqRel);
    }

    /// Takes an entry out if nobody uses it. Returns whether it is gone.
    fn evict(&self, name: &[u8]) -> bool {
        let mut children = self.children.write();
        let idle = match children.get(name) {
            None => return true,
            Some(Slot::Negative { used, .. }) => !used.swap(false, Ordering::Relaxed),
            // Only the map has it; whoever could take another reference needs the map.
            Some(Slot::Positive(child)) => {
                !child.used.swap(false, Ordering::Relaxed) && Arc::strong_count(child) == 1 && !child.is_mounted()
            }
        };
        let gone = if idle { children.remove(name) } else { None };
        drop(children);
        gone.is_some()
    }

    /// Takes the whole tree below apart: its file system is not mounted any more.
    pub(super) fn prune(&self) {
        let mut todo: Vec<Slot> = take(self.children.write());
        while let Some(slot) = todo.pop() {
            if let Slot::Positive(child) = slot {
                todo.extend(take(child.children.write()));
            }
        }
    }
}

/// As Linux names `O_TMPFILE` files in /proc/PID/fd: `#` and the inode's number.
fn inode_name(inode: &Arc<dyn Inode>) -> Vec<u8> {
    match inode.metadata() {
        crate::step::Step::Ready(Ok(metadata)) => format!("#{}", metadata.ino).into_bytes(),
        _ => b"#".to_vec(),
    }
}

/// Counts of changes; see [`Dentry::changes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    here: u64,
    outside: u64,
}

impl Seen {
    /// The same moment, for another directory of the file system.
    pub fn of(self, other: &Dentry) -> Seen {
        Seen { outside: self.outside, ..other.changes() }
    }
}

/// Whether a rename exchanges two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    Yes,
    No,
}

fn take(mut children: RwLockWriteGuard<'_, Children>) -> Vec<Slot> {
    let taken: hash_map::IntoValues<_, _> = std::mem::take(&mut *children).into_values();
    taken.collect()
}

impl Drop for Dentry {
    /// Parents that only we held go one after the other, not one inside the other: a guest decides how deep a tree is.
    fn drop(&mut self) {
        self.inode_released();
        let mut next = self.place.get_mut().parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.place.get_mut().parent.take();
        }
    }
}

#[cfg(test)]
#[path = "dentry_tests.rs"]
mod tests;
