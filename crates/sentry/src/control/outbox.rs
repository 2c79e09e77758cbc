//! [`Outbox`]: answers, and the news of the end, on their way from executors to the control thread.

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

/// What came in.
#[derive(Default)]
pub(super) struct Mail {
    pub replies: Vec<Reply>,
    /// The first container has ended, with this exit status.
    pub end: Option<u8>,
}

/// A queue with a descriptor that is readable while it is not empty.
pub(super) struct Outbox {
    mail: Mutex<Mail>,
    bell: Bell,
}

impl Outbox {
    pub(super) fn new() -> Result<Outbox, Errno> {
        Ok(Outbox { mail: Mutex::default(), bell: Bell::new()? })
    }

    pub(super) fn put(&self, reply: Reply) {
        self.mail.lock().replies.push(reply);
        self.bell.ring();
    }

    pub(super) fn end(&self, status: u8) {
        self.mail.lock().end = Some(status);
        self.bell.ring();
    }

    pub(super) fn take(&self) -> Mail {
        self.bell.quiet();
        std::mem::take(&mut *self.mail.lock())
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
