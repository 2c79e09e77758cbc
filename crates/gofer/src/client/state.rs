//! The client's bookkeeping: who waits for which answer, and what is still to be sent.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::BorrowedFd,
    task::{Poll, Waker},
};

use super::Interest;
use crate::{
    Errno,
    protocol::{Handle, MAX_FORGET, Request, Response},
    socket::{self, Wait},
};

/// How many forgotten handles make a message worth its while.
const FORGET_BATCH: usize = 64;

pub(super) type Answer = Result<Response, Errno>;

/// What has gone to a gofer and come back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many requests, by [`Request::op`].
    pub requests: BTreeMap<u16, u64>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

#[derive(Debug)]
enum Slot {
    Waiting(Option<Waker>),
    Done(Answer),
    /// Nobody waits any more; the answer is to be disposed of.
    Abandoned,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By tag.
    slots: BTreeMap<u64, Slot>,
    last_tag: u64,
    /// Packets that found the socket full, in order.
    outbox: VecDeque<Vec<u8>>,
    forgets: Vec<Handle>,
    traffic: Traffic,
    dead: bool,
    /// What the socket is being watched for on our behalf.
    pub(super) armed: Interest,
}

impl State {
    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// An answer of so many bytes has come in.
    pub(super) fn received(&mut self, bytes: usize) {
        self.traffic.received_bytes += bytes as u64;
    }

    /// What there is to wait for.
    pub(super) fn interest(&self) -> Interest {
        match (self.outbox.is_empty(), self.slots.values().any(|slot| !matches!(slot, Slot::Done(_)))) {
            _ if self.dead => Interest::None,
            (false, _) => Interest::ReadableOrWritable,
            (true, true) => Interest::Readable,
            (true, false) => Interest::None,
        }
    }

    /// Whether calls have given up waiting inline.
    pub(super) fn has_sleepers(&self) -> bool {
        self.slots.values().any(|slot| matches!(slot, Slot::Waiting(Some(_))))
    }

    /// Sends a request and makes a slot for its answer.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, request: &Request) -> u64 {
        self.last_tag += 1;
        let tag = self.last_tag;
        if !self.dead {
            self.slots.insert(tag, Slot::Waiting(None));
            *self.traffic.requests.entry(request.op()).or_default() += 1;
            self.post(socket, request.encode(tag));
        }
        if self.dead {
            self.slots.insert(tag, Slot::Done(Err(Errno::EIO)));
        }
        tag
    }

    fn post(&mut self, socket: BorrowedFd<'_>, packet: Vec<u8>) {
        if self.dead {
            return;
        }
        self.traffic.sent_bytes += packet.len() as u64;
        if self.outbox.is_empty() {
            match socket::send(socket, &packet, &[], Wait::Never) {
                Ok(()) => return,
                Err(Errno::EAGAIN) => {}
                // The reader will find out; wakers cannot run here. Until then nothing more goes out.
                Err(_) => return,
            }
        }
        self.outbox.push_back(packet);
    }

    /// Sends what waited. Wakers, if the socket is broken.
    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> Vec<Waker> {
        while let Some(packet) = self.outbox.front() {
            match socket::send(socket, packet, &[], Wait::Never) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(Errno::EAGAIN) => break,
                Err(_) => return self.die(),
            }
        }
        Vec::new()
    }

    /// An answer has come. Returns who is to be woken.
    pub(super) fn complete(&mut self, socket: BorrowedFd<'_>, tag: u64, answer: Answer) -> Vec<Waker> {
        match self.slots.get_mut(&tag) {
            Some(slot @ Slot::Waiting(_)) => {
                let Slot::Waiting(waker) = std::mem::replace(slot, Slot::Done(answer)) else { return Vec::new() };
                waker.into_iter().collect()
            }
            Some(Slot::Abandoned) => {
                self.slots.remove(&tag);
                self.dispose(socket, answer);
                Vec::new()
            }
            Some(Slot::Done(_)) | None => {
                tracing::warn!(tag, "the gofer answers what nobody asked; giving it up");
                self.die()
            }
        }
    }

    /// The answer, if it is there; else `waker` is kept for it.
    pub(super) fn poll(&mut self, tag: u64, waker: Option<&Waker>) -> Poll<Answer> {
        match self.slots.get_mut(&tag) {
            Some(Slot::Waiting(kept)) => {
                if let Some(waker) = waker {
                    kept.get_or_insert_with(|| waker.clone()).clone_from(waker);
                }
                Poll::Pending
            }
            _ => match self.slots.remove(&tag) {
                Some(Slot::Done(answer)) => Poll::Ready(answer),
                _ => Poll::Ready(Err(Errno::EIO)),
            },
        }
    }

    /// The caller of `tag` is gone.
    pub(super) fn abandon(&mut self, socket: BorrowedFd<'_>, tag: u64) {
        match self.slots.get_mut(&tag) {
            Some(slot @ Slot::Waiting(_)) => *slot = Slot::Abandoned,
            Some(Slot::Done(_)) => {
                if let Some(Slot::Done(answer)) = self.slots.remove(&tag) {
                    self.dispose(socket, answer);
                }
            }
            Some(Slot::Abandoned) | None => {}
        }
    }

    fn dispose(&mut self, socket: BorrowedFd<'_>, answer: Answer) {
        if let Ok(response) = answer {
            self.forget(socket, &response.handles());
        }
    }

    pub(super) fn forget(&mut self, socket: BorrowedFd<'_>, handles: &[Handle]) {
        self.forgets.extend_from_slice(handles);
        if self.forgets.len() >= FORGET_BATCH {
            self.flush_forgets(socket);
        }
    }

    pub(super) fn flush_forgets(&mut self, socket: BorrowedFd<'_>) {
        let handles = std::mem::take(&mut self.forgets);
        for batch in handles.chunks(MAX_FORGET) {
            self.post(socket, Request::Forget { nodes: batch.to_vec() }.encode(0));
        }
    }

    /// Ends every call with `EIO`. Returns who is to be woken.
    pub(super) fn die(&mut self) -> Vec<Waker> {
        self.dead = true;
        self.outbox.clear();
        self.forgets.clear();
        let mut woken = Vec::new();
        self.slots.retain(|_, slot| match slot {
            Slot::Waiting(waker) => {
                woken.extend(waker.take());
                *slot = Slot::Done(Err(Errno::EIO));
                true
            }
            Slot::Done(_) => true,
            Slot::Abandoned => false,
        });
        woken
    }
}
