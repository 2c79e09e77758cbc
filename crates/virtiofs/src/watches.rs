//! The host directories that are watched by inotify(7), and what the guest itself does in them: that comes back as events, which are struck off.

use std::{
    collections::{HashMap, VecDeque},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use gofer::{
    Errno,
    passthrough::{Node, Notifier},
    protocol::Name,
};
use parking_lot::Mutex;
use rustix::{
    event::epoll,
    fs::inotify::{self, ReadFlags, WatchFlags},
};

/// Directories that are watched at a time: the first that the guest comes to know.
const MOST: usize = 512;
/// Changes of the guest's own that are remembered until their events come; files that it has written likewise.
const REMEMBERED: usize = 1024;
/// For how long what happens to a file is put down to the guest that has changed it: such events come merged, so they cannot be counted.
const TOUCHED: Duration = Duration::from_secs(2);
/// A directory in which the guest makes more changes than this within a second is the guest's, and not watched until it is looked up again.
const BUSY: u32 = 200;
/// How long a watch waits for another to be put on.
const PATIENCE: Duration = Duration::from_millis(50);
/// Events are read until there are none, or about so many.
const AT_ONCE: usize = 256;
const EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE);

/// A name in a directory, which is known by its inode's number.
pub type Spot = (u64, Name);

/// What the guest does to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    Creates,
    Deletes,
    MovesFrom,
    MovesTo,
    /// Its content or attributes.
    Touches,
}

/// An event, for one of the inodes that its directory is.
#[derive(Debug)]
pub struct Seen {
    pub what: ReadFlags,
    pub cookie: u32,
    pub spot: Spot,
}

#[derive(Debug, Default)]
pub struct Watches {
    /// Whether there are any, for those who would have to tell of the guest's changes.
    any: AtomicBool,
    /// Made when there is something to watch: hosts allow a user 128. Held while the host puts a watch on, which may take long.
    notifier: Mutex<Option<Notifier>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where somebody waits for events. None: nobody wants them.
    epoll: Option<Arc<OwnedFd>>,
    /// What events are read from.
    events: Option<Arc<OwnedFd>>,
    /// The inodes that a watch is for: trees may show the same directory.
    inodes: HashMap<u32, Vec<u64>>,
    directories: HashMap<u64, Directory>,
    notes: VecDeque<(Own, Spot)>,
    touched: HashMap<Spot, Instant>,
    /// Watches that are for nobody any more, to be taken off.
    ended: Vec<u32>,
}

#[derive(Debug)]
struct Directory {
    watch: u32,
    /// The guest's changes since then.
    own: u32,
    since: Instant,
}

impl Watches {
    /// From now on directories are watched. Events can be read when `epoll` says so.
    pub fn begin(&self, epoll: Arc<OwnedFd>) {
        self.state.lock().epoll = Some(epoll);
    }

    /// Whether a directory that the guest comes to know is to be [watched](Self::watch).
    pub fn want(&self, id: u64) -> bool {
        let state = self.state.lock();
        state.epoll.is_some() && state.directories.len() < MOST && !state.directories.contains_key(&id)
    }

    /// Watches a directory. `home` is a node that stays.
    ///
    /// # Errors
    /// The host's: `ENOSPC`, it has too many watches; `EMFILE`, too many instances. `EAGAIN`: it is slow just now.
    pub fn watch(&self, id: u64, node: &Node, home: &Node) -> Result<(), Errno> {
        let Some(epoll) = self.state.lock().epoll.clone() else { return Ok(()) };
        // Not behind one that hangs.
        let mut notifier = self.notifier.try_lock_for(PATIENCE).ok_or(Errno::EAGAIN)?;
        let notifier = match &mut *notifier {
            Some(notifier) => notifier,
            none => {
                let notifier = Notifier::new(home)?;
                epoll::add(&epoll, notifier.fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
                self.state.lock().events = Some(notifier.fd().clone());
                none.insert(notifier)
            }
        };
        let watch = notifier.watch(node, EVENTS.bits())?;
        let mut state = self.state.lock();
        state.ended.retain(|ended| *ended != watch);
        let since = Instant::now();
        if state.directories.insert(id, Directory { watch, own: 0, since }).is_none() {
            state.inodes.entry(watch).or_default().push(id);
        }
        self.any.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes off the watches of inodes that are not there any more.
    pub fn keep(&self, mut is_there: impl FnMut(u64) -> bool) {
        let mut state = self.state.lock();
        let gone: Vec<u64> = state.directories.keys().copied().filter(|id| !is_there(*id)).collect();
        gone.into_iter().for_each(|id| state.unwatch(id));
    }

    /// Whether somebody has to [note](Self::note) what the guest does.
    pub fn are_there(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Notes what the guest is about to do, before the event can come.
    pub fn note(&self, own: Own, spot: &Spot) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let Some(directory) = state.directories.get_mut(&spot.0) else { return };
        if now - directory.since > Duration::from_secs(1) {
            (directory.since, directory.own) = (now, 0);
        }
        directory.own += 1;
        if directory.own > BUSY {
            return state.unwatch(spot.0);
        }
        if own == Own::Touches {
            if state.touched.len() >= REMEMBERED {
                state.touched.retain(|_, at| now - *at < TOUCHED);
            }
            if state.touched.len() < REMEMBERED {
                state.touched.insert(spot.clone(), now);
            }
            return;
        }
        state.notes.truncate(REMEMBERED - 1);
        state.notes.push_front((own, spot.clone()));
    }

    /// It did not come to that.
    pub fn take_back(&self, own: Own, spot: &Spot) {
        self.state.lock().strike(own, spot);
    }

    /// What has happened, but for what the guest did itself.
    pub fn read(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut state = self.state.lock();
        let Some(fd) = state.events.clone() else { return seen };
        let mut space = [const { MaybeUninit::uninit() }; 4096];
        let mut reader = inotify::Reader::new(fd.as_fd(), &mut space);
        while let Ok(event) = reader.next() {
            let Ok(watch) = u32::try_from(event.wd()) else { continue };
            if event.events().contains(ReadFlags::IGNORED) {
                for id in state.inodes.get(&watch).cloned().unwrap_or_default() {
                    state.unwatch(id);
                }
                continue;
            }
            let Some(Ok(name)) = event.file_name().map(|name| Name::new(name.to_bytes())) else { continue };
            for id in state.inodes.get(&watch).cloned().unwrap_or_default() {
                let spot = (id, name.clone());
                if !state.is_own(event.events(), &spot) {
                    seen.push(Seen { what: event.events(), cookie: event.cookie(), spot });
                }
            }
            if seen.len() >= AT_ONCE && reader.is_buffer_empty() {
                break;
            }
        }
        if let Some(Some(notifier)) = self.notifier.try_lock().as_deref_mut() {
            for watch in state.ended.drain(..) {
                // One that has ended by itself is none any more.
                let _ = notifier.unwatch(watch);
            }
        }
        seen
    }
}

impl State {
    fn is_own(&mut self, what: ReadFlags, spot: &Spot) -> bool {
        let own = if what.contains(ReadFlags::CREATE) {
            Own::Creates
        } else if what.contains(ReadFlags::DELETE) {
            Own::Deletes
        } else if what.contains(ReadFlags::MOVED_FROM) {
            Own::MovesFrom
        } else if what.contains(ReadFlags::MOVED_TO) {
            Own::MovesTo
        } else {
            return self.touched.get(spot).is_some_and(|at| at.elapsed() < TOUCHED);
        };
        self.strike(own, spot)
    }

    /// Takes the oldest such note away; whether there was one.
    fn strike(&mut self, own: Own, spot: &Spot) -> bool {
        let found = self.notes.iter().rposition(|note| note.0 == own && note.1 == *spot);
        found.and_then(|at| self.notes.remove(at)).is_some()
    }

    fn unwatch(&mut self, id: u64) {
        let Some(Directory { watch, .. }) = self.directories.remove(&id) else { return };
        // Their events will not be looked at.
        self.notes.retain(|(_, spot)| spot.0 != id);
        let Some(inodes) = self.inodes.get_mut(&watch) else { return };
        inodes.retain(|other| *other != id);
        if inodes.is_empty() {
            self.inodes.remove(&watch);
            self.ended.push(watch);
        }
    }
}
