//! Containers as the Agent protocol knows them: made, started, looked at and taken away.
//!
//! [`Agent`] holds them all. `create` builds one (its tree of mounts, its first process, loaded but not running), `process` follows
//! each process that was started from outside, `report` makes ps, statistics and stacks, `metrics` what is counted.
//!
//! Everything here runs on executors. Locking: `Agent::containers` and a handle's `processes` are leaves.

mod create;
mod events;
mod forward;
mod metrics;
mod mounts;
mod process;
mod report;
mod spawn;
mod stdio;
mod sysctls;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use agent_api::{
    Code, ContainerState, ContainerStatus, DeleteContainerRequest, Empty, Event, EventKind, ResizeTtyRequest,
    SignalProcessRequest, SignalTarget, StartContainerResponse, Status, UpdateContainerRequest, WaitProcessResponse,
};
use parking_lot::Mutex;

use crate::executor::Reactor;
use crate::fs::FsContext;
use crate::kernel::{Container, Kernel};
use crate::seccomp::Seccomp;
use crate::signal::{DefaultAction, Origin, SigInfo, Signal};
use crate::task::ThreadGroup;
use crate::wait::{Interrupt, PollEvents, Share, Sleep, Wait, WaitQueue, wait_for};
pub use events::Events;
use process::{Process, Stage};

/// What the control thread serves from.
pub struct Agent {
    pub kernel: Arc<Kernel>,
    pub events: Events,
    /// Watches stdio and gofer connections.
    pub reactor: Arc<Reactor>,
    containers: Mutex<BTreeMap<String, Arc<Handle>>>,
    /// A directory of the private tmpfs where memory files are made, unless containers bring theirs.
    memory: Option<OwnedFd>,
}

/// A container with its processes by their exec ids; its own has the empty id.
struct Handle {
    container: Arc<Container>,
    /// Root directory and mounts, for exec.
    fs: Arc<FsContext>,
    /// The filter of all its processes (`linux.seccomp`).
    seccomp: Seccomp,
    /// Its files' process. Held as long as the container is known, also if no file is the gofer's: it holds the container's memory for the runtime, and is its process on the host.
    gofer: Arc<gofer::client::Client>,
    processes: Mutex<BTreeMap<String, Arc<Process>>>,
}

impl Agent {
    pub fn new(kernel: Arc<Kernel>, reactor: Arc<Reactor>, memory: Option<OwnedFd>) -> Arc<Agent> {
        Arc::new(Agent { kernel, events: Events::default(), reactor, containers: Mutex::new(BTreeMap::new()), memory })
    }

    fn handle(&self, id: &str) -> Result<Arc<Handle>, Status> {
        self.containers.lock().get(id).cloned().ok_or_else(|| not_found(format!("container {id} does not exist")))
    }

    fn process(&self, id: &str, exec_id: &str) -> Result<Arc<Process>, Status> {
        let handle = self.handle(id)?;
        let process = handle.processes.lock().get(exec_id).cloned();
        process.ok_or_else(|| not_found(format!("container {id} has no process {exec_id}")))
    }

    /// Runs a created container's process.
    pub fn start(&self, id: &str) -> Result<StartContainerResponse, Status> {
        let process = self.process(id, "")?;
        if !process.start() {
            return Err(precondition(format!("container {id} is not in state created")));
        }
        Ok(StartContainerResponse { pid: process.group.tgid })
    }

    /// Sends a signal.
    pub fn signal(&self, request: &SignalProcessRequest) -> Result<Empty, Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        let signal = Signal::new(request.signal)
            .ok_or_else(|| Status::new(Code::InvalidArgument, format!("there is no signal {}", request.signal)))?;
        if request.target() == SignalTarget::Container {
            let container = &process.group.container;
            container.pids.broadcast(|| {
                for group in container.processes() {
                    let _ = group.send_signal_from(SigInfo::user(signal, 0, 0), Origin::Forced);
                }
            });
            return Ok(Empty {});
        }
        match process.stage() {
            Stage::Exited(_) => Err(not_found("the process has exited".into())),
            // A process that was never started dies of whatever would end it.
            Stage::Created if matches!(signal.default_action(), DefaultAction::Terminate | DefaultAction::Core) => {
                send(&process.group, Signal::KILL);
                process.start();
                Ok(Empty {})
            }
            Stage::Created | Stage::Running => {
                // A user's own key or kill acts on a program even if it is the container's first process.
                let origin = if request.target() == SignalTarget::Foreground { Origin::Forced } else { Origin::Outside };
                let _ = process.group.send_signal_from(SigInfo::user(signal, 0, 0), origin);
                Ok(Empty {})
            }
        }
    }

    /// Waits for a process to exit.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<WaitProcessResponse, Status> {
        let process = self.process(id, exec_id)?;
        Ok(process.exited().await)
    }

    /// Sets a terminal's size.
    pub fn resize(&self, request: &ResizeTtyRequest) -> Result<Empty, Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        let console = process.console().ok_or_else(|| precondition("the process has no terminal".into()))?;
        let (rows, columns) = stdio::window(request.size.as_ref());
        console.resize(rows, columns);
        Ok(Empty {})
    }

    /// Stops all tasks of a container.
    pub fn pause(&self, id: &str) -> Result<Empty, Status> {
        self.handle(id)?.container.pause();
        Ok(Empty {})
    }

    pub fn resume(&self, id: &str) -> Result<Empty, Status> {
        self.handle(id)?.container.resume();
        Ok(Empty {})
    }

    /// Removes a stopped container; with `force`, kills it first.
    pub async fn delete(&self, request: &DeleteContainerRequest) -> Result<Empty, Status> {
        let id = &request.container_id;
        let process = self.process(id, "")?;
        if !matches!(process.stage(), Stage::Exited(_)) {
            if !request.force {
                return Err(precondition(format!("container {id} is not stopped")));
            }
            send(&process.group, Signal::KILL);
            process.exited().await;
        }
        self.containers.lock().remove(id);
        self.kernel.containers.lock().remove(id);
        Ok(Empty {})
    }

    /// All containers with their states.
    pub fn list(&self) -> Vec<ContainerState> {
        let handles: Vec<(String, Arc<Handle>)> =
            self.containers.lock().iter().map(|(id, handle)| (id.clone(), handle.clone())).collect();
        let state = |(id, handle): (String, Arc<Handle>)| {
            let stage = handle.processes.lock().get("").map(|process| process.stage());
            let (status, exit) = match stage {
                Some(Stage::Exited(exit)) => (ContainerStatus::Stopped, Some(exit)),
                Some(Stage::Running) if handle.container.life.paused() => (ContainerStatus::Paused, None),
                Some(Stage::Running) => (ContainerStatus::Running, None),
                Some(Stage::Created) | None => (ContainerStatus::Created, None),
            };
            ContainerState { id, status: status as i32, exit }
        };
        handles.into_iter().map(state).collect()
    }

    /// Keeps an event of a process's end.
    fn report(&self, container_id: &str, exec_id: &str, exit: WaitProcessResponse) {
        let (container_id, exec_id) = (container_id.to_string(), exec_id.to_string());
        if exit.oom_killed {
            let kind = EventKind::OutOfMemory as i32;
            self.events.add(Event { kind, container_id: container_id.clone(), ..Event::default() });
        }
        let kind = EventKind::ProcessExited as i32;
        self.events.add(Event { sequence: 0, kind, container_id, exec_id, exit: Some(exit) });
    }

    /// Changes limits. The memory file's size, which keeps that of memory, is the runtime's to change.
    pub fn update(&self, request: &UpdateContainerRequest) -> Result<Empty, Status> {
        let container = self.handle(&request.container_id)?.container.clone();
        let limits = request.limits.unwrap_or_default();
        if let Some(bytes) = limits.memory {
            container.limits.set_memory(bytes);
            if let Some(layer) = container.writable_layer.get().and_then(Weak::upgrade) {
                layer.set_size(container.memory_bytes(&self.kernel.machine));
            }
        }
        if let Some(tasks) = limits.pids {
            container.limits.set_tasks(tasks);
        }
        container.cgroup.set_limits(limits.memory, limits.pids);
        container.cgroup.set_cpu_limits(limits.into());
        container.cpu_max_changed();
        Ok(Empty {})
    }
}

/// Sends a signal from outside the container; only realtime signals can be refused, and the sender has nobody to tell.
fn send(group: &ThreadGroup, signal: Signal) {
    let _ = group.send_signal_from(SigInfo::user(signal, 0, 0), Origin::Outside);
}

fn not_found(message: String) -> Status {
    Status::new(Code::NotFound, message)
}

fn precondition(message: String) -> Status {
    Status::new(Code::FailedPrecondition, message)
}

/// Nobody: a waiter that nothing interrupts.
struct Nobody;

impl Interrupt for Nobody {
    fn interrupted(&self) -> bool {
        false
    }

    fn killed(&self) -> bool {
        false
    }
}

/// Waits, for a request from outside, until `attempt` gives a value.
async fn wait_forever<T>(queue: &WaitQueue, attempt: impl FnMut() -> Option<T> + Unpin) -> T {
    let mut attempt = attempt;
    let queues = [(queue, PollEvents::IN)];
    loop {
        let how = Wait { who: &Nobody, sleep: Sleep::Killable, share: Share::All, deadline: None };
        if let Ok(value) = wait_for(how, &queues, &mut attempt).await {
            return value;
        }
    }
}
