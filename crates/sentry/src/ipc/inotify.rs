//! inotify(7): events of watched files and directories, to be read.
//!
//! An [`Inotify`] is a listener of the VFS's hooks ([`fsnotify`](crate::fs::fsnotify)) with a bounded queue. Equal neighbours in it are one.
//!
//! Locking: the instance's state is a leaf; marks are put on and taken off without it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::tunables::Tunables;
use crate::Errno;
use crate::fs::dev::device_parts;
use crate::fs::fsnotify::{FsEvent, InodeId, Listener, Mark, Outside};
use crate::fs::{Dentry, DentryCache, File, FileOps};
use crate::mm::Sink;
use crate::step::Step;
use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};

/// `fs.inotify.max_queued_events`, `max_user_instances`, `max_user_watches`.
pub const MAX_QUEUED_EVENTS: usize = 16384;
pub const MAX_USER_INSTANCES: usize = 128;
pub const MAX_USER_WATCHES: usize = 65536;

/// `sizeof(struct inotify_event)`, and what names are padded to.
const HEADER: usize = 16;

/// What each user has.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<u32, Counts>>);

#[derive(Default, Clone, Copy)]
struct Counts {
    instances: usize,
    watches: usize,
}

impl Limits {
    fn change(&self, uid: u32, change: impl FnOnce(&mut Counts) -> Result<(), Errno>) -> Result<(), Errno> {
        let mut users = self.0.lock();
        let counts = users.entry(uid).or_default();
        let result = change(counts);
        if counts.instances == 0 && counts.watches == 0 {
            users.remove(&uid);
        }
        result
    }
}

/// An instance.
pub struct Inotify {
    me: Weak<Inotify>,
    uid: u32,
    limits: Arc<Limits>,
    tunables: Arc<Tunables>,
    state: Mutex<State>,
    queue: WaitQueue,
}

struct State {
    events: VecDeque<Queued>,
    /// Most events that wait: `max_queued_events` when it was made.
    most_events: usize,
    watches: BTreeMap<i32, Watch>,
    by_inode: HashMap<InodeId, i32>,
    last_id: i32,
}

struct Watch {
    mark: Arc<Mark>,
    /// Where the mark is kept.
    cache: Arc<DentryCache>,
}

#[derive(PartialEq, Eq)]
struct Queued {
    id: i32,
    event: FsEvent,
    cookie: u32,
    name: Option<Box<[u8]>>,
}

impl Queued {
    /// As `struct inotify_event`, with the name padded by NULs.
    fn encode(&self) -> Vec<u8> {
        let name = self.name.as_deref().unwrap_or_default();
        let len = if self.name.is_some() { (name.len() + 1).next_multiple_of(HEADER) } else { 0 };
        let mut bytes = Vec::with_capacity(HEADER + len);
        for word in [self.id as u32, self.event.bits(), self.cookie, len as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(name);
        bytes.resize(HEADER + len, 0);
        bytes
    }

    fn len(&self) -> usize {
        HEADER + self.name.as_ref().map_or(0, |name| (name.len() + 1).next_multiple_of(HEADER))
    }
}

impl State {
    fn new(most_events: usize) -> State {
        State { events: VecDeque::new(), most_events, watches: BTreeMap::new(), by_inode: HashMap::new(), last_id: 0 }
    }

    /// Queues an event. Returns whether there is something new.
    fn push(&mut self, queued: Queued) -> bool {
        let same = |last: &Queued| {
            last.id == queued.id
                && last.event == queued.event
                && last.name == queued.name
                && !last.event.contains(FsEvent::IGNORED)
        };
        if self.events.back().is_some_and(same) {
            return false;
        }
        if self.events.len() > self.most_events {
            return false;
        }
        if self.events.len() == self.most_events {
            self.events.push_back(Queued { id: -1, event: FsEvent::Q_OVERFLOW, cookie: 0, name: None });
            return true;
        }
        self.events.push_back(queued);
        true
    }

    fn forget(&mut self, mark: &Mark) -> Option<Watch> {
        let watch = self.watches.remove(&mark.id)?;
        self.by_inode.remove(&mark.key());
        Some(watch)
    }
}

impl Inotify {
    /// # Errors
    /// `EMFILE` at the user's limit.
    pub fn new(cx: &Cx) -> Result<Arc<Inotify>, Errno> {
        let (uid, limits) = (cx.creds().uid, cx.kernel().ipc.inotify.clone());
        let tunables = cx.kernel().ipc.tunables.clone();
        let most = tunables.inotify_instances.count();
        limits.change(uid, |counts| {
            if counts.instances >= most {
                return Err(Errno::EMFILE);
            }
            counts.instances += 1;
            Ok(())
        })?;
        Ok(Arc::new_cyclic(|me| Inotify {
            me: me.clone(),
            uid,
            limits,
            state: Mutex::new(State::new(tunables.inotify_events.count())),
            tunables,
            queue: WaitQueue::new(),
        }))
    }

    /// `inotify_add_watch`, for what `dentry` leads to; `outside` tells of it, if that is not the VFS.
    ///
    /// # Errors
    /// `EEXIST` (`IN_MASK_CREATE`), `ENOSPC` at the user's limit.
    pub fn add(&self, dentry: &Dentry, mask: FsEvent, outside: Option<Box<dyn Outside>>) -> Result<i32, Errno> {
        let keep = mask & (FsEvent::ALL | FsEvent::EXCL_UNLINK | FsEvent::ONESHOT);
        let mut state = self.state.lock();
        if let Some(&id) = state.by_inode.get(&InodeId::of(dentry.inode())) {
            if mask.contains(FsEvent::MASK_CREATE) {
                return Err(Errno::EEXIST);
            }
            if let Some(watch) = state.watches.get(&id) {
                let old = if mask.contains(FsEvent::MASK_ADD) { watch.mark.mask() } else { FsEvent::empty() };
                watch.mark.set_mask(old | keep);
            }
            return Ok(id);
        }
        self.limits.change(self.uid, |counts| {
            if counts.watches >= self.tunables.inotify_watches.count() {
                return Err(Errno::ENOSPC);
            }
            counts.watches += 1;
            Ok(())
        })?;
        // Numbers are not given again before all have been used.
        let mut id = state.last_id;
        loop {
            id = if id == i32::MAX { 1 } else { id + 1 };
            if !state.watches.contains_key(&id) {
                break;
            }
        }
        state.last_id = id;
        let listener: Weak<dyn Listener> = self.me.clone();
        let mark = dentry.watch(id, keep, listener, outside);
        state.by_inode.insert(mark.key(), id);
        state.watches.insert(id, Watch { mark, cache: dentry.cache().clone() });
        Ok(id)
    }

    /// The lines of /proc/PID/fdinfo (proc_pid_fdinfo(5)); there are no file handles to show.
    pub fn describe(&self, text: &mut String) {
        use std::fmt::Write;
        let marks: Vec<Arc<Mark>> = self.state.lock().watches.values().rev().map(|watch| watch.mark.clone()).collect();
        for mark in marks {
            let Step::Ready(Ok(metadata)) = mark.inode().metadata() else { continue };
            let (major, minor) = device_parts(metadata.dev);
            let (id, ino, dev, mask) = (mark.id, metadata.ino, major << 20 | minor, mark.mask().bits());
            let _ = writeln!(text, "inotify wd:{id:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0 ");
        }
    }

    /// `inotify_rm_watch`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn remove(&self, id: i32) -> Result<(), Errno> {
        let watch = self.state.lock().watches.get(&id).map(|watch| (watch.mark.clone(), watch.cache.clone()));
        let (mark, cache) = watch.ok_or(Errno::EINVAL)?;
        if cache.marks.remove(&mark) {
            self.ended(&mark, FsEvent::empty());
        }
        Ok(())
    }

    fn read_now(&self, into: &mut dyn Sink) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let first = state.events.front().ok_or(Errno::EAGAIN)?;
        if first.len() > into.remaining() {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        // As in Linux, an event that cannot be stored is lost.
        while state.events.front().is_some_and(|event| event.len() <= into.remaining())
            && let Some(event) = state.events.pop_front()
        {
            let bytes = event.encode();
            match into.put(&bytes) {
                Ok(n) if n == bytes.len() => done += n,
                Ok(_) | Err(_) if done > 0 => break,
                Ok(_) => return Err(Errno::EFAULT),
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

impl Listener for Inotify {
    fn event(&self, mark: &Arc<Mark>, event: FsEvent, cookie: u32, name: Option<&[u8]>) {
        // As inotify always was: these two do not say what kind of file it was.
        let alone = event.intersects(FsEvent::DELETE_SELF | FsEvent::MOVE_SELF);
        let event = if alone { event - FsEvent::ISDIR } else { event };
        let id = if event.contains(FsEvent::Q_OVERFLOW) { -1 } else { mark.id };
        let new = self.state.lock().push(Queued { id, event, cookie, name: name.map(Into::into) });
        if new {
            self.queue.wake(PollEvents::IN | PollEvents::RDNORM);
        }
    }

    fn ended(&self, mark: &Arc<Mark>, why: FsEvent) {
        let mut state = self.state.lock();
        let told = why == FsEvent::UNMOUNT || mark.mask().intersects(why);
        if told {
            state.push(Queued { id: mark.id, event: why, cookie: 0, name: None });
        }
        let watch = state.forget(mark);
        if watch.is_some() {
            state.push(Queued { id: mark.id, event: FsEvent::IGNORED, cookie: 0, name: None });
        }
        drop(state);
        if watch.is_some() {
            let _ = self.limits.change(self.uid, |counts| {
                counts.watches -= 1;
                Ok(())
            });
        }
        drop(watch);
        self.queue.wake(PollEvents::IN | PollEvents::RDNORM);
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watches = std::mem::take(&mut self.state.get_mut().watches);
        let _ = self.limits.change(self.uid, |counts| {
            counts.instances -= 1;
            counts.watches -= watches.len();
            Ok(())
        });
        for watch in watches.into_values() {
            watch.cache.marks.remove(&watch.mark);
        }
    }
}

impl FileOps for Inotify {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.read_now(into))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let empty = self.state.lock().events.is_empty();
        if empty { PollEvents::empty() } else { PollEvents::IN | PollEvents::RDNORM }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        if command != linux_raw_sys::ioctl::FIONREAD {
            return Step::err(Errno::ENOTTY);
        }
        let waiting: usize = self.state.lock().events.iter().map(Queued::len).sum();
        Step::Ready(cx.mm.write_val(argument, &(waiting as i32)).map(|()| 0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_are_one_and_the_queue_is_bounded() {
        let mut state = State::new(MAX_QUEUED_EVENTS);
        let event = |id, event| Queued { id, event, cookie: 0, name: Some(b"name".as_slice().into()) };
        assert!(state.push(event(1, FsEvent::MODIFY)));
        assert!(!state.push(event(1, FsEvent::MODIFY)));
        assert!(state.push(event(2, FsEvent::MODIFY)) && state.push(event(1, FsEvent::MODIFY)));
        let bytes = event(1, FsEvent::MODIFY).encode();
        assert_eq!((bytes.len(), bytes.get(12), bytes.get(16..21)), (32, Some(&16), Some(b"name\0".as_slice())));
        for n in 0..2 * MAX_QUEUED_EVENTS as i32 {
            state.push(event(n, FsEvent::OPEN));
        }
        assert_eq!(state.events.len(), MAX_QUEUED_EVENTS + 1);
        assert_eq!(state.events.back().map(|event| (event.id, event.event)), Some((-1, FsEvent::Q_OVERFLOW)));
    }
}
