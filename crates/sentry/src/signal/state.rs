//! [`TaskSignals`]: a thread's own signal state.

use super::{Pending, SigSet};

/// Under the task's signal lock.
#[derive(Debug, Default)]
pub struct TaskSignals {
    /// Sent to this thread.
    pub pending: Pending,
    pub blocked: SigSet,
    /// The mask to go back to after `sigsuspend`, `ppoll` and the like.
    pub saved_mask: Option<SigSet>,
    /// Sent by [`Task::force_signal`](crate::task::Task::force_signal): acts on a container's first process too.
    pub forced: SigSet,
    /// What `sigtimedwait` waits for: wakes the thread although blocked.
    pub awaited: SigSet,
    pub alt_stack: AltStack,
}

/// `sigaltstack`'s stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AltStack {
    pub sp: u64,
    pub size: u64,
    /// `SS_AUTODISARM`, `SS_DISABLE`.
    pub flags: u32,
}
