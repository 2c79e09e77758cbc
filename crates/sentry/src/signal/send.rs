//! Sending signals.

use std::sync::Arc;

use super::{SigInfo, Signal};
use crate::Errno;
use crate::task::{PidTable, Task, ThreadGroup, Tid};

impl ThreadGroup {
    /// Sends a signal to the process; one of its threads takes it. No permission check.
    ///
    /// # Errors
    /// `EAGAIN` when a realtime signal with information cannot be queued (`RLIMIT_SIGPENDING`), `ESRCH` when it has ended.
    pub fn send_signal(&self, _info: SigInfo) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
}

impl Task {
    /// Sends a signal to this thread. No permission check.
    ///
    /// # Errors
    /// As [`ThreadGroup::send_signal`].
    pub fn send_signal(&self, _info: SigInfo) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
}

impl PidTable {
    /// Sends a signal to all processes of a process group (a terminal's Ctrl-C). Returns to how many. No permission check.
    pub fn signal_process_group(&self, pgid: Tid, info: SigInfo) -> usize {
        self.process_group(pgid).iter().filter(|group| group.send_signal(info).is_ok()).count()
    }
}

/// What a terminal does with a background process that reads or (with `TOSTOP`) writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Background {
    /// The signal was sent to its process group: the call is to be restarted (`Restart::Sys`).
    Signalled,
    /// It ignores or blocks the signal, or its group is orphaned: reading gives `EIO`. Writing proceeds when it is ignored or
    /// blocked, and gives `EIO` when orphaned.
    Ignored,
    Orphaned,
}

impl Task {
    /// `SIGTTIN` or `SIGTTOU` for a process outside the foreground group (`__tty_check_change`).
    pub fn signal_background(self: &Arc<Task>, _signal: Signal) -> Background {
        Background::Ignored
    }

    /// `SIGPIPE` to this thread, as a write to a broken pipe sends it.
    pub fn send_sigpipe(&self) {
        let _ = self.send_signal(SigInfo::user(Signal::PIPE, self.tgid(), self.creds().uid));
    }
}
