//! Job control: a terminal's session and foreground process group, and what background processes may do.

use std::any::Any;
use std::sync::{Arc, Weak};

use super::pty::{Pty, kernel_signal};
use crate::Errno;
use crate::fs::Direction;
use crate::kernel::Container;
use crate::signal::{Background, Signal};
use crate::syscalls::{Fail, Restart};
use crate::task::{Capability, ControllingTerminal, Cx, Session, Tid};

/// Whose controlling terminal it is.
#[derive(Clone, Default)]
pub struct Control {
    session: Weak<Session>,
    container: Weak<Container>,
    foreground: Tid,
}

impl Control {
    pub fn foreground(&self) -> Tid {
        self.foreground
    }

    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.upgrade()
    }

    /// Signals the foreground group.
    pub fn signal(&self, signal: Signal) {
        if let Some(container) = self.container.upgrade().filter(|_| self.foreground > 0) {
            container.pids.signal_process_group(self.foreground, kernel_signal(signal));
        }
    }

    /// Ends the tie, with the signals of a hang-up to leader and foreground.
    pub fn disconnect(self) {
        if let Some(session) = self.session() {
            drop(session.set_terminal(None));
            // The leader is in the group of its number.
            if self.foreground != session.sid
                && let Some(leader) = self.container.upgrade().and_then(|container| container.pids.process(session.sid))
            {
                for signal in [Signal::HUP, Signal::CONT] {
                    // A leader that has ended gets none.
                    let _ = leader.send_signal(kernel_signal(signal));
                }
            }
        }
        self.signal(Signal::HUP);
        self.signal(Signal::CONT);
    }
}

impl Pty {
    /// Whether this is the calling process's controlling terminal.
    pub(super) fn controls(&self, cx: &Cx) -> bool {
        let terminal = cx.task.group.session().terminal();
        terminal.is_some_and(|terminal| {
            let pty: &dyn Any = terminal.as_any();
            pty.downcast_ref::<Pty>().is_some_and(|pty| std::ptr::eq(pty, self))
        })
    }

    /// `job_control` and `tty_check_change`: background processes are stopped, or refused.
    pub(super) fn admit(&self, cx: &Cx, direction: Direction) -> Result<(), Fail> {
        let foreground = self.state.lock().control.foreground;
        if foreground == 0 || cx.task.group.pgid() == foreground || !self.controls(cx) {
            return Ok(());
        }
        let signal = if direction == Direction::Read { Signal::TTIN } else { Signal::TTOU };
        match cx.task.signal_background(signal) {
            Background::Signalled => Err(Fail::Restart(Restart::Sys)),
            Background::Ignored if direction == Direction::Read => Err(Errno::EIO.into()),
            Background::Ignored => Ok(()),
            Background::Orphaned => Err(Errno::EIO.into()),
        }
    }

    /// Makes this the caller's controlling terminal, if it leads a session without one and the terminal has no session
    /// (open without `O_NOCTTY`).
    pub(super) fn adopt(self: &Arc<Pty>, cx: &Cx) {
        let session = cx.task.group.session();
        let free = self.state.lock().control.session().is_none();
        if session.sid == cx.task.tgid() && session.terminal().is_none() && free {
            self.tie(cx, &session);
        }
    }

    fn tie(self: &Arc<Pty>, cx: &Cx, session: &Arc<Session>) {
        let container = Arc::downgrade(&cx.task.container);
        self.tie_session(session, container, cx.task.group.pgid());
    }

    /// Makes this the controlling terminal of a session (of a container's first process).
    pub fn tie_session(self: &Arc<Pty>, session: &Arc<Session>, container: Weak<Container>, foreground: Tid) {
        self.state.lock().control = Control { session: Arc::downgrade(session), container, foreground };
        let terminal: Arc<dyn ControllingTerminal> = self.clone();
        drop(session.set_terminal(Some(terminal)));
    }

    /// `TIOCSCTTY`. `steal`: take it from another session, which needs `CAP_SYS_ADMIN`.
    pub(super) fn set_controlling(self: &Arc<Pty>, cx: &Cx, steal: bool) -> Result<(), Errno> {
        let session = cx.task.group.session();
        if self.controls(cx) && session.sid == cx.task.tgid() {
            return Ok(());
        }
        if session.sid != cx.task.tgid() || session.terminal().is_some() {
            return Err(Errno::EPERM);
        }
        let owner = self.state.lock().control.session();
        if let Some(owner) = owner {
            if !steal || !cx.creds().has(Capability::SysAdmin) {
                return Err(Errno::EPERM);
            }
            drop(owner.set_terminal(None));
        }
        self.tie(cx, &session);
        Ok(())
    }

    /// `TIOCNOTTY`, for session leaders: the session loses its terminal.
    pub(super) fn give_up(&self, cx: &Cx) -> Result<(), Errno> {
        if !self.controls(cx) || cx.task.group.session().sid != cx.task.tgid() {
            return Err(Errno::ENOTTY);
        }
        let control = std::mem::take(&mut self.state.lock().control);
        if let Some(session) = control.session() {
            drop(session.set_terminal(None));
        }
        control.signal(Signal::HUP);
        control.signal(Signal::CONT);
        Ok(())
    }

    /// `TIOCSPGRP`.
    pub(super) fn set_foreground(&self, cx: &Cx, pgid: Tid) -> Result<(), Errno> {
        if !self.controls(cx) {
            return Err(Errno::ENOTTY);
        }
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        let sid = cx.task.group.session().sid;
        let pgid = cx.task.group.pid_ns.global(pgid).ok_or(Errno::ESRCH)?;
        let members = cx.task.container.pids.process_group(pgid);
        let member = members.first().ok_or(Errno::ESRCH)?;
        if member.session().sid != sid {
            return Err(Errno::EPERM);
        }
        self.state.lock().control.foreground = pgid;
        Ok(())
    }
}
