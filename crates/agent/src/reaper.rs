//! The reaper: the one place that waits for children. Who wants a child's status registers it.
//!
//! Orphans of all containers become children of PID 1; those that nobody registered are just buried.
//! A child is registered while its parent, a helper, is still alive, and so cannot have been buried before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::sys;

type Heir = Box<dyn FnOnce(WaitStatus) + Send>;

/// Who wants to know of whose end.
#[derive(Default)]
pub struct Reaper {
    heirs: Mutex<BTreeMap<i32, Heir>>,
}

impl Reaper {
    /// Starts the thread that waits.
    ///
    /// # Panics
    /// When no thread can be made, which ends the VM.
    pub fn start() -> Arc<Reaper> {
        let reaper = Arc::new(Reaper::default());
        let own = reaper.clone();
        let thread = thread::Builder::new().name("reaper".into()).stack_size(64 << 10);
        thread.spawn(move || own.run()).expect("a thread can be made while the guest comes up");
        reaper
    }

    /// `heir` is called once, on the reaper's thread: it must not block.
    pub fn register(&self, pid: Pid, heir: Heir) {
        self.heirs.lock().insert(pid.as_raw_pid(), heir);
    }

    fn run(&self) {
        loop {
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                let heir = self.heirs.lock().remove(&pid.as_raw_pid());
                if let Some(heir) = heir {
                    heir(status);
                }
            }
            sys::wait_child_signal();
        }
    }
}
