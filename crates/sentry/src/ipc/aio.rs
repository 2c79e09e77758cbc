//! Asynchronous I/O (`io_setup(2)` …; fs/aio.c): contexts whose completions also stand in a ring in guest memory, where libaio looks for them.
//!
//! Reads, writes and syncs are done while they are submitted, as Linux does them for buffered files; only polls are left to be completed later. Completions
//! are kept here; the ring is a copy, in which the guest may only say how many of them it has taken.
//!
//! Locking: a context's state is a leaf.
//!
//! The sentry keeps completions and polls, so all contexts of a sandbox together are made for at most
//! [`MAX_REQUESTS`], and one takes at most twice what it was made for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::eventfd::EventFd;
use crate::Errno;
use crate::fs::File;
use crate::mm::Mm;
use crate::wait::{Notify, PollEvents, Registration, Share, WaitQueue};

/// Most requests of all contexts of a sandbox (`fs.aio-max-nr`).
pub const MAX_REQUESTS: u64 = 65536;
/// `sizeof(struct aio_ring)`, and of an event.
pub const RING_HEADER: u64 = 32;
pub const EVENT: u64 = 32;
const MAGIC: u32 = 0xa10a_10a1;

/// `struct io_event`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Event {
    pub data: u64,
    pub request: u64,
    pub result: i64,
    pub result2: i64,
}

/// How many requests the contexts of a sandbox are made for (`fs.aio-nr`).
#[derive(Default)]
pub struct Requests {
    used: AtomicU64,
}

/// A context's part of them.
pub struct Claim {
    of: Arc<Requests>,
    requests: u64,
}

impl Requests {
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// # Errors
    /// `EAGAIN` when there are not so many left.
    pub fn take(self: &Arc<Requests>, requests: u64) -> Result<Claim, Errno> {
        let more = |used: u64| used.checked_add(requests).filter(|&sum| sum <= MAX_REQUESTS);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map_err(|_| Errno::EAGAIN)?;
        Ok(Claim { of: self.clone(), requests })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.requests, Ordering::Relaxed);
    }
}

/// A context.
pub struct Context {
    /// Address of the ring: the context's name.
    pub ring: u64,
    /// Events the ring has places for.
    slots: u32,
    /// Most requests whose results nobody has taken.
    most: usize,
    state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    /// None after the context's end.
    claim: Option<Claim>,
    done: VecDeque<Event>,
    /// How many of `done`, from its end, are not in the ring yet.
    unwritten: usize,
    head: u32,
    tail: u32,
    polls: HashMap<u64, Arc<Poll>>,
    next: u64,
    destroyed: bool,
}

/// A poll that waits.
struct Poll {
    id: u64,
    context: Weak<Context>,
    file: Arc<File>,
    mask: PollEvents,
    event: Event,
    signal: Option<Arc<File>>,
    registration: Mutex<Option<Registration>>,
}

impl Context {
    /// A context whose ring, of `slots` places, is at `ring`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn new(mm: &Mm, ring: u64, slots: u32, claim: Claim) -> Result<Arc<Context>, Errno> {
        // Linux takes as many as the ring's pages have places for; twice what was asked for there are at least.
        let most = (2 * claim.requests.max(4)).min(u64::from(slots) - 1) as usize;
        // id, nr, head, tail, magic, compatible and incompatible features, header length.
        mm.write_val(ring, &[0, slots, 0, 0, MAGIC, 1, 0, RING_HEADER as u32])?;
        Ok(Arc::new(Context {
            ring,
            slots,
            most,
            state: Mutex::new(State { claim: Some(claim), ..State::default() }),
            queue: WaitQueue::new(),
        }))
    }

    /// Events the ring has places for.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The ring's length in bytes.
    pub fn ring_len(&self) -> u64 {
        RING_HEADER + u64::from(self.slots) * EVENT
    }

    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Whether one more request may be made.
    ///
    /// # Errors
    /// `EAGAIN`; `EINVAL` after the context's end.
    pub fn admit(&self, mm: &Mm) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.destroyed {
            return Err(Errno::EINVAL);
        }
        self.take_notice(&mut state, mm);
        let used = state.done.len() + state.polls.len();
        if used >= self.most { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// A request is done.
    pub fn complete(&self, mm: &Mm, event: Event, signal: Option<&File>) {
        let mut state = self.state.lock();
        state.done.push_back(event);
        state.unwritten += 1;
        self.write_ring(&mut state, mm);
        drop(state);
        self.tell(signal);
    }

    fn tell(&self, signal: Option<&File>) {
        self.queue.wake(PollEvents::IN);
        if let Some(eventfd) = signal.and_then(|file| file.downcast::<EventFd>()) {
            eventfd.signal(1);
        }
    }

    /// Takes up to `max` events. Gives `EINVAL` after the context's end.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn take(&self, mm: &Mm, max: usize) -> Result<Vec<Event>, Errno> {
        let mut state = self.state.lock();
        if state.destroyed {
            return Err(Errno::EINVAL);
        }
        self.take_notice(&mut state, mm);
        let n = max.min(state.done.len());
        let events: Vec<Event> = state.done.drain(..n).collect();
        state.unwritten = state.unwritten.min(state.done.len());
        state.head = (state.head + n as u32) % self.slots;
        let _ = mm.write_val(self.ring + 8, &state.head);
        Ok(events)
    }

    /// Writes what is new into the ring and sees what the guest has taken out of it by itself.
    fn take_notice(&self, state: &mut State, mm: &Mm) {
        self.write_ring(state, mm);
        let Ok(head) = mm.load_u32(self.ring + 8) else { return };
        let taken = (head % self.slots + self.slots - state.head) % self.slots;
        if taken as usize <= state.done.len() {
            state.done.drain(..taken as usize);
            state.head = head % self.slots;
        }
    }

    fn write_ring(&self, state: &mut State, mm: &Mm) {
        while state.unwritten > 0 {
            let Some(event) = state.done.get(state.done.len() - state.unwritten) else { break };
            let at = self.ring + RING_HEADER + u64::from(state.tail) * EVENT;
            if mm.write_val(at, event).is_err() {
                break;
            }
            state.tail = (state.tail + 1) % self.slots;
            state.unwritten -= 1;
            let _ = mm.write_val(self.ring + 12, &state.tail);
        }
    }

    /// `IOCB_CMD_POLL`.
    ///
    /// # Errors
    /// `EINVAL` for a file that cannot be waited for.
    pub fn poll(
        self: &Arc<Context>,
        mm: &Mm,
        file: &Arc<File>,
        mask: PollEvents,
        event: Event,
        signal: Option<Arc<File>>,
    ) -> Result<(), Errno> {
        let mask = mask | PollEvents::ALWAYS;
        let queue = file.ops.wait_queue().ok_or(Errno::EINVAL)?.clone();
        let poll = {
            let mut state = self.state.lock();
            state.next += 1;
            let id = state.next;
            let (context, registration) = (Arc::downgrade(self), Mutex::new(None));
            let poll = Arc::new(Poll { id, context, file: file.clone(), mask, event, signal, registration });
            state.polls.insert(id, poll.clone());
            poll
        };
        *poll.registration.lock() = Some(queue.register(mask, Share::All, poll.clone()));
        poll.look();
        let mut state = self.state.lock();
        self.write_ring(&mut state, mm);
        Ok(())
    }

    /// `io_cancel`: ends a poll. Gives false if there is none of that request.
    pub fn cancel(&self, request: u64) -> bool {
        let mut state = self.state.lock();
        let Some(id) = state.polls.values().find(|poll| poll.event.request == request).map(|poll| poll.id) else {
            return false;
        };
        let Some(poll) = state.polls.remove(&id) else { return false };
        state.done.push_back(poll.event);
        state.unwritten += 1;
        drop(state);
        poll.retire();
        self.tell(poll.signal.as_deref());
        true
    }

    /// The end: waiting requests are forgotten, waiting callers told.
    pub fn destroy(&self) {
        let mut state = self.state.lock();
        state.destroyed = true;
        state.claim = None;
        let polls = std::mem::take(&mut state.polls);
        drop(state);
        for poll in polls.into_values() {
            poll.retire();
        }
        self.queue.wake(PollEvents::IN | PollEvents::HUP);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.destroy();
    }
}

impl Poll {
    fn look(&self) {
        let ready = self.file.ops.poll(&self.file) & self.mask;
        if ready.is_empty() {
            return;
        }
        let Some(context) = self.context.upgrade() else { return };
        let mut state = context.state.lock();
        if state.polls.remove(&self.id).is_none() {
            return;
        }
        state.done.push_back(Event { result: i64::from(ready.bits()), ..self.event });
        state.unwritten += 1;
        drop(state);
        self.retire();
        context.tell(self.signal.as_deref());
    }

    /// Leaves the file's wait queue, which holds the poll.
    fn retire(&self) {
        let registration = self.registration.lock().take();
        drop(registration);
    }
}

impl Notify for Poll {
    fn notify(&self, _events: PollEvents) {
        self.look();
    }
}
