//! [`FdCache`]: how many descriptors of host files the sandbox has open, and which of them nobody uses.
//!
//! An inode keeps the descriptors it was given, since another open costs a round trip. Those in use are only counted (a limit of the sandbox as
//! Linux's `file-max` is); of the idle ones the least recently opened go when there are many.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use gofer::protocol::OpenHow;
use hostcall::Window;
use parking_lot::Mutex;

use super::GoferInode;
use super::expected::Expected;
use crate::Errno;

/// The sandbox's donated descriptors.
pub struct FdCache {
    open: AtomicUsize,
    /// Most that may be open.
    most: usize,
    /// As many are kept without a look at which are idle.
    keep: usize,
    /// Those that inodes keep, in the order of the clock's hand.
    ring: Mutex<VecDeque<(Weak<GoferInode>, OpenHow)>>,
}

impl FdCache {
    /// Most descriptors of host files: the process's limit is 20,000, and there are others.
    const MOST: usize = 12_000;
    const KEEP: usize = 1024;

    pub fn new() -> Arc<FdCache> {
        FdCache::with_limits(FdCache::MOST, FdCache::KEEP)
    }

    pub(super) fn with_limits(most: usize, keep: usize) -> Arc<FdCache> {
        Arc::new(FdCache { open: AtomicUsize::new(0), most, keep, ring: Mutex::default() })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Makes room for one more descriptor, before the gofer is asked: one that did not fit would be lost on its way.
    ///
    /// # Errors
    /// `ENFILE`.
    pub(super) fn reserve(self: &Arc<FdCache>) -> Result<Place, Errno> {
        let place = Place(self.clone());
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.evict(64, usize::MAX);
            if self.open() > self.most {
                return Err(Errno::ENFILE);
            }
        }
        Ok(place)
    }

    /// Notes a descriptor that an inode keeps.
    pub(super) fn note(&self, inode: &Arc<GoferInode>, how: OpenHow) {
        self.ring.lock().push_back((Arc::downgrade(inode), how));
        self.evict(0, 2);
    }

    /// Closes idle descriptors: `extra` of them and as many as there are too many, looking at `looks` at most.
    fn evict(&self, extra: usize, looks: usize) {
        let mut ring = self.ring.lock();
        let goal = ring.len().min(self.keep).saturating_sub(extra);
        for _ in 0..looks.min(ring.len()) {
            if ring.len() <= goal {
                return;
            }
            let Some((inode, how)) = ring.pop_front() else { return };
            drop(ring);
            let kept = inode.upgrade().is_some_and(|inode| !inode.close_idle(how));
            ring = self.ring.lock();
            if kept {
                ring.push_back((inode, how));
            }
        }
    }
}

/// Room for one descriptor.
pub(super) struct Place(Arc<FdCache>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A host file that the gofer opened.
pub(super) struct Donated {
    fd: Arc<OwnedFd>,
    pub how: OpenHow,
    pub pace: Pace,
    /// Its mapping in the sentry, made when first needed and again when the file has outgrown it.
    pub window: Mutex<Option<Arc<Window>>>,
    _place: Place,
    /// The file, if an inode keeps it.
    pub inode: OnceLock<Weak<GoferInode>>,
    /// That it is closed is expected until it is, so this comes last.
    closed: Option<Expected>,
}

impl Donated {
    pub(super) fn new(fd: OwnedFd, how: OpenHow, inline: bool, place: Place) -> Arc<Donated> {
        Arc::new(Donated {
            fd: Arc::new(fd),
            how,
            pace: Pace::new(inline),
            window: Mutex::default(),
            _place: place,
            inode: OnceLock::new(),
            closed: None,
        })
    }

    pub(super) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    pub(super) fn readable(&self) -> bool {
        self.how != OpenHow::Write
    }

    pub(super) fn writable(&self) -> bool {
        self.how != OpenHow::Read
    }

    /// Whether only the inode has it.
    pub(super) fn idle(self: &Arc<Donated>) -> bool {
        self.idle_but_for(1)
    }

    /// Whether no more than so many have it, and no mapping.
    pub(super) fn idle_but_for(self: &Arc<Donated>, holders: usize) -> bool {
        Arc::strong_count(self) == holders && self.window.lock().as_ref().is_none_or(|window| Arc::strong_count(window) == 1)
    }
}

impl Drop for Donated {
    fn drop(&mut self) {
        if self.writable() {
            let inode = self.inode.get().and_then(Weak::upgrade);
            self.closed = inode.and_then(|inode| inode.tree.host.expect_close(&inode));
        }
    }
}

impl AsFd for Donated {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Where I/O on a file is done: as it may sleep or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Here, if that needs no sleep.
    NoWait,
    /// Here: the file system knows no `RWF_NOWAIT` (tmpfs; ext4 for writes), but has been quick.
    Here,
    /// On a thread of the pool.
    Pool,
}

/// Finds the way of one direction by experience.
#[derive(Debug)]
pub(super) struct Pace {
    read: Direction,
    write: Direction,
    /// Whether the file system is one that answers without asking others (no network, no user program).
    inline: bool,
}

#[derive(Debug, Default)]
struct Direction {
    no_nowait: AtomicBool,
    /// So many calls go to the pool, because one was slow.
    detour: AtomicU32,
}

/// What is slow, in nanoseconds, and how many calls it sends to the pool.
const SLOW_NS: u64 = 1_000_000;
const DETOUR: u32 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Io {
    Read,
    Write,
}

impl Pace {
    fn new(inline: bool) -> Pace {
        Pace { read: Direction::default(), write: Direction::default(), inline }
    }

    fn of(&self, io: Io) -> &Direction {
        match io {
            Io::Read => &self.read,
            Io::Write => &self.write,
        }
    }

    pub(super) fn way(&self, io: Io) -> Way {
        let direction = self.of(io);
        if !direction.no_nowait.load(Ordering::Relaxed) {
            return Way::NoWait;
        }
        let detour = direction.detour.load(Ordering::Relaxed);
        if detour > 0 {
            direction.detour.store(detour - 1, Ordering::Relaxed);
        }
        if self.inline && detour == 0 { Way::Here } else { Way::Pool }
    }

    /// The file system does not know `RWF_NOWAIT`.
    pub(super) fn no_nowait(&self, io: Io) {
        self.of(io).no_nowait.store(true, Ordering::Relaxed);
    }

    /// A call here took so long.
    pub(super) fn took(&self, io: Io, ns: u64) {
        if ns > SLOW_NS {
            self.of(io).detour.store(DETOUR, Ordering::Relaxed);
        }
    }
}
