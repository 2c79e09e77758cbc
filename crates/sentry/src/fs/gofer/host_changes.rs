//! [`HostChanges`]: what the host's inotify(7) tells of files that a guest watches in shared trees.
//!
//! The gofer has an inotify instance of the connection, on which it puts watches ([`HostChanges::watch`]); events are read here. They are told as they come, those of changes
//! made by guests too, so that all are in the order in which the host saw them: the VFS's own hooks have only to catch up ([`Outside::catch_up`]) before the call
//! that made a change returns. What the host tells and Linux would not (the owner given to a new file, a descriptor that we close late) is expected
//! and left out ([`Expected`]); opens, reads and guests' closes are told by the VFS as ever, and not asked of the host.
//!
//! A watched file's handle and kept descriptors would keep it from ending: when its attributes change (its link count is one) they are given up. A
//! directory's end is seen in the directory above, which is watched for that.
//!
//! Locking: `reading` (who takes events) is above all that listeners take, and below a directory's async mutex; `state` is a leaf. Nothing is
//! dropped under `state` that could be the last of its kind.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock, Weak};

use gofer::client::Client;
use gofer::protocol::Name;
use hostcall::event::poll_now;
use hostcall::io::{self, Sleep};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::GoferInode;
use super::expected::{Expectation, Expected, Expecting, Outcome};
use crate::Errno;
use crate::executor::{HostWatch, Reactor};
use crate::fs::fsnotify::{FsEvent, Outside, next_cookie};
use crate::fs::{DentryCache, FileKind, Inode};
use crate::wait::{Notify, PollEvents, Registration, Share};

/// Bytes of events read at a time.
const BUFFER: usize = 64 << 10;
/// How often a guest's call, and the reactor, read before others have their turn.
const ROUNDS: usize = 8;
const REACTOR_ROUNDS: usize = 2;
/// Halves of renames whose other half may still come.
const COOKIES: usize = 16;

/// The inotify instance of a gofer's connection.
pub struct HostChanges {
    me: Weak<HostChanges>,
    client: Arc<Client>,
    reactor: Arc<Reactor>,
    source: OnceLock<Source>,
    reading: Mutex<Vec<u8>>,
    state: Mutex<State>,
}

struct Source {
    watch: HostWatch,
    _registration: Registration,
}

#[derive(Default)]
struct State {
    /// By [`GoferInode::identity`].
    entries: HashMap<u64, Entry>,
    /// Several inodes where trees overlap on the host.
    by_watch: HashMap<u32, SmallVec<[u64; 1]>>,
    /// Watched directories by the one above and the name in it.
    below: HashMap<(u64, Name), u64>,
    /// Watches asked for whose numbers are not known yet. Meanwhile none is taken off, as it could be one of them; and those that end are noted.
    asked: usize,
    idle: Vec<u32>,
    ended: Vec<u32>,
    expecting: Expecting,
    /// The host's and ours.
    cookies: VecDeque<(u32, u32)>,
}

/// A watched inode.
struct Entry {
    watch: u32,
    inode: Weak<GoferInode>,
    cache: Weak<DentryCache>,
    users: usize,
    above: Option<(u64, Name)>,
}

/// Whether it is any use to read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Goes,
    /// It is no inotify instance.
    Fails,
}

/// An event as the host tells it.
struct Event<'a> {
    watch: i32,
    event: FsEvent,
    cookie: u32,
    name: Option<&'a [u8]>,
}

/// The first event in bytes, and the bytes after it.
fn parse(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<16>()?;
    let word = |at: usize| u32::from_ne_bytes(header.as_chunks::<4>().0.get(at).copied().unwrap_or_default());
    let (name, rest) = rest.split_at_checked(usize::try_from(word(3)).ok()?)?;
    let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty());
    Some((Event { watch: word(0) as i32, event: FsEvent::from_bits_retain(word(1)), cookie: word(2), name }, rest))
}

impl HostChanges {
    pub(super) fn new(client: &Arc<Client>, reactor: &Arc<Reactor>) -> Arc<HostChanges> {
        Arc::new_cyclic(|me| HostChanges {
            me: me.clone(),
            client: client.clone(),
            reactor: reactor.clone(),
            source: OnceLock::new(),
            reading: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// Watches an inode until the result is dropped.
    ///
    /// # Errors
    /// `ENOSPC` at a limit of the host's; `ENOENT` if it is not there any more; the gofer's.
    pub(super) async fn watch(
        &self,
        inode: &Arc<GoferInode>,
        cache: &Arc<DentryCache>,
        events: FsEvent,
    ) -> Result<Watching, Errno> {
        self.start().await?;
        let directory = inode.kind() == FileKind::Directory;
        let ends = if directory { FsEvent::DELETE_SELF } else { FsEvent::DELETE_SELF | FsEvent::ATTRIB };
        let own = self.add(inode, cache, events & (FsEvent::HOST | FsEvent::EXCL_UNLINK) | ends).await?;
        if !directory {
            // If its last name has gone meanwhile, no handle of ours keeps the host from telling of its end.
            inode.let_go();
        }
        let mut above = None;
        if directory && let Some((parent, name)) = inode.place() {
            // One that cannot be watched only keeps this one's end from being told.
            let ends = FsEvent::DELETE | FsEvent::MOVED_FROM | FsEvent::EXCL_UNLINK;
            above = self.add(&parent, cache, ends).await.ok();
            if above.is_some() {
                let mut state = self.state.lock();
                let place = (parent.identity(), name);
                if let Some(entry) = state.entries.get_mut(&inode.identity()) {
                    entry.above = Some(place.clone());
                    state.below.insert(place, inode.identity());
                }
            }
        }
        // What was known before is not older than the watch.
        inode.changed_on_host();
        inode.tree.distrust();
        cache.distrust();
        Ok(Watching { own, _above: above })
    }

    /// Gets the descriptor of events, once.
    async fn start(&self) -> Result<(), Errno> {
        if self.source.get().is_some() {
            return Ok(());
        }
        let file = match self.client.notifier().await {
            Err(Errno::EMFILE) => {
                tracing::warn!(
                    "the host has no more inotify instances (fs.inotify.max_user_instances): guests cannot watch shared files"
                );
                return Err(Errno::ENOSPC);
            }
            file => file?,
        };
        let watch = self.reactor.watch_when_armed(file)?;
        let hook: Arc<dyn Notify> = Arc::new(Hook(self.me.clone()));
        let registration = watch.queue().register(PollEvents::IN, Share::All, hook);
        // Another may have been faster: it reads the same instance.
        if self.source.set(Source { watch, _registration: registration }).is_ok() {
            self.arm();
        }
        Ok(())
    }

    fn arm(&self) {
        let armed = self.source.get().map(|source| source.watch.arm(PollEvents::IN));
        if let Some(Err(errno)) = armed {
            tracing::error!(%errno, "cannot wait for changes on the host: guests hear of them late");
        }
    }

    async fn add(&self, inode: &Arc<GoferInode>, cache: &Arc<DentryCache>, events: FsEvent) -> Result<Hold, Errno> {
        let asking = Asking::new(self)?;
        let watch = match inode.by_name(|handle| self.client.watch(handle, events.bits())).await {
            Err(Errno::ESTALE) => return Err(Errno::ENOENT),
            Err(Errno::ENOSPC) => {
                tracing::warn!("no more inotify watches (fs.inotify.max_user_watches of the host, or 8,192 of one gofer)");
                return Err(Errno::ENOSPC);
            }
            watch => watch?,
        };
        let id = inode.identity();
        let mut state = self.state.lock();
        if state.ended.contains(&watch) {
            // The gofer still counts it.
            state.idle.push(watch);
            return Err(Errno::ENOENT);
        }
        let entry = state.entries.entry(id).or_insert_with(|| Entry {
            watch,
            inode: Arc::downgrade(inode),
            cache: Arc::downgrade(cache),
            users: 0,
            above: None,
        });
        entry.users += 1;
        // It was watched by another name's file before, which has ended.
        let before = std::mem::replace(&mut entry.watch, watch);
        if before != watch {
            state.unlink(before, id);
        }
        let ids = state.by_watch.entry(watch).or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
        drop(state);
        drop(asking);
        Ok(Hold { changes: self.me.upgrade().ok_or(Errno::EIO)?, id })
    }

    fn release(&self, id: u64) {
        let mut state = self.state.lock();
        let Some(entry) = state.entries.get_mut(&id) else { return };
        entry.users = entry.users.saturating_sub(1);
        if entry.users > 0 {
            return;
        }
        let Some(entry) = state.entries.remove(&id) else { return };
        if let Some(place) = &entry.above
            && state.below.get(place) == Some(&id)
        {
            state.below.remove(place);
        }
        state.unlink(entry.watch, id);
        self.take_off(&mut state);
    }

    /// Ends watches that nobody wants.
    fn take_off(&self, state: &mut State) {
        if state.asked > 0 {
            return;
        }
        state.ended.clear();
        for watch in std::mem::take(&mut state.idle) {
            if !state.by_watch.contains_key(&watch) {
                self.client.unwatch(watch);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().entries.is_empty()
    }

    // Expected events.

    /// A name is about to be made, removed or moved in `dir`: that is told, and needs no doubt about what is known. Only once it is [`Expected::done`], as
    /// until then it could be somebody else's doing.
    pub(super) fn expect_own(&self, dir: &GoferInode, events: FsEvent, name: &Name) -> Option<Expected> {
        self.expect(&[(dir.identity(), Some(name))], events, Expectation::Ours)
    }

    /// The gofer is about to do more in `dir` than the guest asked for.
    pub(super) fn expect_none(&self, dir: &GoferInode, events: FsEvent, name: &Name) -> Option<Expected> {
        self.expect(&[(dir.identity(), Some(name))], events, Expectation::NotTold)
    }

    /// A descriptor for writing is about to be closed, later than the guest did.
    pub(super) fn expect_close(&self, inode: &GoferInode) -> Option<Expected> {
        self.source.get()?;
        let places = inode.places();
        let mut files: SmallVec<[(u64, Option<&Name>); 4]> = SmallVec::new();
        files.push((inode.identity(), None));
        files.extend(places.iter().map(|(dir, name)| (dir.identity(), Some(name))));
        self.expect(&files, FsEvent::CLOSE_WRITE, Expectation::NotTold)
    }

    fn expect(&self, files: &[(u64, Option<&Name>)], events: FsEvent, what: Expectation) -> Option<Expected> {
        self.source.get()?;
        let changes = self.me.upgrade()?;
        let mut state = self.state.lock();
        let State { entries, expecting, .. } = &mut *state;
        let watched = files.iter().filter(|(id, _)| entries.contains_key(id));
        let numbers: SmallVec<[u64; 2]> = watched.filter_map(|(id, name)| expecting.add(*id, *name, events, what)).collect();
        drop(state);
        (!numbers.is_empty()).then(|| Expected::new(changes, numbers, what))
    }

    pub(super) fn expected_is_done(&self, numbers: &[u64], outcome: Outcome) {
        let expecting = &mut self.state.lock().expecting;
        match outcome {
            Outcome::Done => expecting.done(numbers),
            Outcome::Failed => expecting.forget(numbers),
        }
    }

    // Events.

    /// Reads and tells what is there.
    fn read(&self, rounds: usize) -> Reading {
        let Some(source) = self.source.get() else { return Reading::Goes };
        let file = source.watch.file().as_fd();
        let done = {
            let _read = self.reading.lock();
            self.state.lock().expecting.all_done()
        };
        for _ in 0..rounds {
            // For one round: others who wait for what they have done are not kept longer by a host that is busy.
            let mut buffer = self.reading.lock();
            buffer.resize(BUFFER, 0);
            // Asked first: the gofer could have given a descriptor whose reads sleep.
            match poll_now(file, PollEvents::IN.bits() as u16).map(|ready| PollEvents::from_bits_retain(ready.into())) {
                Ok(ready) if ready.is_empty() => {
                    self.state.lock().expecting.forget(&done);
                    return Reading::Goes;
                }
                Ok(PollEvents::IN) => {}
                _ => return Reading::Fails,
            }
            let n = match io::read_at(file, &mut buffer, -1, Sleep::Allowed) {
                Ok(n @ 1..) => n,
                Err(Errno::EINTR) => continue,
                _ => return Reading::Fails,
            };
            let mut bytes = buffer.get(..n).unwrap_or_default();
            while let Some((event, rest)) = parse(bytes) {
                self.tell(&event);
                bytes = rest;
            }
        }
        Reading::Goes
    }

    fn tell(&self, event: &Event<'_>) {
        if event.event.contains(FsEvent::Q_OVERFLOW) {
            self.overflowed();
            return;
        }
        let Ok(watch) = u32::try_from(event.watch) else { return };
        let name = match event.name.map(Name::new) {
            Some(Err(_)) => return,
            name => name.and_then(Result::ok),
        };
        let kinds = event.event & (FsEvent::HOST | FsEvent::DELETE_SELF | FsEvent::UNMOUNT | FsEvent::IGNORED);
        let told = kinds & FsEvent::HOST | event.event & FsEvent::ISDIR;
        // Upgraded references may be the last ones: they are dropped without the lock.
        let (mut targets, mut ended): (Vec<Reached>, Vec<Reached>) = Default::default();
        let mut expected = None;
        let cookie = {
            let mut state = self.state.lock();
            let ids = state.by_watch.get(&watch).cloned().unwrap_or_default();
            for &id in &ids {
                expected = expected.or(state.expecting.look(id, name.as_ref(), kinds));
                targets.extend(state.reach(id));
                if let Some(name) = &name
                    && kinds.intersects(FsEvent::DELETE | FsEvent::MOVED_FROM)
                    && let Some(child) = state.below.remove(&(id, name.clone()))
                    && kinds.contains(FsEvent::DELETE)
                {
                    ended.extend(state.reach(child));
                }
            }
            if kinds.contains(FsEvent::IGNORED) {
                if state.asked > 0 {
                    state.ended.push(watch);
                }
                // The gofer does not know.
                if state.by_watch.remove(&watch).is_some() {
                    state.idle.push(watch);
                    self.take_off(&mut state);
                }
            }
            state.cookie(event.cookie)
        };
        if expected == Some(Expectation::NotTold) {
            return;
        }
        // As on Linux, the end of a directory comes before its name's. Of those that guests remove the VFS tells.
        let ended = ended.into_iter().filter(|_| expected != Some(Expectation::Ours)).filter_map(Target::of);
        for Target { inode, cache } in ended {
            cache.marks.inode_ended(&(inode as Arc<dyn Inode>), FsEvent::DELETE_SELF);
        }
        let overlapping = targets.len() > 1;
        for Target { inode, cache } in targets.into_iter().filter_map(Target::of) {
            if expected.is_none() || overlapping {
                inode.doubt(kinds, name.as_ref(), &cache);
            }
            let own_attributes = kinds.contains(FsEvent::ATTRIB) && name.is_none() && inode.kind() != FileKind::Directory;
            let to = inode.clone() as Arc<dyn Inode>;
            if kinds.intersects(FsEvent::HOST) {
                cache.marks.tell_outside(&to, told, cookie, name.as_ref().map(Name::as_bytes));
            }
            if own_attributes {
                inode.let_go();
            }
            for end in [FsEvent::DELETE_SELF, FsEvent::UNMOUNT] {
                if kinds.contains(end) {
                    cache.marks.inode_ended(&to, end);
                }
            }
            if kinds.contains(FsEvent::IGNORED) {
                cache.marks.inode_ended(&to, FsEvent::empty());
            }
        }
    }

    /// Events were lost: all who watch hear that, and nothing that is known is true for certain.
    fn overflowed(&self) {
        let targets: Vec<Reached> = {
            let state = self.state.lock();
            state.entries.keys().filter_map(|id| state.reach(*id)).collect()
        };
        for Target { inode, cache } in targets.into_iter().filter_map(Target::of) {
            inode.changed_on_host();
            inode.tree.distrust();
            cache.distrust();
            cache.marks.overflowed(&(inode as Arc<dyn Inode>));
        }
    }
}

/// An inode whose watchers are to be told, and where they are.
struct Target {
    inode: Arc<GoferInode>,
    cache: Arc<DentryCache>,
}

/// The same, as far as they are still there.
type Reached = (Option<Arc<GoferInode>>, Option<Arc<DentryCache>>);

impl Target {
    fn of(reached: Reached) -> Option<Target> {
        Some(Target { inode: reached.0?, cache: reached.1? })
    }
}

impl State {
    fn reach(&self, id: u64) -> Option<Reached> {
        self.entries.get(&id).map(|entry| (entry.inode.upgrade(), entry.cache.upgrade()))
    }

    /// `id` is not watched by this watch any more.
    fn unlink(&mut self, watch: u32, id: u64) {
        let Some(ids) = self.by_watch.get_mut(&watch) else { return };
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            self.by_watch.remove(&watch);
            self.idle.push(watch);
        }
    }

    /// Ours for the host's: the halves of a rename have the same.
    fn cookie(&mut self, host: u32) -> u32 {
        if host == 0 {
            return 0;
        }
        if let Some((_, own)) = self.cookies.iter().find(|(known, _)| *known == host) {
            return *own;
        }
        if self.cookies.len() >= COOKIES {
            self.cookies.pop_front();
        }
        let own = next_cookie();
        self.cookies.push_back((host, own));
        own
    }
}

/// While a watch is asked for.
struct Asking(Arc<HostChanges>);

impl Asking {
    fn new(changes: &HostChanges) -> Result<Asking, Errno> {
        let changes = changes.me.upgrade().ok_or(Errno::EIO)?;
        changes.state.lock().asked += 1;
        Ok(Asking(changes))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.asked -= 1;
        self.0.take_off(&mut state);
    }
}

/// A use of a watch.
struct Hold {
    changes: Arc<HostChanges>,
    id: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.changes.release(self.id);
    }
}

/// Keeps an inode watched on the host.
pub(super) struct Watching {
    own: Hold,
    _above: Option<Hold>,
}

impl Outside for Watching {
    fn catch_up(&self) {
        self.own.changes.read(ROUNDS);
    }
}

/// Stands between the reactor and [`HostChanges`].
struct Hook(Weak<HostChanges>);

impl Notify for Hook {
    fn notify(&self, _events: PollEvents) {
        if let Some(changes) = self.0.upgrade() {
            match changes.read(REACTOR_ROUNDS) {
                Reading::Goes => changes.arm(),
                Reading::Fails => {
                    tracing::error!("the gofer's inotify cannot be read: guests hear no more of changes on the host")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_far_as_they_are_whole() {
        let event = |watch: i32, len: u32, name: &[u8]| {
            let words = [watch as u32, FsEvent::CREATE.bits(), 7, len];
            words.iter().flat_map(|word| word.to_ne_bytes()).chain(name.iter().copied()).collect::<Vec<u8>>()
        };
        let bytes = [event(1, 4, b"ab\0\0"), event(-1, 0, b""), event(2, 100, b"short")].concat();
        let (first, rest) = parse(&bytes).expect("the first");
        assert_eq!((first.watch, first.event, first.cookie, first.name), (1, FsEvent::CREATE, 7, Some(&b"ab"[..])));
        let (second, rest) = parse(rest).expect("the second");
        assert_eq!((second.watch, second.name), (-1, None));
        assert!(parse(rest).is_none());
        assert!(parse(&event(1, u32::MAX, b"")).is_none());
        assert!(parse(&[0; 15]).is_none());
    }

    #[test]
    fn both_halves_of_a_rename_have_one_cookie() {
        let mut state = State::default();
        let first = state.cookie(5);
        assert_eq!((state.cookie(5), state.cookie(0)), (first, 0));
        let others: Vec<u32> = (100..100 + COOKIES as u32).map(|host| state.cookie(host)).collect();
        assert!(!others.contains(&first));
        assert_eq!(state.cookies.len(), COOKIES);
        assert_ne!(state.cookie(5), first, "long forgotten");
    }
}
