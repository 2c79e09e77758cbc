//! [`ProcessTimers`]: interval timers and POSIX timers of a process.

use crate::signal::SigInfo;

/// A process's timers.
#[derive(Default)]
pub struct ProcessTimers {}

impl ProcessTimers {
    pub fn new() -> ProcessTimers {
        ProcessTimers::default()
    }

    /// A timer's signal is being delivered: fills in the overrun. False: the timer is gone, and so is the signal.
    pub(crate) fn delivered(&self, _info: &mut SigInfo) -> bool {
        true
    }

    /// Disarms everything: the process has ended.
    pub(crate) fn clear(&self) {}

    /// Deletes POSIX timers: exec.
    pub(crate) fn forget_posix(&self) {}
}
