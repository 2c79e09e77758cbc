//! epoll(7).
//!
//! An [`Epoll`] has an item per (open file, descriptor number). The item is registered with the file's wait queue and puts itself on the
//! instance's ready list at each event; collecting asks each listed file what is ready *now*. Level-triggered items go back on the list,
//! edge-triggered ones wait for the next event. Closing the last reference of a file removes its items.
//!
//! Locking: an instance's state lock is not held over calls of files or wakes, so nesting needs no order among instances. Changes of the
//! nesting itself are serialised by [`Topology`].

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::Errno;
use crate::fs::{File, FileId, FileOps, Watcher};
use crate::step::Step;
use crate::wait::{Notify, PollEvents, Registration, Share, WaitQueue};

bitflags::bitflags! {
    /// How an item reports, bits of `epoll_event.events`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Trigger: u32 {
        const EXCLUSIVE = 1 << 28;
        const WAKEUP = 1 << 29;
        const ONESHOT = 1 << 30;
        const EDGE = 1 << 31;
    }
}

/// Instances may watch instances, this many deep.
const MAX_DEPTH: usize = 5;

/// Held while the nesting of instances changes.
#[derive(Default)]
pub struct Topology(Mutex<()>);

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    pub events: PollEvents,
    pub trigger: Trigger,
    /// Given back with each event.
    pub data: u64,
}

/// An epoll instance.
pub struct Epoll {
    core: Arc<Core>,
}

struct Core {
    state: Mutex<State>,
    queue: WaitQueue,
    /// Instances that watch this one.
    parents: Mutex<Vec<Weak<Core>>>,
}

#[derive(Default)]
struct State {
    items: HashMap<FileId, SmallVec<[Arc<Item>; 1]>>,
    ready: VecDeque<Arc<Item>>,
}

struct Item {
    me: Weak<Item>,
    core: Weak<Core>,
    file: Weak<File>,
    fd: i32,
    state: Mutex<ItemState>,
    /// Whether it is on the ready list.
    listed: AtomicBool,
    registration: Mutex<Option<Registration>>,
}

struct ItemState {
    interest: Interest,
    /// False after a one-shot event, and after removal.
    armed: bool,
}

impl Notify for Item {
    fn notify(&self, events: PollEvents) {
        let state = self.state.lock();
        let wanted = state.armed && (state.interest.events | PollEvents::ALWAYS).intersects(events);
        drop(state);
        if wanted && let (Some(core), Some(me)) = (self.core.upgrade(), self.me.upgrade()) {
            core.list(me);
        }
    }
}

impl Item {
    /// Reports no more, and leaves the file's wait queue (which holds the item).
    fn retire(&self) {
        self.state.lock().armed = false;
        let registration = self.registration.lock().take();
        drop(registration);
    }

    /// What is ready now of what is wanted.
    fn ready(&self) -> PollEvents {
        let interest = {
            let state = self.state.lock();
            if !state.armed {
                return PollEvents::empty();
            }
            state.interest
        };
        let Some(file) = self.file.upgrade() else { return PollEvents::empty() };
        file.ops.poll(&file) & (interest.events | PollEvents::ALWAYS)
    }
}

impl Core {
    /// Puts an item on the ready list and tells those who wait.
    fn list(&self, item: Arc<Item>) {
        if !item.listed.swap(true, Ordering::SeqCst) {
            self.state.lock().ready.push_back(item);
        }
        self.queue.wake(PollEvents::IN | PollEvents::RDNORM);
    }

    /// Levels of instances below and including this one; None when `target` is among them or it is too deep.
    fn depth_below(self: &Arc<Core>, target: &Arc<Core>, limit: usize) -> Option<usize> {
        if Arc::ptr_eq(self, target) || limit == 0 {
            return None;
        }
        let children: Vec<Arc<File>> = {
            let state = self.state.lock();
            state.items.values().flatten().filter_map(|item| item.file.upgrade()).collect()
        };
        let mut deepest = 0;
        for file in children {
            if let Some(epoll) = file.downcast::<Epoll>() {
                deepest = deepest.max(epoll.core.depth_below(target, limit - 1)?);
            }
        }
        Some(deepest + 1)
    }

    /// Levels of instances above and including this one, at most `limit`.
    fn depth_above(&self, limit: usize) -> usize {
        if limit == 0 {
            return 0;
        }
        let parents: Vec<Arc<Core>> = self.parents.lock().iter().filter_map(Weak::upgrade).collect();
        1 + parents.iter().map(|parent| parent.depth_above(limit - 1)).max().unwrap_or(0)
    }
}

impl Watcher for Core {
    fn file_closed(&self, file: FileId) {
        let removed = self.state.lock().items.remove(&file);
        for item in removed.into_iter().flatten() {
            item.retire();
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let items = std::mem::take(&mut self.core.state.lock().items);
        for item in items.into_values().flatten() {
            item.retire();
        }
    }
}

impl Epoll {
    /// Its lines in /proc/PID/fdinfo: one for each descriptor that it watches.
    pub fn describe(&self, text: &mut String) {
        use std::fmt::Write;
        let items: Vec<Arc<Item>> = self.core.state.lock().items.values().flatten().cloned().collect();
        for item in items {
            let Some(file) = item.file.upgrade() else { continue };
            let interest = item.state.lock().interest;
            let events = (interest.events | PollEvents::ALWAYS).bits() | interest.trigger.bits();
            let position = *file.position.lock();
            let Step::Ready(Ok(metadata)) = file.inode().metadata() else { continue };
            let _ = writeln!(
                text,
                "tfd: {:8} events: {events:8x} data: {:16x}  pos:{position} ino:{:x} sdev:{:x}",
                item.fd, interest.data, metadata.ino, metadata.dev
            );
        }
    }

    /// A file that it watches under a number. A number that was closed and used again may stand for several: `nth` chooses.
    pub fn watched(&self, fd: i32, nth: u32) -> Option<Arc<File>> {
        let items: Vec<Arc<Item>> =
            self.core.state.lock().items.values().flatten().filter(|item| item.fd == fd).cloned().collect();
        let mut files: Vec<Arc<File>> = items.iter().filter_map(|item| item.file.upgrade()).collect();
        files.sort_unstable_by_key(|file| Arc::as_ptr(file).addr());
        files.into_iter().nth(usize::try_from(nth).ok()?)
    }

    pub fn new() -> Arc<Epoll> {
        let core = Core { state: Mutex::default(), queue: WaitQueue::new(), parents: Mutex::default() };
        Arc::new(Epoll { core: Arc::new(core) })
    }

    /// Watches a descriptor (`EPOLL_CTL_ADD`).
    ///
    /// # Errors
    /// `EEXIST`; `EPERM` for files that cannot be waited for; `EINVAL`, `ELOOP` for instances in instances.
    pub fn add(&self, topology: &Topology, file: &Arc<File>, fd: i32, interest: Interest) -> Result<(), Errno> {
        let queue = file.ops.wait_queue().ok_or(Errno::EPERM)?;
        check_exclusive(file, &interest)?;
        let _nesting = match file.downcast::<Epoll>() {
            Some(inner) => {
                let nesting = topology.0.lock();
                let below = inner.core.depth_below(&self.core, MAX_DEPTH).ok_or(Errno::ELOOP)?;
                if below + self.core.depth_above(MAX_DEPTH + 1) > MAX_DEPTH {
                    return Err(Errno::ELOOP);
                }
                let mut parents = inner.core.parents.lock();
                parents.retain(|parent| parent.strong_count() > 0);
                parents.push(Arc::downgrade(&self.core));
                Some(nesting)
            }
            None => None,
        };
        let item = Arc::new_cyclic(|me| Item {
            me: me.clone(),
            core: Arc::downgrade(&self.core),
            file: Arc::downgrade(file),
            fd,
            state: Mutex::new(ItemState { interest, armed: true }),
            listed: AtomicBool::new(false),
            registration: Mutex::new(None),
        });
        {
            let mut state = self.core.state.lock();
            let items = state.items.entry(file.id()).or_default();
            if items.iter().any(|other| other.fd == fd) {
                return Err(Errno::EEXIST);
            }
            items.push(item.clone());
        }
        let core: Arc<dyn Watcher> = self.core.clone();
        file.watch(Arc::downgrade(&core));
        let registration = if interest.trigger.contains(Trigger::EXCLUSIVE) {
            queue.register(interest.events, Share::Exclusive, item.clone())
        } else {
            queue.register(PollEvents::all(), Share::All, item.clone())
        };
        *item.registration.lock() = Some(registration);
        if !item.state.lock().armed {
            // Removed by another thread meanwhile.
            item.retire();
        }
        if !item.ready().is_empty() {
            self.core.list(item);
        }
        Ok(())
    }

    /// Changes what a descriptor is watched for (`EPOLL_CTL_MOD`); arms it again.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for exclusive items.
    pub fn modify(&self, file: &Arc<File>, fd: i32, interest: Interest) -> Result<(), Errno> {
        if interest.trigger.contains(Trigger::EXCLUSIVE) {
            return Err(Errno::EINVAL);
        }
        let item = self.find(file.id(), fd).ok_or(Errno::ENOENT)?;
        {
            let mut state = item.state.lock();
            if state.interest.trigger.contains(Trigger::EXCLUSIVE) {
                return Err(Errno::EINVAL);
            }
            *state = ItemState { interest, armed: true };
        }
        if !item.ready().is_empty() {
            self.core.list(item);
        }
        Ok(())
    }

    /// Watches a descriptor no more (`EPOLL_CTL_DEL`).
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, file: &Arc<File>, fd: i32) -> Result<(), Errno> {
        let mut state = self.core.state.lock();
        let items = state.items.get_mut(&file.id()).ok_or(Errno::ENOENT)?;
        let at = items.iter().position(|item| item.fd == fd).ok_or(Errno::ENOENT)?;
        let item = items.remove(at);
        if items.is_empty() {
            state.items.remove(&file.id());
        }
        state.ready.retain(|other| !Arc::ptr_eq(other, &item));
        drop(state);
        item.retire();
        if let Some(inner) = file.downcast::<Epoll>() {
            let mut parents = inner.core.parents.lock();
            if let Some(at) = parents.iter().position(|parent| parent.as_ptr() == Arc::as_ptr(&self.core)) {
                parents.remove(at);
            }
        }
        Ok(())
    }

    fn find(&self, file: FileId, fd: i32) -> Option<Arc<Item>> {
        let state = self.core.state.lock();
        state.items.get(&file)?.iter().find(|item| item.fd == fd).cloned()
    }

    /// Takes up to `max` events: what is ready and its data.
    pub fn collect(&self, max: usize) -> SmallVec<[(PollEvents, u64); 16]> {
        let mut events = SmallVec::new();
        let mut again: SmallVec<[Arc<Item>; 16]> = SmallVec::new();
        let listed = self.core.state.lock().ready.len();
        for _ in 0..listed {
            if events.len() >= max {
                break;
            }
            let Some(item) = self.core.state.lock().ready.pop_front() else { break };
            // Before the look: an event after it lists the item again.
            item.listed.store(false, Ordering::SeqCst);
            let ready = item.ready();
            if ready.is_empty() {
                continue;
            }
            let mut state = item.state.lock();
            if !state.armed {
                continue;
            }
            events.push((ready, state.interest.data));
            let trigger = state.interest.trigger;
            state.armed = !trigger.contains(Trigger::ONESHOT);
            drop(state);
            if !trigger.intersects(Trigger::ONESHOT | Trigger::EDGE) {
                again.push(item);
            }
        }
        let mut state = self.core.state.lock();
        for item in again {
            if !item.listed.swap(true, Ordering::SeqCst) {
                state.ready.push_back(item);
            }
        }
        let more = !state.ready.is_empty();
        drop(state);
        if more {
            // Another waiter may have looked while the list was empty.
            self.core.queue.wake(PollEvents::IN);
        }
        events
    }

    pub fn queue(&self) -> &WaitQueue {
        &self.core.queue
    }
}

/// The rules of `EPOLLEXCLUSIVE` (eventpoll.c).
fn check_exclusive(file: &File, interest: &Interest) -> Result<(), Errno> {
    let allowed = PollEvents::IN | PollEvents::OUT | PollEvents::ERR | PollEvents::HUP;
    let exclusive = interest.trigger.contains(Trigger::EXCLUSIVE);
    let wrong = interest.trigger.contains(Trigger::ONESHOT) || !allowed.contains(interest.events);
    if exclusive && (wrong || file.downcast::<Epoll>().is_some()) { Err(Errno::EINVAL) } else { Ok(()) }
}

impl FileOps for Epoll {
    fn poll(&self, _file: &File) -> PollEvents {
        let listed: SmallVec<[Arc<Item>; 16]> = self.core.state.lock().ready.iter().cloned().collect();
        if listed.iter().any(|item| !item.ready().is_empty()) {
            PollEvents::IN | PollEvents::RDNORM
        } else {
            PollEvents::empty()
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.core.queue)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::eventfd::{EventFd, Mode};
    use super::super::tests::{file, read, write};
    use super::*;
    use crate::fs::OpenFlags;

    fn event() -> Arc<File> {
        file(EventFd::new(0, Mode::Counter), OpenFlags::RDWR)
    }

    fn interest(events: PollEvents, trigger: Trigger, data: u64) -> Interest {
        Interest { events, trigger, data }
    }

    fn raise(file: &File) {
        write(file, &1u64.to_ne_bytes()).expect("write");
    }

    fn got(epoll: &Epoll) -> Vec<u64> {
        epoll.collect(10).iter().map(|(_, data)| *data).collect()
    }

    #[test]
    fn level_triggered_items_stay_until_they_are_not_ready() {
        let (epoll, event, topology) = (Epoll::new(), event(), Topology::default());
        epoll.add(&topology, &event, 3, interest(PollEvents::IN, Trigger::empty(), 7)).expect("add");
        let again = epoll.add(&topology, &event, 3, interest(PollEvents::IN, Trigger::empty(), 7));
        assert_eq!(again, Err(Errno::EEXIST));
        assert_eq!(got(&epoll), []);
        raise(&event);
        assert_eq!(got(&epoll), [7]);
        assert_eq!(got(&epoll), [7]);
        read(&event, 8).expect("read");
        assert_eq!(got(&epoll), []);
    }

    #[test]
    fn edge_triggered_items_report_each_new_event_once() {
        let (epoll, event) = (Epoll::new(), event());
        let edge = interest(PollEvents::IN, Trigger::EDGE, 1);
        epoll.add(&Topology::default(), &event, 3, edge).expect("add");
        raise(&event);
        raise(&event);
        assert_eq!(got(&epoll), [1]);
        assert_eq!(got(&epoll), [], "still ready, but nothing new");
        raise(&event);
        assert_eq!(got(&epoll), [1], "a new event without a read between");
        epoll.modify(&event, 3, edge).expect("modify");
        assert_eq!(got(&epoll), [1], "a change looks again");
    }

    #[test]
    fn one_shot_items_wait_for_a_change() {
        let (epoll, event) = (Epoll::new(), event());
        let once = interest(PollEvents::IN, Trigger::ONESHOT, 1);
        epoll.add(&Topology::default(), &event, 3, once).expect("add");
        raise(&event);
        assert_eq!(got(&epoll), [1]);
        raise(&event);
        assert_eq!(got(&epoll), []);
        epoll.modify(&event, 3, once).expect("modify");
        assert_eq!(got(&epoll), [1]);
    }

    #[test]
    fn closing_the_last_reference_removes_the_item() {
        let (epoll, event) = (Epoll::new(), event());
        let (reader, writer) = super::super::pipe::ends();
        let reader = file(reader, OpenFlags::empty());
        let writer = file(writer, OpenFlags::WRONLY);
        epoll.add(&Topology::default(), &reader, 3, interest(PollEvents::IN, Trigger::empty(), 1)).expect("add");
        epoll.add(&Topology::default(), &event, 4, interest(PollEvents::IN, Trigger::empty(), 2)).expect("add");
        write(&writer, b"x").expect("write");
        raise(&event);
        assert_eq!(got(&epoll), [1, 2]);
        drop(reader);
        assert_eq!(got(&epoll), [2]);
        assert_eq!(epoll.core.state.lock().items.len(), 1);
        let item = Arc::downgrade(&epoll.find(event.id(), 4).expect("item"));
        epoll.remove(&event, 4).expect("remove");
        assert_eq!(item.strong_count(), 0, "a removed item is freed");
        assert_eq!(epoll.remove(&event, 4), Err(Errno::ENOENT));
        assert_eq!(got(&epoll), []);
    }

    #[test]
    fn nested_instances_report_and_circles_are_refused() {
        let topology = Topology::default();
        let level = |data| interest(PollEvents::IN, Trigger::empty(), data);
        let (inner, event) = (Epoll::new(), event());
        let inner_file = file(inner.clone(), OpenFlags::RDWR);
        let outer = Epoll::new();
        let outer_file = file(outer.clone(), OpenFlags::RDWR);
        inner.add(&topology, &event, 3, level(1)).expect("add");
        outer.add(&topology, &inner_file, 4, level(2)).expect("add");
        assert_eq!(got(&outer), []);
        raise(&event);
        assert_eq!(got(&outer), [2]);
        read(&event, 8).expect("read");
        assert_eq!(got(&outer), []);
        assert_eq!(inner.add(&topology, &outer_file, 5, level(3)), Err(Errno::ELOOP));
        let mut top = outer_file;
        let mut chain = Vec::new();
        for depth in 3..=6 {
            let next = Epoll::new();
            let added = next.add(&topology, &top, 3, level(9));
            assert_eq!(added, if depth <= 5 { Ok(()) } else { Err(Errno::ELOOP) }, "depth {depth}");
            chain.push(top);
            top = file(next, OpenFlags::RDWR);
        }
    }

    #[test]
    fn exclusive_waiters_are_told_one_at_a_time() {
        let (first, second, event) = (Epoll::new(), Epoll::new(), event());
        let exclusive = interest(PollEvents::IN, Trigger::EXCLUSIVE, 1);
        first.add(&Topology::default(), &event, 3, exclusive).expect("add");
        second.add(&Topology::default(), &event, 3, exclusive).expect("add");
        raise(&event);
        assert_eq!(got(&first).len() + got(&second).len(), 1);
        assert_eq!(first.modify(&event, 3, exclusive), Err(Errno::EINVAL));
    }
}
