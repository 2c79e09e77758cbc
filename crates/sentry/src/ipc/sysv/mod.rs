//! System V IPC (`sysvipc(7)`): shared memory, semaphores and message queues.
//!
//! Objects are found by a key or an id ([`ids::Ids`]) and have an owner and a mode ([`perm::Perm`]). Sizes follow Linux's limits; what the sentry itself
//! must keep (messages, semaphores) has a budget of its own, so that a guest cannot make it grow without end.
//!
//! Locking: a table's lock before an object's; both are leaves for everybody else. Waiters are told after they are released.

mod ids;
pub mod msg;
mod perm;
pub mod sem;
pub mod shm;

pub use ids::{IPCMNI, NextId};
pub use msg::MessageQueues;
pub use perm::{Mode, Perm, Wanted};
pub use sem::{SemaphoreSets, UndoList};
pub use shm::SharedSegments;

use crate::task::Cx;

/// `IPC_PRIVATE`.
pub const IPC_PRIVATE: i32 = 0;
pub const IPC_CREAT: u32 = 0o1000;
pub const IPC_EXCL: u32 = 0o2000;
pub const IPC_NOWAIT: u32 = 0o4000;

/// Seconds since 1970, as the objects' times.
fn now_sec(cx: &Cx) -> i64 {
    (cx.kernel().clock.realtime_ns() / 1_000_000_000) as i64
}
