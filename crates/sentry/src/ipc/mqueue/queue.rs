//! [`Queue`]: messages by priority, and whoever is to be told of the first.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Errno;
use crate::fs::{File, FileOps};
use crate::mm::Sink;
use crate::net::Netlink;
use crate::net::socket::Socket;
use crate::signal::{SigInfo, Signal};
use crate::step::Step;
use crate::task::{Cx, ThreadGroup, Tid};
use crate::wait::{PollEvents, WaitQueue};

/// Priorities are below this (`MQ_PRIO_MAX`).
pub const PRIO_MAX: u32 = 32768;

/// Bytes of messages that a namespace's queues may hold in the sentry.
const BUDGET: u64 = 64 << 20;

/// What a queue is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub max_messages: u64,
    pub message_size: u64,
}

/// Who is told when a message comes to an empty queue, and how.
pub struct Notification {
    pub owner: Weak<ThreadGroup>,
    pub pid: Tid,
    pub kind: NotifyKind,
}

#[derive(Clone)]
pub enum NotifyKind {
    None,
    /// The signal and `si_value`.
    Signal(Option<Signal>, u64),
    /// A netlink socket gets a datagram of the process's own (by which the C library starts a thread), the last byte of which says what has happened.
    Datagram(Arc<Netlink>, [u8; COOKIE]),
}

/// Bytes of such a datagram (`NOTIFY_COOKIE_LEN`).
pub const COOKIE: usize = 32;
/// Its last byte: a message has come, or nobody will be told any more.
const WOKEN: u8 = 1;
const REMOVED: u8 = 2;

impl NotifyKind {
    /// `SIGEV_THREAD`.
    ///
    /// # Errors
    /// `EINVAL` if it is no netlink socket.
    pub fn datagram(socket: Arc<dyn Socket>, cookie: [u8; COOKIE]) -> Result<NotifyKind, Errno> {
        let socket: Arc<dyn Any + Send + Sync> = socket;
        socket.downcast().map(|socket| NotifyKind::Datagram(socket, cookie)).map_err(|_| Errno::EINVAL)
    }
}

impl Notification {
    /// A message of `cx`'s has come.
    fn wake(self, cx: &Cx) {
        match self.kind {
            NotifyKind::Signal(Some(signal), value) => {
                let Some(owner) = self.owner.upgrade() else { return };
                let (pid, uid) = (owner.pid_ns.local(cx.task.tgid()), owner.show_uid(cx.creds().uid));
                let _ = owner.send_signal(SigInfo::message_queue(signal, pid, uid, value));
            }
            NotifyKind::Datagram(socket, cookie) => send(&socket, cookie, WOKEN),
            NotifyKind::None | NotifyKind::Signal(None, _) => {}
        }
    }

    /// It is taken off.
    fn remove(self) {
        if let NotifyKind::Datagram(socket, cookie) = self.kind {
            send(&socket, cookie, REMOVED);
        }
    }
}

fn send(socket: &Netlink, mut cookie: [u8; COOKIE], what: u8) {
    cookie[COOKIE - 1] = what;
    socket.queue_up(cookie.to_vec());
}

/// A message queue.
pub struct Queue {
    pub attributes: Attributes,
    state: Mutex<State>,
    queue: WaitQueue,
    /// Bytes of all queues of the namespace.
    total: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    /// By priority; the oldest first.
    messages: BTreeMap<u32, VecDeque<Vec<u8>>>,
    count: u64,
    bytes: u64,
    notification: Option<Notification>,
    /// Receivers that wait: they get a message before anybody is told.
    receivers: usize,
}

impl Queue {
    pub fn new(attributes: Attributes, total: Arc<AtomicU64>) -> Arc<Queue> {
        Arc::new(Queue { attributes, state: Mutex::default(), queue: WaitQueue::new(), total })
    }

    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    pub fn count(&self) -> u64 {
        self.state.lock().count
    }

    /// Puts a message in.
    ///
    /// # Errors
    /// `EAGAIN` when it is full, `ENOMEM`.
    pub fn send(&self, cx: &Cx, priority: u32, message: &mut Vec<u8>) -> Result<(), Errno> {
        let len = message.len() as u64;
        let mut state = self.state.lock();
        if state.count >= self.attributes.max_messages {
            return Err(Errno::EAGAIN);
        }
        if self.total.fetch_add(len, Ordering::Relaxed) + len > BUDGET {
            self.total.fetch_sub(len, Ordering::Relaxed);
            return Err(Errno::ENOMEM);
        }
        state.messages.entry(priority).or_default().push_back(std::mem::take(message));
        state.count += 1;
        state.bytes += len;
        let told = if state.count == 1 && state.receivers == 0 { state.notification.take() } else { None };
        drop(state);
        self.queue.wake(PollEvents::IN | PollEvents::RDNORM);
        if let Some(told) = told {
            told.wake(cx);
        }
        Ok(())
    }

    /// Takes the oldest message of the highest priority.
    ///
    /// # Errors
    /// `EAGAIN` when there is none.
    pub fn receive(&self) -> Result<(u32, Vec<u8>), Errno> {
        let mut state = self.state.lock();
        let mut last = state.messages.last_entry().ok_or(Errno::EAGAIN)?;
        let priority = *last.key();
        let message = last.get_mut().pop_front().ok_or(Errno::EAGAIN)?;
        if last.get().is_empty() {
            last.remove();
        }
        state.count -= 1;
        state.bytes -= message.len() as u64;
        self.total.fetch_sub(message.len() as u64, Ordering::Relaxed);
        drop(state);
        self.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        Ok((priority, message))
    }

    /// A receiver waits while the result lives.
    pub fn waiting(&self) -> Waiting<'_> {
        self.state.lock().receivers += 1;
        Waiting(self)
    }

    /// `mq_notify`; None: `pid` no longer wants to be told.
    ///
    /// # Errors
    /// `EBUSY` when somebody is to be told already.
    pub fn set_notification(&self, pid: Tid, new: Option<Notification>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let held = state.notification.as_ref().filter(|held| held.owner.strong_count() > 0);
        let removed = match (new, held) {
            (Some(_), Some(_)) => return Err(Errno::EBUSY),
            (Some(new), None) => state.notification.replace(new),
            (None, Some(held)) if held.pid == pid => state.notification.take(),
            (None, _) => None,
        };
        drop(state);
        if let Some(removed) = removed {
            removed.remove();
        }
        Ok(())
    }

    /// What reading the queue's file shows.
    fn status(&self) -> String {
        let state = self.state.lock();
        let (notify, signal, pid) = match &state.notification {
            None => (0, 0, 0),
            Some(Notification { kind: NotifyKind::None, pid, .. }) => (1, 0, *pid),
            Some(Notification { kind: NotifyKind::Datagram(..), pid, .. }) => (2, 0, *pid),
            Some(Notification { kind: NotifyKind::Signal(signal, _), pid, .. }) => (0, signal.map_or(0, Signal::number), *pid),
        };
        format!("QSIZE:{:<10} NOTIFY:{:<5} SIGNO:{:<5} NOTIFY_PID:{:<6}\n", state.bytes, notify, signal, pid)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.total.fetch_sub(self.state.get_mut().bytes, Ordering::Relaxed);
    }
}

/// See [`Queue::waiting`].
pub struct Waiting<'a>(&'a Queue);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().receivers -= 1;
    }
}

/// An open queue.
pub struct OpenQueue {
    pub queue: Arc<Queue>,
    /// The process that opened it: its wish to be told ends when it closes.
    pub opener: Tid,
}

impl FileOps for OpenQueue {
    fn read<'a>(&'a self, _file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let text = self.queue.status().into_bytes();
        let rest = usize::try_from(offset).ok().and_then(|from| text.get(from..)).unwrap_or_default();
        let n = rest.len().min(into.remaining());
        Step::Ready(into.put(rest.get(..n).unwrap_or_default()))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let count = self.queue.count();
        let mut events = PollEvents::empty();
        events.set(PollEvents::IN | PollEvents::RDNORM, count > 0);
        events.set(PollEvents::OUT | PollEvents::WRNORM, count < self.queue.attributes.max_messages);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue.queue)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn release(&self, _file: &File) {
        let _ = self.queue.set_notification(self.opener, None);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
