//! [`ThreadGroup`]: a guest process.

use super::Tid;

/// What the threads of a process share.
pub struct ThreadGroup {
    /// The process number: the tid of its first thread.
    pub tgid: Tid,
}
