//! Starting, signalling and looking at what runs in containers.

use std::sync::Arc;

use agent_api::{
    Code, ExecProcessRequest as AgentExec, ListContainersRequest, ListProcessesRequest, ResizeTtyRequest, SignalProcessRequest,
    SignalTarget, StatsRequest, Status, WindowSize,
};
use prost::Message;
use runtime::config::{self, OciProcess};
use runtime::console::Console;

use super::{Container, Process, Stage, Tasks, agent_status, status, unknown};
use crate::proto::{
    Any, CpuStat, CpuUsage, ExecProcessRequest, KillRequest, MemoryEntry, MemoryStat, Metrics, PidResponse, PidsResponse,
    PidsStat, ProcessInfo, ResizePtyRequest, StatsResponse, TaskExecAdded, TaskExecStarted, TaskNotice, TaskStart,
    UpdateTaskRequest,
};
use crate::stdio::{Io, carry};

impl Tasks {
    /// Runs a created container's process, or an added one.
    pub fn start(self: &Arc<Tasks>, id: &str, exec_id: &str) -> Result<PidResponse, Status> {
        let (pid, spec, io) = {
            let mut state = self.lock();
            let pid = state.container(id)?.pid;
            let process = state.process(id, exec_id)?;
            if process.stage != Stage::Created {
                return Err(Status::new(Code::FailedPrecondition, format!("{id} {exec_id} has been started already")));
            }
            process.stage = Stage::Starting;
            (pid, process.spec.clone(), process.io.clone())
        };
        let started = match (exec_id.is_empty(), spec) {
            (true, _) => {
                // It runs hooks.
                let _ours = self.children();
                self.runtime.start(id).map_err(status)
            }
            (false, Some(spec)) => self.start_exec(id, exec_id, &spec, &io),
            (false, None) => Err(unknown("the process has no specification")),
        };
        let early = {
            let mut state = self.lock();
            // It may have been deleted meanwhile.
            let process = state.process(id, exec_id)?;
            process.stage = if started.is_ok() { Stage::Running } else { Stage::Created };
            process.early.take()
        };
        if let Err(error) = started {
            // With its sandbox.
            if let Some(exit) = early {
                self.exited(id, exec_id, exit);
            }
            return Err(error);
        }
        match exec_id.is_empty() {
            true => self.publisher.put("start", "TaskStart", &TaskStart { container_id: id.into(), pid }),
            false => {
                let event = TaskExecStarted { container_id: id.into(), exec_id: exec_id.into(), pid };
                self.publisher.put("exec-started", "TaskExecStarted", &event);
            }
        }
        if let Some(exit) = early {
            self.exited(id, exec_id, exit);
        }
        Ok(PidResponse { pid })
    }

    fn start_exec(&self, id: &str, exec_id: &str, spec: &OciProcess, io: &Io) -> Result<(), Status> {
        let wrong = |error: config::ConfigError| Status::new(Code::InvalidArgument, error.to_string());
        config::check_process(spec, "process").map_err(wrong)?;
        let mut process = config::process(spec).map_err(wrong)?;
        let (streams, kept) = io.open().map_err(|what| Status::new(Code::InvalidArgument, what))?;
        process.terminal = io.terminal.then(|| process.terminal.unwrap_or_default());
        let console = process.terminal.map(Console::open).transpose().map_err(unknown)?;
        let stdio = match &console {
            Some(console) => console.as_host(),
            None => streams.as_host(),
        };
        let mut fds = Vec::new();
        process.stdio = Some(stdio.place(&mut fds));
        let request = AgentExec { container_id: id.into(), exec_id: exec_id.into(), process: Some(process) };
        self.agent()?.call_with(&request, &fds).map_err(|error| {
            let status = agent_status(error);
            Status::new(status.code, format!("cannot start the process: {}", status.message))
        })?;
        drop(fds);
        if let Ok(process) = self.lock().process(id, exec_id) {
            process.keep(kept);
        }
        let Some(console) = console else { return Ok(()) };
        carry(console.into_master(), streams).map_err(|error| {
            // Nobody would know of it.
            if let Err(error) = self.signal(id, exec_id, libc::SIGKILL, SignalTarget::Process) {
                tracing::warn!("a process without its terminal stays: {}", error.message);
            }
            unknown(error)
        })
    }

    /// Adds a process, to be started.
    pub fn exec(&self, request: &ExecProcessRequest) -> Result<(), Status> {
        let spec =
            request.spec.as_ref().ok_or_else(|| Status::new(Code::InvalidArgument, "the process has no specification"))?;
        let wrong =
            |error: serde_json::Error| Status::new(Code::InvalidArgument, format!("the process's specification: {error}"));
        let spec: OciProcess = serde_json::from_slice(&spec.value).map_err(wrong)?;
        let io = Io {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        {
            let mut state = self.lock();
            match state.process(&request.id, "")?.stage {
                Stage::Running => {}
                Stage::Exited(_) => return Err(Status::new(Code::FailedPrecondition, "cannot exec in a stopped container")),
                _ => return Err(Status::new(Code::FailedPrecondition, "cannot exec in a container that is not running")),
            }
            let container = state.container(&request.id)?;
            if request.exec_id.is_empty() || container.processes.contains_key(&request.exec_id) {
                return Err(Status::new(Code::AlreadyExists, format!("process {} exists already", request.exec_id)));
            }
            let process = Process { spec: Some(spec), ..Process::new(io, Default::default()) };
            container.processes.insert(request.exec_id.clone(), process);
        }
        let event = TaskExecAdded { container_id: request.id.clone(), exec_id: request.exec_id.clone() };
        self.publisher.put("exec-added", "TaskExecAdded", &event);
        Ok(())
    }

    /// Sends a signal.
    pub fn kill(&self, request: &KillRequest) -> Result<(), Status> {
        let (id, exec_id, signal) = (&request.id, &request.exec_id, request.signal as i32);
        let gone = || Status::new(Code::NotFound, "process already finished");
        match self.lock().process(id, exec_id)?.stage {
            Stage::Exited(_) if !request.all => return Err(gone()),
            Stage::Exited(_) => return Ok(()),
            Stage::Created if !exec_id.is_empty() => {
                return Err(Status::new(Code::FailedPrecondition, "the process has not been started"));
            }
            _ => {}
        }
        let target = if request.all { SignalTarget::Container } else { SignalTarget::Process };
        if exec_id.is_empty() {
            // With a way out if the agent does not answer.
            return self.runtime.kill(id, signal, target).map_err(|error| match error {
                runtime::Error::NotRunning => gone(),
                error => status(error),
            });
        }
        self.signal(id, exec_id, signal, target)
    }

    /// By way of the agent.
    fn signal(&self, id: &str, exec_id: &str, signal: i32, target: SignalTarget) -> Result<(), Status> {
        let request = SignalProcessRequest { container_id: id.into(), exec_id: exec_id.into(), signal, target: target.into() };
        self.agent()?.call(&request).map(drop).map_err(agent_status)
    }

    pub fn pause(&self, id: &str) -> Result<(), Status> {
        self.lock().container(id)?;
        self.runtime.pause(id).map_err(status)?;
        self.lock().container(id)?.paused = true;
        self.publisher.put("paused", "TaskPaused", &TaskNotice { container_id: id.into() });
        Ok(())
    }

    pub fn resume(&self, id: &str) -> Result<(), Status> {
        self.lock().container(id)?;
        self.runtime.resume(id).map_err(status)?;
        self.lock().container(id)?.paused = false;
        self.publisher.put("resumed", "TaskResumed", &TaskNotice { container_id: id.into() });
        Ok(())
    }

    pub fn resize(&self, request: &ResizePtyRequest) -> Result<(), Status> {
        let stage = self.lock().process(&request.id, &request.exec_id)?.stage;
        // A terminal that is not there yet gets its size from its owner again.
        if stage == Stage::Created && !request.exec_id.is_empty() {
            return Ok(());
        }
        let size = WindowSize { rows: request.height, columns: request.width, ..WindowSize::default() };
        let resize = ResizeTtyRequest { container_id: request.id.clone(), exec_id: request.exec_id.clone(), size: Some(size) };
        self.agent()?.call(&resize).map(drop).map_err(agent_status)
    }

    pub fn close_stdin(&self, id: &str, exec_id: &str) -> Result<(), Status> {
        self.lock().process(id, exec_id)?.close_stdin();
        Ok(())
    }

    /// Numbers of its processes, as they are inside: the host has none of its own for them. One that has ended has its first one until it is deleted, as a
    /// zombie has: a containerd 2 that is started again takes a task without any for one that never came to be, and forgets how it ended.
    pub fn pids(&self, id: &str) -> Result<PidsResponse, Status> {
        {
            let mut state = self.lock();
            let pid = state.container(id)?.pid;
            if state.process(id, "")?.exit().is_some() {
                return Ok(PidsResponse { processes: vec![ProcessInfo { pid }] });
            }
        }
        let list = self.agent()?.call(&ListProcessesRequest { container_id: id.into() }).map_err(agent_status)?;
        let processes = list.processes.iter().map(|process| ProcessInfo { pid: process.pid as u32 }).collect();
        Ok(PidsResponse { processes })
    }

    pub fn stats(&self, id: &str) -> Result<StatsResponse, Status> {
        self.lock().container(id)?;
        let stats = self.agent()?.call(&StatsRequest { container_id: id.into() }).map_err(agent_status)?;
        let limit = stats.memory_limit.unwrap_or(i64::MAX as u64);
        let usage = MemoryEntry { limit, usage: stats.memory_usage, max: stats.memory_peak, failcnt: stats.oom_kills };
        let metrics = Metrics {
            pids: Some(PidsStat { current: stats.pids, limit: stats.pids_limit.unwrap_or(0) }),
            cpu: Some(CpuStat {
                usage: Some(CpuUsage {
                    total: stats.cpu_user_ns.saturating_add(stats.cpu_system_ns),
                    kernel: stats.cpu_system_ns,
                    user: stats.cpu_user_ns,
                }),
            }),
            memory: Some(MemoryStat {
                rss: stats.memory_usage,
                hierarchical_memory_limit: limit,
                total_rss: stats.memory_usage,
                usage: Some(usage),
            }),
        };
        let any = Any { type_url: "io.containerd.cgroups.v1.Metrics".into(), value: metrics.encode_to_vec() };
        Ok(StatsResponse { stats: Some(any) })
    }

    /// Whether the sandbox answers.
    pub fn ping(&self, id: &str) -> Result<(), Status> {
        self.lock().container(id)?;
        self.agent()?.call(&ListContainersRequest {}).map(drop).map_err(agent_status)
    }

    /// Changes a container's limits.
    pub fn update(&self, request: &UpdateTaskRequest) -> Result<(), Status> {
        self.lock().container(&request.id)?;
        let Some(resources) = &request.resources else { return Ok(()) };
        let wrong = |what: String| Status::new(Code::InvalidArgument, format!("the resources: {what}"));
        let resources = serde_json::from_slice(&resources.value).map_err(|error| wrong(error.to_string()))?;
        let updated = self.runtime.update(&request.id, &resources);
        updated.map_err(|error| Status::new(Code::FailedPrecondition, error.to_string()))
    }
}

impl Container {
    /// Its processes that have not ended.
    pub(super) fn live(&self) -> impl Iterator<Item = &str> {
        self.processes.iter().filter(|(_, process)| process.exit().is_none()).map(|(exec_id, _)| exec_id.as_str())
    }
}
