//! [`Outbox`]: answers on their way from executors to the control thread.

use std::os::fd::{AsFd, BorrowedFd};

use agent_api::Status;
use hostcall::control::Bell;
use parking_lot::Mutex;

use crate::Errno;

/// An answer to a request.
pub(super) struct Reply {
    pub connection: u64,
    pub stream: u32,
    /// The encoded message.
    pub answer: Result<Vec<u8>, Status>,
    /// The sandbox ends after this one.
    pub last: bool,
}

/// A queue with a descriptor that is readable while it is not empty.
pub(super) struct Outbox {
    replies: Mutex<Vec<Reply>>,
    bell: Bell,
}

impl Outbox {
    pub(super) fn new() -> Result<Outbox, Errno> {
        Ok(Outbox { replies: Mutex::new(Vec::new()), bell: Bell::new()? })
    }

    pub(super) fn put(&self, reply: Reply) {
        self.replies.lock().push(reply);
        self.bell.ring();
    }

    pub(super) fn take(&self) -> Vec<Reply> {
        self.bell.quiet();
        std::mem::take(&mut *self.replies.lock())
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
