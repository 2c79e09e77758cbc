//! Each call: passed on to the guest's agent, with streams in the place of descriptors.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_api::{
    Call, Code, ConnectRequest, CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest, Empty,
    ExecProcessRequest, ExecProcessResponse, GetMetricsRequest, GetMetricsResponse, Method, Process, SetUpSandboxRequest,
    Status, Stdio, UpdateContainerRequest, WaitProcessRequest, WaitProcessResponse, mount, take_fd,
};
use prost::Message;

use crate::News;
use crate::drives::Hold;
use crate::serve::Server;
use crate::streams::{Announced, Direction};

/// Bytes for the guest's random pool.
const ENTROPY: usize = 64;
/// What metrics of the guest's begin with.
const FROM_GUEST: [&str; 3] = ["nacre_guest_", "nacre_agent_", "nacre_container_"];
/// How long what a process has written before its end may take on its way to a reader that is slow.
const DRAIN: Duration = Duration::from_secs(10);

impl Server {
    /// Answers a call, after as long as it takes.
    pub fn call(self: &Arc<Server>, call: Call, mut fds: Vec<Option<OwnedFd>>) -> Result<Vec<u8>, Status> {
        match call {
            Call::CreateContainer(request) => encode(self.create(request, &mut fds)),
            Call::ExecProcess(request) => encode(self.exec(request, &mut fds)),
            Call::WaitProcess(request) => encode(self.wait(&request)),
            Call::Shutdown(_) => {
                let _ = self.news.send(News::ShutDown);
                encode(Ok(Empty {}))
            }
            Call::StartContainer(request) => self.pass(&request),
            Call::SignalProcess(request) => self.pass(&request),
            Call::ResizeTty(request) => self.pass(&request),
            Call::PauseContainer(request) => self.pass(&request),
            Call::ResumeContainer(request) => self.pass(&request),
            Call::DeleteContainer(request) => encode(self.delete(&request)),
            Call::ListContainers(request) => self.pass(&request),
            Call::ListProcesses(request) => self.pass(&request),
            Call::Stats(request) => self.pass(&request),
            Call::NextEvents(request) => self.pass(&request),
            Call::GetMetrics(request) => encode(self.metrics(&request)),
            Call::UpdateContainer(request) => encode(self.update(&request)),
            Call::UpdateNetwork(request) => encode(self.nics.update(&self.guest, request, &mut fds)),
            Call::Stacks(request) => self.pass(&request),
            Call::Connect(request) => encode(self.connect(request, &mut fds)),
            Call::SetStrace(_) => Err(Status::new(
                Code::Unimplemented,
                "a VM's system calls are its own kernel's: they cannot be traced from outside",
            )),
            Call::SetUpSandbox(_) | Call::Online(_) | Call::FilesChanged(_) => {
                Err(Status::new(Code::Unimplemented, "the VM's keeper sets its guest up itself, and tells it of files"))
            }
        }
    }

    fn pass<M: Method>(&self, request: &M) -> Result<Vec<u8>, Status> {
        encode(self.guest.call(request))
    }

    fn create(
        self: &Arc<Server>,
        request: CreateContainerRequest,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<CreateContainerResponse, Status> {
        let id = request.id.clone();
        let making = || self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let exists = || Status::new(Code::AlreadyExists, format!("container {id} exists already"));
        // What one of the same name has must not be taken for this one's when that fails.
        if !making().insert(id.clone()) {
            return Err(exists());
        }
        let made = if self.sizes.has(&id) { Err(exists()) } else { self.create_new(request, fds) };
        making().remove(&id);
        made
    }

    fn create_new(
        self: &Arc<Server>,
        mut request: CreateContainerRequest,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<CreateContainerResponse, Status> {
        let id = request.id.clone();
        let announced = self.announce(&id, "", request.process.as_mut(), fds)?;
        // There are no gofers.
        request.gofer = 0;
        let made = match self.plug(&mut request, fds) {
            Ok(()) => self.make(request),
            Err(status) => Err(status),
        };
        match &made {
            Ok(_) => announced.keep(),
            Err(_) => self.plugs.release(&id),
        }
        made
    }

    /// Has images and disks in the VM, with their numbers in the place of descriptors.
    fn plug(&self, request: &mut CreateContainerRequest, fds: &mut [Option<OwnedFd>]) -> Result<(), Status> {
        let mut files = Vec::new();
        for index in &request.images {
            files.push((take_fd(fds, *index, "image")?, Hold::Read));
        }
        for (place, index) in request.disks.iter().enumerate() {
            let disk = take_fd(fds, *index, "disk")?;
            files.push((disk, hold(request, place)));
        }
        let mut numbers = self.plugs.plug(&request.id, files)?;
        request.disks = numbers.split_off(request.images.len());
        request.images = numbers;
        Ok(())
    }

    fn make(self: &Arc<Server>, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        let id = request.id.clone();
        if id == self.first_container {
            let set_up = SetUpSandboxRequest {
                clock_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
                entropy: entropy()?,
                hostname: request.hostname.clone(),
                container: Some(request),
                ..self.set_up.clone()
            };
            let limits = set_up.container.as_ref().and_then(|container| container.limits);
            let kernel = self.sizes.with_limits(&self.guest, &id, limits, || self.guest.call(&set_up))?.kernel;
            tracing::debug!(kernel, "the guest is up");
            self.watch_first_container()?;
        } else {
            self.sizes.with_limits(&self.guest, &id, request.limits, || self.guest.call(&request))?;
        }
        Ok(CreateContainerResponse {})
    }

    /// The guest's, and what is known of it here.
    fn metrics(&self, request: &GetMetricsRequest) -> Result<GetMetricsResponse, Status> {
        let mut answer = self.guest.call(request)?;
        // Nobody in there speaks for the host.
        answer.metrics.retain(|metric| FROM_GUEST.iter().any(|prefix| metric.name.starts_with(prefix)));
        answer.metrics.extend(self.sizes.metrics());
        answer.metrics.extend(crate::vsock_metrics(&self.vsock));
        Ok(answer)
    }

    fn update(&self, request: &UpdateContainerRequest) -> Result<Empty, Status> {
        let change = || self.guest.call(request);
        self.sizes.with_limits(&self.guest, &request.container_id, request.limits, change)
    }

    fn delete(&self, request: &DeleteContainerRequest) -> Result<Empty, Status> {
        let deleted = self.guest.call(request)?;
        self.plugs.release(&request.container_id);
        self.sizes.forget(&request.container_id);
        Ok(deleted)
    }

    fn exec(&self, mut request: ExecProcessRequest, fds: &mut [Option<OwnedFd>]) -> Result<ExecProcessResponse, Status> {
        let (id, exec_id) = (request.container_id.clone(), request.exec_id.clone());
        let announced = self.announce(&id, &exec_id, request.process.as_mut(), fds)?;
        let reply = self.guest.call(&request)?;
        announced.keep();
        Ok(reply)
    }

    /// The guest connects to the port first, and to the streams then.
    fn connect(&self, mut request: ConnectRequest, fds: &mut [Option<OwnedFd>]) -> Result<Empty, Status> {
        let mut announced = self.streams.announce("", "");
        request.input = announced.add(take_fd(fds, request.input, "input")?, Direction::In);
        request.output = announced.add(take_fd(fds, request.output, "output")?, Direction::Out);
        let reply = self.guest.call(&request)?;
        announced.keep();
        Ok(reply)
    }

    /// Its exit, when what it has written is where it belongs.
    fn wait(&self, request: &WaitProcessRequest) -> Result<WaitProcessResponse, Status> {
        let exit = self.guest.call(request)?;
        self.streams.drain(&request.container_id, &request.exec_id, DRAIN);
        Ok(exit)
    }

    fn watch_first_container(self: &Arc<Server>) -> Result<(), Status> {
        let server = self.clone();
        let watching = crate::spawn("first", move || {
            let request = WaitProcessRequest { container_id: server.first_container.clone(), exec_id: String::new() };
            let _ = server.news.send(match server.wait(&request) {
                Ok(exit) => News::Ended(exit.shell_status()),
                // Where the agent is why, that has been told already, and is heard first.
                Err(status) => News::AgentGone(format!("does not tell the first container's end ({status})")),
            });
        });
        watching.map_err(|error| Status::new(Code::ResourceExhausted, error.to_string()))
    }

    /// Numbers for a process's descriptors.
    fn announce(
        &self,
        container_id: &str,
        exec_id: &str,
        process: Option<&mut Process>,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<Announced, Status> {
        let mut announced = self.streams.announce(container_id, exec_id);
        let Some(process) = process else { return Ok(announced) };
        if !process.extra_fds.is_empty() {
            return Err(Status::new(
                Code::Unimplemented,
                "a VM's processes cannot be given further descriptors (--preserve-fds)",
            ));
        }
        let Some(stdio) = process.stdio else { return Ok(announced) };
        let mut number = |index: Option<u32>, direction, what| match index {
            Some(index) => Ok(Some(announced.add(take_fd(fds, index, what)?, direction))),
            None => Ok::<_, Status>(None),
        };
        process.stdio = Some(Stdio {
            stdin: number(stdio.stdin, Direction::In, "stdin")?,
            stdout: number(stdio.stdout, Direction::Out, "stdout")?,
            stderr: number(stdio.stderr, Direction::Out, "stderr")?,
        });
        Ok(announced)
    }
}

/// What the request's container does with its disk in this place.
fn hold(request: &CreateContainerRequest, place: usize) -> Hold {
    let mounted = request.mounts.iter().any(|mount| match &mount.kind {
        Some(mount::Kind::Disk(disk)) => disk.disk as usize == place && !mount.flags.is_some_and(|flags| flags.read_only),
        _ => false,
    });
    let given =
        request.devices.iter().filter_map(|device| device.disk).any(|disk| disk.disk as usize == place && !disk.read_only);
    match (mounted, given) {
        (true, _) => Hold::Write,
        (false, true) => Hold::WriteTogether,
        (false, false) => Hold::Read,
    }
}

fn entropy() -> Result<Vec<u8>, Status> {
    let mut bytes = vec![0; ENTROPY];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => Ok(bytes),
        Err(errno) => Err(Status::new(Code::Internal, format!("the host has no random numbers: {errno}"))),
    }
}

fn encode<M: Message>(answer: Result<M, Status>) -> Result<Vec<u8>, Status> {
    answer.map(|message| message.encode_to_vec())
}
