//! Message queues (`msgget(2)`, `msgop(2)`, `msgctl(2)`; ipc/msg.c).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::ids::{Found, Ids, NextId};
use super::{IPC_NOWAIT, Perm, Wanted, now_sec};
use crate::Errno;
use crate::ipc::limits::IpcLimits;
use crate::task::{Cx, Tid};
use crate::wait::{PollEvents, WaitQueue};

/// Longest message, a new queue's capacity in bytes, and most queues, as long as no sysctl changes them.
pub const MSGMAX: u64 = 8192;
pub const MSGMNB: u64 = 16384;
pub const MSGMNI: usize = 32000;
pub const MSG_NOERROR: u32 = 0o10000;
pub const MSG_EXCEPT: u32 = 0o20000;
pub const MSG_COPY: u32 = 0o40000;

/// Bytes that the messages of a namespace may take in the sentry, each with [`OVERHEAD`]: Linux counts them as the container's memory.
pub const BUDGET: u64 = 64 << 20;
const OVERHEAD: u64 = 64;

/// The queues of a namespace.
#[derive(Default)]
pub struct MessageQueues {
    ids: Mutex<Ids<Queue>>,
    pub next_id: NextId,
    pub totals: Arc<Totals>,
}

/// What all queues hold.
#[derive(Default)]
pub struct Totals {
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: i64,
    pub bytes: Vec<u8>,
}

/// What changes of a queue.
pub struct State {
    pub perm: Perm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub lspid: Tid,
    pub lrpid: Tid,
    pub messages: VecDeque<Message>,
    removed: bool,
}

/// A message queue.
pub struct Queue {
    pub id: i32,
    pub state: Mutex<State>,
    /// `IN`: a message has come; `OUT`: there is room; both at the queue's end.
    queue: WaitQueue,
    totals: Arc<Totals>,
}

/// Which message `msgrcv` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    Any,
    Equal(i64),
    NotEqual(i64),
    /// The lowest type up to this.
    UpTo(i64),
    /// The n-th, which stays (`MSG_COPY`).
    Copy(u64),
}

impl Select {
    /// By `msgrcv`'s type and flags.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(kind: i64, flags: u32) -> Result<Select, Errno> {
        if flags & MSG_COPY != 0 {
            if flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0 {
                return Err(Errno::EINVAL);
            }
            return Ok(Select::Copy(kind as u64));
        }
        Ok(match kind {
            0 => Select::Any,
            ..0 => Select::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
            _ if flags & MSG_EXCEPT != 0 => Select::NotEqual(kind),
            _ => Select::Equal(kind),
        })
    }

    fn find(self, messages: &VecDeque<Message>) -> Option<usize> {
        match self {
            Select::Any => (!messages.is_empty()).then_some(0),
            Select::Equal(kind) => messages.iter().position(|message| message.kind == kind),
            Select::NotEqual(kind) => messages.iter().position(|message| message.kind != kind),
            Select::UpTo(kind) => {
                let fitting = messages.iter().enumerate().filter(|(_, message)| message.kind <= kind);
                fitting.min_by_key(|(_, message)| message.kind).map(|(at, _)| at)
            }
            Select::Copy(number) => usize::try_from(number).ok().filter(|&at| at < messages.len()),
        }
    }
}

impl MessageQueues {
    /// `msgget`.
    ///
    /// # Errors
    /// As msgget(2).
    pub fn get(&self, cx: &Cx, limits: &IpcLimits, key: i32, flags: u32) -> Result<i32, Errno> {
        let creds = cx.creds();
        let mut ids = self.ids.lock();
        if let Found::Old(id, queue) = ids.find_key(key, flags)? {
            queue.state.lock().perm.check(&creds, Wanted(flags & 0o777))?;
            return Ok(id);
        }
        ids.room(limits.msgmni.count())?;
        let (mut perm, ctime) = (Perm::new(key, flags, &creds), now_sec(cx));
        ids.insert(key, &self.next_id, |id, seq| {
            perm.seq = seq;
            let state = State {
                perm,
                stime: 0,
                rtime: 0,
                ctime,
                bytes: 0,
                max_bytes: limits.msgmnb.get(),
                lspid: 0,
                lrpid: 0,
                messages: VecDeque::new(),
                removed: false,
            };
            Arc::new(Queue { id, state: Mutex::new(state), queue: WaitQueue::new(), totals: self.totals.clone() })
        })
    }

    /// # Errors
    /// `EINVAL`.
    pub fn find(&self, id: i32) -> Result<Arc<Queue>, Errno> {
        self.ids.lock().get(id)
    }

    /// # Errors
    /// `EINVAL`.
    pub fn at(&self, index: i32) -> Result<Arc<Queue>, Errno> {
        self.ids.lock().at(index).map(|(_, queue)| queue)
    }

    /// `IPC_RMID`.
    pub fn remove(&self, queue: &Queue) {
        let removed = self.ids.lock().remove(queue.id);
        queue.state.lock().removed = true;
        queue.wake(PollEvents::IN | PollEvents::OUT);
        drop(removed);
    }

    /// How many there are, and the largest index.
    pub fn counts(&self) -> (usize, u64) {
        let ids = self.ids.lock();
        (ids.in_use(), ids.max_index())
    }

    /// All queues, by index.
    pub fn list(&self) -> Vec<Arc<Queue>> {
        self.ids.lock().iter().map(|(_, queue)| queue.clone()).collect()
    }
}

impl Queue {
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    pub fn wake(&self, events: PollEvents) {
        self.queue.wake(events);
    }

    /// Puts a message in. None: there is no room yet.
    ///
    /// # Errors
    /// `EIDRM`, `EACCES`, `ENOMEM`.
    pub fn send(&self, cx: &Cx, message: &mut Option<Message>) -> Option<Result<(), Errno>> {
        let len = message.as_ref().map_or(0, |message| message.bytes.len() as u64);
        let mut state = self.state.lock();
        if state.removed {
            return Some(Err(Errno::EIDRM));
        }
        if let Err(errno) = state.perm.check(&cx.creds(), Wanted::WRITE) {
            return Some(Err(errno));
        }
        if state.bytes + len > state.max_bytes || state.messages.len() as u64 + 1 > state.max_bytes {
            return None;
        }
        let count = self.totals.messages.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.totals.bytes.fetch_add(len, Ordering::Relaxed) + len;
        if bytes.saturating_add(count.saturating_mul(OVERHEAD)) > BUDGET {
            self.forget(1, len);
            return Some(Err(Errno::ENOMEM));
        }
        state.messages.extend(message.take());
        state.bytes += len;
        (state.lspid, state.stime) = (cx.task.tgid(), now_sec(cx));
        drop(state);
        self.wake(PollEvents::IN);
        Some(Ok(()))
    }

    /// Takes a message of at most `max` bytes (or cuts it, with `MSG_NOERROR`). None: there is none yet.
    ///
    /// # Errors
    /// `EIDRM`, `EACCES`, `E2BIG`.
    pub fn receive(&self, cx: &Cx, select: Select, max: u64, flags: u32) -> Option<Result<Message, Errno>> {
        let mut state = self.state.lock();
        if state.removed {
            return Some(Err(Errno::EIDRM));
        }
        if let Err(errno) = state.perm.check(&cx.creds(), Wanted::READ) {
            return Some(Err(errno));
        }
        let at = select.find(&state.messages)?;
        if state.messages.get(at)?.bytes.len() as u64 > max && flags & MSG_NOERROR == 0 {
            return Some(Err(Errno::E2BIG));
        }
        if matches!(select, Select::Copy(_)) {
            return state.messages.get(at).cloned().map(Ok);
        }
        let message = state.messages.remove(at)?;
        let len = message.bytes.len() as u64;
        state.bytes -= len;
        self.forget(1, len);
        (state.lrpid, state.rtime) = (cx.task.tgid(), now_sec(cx));
        drop(state);
        self.wake(PollEvents::OUT);
        Some(Ok(message))
    }

    fn forget(&self, messages: u64, bytes: u64) {
        self.totals.messages.fetch_sub(messages, Ordering::Relaxed);
        self.totals.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let (messages, bytes) = (state.messages.len() as u64, state.bytes);
        self.forget(messages, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_message_is_chosen() {
        let message = |kind| Message { kind, bytes: Vec::new() };
        let messages: VecDeque<Message> = [5, 3, 9, 3].map(message).into();
        let find = |kind, flags| Select::new(kind, flags).map(|select| select.find(&messages));
        assert_eq!(find(0, 0), Ok(Some(0)));
        assert_eq!(find(9, 0), Ok(Some(2)));
        assert_eq!(find(5, MSG_EXCEPT), Ok(Some(1)));
        assert_eq!(find(-5, 0), Ok(Some(1)));
        assert_eq!(find(i64::MIN, 0), Ok(Some(1)));
        assert_eq!(find(-2, 0), Ok(None));
        assert_eq!(find(3, MSG_COPY | IPC_NOWAIT), Ok(Some(3)));
        assert_eq!(find(4, MSG_COPY | IPC_NOWAIT), Ok(None));
        assert_eq!(find(0, MSG_COPY), Err(Errno::EINVAL));
    }
}
