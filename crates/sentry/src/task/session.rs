//! [`Session`]: process groups that share a controlling terminal.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Tid;

/// A session.
pub struct Session {
    /// Its number: the process number of its leader.
    pub sid: Tid,
    terminal: Mutex<Option<Arc<dyn ControllingTerminal>>>,
}

/// What a session needs of its terminal. The terminal keeps its session and foreground process group itself.
pub trait ControllingTerminal: Send + Sync + Any {
    /// The session's leader has exited: hang up (`SIGHUP` and `SIGCONT` to the foreground group, no more session).
    fn leader_exited(&self);

    /// The foreground process group (0: none), for /proc/PID/stat.
    fn foreground(&self) -> Tid;

    /// The device number, for /proc/PID/stat.
    fn device(&self) -> u64;

    /// For the terminal's own code to know itself.
    fn as_any(&self) -> &dyn Any;
}

impl Session {
    pub fn new(sid: Tid) -> Arc<Session> {
        Arc::new(Session { sid, terminal: Mutex::new(None) })
    }

    /// The controlling terminal.
    pub fn terminal(&self) -> Option<Arc<dyn ControllingTerminal>> {
        self.terminal.lock().clone()
    }

    /// Sets or takes away the controlling terminal. Returns the old one.
    pub fn set_terminal(&self, terminal: Option<Arc<dyn ControllingTerminal>>) -> Option<Arc<dyn ControllingTerminal>> {
        std::mem::replace(&mut *self.terminal.lock(), terminal)
    }
}
