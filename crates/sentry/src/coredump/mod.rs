//! Core files: what is left of a process that a signal has ended (fs/coredump.c, fs/binfmt_elf.c).
//!
//! The thread that takes the signal begins the end of the process and writes the file, `core` in its working directory. Its siblings are killed; on
//! their way out, before they let go of their registers, they hand them in and wait until the file is written ([`Gathering`]).
//!
//! Files: `notes` (registers and what is known of the process), `file` (the ELF file's shape, and writing it).
//!
//! Nothing is written, and the status has no core bit, when the process is not dumpable, `RLIMIT_CORE` is 0, or the file cannot be made.

mod file;
mod notes;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use platform::{Registers, XState};

use crate::signal::{DefaultAction, SigInfo};
use crate::task::{Cx, ExitStatus, Resource, Task, TaskFlags};
use crate::time::MonoTime;
use crate::wait::{PollEvents, Share, Sleep, WaitQueue, wait_for};

/// The default of /proc/PID/coredump_filter: anonymous memory, and the first pages of ELF files.
pub const DEFAULT_FILTER: u32 = 0x33;

/// What a thread hands in.
pub(crate) struct ThreadState {
    pub task: Arc<Task>,
    pub registers: Registers,
    pub extended: XState,
}

/// The threads of a process whose core is being written.
#[derive(Default)]
pub(crate) struct Gathering {
    state: Mutex<Gathered>,
    changed: WaitQueue,
}

#[derive(Default)]
struct Gathered {
    threads: Vec<ThreadState>,
    /// Those that were still there when it began, and have not come yet.
    missing: usize,
    written: bool,
}

impl Gathering {
    fn finish(&self) {
        self.state.lock().written = true;
        self.changed.wake(PollEvents::IN);
    }
}

impl Cx {
    /// Ends the process by a signal, with a core file if the signal and the process are such. Returns the status to end with.
    pub(crate) async fn die_of(&mut self, info: &SigInfo) -> ExitStatus {
        let plain = ExitStatus::killed(info.signal);
        let limit = self.task.rlimit(Resource::Core).soft;
        let dumps = info.signal.default_action() == DefaultAction::Core
            && self.task.group.dumpable.load(Ordering::Relaxed) == 1
            && limit >= crate::abi::PAGE_SIZE;
        let Some(gathering) = dumps.then(|| self.task.begin_core(plain)).flatten() else {
            self.task.exit_group(plain);
            return plain;
        };
        let threads = self.gather(&gathering).await;
        let core = match threads {
            Some(threads) => self.write_core(info, &threads, limit).await.is_ok(),
            None => false,
        };
        let status = ExitStatus::Signaled { signal: info.signal, core };
        if core {
            self.task.group.inner.lock().exiting = Some(status);
        }
        gathering.finish();
        status
    }

    /// All threads' states, this one's first. None when it is killed meanwhile.
    async fn gather(&mut self, gathering: &Gathering) -> Option<Vec<ThreadState>> {
        let own = self.thread_state().await;
        let queues = [(&gathering.changed, PollEvents::IN)];
        let all = || (gathering.state.lock().missing == 0).then_some(());
        let waited = self.task.wait_killable(&queues, all).await;
        waited.ok()?;
        let others = std::mem::take(&mut gathering.state.lock().threads);
        Some(std::iter::once(own).chain(others).collect())
    }

    async fn thread_state(&mut self) -> ThreadState {
        let registers = *self.context.registers();
        let rip = self.mm.unmoved(registers.rip).unwrap_or(registers.rip);
        let extended = self.xstate().await.unwrap_or_default();
        ThreadState { task: self.task.clone(), registers: Registers { rip, ..registers }, extended }
    }

    /// On the way out of a thread: hands its state in if a sibling writes a core, and waits for it.
    pub(crate) async fn join_core(&mut self) {
        let gathering = self.task.group.inner.lock().core.clone();
        let Some(gathering) = gathering.filter(|gathering| !gathering.state.lock().written) else { return };
        let state = self.thread_state().await;
        if !gathering.join(state) {
            return;
        }
        let task = self.task.clone();
        let queues = [(&gathering.changed, PollEvents::IN)];
        let written = || gathering.state.lock().written.then_some(());
        let _ = wait_for(task.waiting(Sleep::Uninterruptible, Share::All, MonoTime::NEVER), &queues, written).await;
    }
}

impl Gathering {
    /// False for the thread that writes the core.
    fn join(&self, state: ThreadState) -> bool {
        let mut gathered = self.state.lock();
        if gathered.written || gathered.missing == 0 {
            return false;
        }
        gathered.missing -= 1;
        gathered.threads.push(state);
        drop(gathered);
        self.changed.wake(PollEvents::IN);
        true
    }
}

impl Task {
    /// Begins the end of the process: its other threads are killed. None when it is ending already, or a thread replaces the program.
    fn begin_core(self: &Arc<Task>, status: ExitStatus) -> Option<Arc<Gathering>> {
        let mut inner = self.group.inner.lock();
        if inner.exiting.is_some() || inner.execing.is_some() || self.flags().contains(TaskFlags::KILLED) {
            return None;
        }
        inner.exiting = Some(status);
        let gathering = Arc::new(Gathering::default());
        gathering.state.lock().missing = inner.threads.len() - 1;
        inner.core = Some(gathering.clone());
        for sibling in inner.threads.iter().filter(|thread| !Arc::ptr_eq(thread, self)) {
            sibling.raise(TaskFlags::KILLED);
        }
        Some(gathering)
    }
}
