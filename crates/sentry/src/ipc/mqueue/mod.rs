//! POSIX message queues (mq_overview(7), ipc/mqueue.c): [`Queue`], and the file system [`MqueueFs`] that names them.
//!
//! A namespace has one file system; /dev/mqueue shows it. `mq_open` and `mq_unlink` go to it directly, so nothing of it is cached by the VFS.
//!
//! Locking: the names' lock before a queue's; both are leaves for everybody else.

mod fs;
mod queue;

pub use fs::{DEFAULT, HARD, MqueueFs, Owner, QUEUES_MAX};
pub use queue::{Attributes, Notification, NotifyKind, OpenQueue, PRIO_MAX, Queue};
