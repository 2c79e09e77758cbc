//! [`Process`]: a process that the host knows by an id, from its creation to its exit status.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_api::{Code, Status, WaitProcessResponse};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitStatus, pidfd_send_signal};

use crate::helper::{Gate, Launched};
use crate::pump::Output;

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Ready, not running.
    Created,
    Running,
    Exited(WaitProcessResponse),
}

pub struct Process {
    /// In the guest.
    pub pid: Pid,
    /// In its container's pid name space.
    pub inner_pid: i32,
    /// Whether it was given a terminal.
    pub on_terminal: bool,
    pub outputs: Vec<Output>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stage: Stage,
    /// Descriptors go with the process: what is kept of it until its container is deleted must not use any up.
    pidfd: Option<Arc<OwnedFd>>,
    /// The other end of its terminal.
    terminal: Option<Arc<OwnedFd>>,
    gate: Option<Gate>,
    /// Requests that wait for the exit.
    waiters: Vec<u32>,
    /// The signal it was killed for.
    killed_for: Option<Signal>,
}

impl Process {
    pub fn new(launched: Launched, outputs: Vec<Output>) -> Arc<Process> {
        let Launched { pid, pidfd, terminal, gate } = launched;
        let inner_pid = crate::report::inner_pid(pid).unwrap_or(0);
        let on_terminal = terminal.is_some();
        let state = Mutex::new(State {
            stage: Stage::Created,
            pidfd: Some(Arc::new(pidfd)),
            terminal: terminal.map(Arc::new),
            gate: Some(gate),
            waiters: Vec::new(),
            killed_for: None,
        });
        Arc::new(Process { pid, inner_pid, on_terminal, outputs, state, changed: Condvar::new() })
    }

    pub fn stage(&self) -> Stage {
        self.state.lock().stage
    }

    /// The process and no other, even if its pid is used again.
    ///
    /// # Errors
    /// `NotFound` when it has exited.
    pub fn pidfd(&self) -> Result<Arc<OwnedFd>, Status> {
        self.state.lock().pidfd.clone().ok_or_else(|| Status::new(Code::NotFound, "the process has exited"))
    }

    /// It has not ended: what is done about its end is still to come.
    ///
    /// # Errors
    /// `FailedPrecondition` when it has.
    pub fn expect_alive(&self) -> Result<(), Status> {
        let lives = |pidfd: Arc<OwnedFd>| {
            // Readable from its end on.
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&Timespec::default())) == Ok(0)
        };
        match self.pidfd().is_ok_and(lives) {
            true => Ok(()),
            false => Err(Status::new(Code::FailedPrecondition, "the container's process has ended")),
        }
    }

    /// The other end of its terminal, while it lives.
    pub fn terminal(&self) -> Option<Arc<OwnedFd>> {
        self.state.lock().terminal.clone()
    }

    /// From created to running: what is to be opened for it; `None` if it was not just created.
    pub fn start(&self) -> Option<Gate> {
        let mut state = self.state.lock();
        if state.stage != Stage::Created {
            return None;
        }
        state.stage = Stage::Running;
        state.gate.take()
    }

    /// Sends a signal. A name space's first process would not even notice one that it does not handle; here it dies of it, as it does in a sentry:
    /// who stops a container does not want to wait for a deadline.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        if self.inner_pid == 1 && ends(signal) && crate::report::leaves_to_kernel(self.pid, signal) {
            return self.kill_for(signal);
        }
        let Ok(pidfd) = self.pidfd() else { return Err(Errno::SRCH) };
        pidfd_send_signal(pidfd, signal)
    }

    /// Kills it; it will have died of `signal`.
    pub fn kill_for(&self, signal: Signal) -> Result<(), Errno> {
        let Ok(pidfd) = self.pidfd() else { return Err(Errno::SRCH) };
        self.state.lock().killed_for = Some(signal);
        pidfd_send_signal(pidfd, Signal::KILL)
    }

    /// A status as the protocol has it, at this moment.
    pub fn exit(&self, status: WaitStatus, oom_killed: bool) -> WaitProcessResponse {
        let killed = status.terminating_signal() == Some(Signal::KILL.as_raw());
        let signal = match self.state.lock().killed_for {
            Some(signal) if killed => Some(signal.as_raw()),
            _ => status.terminating_signal(),
        };
        WaitProcessResponse {
            exit_code: status.exit_status().unwrap_or(0) as u32,
            signal: signal.unwrap_or(0) as u32,
            oom_killed: oom_killed && killed,
            exited_at_ns: now_ns(),
        }
    }

    /// Sets the exit; returns the requests that wait for it.
    pub fn set_exited(&self, exit: WaitProcessResponse) -> Vec<u32> {
        let mut state = self.state.lock();
        state.stage = Stage::Exited(exit);
        (state.gate, state.pidfd, state.terminal) = (None, None, None);
        self.changed.notify_all();
        std::mem::take(&mut state.waiters)
    }

    /// The exit, or `request` will be among those that [`set_exited`](Process::set_exited) returns.
    pub fn exit_or_wait(&self, request: u32) -> Option<WaitProcessResponse> {
        let mut state = self.state.lock();
        match state.stage {
            Stage::Exited(exit) => Some(exit),
            Stage::Created | Stage::Running => {
                state.waiters.push(request);
                None
            }
        }
    }

    /// Sleeps until it has exited.
    pub fn wait_exited(&self) {
        let mut state = self.state.lock();
        while !matches!(state.stage, Stage::Exited(_)) {
            self.changed.wait(&mut state);
        }
    }
}

/// The exit of a process that was killed without anybody looking.
pub fn killed() -> WaitProcessResponse {
    let signal = Signal::KILL.as_raw() as u32;
    WaitProcessResponse { signal, exited_at_ns: now_ns(), ..WaitProcessResponse::default() }
}

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Whether a signal ends a program that does nothing about it (signal(7)).
pub fn ends(signal: Signal) -> bool {
    ![Signal::CHILD, Signal::CONT, Signal::URG, Signal::WINCH, Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU]
        .contains(&signal)
}
