//! The one primitive that waits: [`wait_for`] registers with wait queues, checks again, waits, and is cut short by a signal,
//! a kill or a deadline.
//!
//! Objects own a [`WaitQueue`] and call [`WaitQueue::wake`] after a change, outside their own locks. Waiters are tasks (by their
//! [`std::task::Waker`]) or other objects (an epoll instance), both behind [`Notify`].
//!
//! Locking: a queue's list lock is a leaf; notifications run after it is released.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::time::{Clock, MonoTime, Timer, Timers};

bitflags::bitflags! {
    /// Readiness, `EPOLL*` values (the `POLL*` ones are their low bits).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct PollEvents: u32 {
        const IN = 0x001;
        const PRI = 0x002;
        const OUT = 0x004;
        const ERR = 0x008;
        const HUP = 0x010;
        const NVAL = 0x020;
        const RDNORM = 0x040;
        const RDBAND = 0x080;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const MSG = 0x400;
        const RDHUP = 0x2000;
        /// What is reported whether asked for or not.
        const ALWAYS = Self::ERR.bits() | Self::HUP.bits();
    }
}

/// Somebody who wants to hear of events.
pub trait Notify: Send + Sync {
    /// Called without locks of the queue held. Must not block.
    fn notify(&self, events: PollEvents);
}

struct WakerNotify(Waker);

impl Notify for WakerNotify {
    fn notify(&self, _events: PollEvents) {
        self.0.wake_by_ref();
    }
}

/// A waiter that wakes a task.
pub fn notify_waker(waker: &Waker) -> Arc<dyn Notify> {
    Arc::new(WakerNotify(waker.clone()))
}

/// Whether one event wakes all waiters or just one of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    All,
    Exclusive,
}

/// Those who wait for an object. Clones are the same queue.
#[derive(Clone, Default)]
pub struct WaitQueue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    count: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    entries: VecDeque<Entry>,
    next_id: u64,
}

struct Entry {
    id: u64,
    mask: PollEvents,
    share: Share,
    notify: Arc<dyn Notify>,
}

impl WaitQueue {
    pub fn new() -> WaitQueue {
        WaitQueue::default()
    }

    /// Adds a waiter for any of `mask` (and always for errors and hang-ups) until the result is dropped.
    pub fn register(&self, mask: PollEvents, share: Share, notify: Arc<dyn Notify>) -> Registration {
        let mut list = self.0.list.lock();
        let id = list.next_id;
        list.next_id += 1;
        list.entries.push_back(Entry { id, mask: mask | PollEvents::ALWAYS, share, notify });
        self.0.count.fetch_add(1, Ordering::SeqCst);
        Registration { queue: self.clone(), id }
    }

    /// Tells the waiters that `events` have happened: all shared ones, and the first exclusive one.
    pub fn wake(&self, events: PollEvents) {
        if self.0.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut due: SmallVec<[Arc<dyn Notify>; 4]> = SmallVec::new();
        let mut list = self.0.list.lock();
        let mut exclusive_at = None;
        for (at, entry) in list.entries.iter().enumerate() {
            if !entry.mask.intersects(events) || (entry.share == Share::Exclusive && exclusive_at.is_some()) {
                continue;
            }
            if entry.share == Share::Exclusive {
                exclusive_at = Some(at);
            }
            due.push(entry.notify.clone());
        }
        // Fair turns: the exclusive waiter that was told goes to the end.
        if let Some(entry) = exclusive_at.and_then(|at| list.entries.remove(at)) {
            list.entries.push_back(entry);
        }
        drop(list);
        for notify in due {
            notify.notify(events);
        }
    }

    /// Waits, for code that is no guest task, until `ready`, which changes with `events` of this queue.
    pub async fn until(&self, events: PollEvents, ready: impl Fn() -> bool) {
        let mut registration = None;
        std::future::poll_fn(|cx| {
            loop {
                if ready() {
                    return Poll::Ready(());
                }
                if registration.is_some() {
                    return Poll::Pending;
                }
                registration = Some(self.register(events, Share::All, notify_waker(cx.waker())));
            }
        })
        .await;
    }

    /// Whether anybody waits.
    pub fn has_waiters(&self) -> bool {
        self.0.count.load(Ordering::SeqCst) != 0
    }
}

/// A place in a wait queue. Dropping it leaves the queue.
pub struct Registration {
    queue: WaitQueue,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut list = self.queue.0.list.lock();
        if let Some(at) = list.entries.iter().position(|entry| entry.id == self.id) {
            list.entries.remove(at);
            self.queue.0.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Why a wait ended without its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitError {
    /// A signal (or a kill) is to be handled first.
    Interrupted,
    /// The deadline has passed.
    TimedOut,
}

/// What may cut a wait short. Implemented by the task.
pub trait Interrupt: Sync {
    /// Whether an interruptible wait must end now.
    fn interrupted(&self) -> bool;
    /// Whether even an uninterruptible wait must end now (the task is being killed).
    fn killed(&self) -> bool;
    /// The wait begins to sleep, or (None) is over.
    fn sleeps(&self, _how: Option<Sleep>) {}
}

/// Which waits a signal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sleep {
    /// Any signal with something to do.
    Interruptible,
    /// Only a fatal one.
    Killable,
    /// None: a killed task's stop at its exit.
    Uninterruptible,
}

/// How to wait.
pub struct Wait<'a> {
    pub who: &'a dyn Interrupt,
    pub sleep: Sleep,
    pub share: Share,
    /// None: as long as it takes.
    pub deadline: Option<Deadline<'a>>,
}

/// Until when to wait, and what tells.
pub struct Deadline<'a> {
    pub at: MonoTime,
    pub clock: &'a Clock,
    pub timers: &'a Arc<Timers>,
}

/// Waits until `attempt` gives a value: tries, registers with `queues`, tries again, sleeps.
///
/// # Errors
/// [`WaitError`]. `attempt` is always tried before an error is returned.
pub fn wait_for<'a, T, F>(how: Wait<'a>, queues: &'a [(&'a WaitQueue, PollEvents)], attempt: F) -> WaitFor<'a, F>
where
    F: FnMut() -> Option<T> + Unpin,
{
    WaitFor { how, queues, attempt, registrations: SmallVec::new(), timer: None, asleep: false }
}

/// The future of [`wait_for`].
pub struct WaitFor<'a, F> {
    how: Wait<'a>,
    queues: &'a [(&'a WaitQueue, PollEvents)],
    attempt: F,
    registrations: SmallVec<[Registration; 2]>,
    timer: Option<Timer>,
    /// Whether `who` was told that it sleeps.
    asleep: bool,
}

impl<T, F: FnMut() -> Option<T> + Unpin> Future for WaitFor<'_, F> {
    type Output = Result<T, WaitError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = this.look(cx);
        if polled.is_pending() && !this.asleep {
            this.asleep = true;
            this.how.who.sleeps(Some(this.how.sleep));
        }
        if polled.is_ready() && std::mem::take(&mut this.asleep) {
            this.how.who.sleeps(None);
        }
        polled
    }
}

impl<F> Drop for WaitFor<'_, F> {
    fn drop(&mut self) {
        if self.asleep {
            self.how.who.sleeps(None);
        }
    }
}

impl<T, F: FnMut() -> Option<T> + Unpin> WaitFor<'_, F> {
    fn look(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, WaitError>> {
        let this = self;
        if let Some(value) = (this.attempt)() {
            return Poll::Ready(Ok(value));
        }
        if this.registrations.is_empty() && !this.queues.is_empty() {
            let notify = notify_waker(cx.waker());
            for (queue, mask) in this.queues {
                this.registrations.push(queue.register(*mask, this.how.share, notify.clone()));
            }
            if let Some(value) = (this.attempt)() {
                return Poll::Ready(Ok(value));
            }
        }
        let cut = match this.how.sleep {
            Sleep::Interruptible => this.how.who.interrupted(),
            Sleep::Killable => this.how.who.killed(),
            Sleep::Uninterruptible => false,
        };
        if cut {
            return Poll::Ready(Err(WaitError::Interrupted));
        }
        if let Some(deadline) = &this.how.deadline {
            if deadline.clock.monotonic() >= deadline.at {
                return Poll::Ready(Err(WaitError::TimedOut));
            }
            if this.timer.is_none() {
                let waker = cx.waker().clone();
                this.timer = Some(deadline.timers.arm(deadline.at, Arc::new(move || waker.wake_by_ref())));
            }
        }
        Poll::Pending
    }
}

/// Waits until `attempt` gives a value, whatever happens to who waits.
pub async fn wait_always<T>(queue: &WaitQueue, mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut registration = None;
    std::future::poll_fn(|cx| {
        if registration.is_none() {
            registration = Some(queue.register(PollEvents::IN, Share::All, notify_waker(cx.waker())));
        }
        attempt().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
