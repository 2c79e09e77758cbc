//! The Task service: from a request's bytes to [`Tasks`] and back. The Sandbox service's requests go on to [`sandbox`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agent_api::{Code, Status};
use prost::Message;
use runtime::logging;

use crate::proto::{
    CloseIoRequest, ConnectResponse, ContainerRequest, CreateTaskRequest, Empty, ExecProcessRequest, KillRequest,
    ProcessRequest, ResizePtyRequest, ShutdownRequest, UpdateTaskRequest,
};
use crate::sandbox;
use crate::server::Service;
use crate::tasks::Tasks;

/// Version 2 is what containerd 1.6 speaks, 3 the same under another name.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

pub struct TaskService {
    pub tasks: Arc<Tasks>,
    /// The shim ends when the answer is out.
    ending: AtomicBool,
    /// Called then.
    end: Arc<dyn Fn() + Send + Sync>,
}

impl TaskService {
    pub fn new(tasks: Arc<Tasks>, end: Arc<dyn Fn() + Send + Sync>) -> TaskService {
        TaskService { tasks, ending: AtomicBool::new(false), end }
    }
}

impl Service for TaskService {
    fn call(&self, service: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status> {
        // All requests begin with the id of what they are about.
        let about = decode::<ContainerRequest>(payload).map(|request| request.id).unwrap_or_default();
        let _about = logging::About::container(&about);
        if service == sandbox::SERVICE {
            tracing::debug!("{method}");
            let (answer, after) = sandbox::call(&self.tasks, method, payload)?;
            if after == sandbox::After::End {
                self.ending.store(true, Ordering::SeqCst);
            }
            return Ok(answer);
        }
        if !SERVICES.contains(&service) {
            return Err(Status::new(Code::Unimplemented, format!("there is no service {service}")));
        }
        let tasks = &self.tasks;
        tracing::debug!("{method}");
        match method {
            "Create" => encode(tasks.create(&decode::<CreateTaskRequest>(payload)?)),
            "Start" => {
                let ProcessRequest { id, exec_id } = decode(payload)?;
                encode(tasks.start(&id, &exec_id))
            }
            "State" => {
                let ProcessRequest { id, exec_id } = decode(payload)?;
                encode(tasks.state_of(&id, &exec_id))
            }
            "Wait" => {
                let ProcessRequest { id, exec_id } = decode(payload)?;
                encode(tasks.wait(&id, &exec_id))
            }
            "Delete" => {
                let ProcessRequest { id, exec_id } = decode(payload)?;
                encode(tasks.delete(&id, &exec_id))
            }
            "Exec" => empty(tasks.exec(&decode::<ExecProcessRequest>(payload)?)),
            "Kill" => empty(tasks.kill(&decode::<KillRequest>(payload)?)),
            "Pause" => empty(tasks.pause(&decode::<ContainerRequest>(payload)?.id)),
            "Resume" => empty(tasks.resume(&decode::<ContainerRequest>(payload)?.id)),
            "ResizePty" => empty(tasks.resize(&decode::<ResizePtyRequest>(payload)?)),
            "CloseIO" => {
                let CloseIoRequest { id, exec_id, stdin } = decode(payload)?;
                empty(if stdin { tasks.close_stdin(&id, &exec_id) } else { Ok(()) })
            }
            "Pids" => encode(tasks.pids(&decode::<ContainerRequest>(payload)?.id)),
            "Stats" => encode(tasks.stats(&decode::<ContainerRequest>(payload)?.id)),
            "Update" => empty(tasks.update(&decode::<UpdateTaskRequest>(payload)?)),
            "Connect" => {
                let pid = tasks.pid(&decode::<ContainerRequest>(payload)?.id)?;
                encode(Ok(ConnectResponse { shim_pid: std::process::id(), task_pid: pid, version: String::new() }))
            }
            "Checkpoint" => Err(Status::new(Code::Unimplemented, "a sandbox cannot be checkpointed")),
            "Shutdown" => {
                let ShutdownRequest { now, .. } = decode(payload)?;
                if now || tasks.is_empty() {
                    self.ending.store(true, Ordering::SeqCst);
                }
                empty(Ok(()))
            }
            other => Err(Status::new(Code::Unimplemented, format!("there is no method {other}"))),
        }
    }

    /// Perhaps one that was away.
    fn connected(&self) {
        self.tasks.offer_outputs();
    }

    fn answered(&self) {
        // Once: others' answers may go out meanwhile.
        if self.ending.swap(false, Ordering::SeqCst) {
            (self.end)();
        }
    }
}

pub fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status::new(Code::InvalidArgument, format!("malformed request: {error}")))
}

pub fn encode<M: Message>(answer: Result<M, Status>) -> Result<Vec<u8>, Status> {
    answer.map(|message| message.encode_to_vec())
}

/// As `encode`, where there is nothing to tell.
pub fn empty(done: Result<(), Status>) -> Result<Vec<u8>, Status> {
    encode(done.map(|()| Empty {}))
}
