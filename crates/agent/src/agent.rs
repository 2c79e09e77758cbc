//! [`Agent`]: the containers, and what the host may ask about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use agent_api::execs;
use agent_api::{
    Code, ContainerState, ContainerStatus, CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest, Empty,
    Event, EventKind, ExecProcessRequest, ExecProcessResponse, ResizeTtyRequest, SignalProcessRequest, SignalTarget,
    StartContainerResponse, Status, UpdateContainerRequest, WaitProcessRequest,
};
use parking_lot::{Mutex, RwLockWriteGuard};
use rustix::process::{Signal, kill_process, kill_process_group};
use rustix::termios::{tcgetpgrp, tcsetwinsize};

use crate::cgroup::Freeze;
use crate::container::{Container, Ending};
use crate::events::Events;
use crate::init::window;
use crate::log;
use crate::modules::Modules;
use crate::process::{self, Process, Stage};
use crate::reaper::Reaper;
use crate::serve::Outbox;
use crate::sys;

/// How long the end of a terminal's bytes is waited for when its process has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a device may take to show up.
const DEVICE: Duration = Duration::from_secs(8);

/// How long a pause waits for processes that are being made.
const MAKING: Duration = Duration::from_secs(4);

/// What the host's requests act on.
pub struct Agent {
    pub outbox: Outbox,
    pub modules: Mutex<Modules>,
    /// Whether `SetUpSandbox` has been done.
    pub set_up: Mutex<bool>,
    events: Events,
    reaper: Arc<Reaper>,
    /// None: being made.
    containers: Mutex<BTreeMap<String, Option<Arc<Container>>>>,
}

impl Agent {
    pub fn new(outbox: Outbox, modules: Modules) -> Arc<Agent> {
        Arc::new(Agent {
            outbox,
            modules: Mutex::new(modules),
            set_up: Mutex::new(false),
            events: Events::default(),
            reaper: Reaper::start(),
            containers: Mutex::default(),
        })
    }

    pub fn container(&self, id: &str) -> Result<Arc<Container>, Status> {
        let container = self.containers.lock().get(id).cloned().flatten();
        container.ok_or_else(|| not_found(format!("container {id} does not exist")))
    }

    /// All that are made.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.containers.lock().values().flatten().cloned().collect()
    }

    fn process(&self, id: &str, exec_id: &str) -> Result<Arc<Process>, Status> {
        let process = self.container(id)?.processes.lock().get(exec_id).cloned();
        process.ok_or_else(|| not_found(format!("container {id} has no process {exec_id}")))
    }

    /// Makes a container.
    pub fn create(self: &Arc<Agent>, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        let id = request.id.clone();
        let mut containers = self.containers.lock();
        if id.is_empty() || containers.contains_key(&id) {
            return Err(Status::new(Code::AlreadyExists, format!("container {id} exists already")));
        }
        containers.insert(id.clone(), None);
        drop(containers);
        match self.make(request) {
            Ok((container, process, ending)) => {
                container.processes.lock().insert(String::new(), process.clone());
                log::debug(format_args!("container {id} is made, its process is {}", process.pid));
                self.containers.lock().insert(id.clone(), Some(container.clone()));
                let watched = self.watch_memory(container.clone());
                if let Err(status) = watched.and_then(|()| self.follow(container.clone(), "", process.clone(), ending)) {
                    self.give_up(&process);
                    container.end();
                    self.containers.lock().remove(&id);
                    return Err(status);
                }
                Ok(CreateContainerResponse {})
            }
            Err(status) => {
                self.containers.lock().remove(&id);
                Err(status)
            }
        }
    }

    fn make(&self, request: CreateContainerRequest) -> Result<(Arc<Container>, Arc<Process>, Arc<Ending>), Status> {
        self.load_modules(&request)?;
        let owner = |shared: &agent_api::SharedNamespace| self.process(&shared.container_id, "");
        let owners = request.shared_namespaces.iter().map(owner).collect::<Result<Vec<_>, _>>()?;
        Container::new(&self.reaper, request, &owners)
    }

    /// Loads what is only needed for some containers.
    fn load_modules(&self, request: &CreateContainerRequest) -> Result<(), Status> {
        let load = || {
            let mut modules = self.modules.lock();
            modules.load_for_devices()?;
            if request.root.as_ref().is_some_and(|root| root.overlay.is_some() || root.images.len() > 1) {
                modules.load("overlay")?;
            }
            if request.devices.iter().any(|device| device.path == b"/dev/loop-control") {
                modules.load("loop")?;
            }
            match request.images.is_empty() {
                true => Ok(()),
                false => modules.load("erofs"),
            }
        };
        load().map_err(|why| Status::new(Code::Internal, why))?;
        for image in request.images.iter().copied().chain(request.disks.iter().copied()) {
            // One that was plugged in just now shows up after a while, and may be the first that wants its driver.
            wait_for(|| {
                crate::drives::device(image).is_some() || {
                    if let Err(why) = self.modules.lock().load_for_devices() {
                        log::warn(format_args!("{why}"));
                    }
                    false
                }
            });
        }
        Ok(())
    }

    /// Runs a created container's process.
    pub fn start(&self, id: &str) -> Result<StartContainerResponse, Status> {
        let process = self.process(id, "")?;
        let container = self.container(id)?;
        // Until it runs, nobody stops it.
        let paused = container.paused.read();
        if *paused {
            return Err(precondition(format!("container {id} is paused")));
        }
        let gate = process.start().ok_or_else(|| precondition(format!("container {id} is not in state created")))?;
        gate.open()?;
        Ok(StartContainerResponse { pid: process.inner_pid })
    }

    /// Runs one more process in a running container.
    pub fn exec(self: &Arc<Agent>, request: ExecProcessRequest) -> Result<ExecProcessResponse, Status> {
        let (id, exec_id) = (&request.container_id, &request.exec_id);
        let container = self.container(id)?;
        let first = self.process(id, "")?;
        if first.stage() != Stage::Running {
            return Err(precondition(format!("container {id} is not running")));
        }
        let exited_at_ns = |process: &Arc<Process>| match process.stage() {
            Stage::Exited(exit) => Some(exit.exited_at_ns),
            Stage::Created | Stage::Running => None,
        };
        if exec_id.is_empty() || !execs::make_room(&mut container.processes.lock(), exec_id, exited_at_ns) {
            return Err(Status::new(Code::AlreadyExists, format!("container {id} has a process {exec_id} already")));
        }
        let wanted = request.process.ok_or_else(|| Status::new(Code::InvalidArgument, "process is missing"))?;
        // Neither stopped halfway nor let go before its errors are nobody's: who pauses or resumes waits.
        let paused = container.paused.read();
        let (process, ending) = container.add(&self.reaper, wanted, &first, &paused)?;
        container.processes.lock().insert(exec_id.clone(), process.clone());
        let pid = process.inner_pid;
        let opened = process.start().map_or(Ok(()), |gate| match *paused {
            false => gate.open(),
            true => {
                gate.unlock();
                Ok(())
            }
        });
        drop(paused);
        if let Err(status) = opened.and_then(|()| self.follow(container.clone(), exec_id, process.clone(), ending)) {
            self.give_up(&process);
            container.processes.lock().remove(exec_id);
            return Err(status);
        }
        Ok(ExecProcessResponse { pid })
    }

    /// Kills a process that nobody follows, and tells those of its end who wait for it already.
    fn give_up(&self, process: &Process) {
        let _ = process.kill_for(Signal::KILL);
        let exit = process::killed();
        for request in process.set_exited(exit) {
            self.outbox.reply(request, Ok(exit));
        }
    }

    /// Reports a process's end when it comes.
    fn follow(
        self: &Arc<Agent>,
        container: Arc<Container>,
        exec_id: &str,
        process: Arc<Process>,
        ending: Arc<Ending>,
    ) -> Result<(), Status> {
        let (agent, exec_id) = (self.clone(), exec_id.to_string());
        let kills_before = container.cgroup.oom_kills();
        let thread = thread::Builder::new().name("follow".into()).stack_size(64 << 10);
        let spawned = thread.spawn(move || {
            let status = ending.wait();
            if exec_id.is_empty() {
                // With a pid name space of its own they are gone already.
                container.cgroup.kill();
            }
            for output in &process.outputs {
                if process.on_terminal {
                    output.wait_end(LAST_WORDS);
                }
                output.flush();
            }
            let exit = process.exit(status, container.cgroup.oom_kills() > kills_before);
            agent.tell_oom(&container);
            log::debug(format_args!(
                "container {}: process {exec_id:?} has ended with {} (signal {})",
                container.id, exit.exit_code, exit.signal
            ));
            let waiters = process.set_exited(exit);
            let (kind, container_id) = (EventKind::ProcessExited as i32, container.id.clone());
            agent.tell(Event { sequence: 0, kind, container_id, exec_id, exit: Some(exit) });
            for request in waiters {
                agent.outbox.reply(request, Ok(exit));
            }
        });
        spawned.map(drop).map_err(|error| Status::new(Code::ResourceExhausted, format!("cannot make a thread: {error}")))
    }

    /// Tells of kills for want of memory when they happen, whoever they hit.
    fn watch_memory(self: &Arc<Agent>, container: Arc<Container>) -> Result<(), Status> {
        let agent = self.clone();
        let thread = thread::Builder::new().name("memory".into()).stack_size(64 << 10);
        let spawned = thread.spawn(move || container.cgroup.watch_memory(&container.deleted, || agent.tell_oom(&container)));
        spawned.map(drop).map_err(|error| Status::new(Code::ResourceExhausted, format!("cannot make a thread: {error}")))
    }

    /// Tells of the kills that have not been told of.
    fn tell_oom(&self, container: &Container) {
        let mut told = container.oom_told.lock();
        let kills = container.cgroup.oom_kills();
        if kills > *told {
            *told = kills;
            log::warn(format_args!("container {}: a process was killed because its memory was full", container.id));
            let kind = EventKind::OutOfMemory as i32;
            self.tell(Event { kind, container_id: container.id.clone(), ..Event::default() });
        }
    }

    fn tell(&self, event: Event) {
        for (request, answer) in self.events.add(event) {
            self.outbox.reply(request, Ok(answer));
        }
    }

    /// Answers a request for events, now or when there are some.
    pub fn next_events(&self, request: u32, after: u64) {
        if let Some(answer) = self.events.wait(request, after) {
            self.outbox.reply(request, Ok(answer));
        }
    }

    /// Answers a request for a process's exit, now or when it comes.
    pub fn wait(&self, request: u32, wanted: &WaitProcessRequest) {
        match self.process(&wanted.container_id, &wanted.exec_id).map(|process| process.exit_or_wait(request)) {
            Ok(Some(exit)) => self.outbox.reply(request, Ok(exit)),
            Ok(None) => {}
            Err(status) => self.outbox.reply::<Empty>(request, Err(status)),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, request: &SignalProcessRequest) -> Result<Empty, Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        let signal = sys::signal(request.signal)
            .ok_or_else(|| Status::new(Code::InvalidArgument, format!("there is no signal {}", request.signal)))?;
        // One that has just ended got it too late, which is nobody's mistake.
        match (request.target(), process.stage()) {
            (SignalTarget::Container, _) => {
                let container = self.container(&request.container_id)?;
                for pid in container.cgroup.processes() {
                    let _ = kill_process(pid, signal);
                }
            }
            (_, Stage::Exited(_)) => return Err(not_found("the process has exited".into())),
            // A process that was never started dies of whatever would end it.
            (_, Stage::Created) if process::ends(signal) => drop(process.kill_for(signal)),
            (SignalTarget::Foreground, Stage::Running) => {
                let group = process.terminal().and_then(|terminal| tcgetpgrp(terminal).ok());
                let _ = match group {
                    Some(group) => kill_process_group(group, signal),
                    None => process.signal(signal),
                };
            }
            (SignalTarget::Process | SignalTarget::Foreground, _) => drop(process.signal(signal)),
        }
        Ok(Empty {})
    }

    /// Sets a terminal's size.
    pub fn resize(&self, request: &ResizeTtyRequest) -> Result<Empty, Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        if !process.on_terminal {
            return Err(precondition("the process has no terminal".into()));
        }
        // One that has hung up has no size that matters.
        if let Some(terminal) = process.terminal() {
            let _ = tcsetwinsize(terminal, window(&request.size.unwrap_or_default()));
        }
        Ok(Empty {})
    }

    /// Stops all tasks of a container.
    pub fn pause(&self, id: &str) -> Result<Empty, Status> {
        let container = self.container(id)?;
        let mut paused = to_change(&container)?;
        container.cgroup.freeze(Freeze::Stop)?;
        *paused = true;
        Ok(Empty {})
    }

    pub fn resume(&self, id: &str) -> Result<Empty, Status> {
        let container = self.container(id)?;
        let mut paused = to_change(&container)?;
        container.cgroup.freeze(Freeze::GoOn)?;
        *paused = false;
        Ok(Empty {})
    }

    /// Removes a stopped container; with `force`, kills it first.
    pub fn delete(&self, request: &DeleteContainerRequest) -> Result<Empty, Status> {
        let id = &request.container_id;
        let (container, process) = (self.container(id)?, self.process(id, "")?);
        if !matches!(process.stage(), Stage::Exited(_)) {
            if !request.force {
                return Err(precondition(format!("container {id} is not stopped")));
            }
            container.cgroup.kill();
            process.wait_exited();
        }
        container.end();
        self.containers.lock().remove(id);
        log::debug(format_args!("container {id} is deleted"));
        Ok(Empty {})
    }

    /// All containers with their states.
    pub fn list(&self) -> Vec<ContainerState> {
        let state = |container: Arc<Container>| {
            let stage = container.processes.lock().get("").map(|process| process.stage());
            let (status, exit) = match stage {
                Some(Stage::Exited(exit)) => (ContainerStatus::Stopped, Some(exit)),
                Some(Stage::Running) if *container.paused.read_recursive() => (ContainerStatus::Paused, None),
                Some(Stage::Running) => (ContainerStatus::Running, None),
                Some(Stage::Created) | None => (ContainerStatus::Created, None),
            };
            ContainerState { id: container.id.clone(), status: status as i32, exit }
        };
        self.containers().into_iter().map(state).collect()
    }

    /// Changes limits.
    pub fn update(&self, request: &UpdateContainerRequest) -> Result<Empty, Status> {
        let container = self.container(&request.container_id)?;
        container.cgroup.set_limits(&request.limits.unwrap_or_default())?;
        Ok(Empty {})
    }

    /// Kills everything, so that what was written can be written back.
    pub fn end_all(&self) {
        for container in self.containers() {
            container.cgroup.kill();
        }
    }
}

/// Waits for a device, which its driver makes a moment after it was loaded. One that does not come is missed when it is used.
fn wait_for(there: impl Fn() -> bool) {
    let end = Instant::now() + DEVICE;
    while !there() && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
}

/// When no process is just being made in it.
fn to_change(container: &Container) -> Result<RwLockWriteGuard<'_, bool>, Status> {
    let paused = container.paused.try_write_for(MAKING);
    paused.ok_or_else(|| precondition(format!("a process is being started in container {} and does not get on", container.id)))
}

pub fn not_found(message: String) -> Status {
    Status::new(Code::NotFound, message)
}

fn precondition(message: String) -> Status {
    Status::new(Code::FailedPrecondition, message)
}
