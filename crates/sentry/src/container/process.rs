//! [`Process`]: a process started from outside (a container's own, or by exec), from its creation to its exit status.

use std::sync::Arc;

use agent_api::WaitProcessResponse;
use parking_lot::Mutex;

use super::wait_forever;
use crate::ipc::tty::console::Console;
use crate::task::{ExitStatus, ThreadGroup};
use crate::wait::{PollEvents, WaitQueue};

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Loaded, not running.
    Created,
    Running,
    Exited(WaitProcessResponse),
}

/// A process that outside callers know by an id.
pub(super) struct Process {
    pub group: Arc<ThreadGroup>,
    /// Its terminal, if it was given one, until it has exited: the host's end is closed then.
    console: Mutex<Option<Arc<Console>>>,
    stage: Mutex<Stage>,
    changed: WaitQueue,
}

impl Process {
    pub(super) fn new(group: Arc<ThreadGroup>, console: Option<Arc<Console>>) -> Arc<Process> {
        Arc::new(Process { group, console: Mutex::new(console), stage: Mutex::new(Stage::Created), changed: WaitQueue::new() })
    }

    pub(super) fn console(&self) -> Option<Arc<Console>> {
        self.console.lock().clone()
    }

    pub(super) fn stage(&self) -> Stage {
        *self.stage.lock()
    }

    /// From created to running; false if it was not just created.
    pub(super) fn start(&self) -> bool {
        let mut stage = self.stage.lock();
        if *stage != Stage::Created {
            return false;
        }
        *stage = Stage::Running;
        drop(stage);
        self.changed.wake(PollEvents::IN);
        true
    }

    /// Waits until it is started (or killed before).
    pub(super) async fn started(&self) {
        wait_forever(&self.changed, || (self.stage() != Stage::Created).then_some(())).await;
    }

    pub(super) fn set_exited(&self, status: ExitStatus, now_ns: u64) -> WaitProcessResponse {
        let (exit_code, signal) = match status {
            ExitStatus::Exited(code) => (u32::from(code), 0),
            ExitStatus::Signaled { signal, .. } => (0, signal.number() as u32),
        };
        let oom_killed = self.group.oom_killed();
        let exit = WaitProcessResponse { exit_code, signal, oom_killed, exited_at_ns: now_ns };
        *self.stage.lock() = Stage::Exited(exit);
        let console = self.console.lock().take();
        drop(console);
        self.changed.wake(PollEvents::IN);
        exit
    }

    /// Waits for its exit.
    pub(super) async fn exited(&self) -> WaitProcessResponse {
        wait_forever(&self.changed, || match self.stage() {
            Stage::Exited(exit) => Some(exit),
            Stage::Created | Stage::Running => None,
        })
        .await
    }
}
