//! Tasks and thread groups: guest threads and processes.
//!
//! [`Task`] is what others may know and do about a guest thread; [`Cx`] is the thread's own side: its processor context, and its memory,
//! descriptors and directories, which only it may exchange. Handlers of system calls get `&mut Cx`.
//!
//! Locking: see docs/locks-and-waits.md. `PidTable` before a thread group before a task's own locks; none is held across an await.

mod creds;
mod cx;
mod group;
mod pids;
mod run;

pub use creds::{Capability, Creds};
pub use cx::Cx;
pub use group::ThreadGroup;
pub use pids::PidTable;
pub use run::run;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use parking_lot::{Mutex, RwLock};
use platform::Interrupter;

use crate::fs::{FdTable, FsContext};
use crate::kernel::{Container, Kernel};
use crate::mm::Mm;
use crate::wait::Interrupt;

/// A process or thread number in its container.
pub type Tid = i32;

/// A guest thread.
pub struct Task {
    pub tid: Tid,
    pub kernel: Arc<Kernel>,
    pub container: Arc<Container>,
    pub group: Arc<ThreadGroup>,
    pub creds: RwLock<Arc<Creds>>,
    /// The name (`comm`), at most 15 bytes.
    pub name: Mutex<Vec<u8>>,
    /// Copies of what [`Cx`] owns, for others to look at (`/proc`, kill, …). None after exit.
    pub shared: RwLock<Option<Shared>>,
    killed: AtomicBool,
    /// Set while the context is (about to be) in user mode, and needs an interrupt to come out.
    in_user: AtomicBool,
    waker: OnceLock<Waker>,
    interrupter: Mutex<Option<Arc<dyn Interrupter>>>,
}

/// A task's memory, descriptors and directories.
#[derive(Clone)]
pub struct Shared {
    pub mm: Arc<Mm>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
}

impl Task {
    /// Makes the task look at its signals and flags soon: ends its wait or its stay in user mode.
    pub fn kick(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        if self.in_user.load(Ordering::SeqCst)
            && let Some(interrupter) = &*self.interrupter.lock()
        {
            interrupter.interrupt();
        }
    }

    /// The current credentials.
    pub fn creds(&self) -> Arc<Creds> {
        self.creds.read().clone()
    }
}

impl Interrupt for Task {
    fn interrupted(&self) -> bool {
        self.killed()
    }

    fn killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }
}
