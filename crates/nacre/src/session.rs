//! A process in a sandbox, in the foreground: signals, window size and job control go in, the exit status comes out.

use std::sync::Arc;

use agent_api::{
    Client, ClientError, PauseContainerRequest, ResizeTtyRequest, ResumeContainerRequest, SignalProcessRequest, SignalTarget,
    WaitProcessRequest, WaitProcessResponse,
};
use runtime::sys::{SignalSet, Signalled};

use crate::terminal;

/// Signals that are passed on as they come.
const FORWARDED: &[i32] =
    &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM];
/// Signals that mean something else here.
const HANDLED: &[i32] = &[libc::SIGWINCH, libc::SIGTSTP];

/// Blocks what [`Session`] takes care of. Call it before threads and sandboxes are made: a signal that comes early waits.
pub fn block_signals() -> SignalSet {
    let set = SignalSet::new(&[FORWARDED, HANDLED].concat());
    set.block();
    set
}

/// Whether the process has a terminal of the sandbox, whose wire is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Our terminal is raw: keys go in as they are.
    Terminal,
    /// Our terminal (if there is one) makes signals of Ctrl-C and Ctrl-Z.
    Streams,
}

/// A process, by name.
#[derive(Debug, Clone)]
pub struct Session {
    pub agent: Arc<Client>,
    pub container_id: String,
    pub exec_id: String,
    pub wire: Wire,
}

impl Session {
    /// Waits for the process to exit.
    pub fn wait(&self, signals: SignalSet) -> Result<WaitProcessResponse, ClientError> {
        let forwarder = self.clone();
        // It ends with the process.
        let thread = std::thread::Builder::new().name("signals".into()).stack_size(64 << 10);
        let forwarding = thread.spawn(move || {
            loop {
                forwarder.take(signals.wait());
            }
        });
        if let Err(error) = forwarding {
            tracing::warn!("signals are not forwarded: {error}");
        }
        let request = WaitProcessRequest { container_id: self.container_id.clone(), exec_id: self.exec_id.clone() };
        self.agent.call(&request)
    }

    fn take(&self, signalled: Signalled) {
        let done = match signalled.signal {
            libc::SIGWINCH => self.resize(),
            libc::SIGTSTP => self.stop(),
            _ => self.forward(signalled),
        };
        if let Err(error) = done {
            tracing::debug!("signal {} could not be passed on: {error}", signalled.signal);
        }
    }

    fn forward(&self, signalled: Signalled) -> Result<(), ClientError> {
        // What the terminal sends, it sends to all in the foreground.
        let target = if signalled.by_terminal { SignalTarget::Container } else { SignalTarget::Foreground };
        let request = SignalProcessRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal: signalled.signal,
            target: target.into(),
        };
        self.agent.call(&request).map(drop)
    }

    fn resize(&self) -> Result<(), ClientError> {
        if self.wire == Wire::Streams {
            return Ok(());
        }
        let request = ResizeTtyRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            size: Some(terminal::own_size()),
        };
        self.agent.call(&request).map(drop)
    }

    /// Ctrl-Z: the container stops, then we do; and go on together.
    fn stop(&self) -> Result<(), ClientError> {
        self.agent.call(&PauseContainerRequest { container_id: self.container_id.clone() })?;
        let raw = self.wire == Wire::Terminal;
        if raw {
            terminal::restore();
        }
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
        if raw {
            std::mem::forget(terminal::Raw::enter());
        }
        self.agent.call(&ResumeContainerRequest { container_id: self.container_id.clone() })?;
        self.resize()
    }
}
