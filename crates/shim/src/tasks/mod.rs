//! [`Tasks`]: a pod's containers and their processes, as containerd knows them.
//!
//! `create` makes and deletes containers, `process` starts and signals what runs in them, `watch` follows the sandbox's events, `forward` passes
//! connections on, `recover` finds what an earlier shim has left. What is here beyond the runtime's own state is the streams and the exit statuses.

mod create;
mod forward;
mod process;
mod recover;
mod root;
mod told;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_api::{Client, Code, Status, WaitProcessResponse};
use runtime::config::OciProcess;
use runtime::container::Runtime;
use runtime::forward::Loopback;
use runtime::sandbox::Kind;
use runtime::state::Access;

use crate::proto::{DeleteResponse, StateResponse, TaskStatus, Timestamp, WaitResponse};
use crate::publish::Publisher;
use crate::stdio::{Io, Kept};

/// The pod.
pub struct Tasks {
    pub runtime: Runtime,
    pub kind: Kind,
    /// Where the runtime keeps its state, for the processes that make containers.
    pub root: PathBuf,
    pub debug: bool,
    pub publisher: Publisher,
    state: Mutex<State>,
    /// A process has exited.
    changed: Condvar,
    /// See [`Tasks::children`].
    children: Mutex<()>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<String, Container>,
    /// Ids of those that are just being made.
    creating: BTreeSet<String>,
    /// To the sandbox's agent, while that lives.
    agent: Option<Arc<Client>>,
    /// Where containerd connects to, to forward ports, while that lives.
    loopback: Option<Arc<Loopback>>,
    /// None: an earlier shim knew.
    plugged: Option<root::Plugged>,
}

struct Container {
    bundle: PathBuf,
    pid: u32,
    paused: bool,
    /// By exec id; the container's own has the empty one.
    processes: BTreeMap<String, Process>,
}

struct Process {
    io: Io,
    kept: Kept,
    /// By CloseIO, which may come before the process has been started.
    stdin_closed: bool,
    /// Of an exec, until it is started.
    spec: Option<OciProcess>,
    stage: Stage,
    /// It has ended before its start was told.
    early: Option<Exit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Created,
    Starting,
    Running,
    Exited(Exit),
}

/// How a process has ended, as a shell says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exit {
    status: u32,
    at_ns: u64,
}

impl Exit {
    /// Of a process whose sandbox is gone.
    fn killed() -> Exit {
        Exit {
            status: 128 + libc::SIGKILL as u32,
            at_ns: std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64),
        }
    }
}

impl From<WaitProcessResponse> for Exit {
    fn from(exit: WaitProcessResponse) -> Exit {
        let status = if exit.signal == 0 { exit.exit_code } else { 128 + exit.signal };
        Exit { status, at_ns: exit.exited_at_ns }
    }
}

impl Process {
    fn new(io: Io, kept: Kept) -> Process {
        Process { io, kept, stdin_closed: false, spec: None, stage: Stage::Created, early: None }
    }

    /// What keeps the streams of a process that has just been made.
    fn keep(&mut self, kept: Kept) {
        self.kept = kept;
        if self.stdin_closed {
            self.kept.stdin = None;
        }
    }

    /// It reads the end of its input once whoever else writes to it has gone.
    fn close_stdin(&mut self) {
        self.stdin_closed = true;
        self.kept.stdin = None;
    }

    fn exit(&self) -> Option<Exit> {
        match self.stage {
            Stage::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

impl Tasks {
    pub fn new(runtime: Runtime, kind: Kind, root: PathBuf, debug: bool, publisher: Publisher) -> Tasks {
        Tasks {
            runtime,
            kind,
            root,
            debug,
            publisher,
            state: Mutex::new(State { plugged: Some(root::Plugged::new()), ..State::default() }),
            changed: Condvar::new(),
            children: Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while a child of this process's own is waited for: whoever reaps what the sandbox has left must not take it.
    fn children(&self) -> MutexGuard<'_, ()> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is left to care for.
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.containers.is_empty() && state.creating.is_empty()
    }

    fn agent(&self) -> Result<Arc<Client>, Status> {
        self.lock().agent.clone().ok_or_else(|| Status::new(Code::NotFound, "the sandbox has ended"))
    }

    /// The container's pid on the host.
    pub fn pid(&self, id: &str) -> Result<u32, Status> {
        Ok(self.lock().container(id)?.pid)
    }

    /// Waits for a process to exit.
    pub fn wait(&self, id: &str, exec_id: &str) -> Result<WaitResponse, Status> {
        self.wait_for(id, exec_id, None)?.ok_or_else(|| unknown("the wait was cut short"))
    }

    /// Waits for a process to exit; None: it has not, for so long.
    pub fn wait_for(&self, id: &str, exec_id: &str, patience: Option<Duration>) -> Result<Option<WaitResponse>, Status> {
        let until = patience.map(|patience| Instant::now() + patience);
        let mut state = self.lock();
        loop {
            if let Some(exit) = state.process(id, exec_id)?.exit() {
                return Ok(Some(WaitResponse { exit_status: exit.status, exited_at: Some(Timestamp::from_ns(exit.at_ns)) }));
            }
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Ok(None),
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// When a container was made, if that is known.
    pub fn created_at(&self, id: &str) -> Option<Timestamp> {
        let entry = self.runtime.store.open(id, Access::Look).ok()?;
        Some(Timestamp::from_ns(entry.saved.created_ns))
    }

    /// Lets a containerd that was away find what processes that have ended meanwhile have written.
    pub fn offer_outputs(&self) {
        let state = self.lock();
        let processes = state.containers.values().flat_map(|container| container.processes.values());
        processes.filter(|process| process.exit().is_some()).for_each(|process| process.kept.offer());
    }

    pub fn state_of(&self, id: &str, exec_id: &str) -> Result<StateResponse, Status> {
        let mut state = self.lock();
        let container = state.container(id)?;
        let (bundle, pid, paused) = (container.bundle.to_string_lossy().into_owned(), container.pid, container.paused);
        let process = state.process(id, exec_id)?;
        let status = match process.stage {
            Stage::Created | Stage::Starting => TaskStatus::Created,
            Stage::Running if paused => TaskStatus::Paused,
            Stage::Running => TaskStatus::Running,
            Stage::Exited(_) => TaskStatus::Stopped,
        };
        let exit = process.exit();
        Ok(StateResponse {
            id: id.into(),
            bundle,
            pid,
            status: status.into(),
            stdin: process.io.stdin.clone(),
            stdout: process.io.stdout.clone(),
            stderr: process.io.stderr.clone(),
            terminal: process.io.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| Timestamp::from_ns(exit.at_ns)),
            exec_id: exec_id.into(),
        })
    }
}

impl State {
    fn container(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers.get_mut(id).ok_or_else(|| Status::new(Code::NotFound, format!("container {id} does not exist")))
    }

    fn process(&mut self, id: &str, exec_id: &str) -> Result<&mut Process, Status> {
        let process = self.container(id)?.processes.get_mut(exec_id);
        process.ok_or_else(|| Status::new(Code::NotFound, format!("container {id} has no process {exec_id}")))
    }
}

fn deleted(pid: u32, exit: Exit) -> DeleteResponse {
    DeleteResponse { pid, exit_status: exit.status, exited_at: Some(Timestamp::from_ns(exit.at_ns)) }
}

/// A failure that says nothing of its kind.
pub fn unknown(what: impl std::fmt::Display) -> Status {
    Status::new(Code::Unknown, what.to_string())
}

/// The runtime's failures in gRPC's codes.
fn status(error: runtime::Error) -> Status {
    use runtime::Error;
    let code = match &error {
        Error::NotFound(_) => Code::NotFound,
        Error::Exists(_) => Code::AlreadyExists,
        Error::BadId(_) | Error::Config(_) => Code::InvalidArgument,
        Error::WrongStatus { .. } => Code::FailedPrecondition,
        Error::Agent { cause: agent_api::ClientError::Status(status), .. } => status.code,
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

/// An agent's failures; one that is gone has no processes any more.
fn agent_status(error: agent_api::ClientError) -> Status {
    match error {
        agent_api::ClientError::Status(status) => status,
        agent_api::ClientError::Closed => Status::new(Code::NotFound, "the sandbox has ended"),
        error => Status::new(Code::Unknown, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// As `ctr` and CRI may send it: added, input closed, started.
    #[test]
    fn an_input_that_was_closed_before_the_start_has_an_end() {
        let dir = std::env::temp_dir().join(format!("nacre-shim-closed-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("dir");
        let path = dir.join("in");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo");
        let io = Io { stdin: path.to_string_lossy().into_owned(), ..Io::default() };
        let mut process = Process::new(io.clone(), Kept::default());
        process.close_stdin();
        let (streams, kept) = io.open().expect("opened");
        assert!(kept.stdin.is_some(), "nobody else writes");
        process.keep(kept);
        let mut text = String::new();
        streams.stdin.expect("stdin").read_to_string(&mut text).expect("an end");
        assert_eq!(text, "");
        std::fs::remove_dir_all(dir).expect("clean up");
    }
}
