//! Making a container: its memory, its tree, its first process, which is loaded but does not run.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use agent_api::{
    Code, CreateContainerRequest, CreateContainerResponse, Limits, NamespaceKind, SeccompProfile, SharedNamespace, Status,
    take_fd,
};
use parking_lot::Mutex;

use super::mounts::Builder;
use super::{Agent, Handle, precondition, sysctls};
use crate::cgroup::CpuLimits;
use crate::fs::{FsContext, gofer};
use crate::kernel::{self, Container, SharedNamespaces};
use crate::mm::MemoryFile;
use crate::ns::Uts;
use crate::seccomp::{Filter, Mode, Seccomp, profile};

impl Agent {
    /// Makes a container.
    pub async fn create(
        self: &Arc<Agent>,
        mut request: CreateContainerRequest,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<CreateContainerResponse, Status> {
        let id = request.id.clone();
        if id.is_empty() || self.containers.lock().contains_key(&id) {
            return Err(Status::new(Code::AlreadyExists, format!("container {id} exists already")));
        }
        let socket = take_fd(fds, request.gofer, "gofer")?;
        let connection = gofer::connect(&self.reactor, socket, self.kernel.machine.cpus)
            .map_err(|errno| Status::new(Code::Internal, format!("cannot talk to the gofer: {errno}")))?;
        let memory = request.memory.map(|index| take_fd(fds, index, "memory")).transpose()?;
        let container = self.new_container(&request, memory)?;
        sysctls::set(&container, &request.sysctls)?;
        let images = request.images.iter().map(|&index| take_fd(fds, index, "image").map(Some)).collect::<Result<_, _>>()?;
        let gofer = connection.client.clone();
        let builder = Builder { kernel: &self.kernel, container: &container, gofer: connection, images: Mutex::new(images) };
        let root = builder.build(&request).await?;
        let fs = FsContext::new(root.clone(), root, 0o022);
        let seccomp = request.seccomp.take().map(|profile| seccomp(&profile)).transpose()?.unwrap_or_default();
        let handle = Arc::new(Handle { container: container.clone(), fs, seccomp, gofer, processes: Default::default() });
        self.containers.lock().insert(id.clone(), handle.clone());
        self.kernel.containers.lock().insert(id.clone(), container);
        let loaded = match request.process.take() {
            Some(process) => self.load(&handle, "", process, fds).await,
            None => Err(Status::new(Code::InvalidArgument, "process is missing")),
        };
        if let Err(status) = loaded {
            self.containers.lock().remove(&id);
            self.kernel.containers.lock().remove(&id);
            return Err(status);
        }
        Ok(CreateContainerResponse {})
    }

    /// The namespaces of other containers that a new one is to share.
    fn shared(&self, wanted: &[SharedNamespace]) -> Result<SharedNamespaces, Status> {
        let mut shared = SharedNamespaces::default();
        for wanted in wanted {
            let container = &self.handle(&wanted.container_id)?.container;
            match wanted.kind() {
                // As in Linux, where a pid namespace without its first process has no births.
                NamespaceKind::Pid if container.life.ending() => {
                    return Err(precondition(format!("container {} has ended", wanted.container_id)));
                }
                NamespaceKind::Pid => shared.pid = Some(container.pids.clone()),
                NamespaceKind::Ipc => shared.ipc = Some(container.namespaces.ipc.clone()),
                NamespaceKind::Uts => shared.uts = Some(container.namespaces.uts.clone()),
                // The sandbox has one.
                NamespaceKind::Network => {}
                kind @ (NamespaceKind::User | NamespaceKind::Mount | NamespaceKind::Cgroup) => {
                    return Err(Status::new(Code::Unimplemented, format!("sharing a namespace of kind {kind:?}")));
                }
            }
        }
        Ok(shared)
    }

    /// An empty container whose memory is in `memory`, or in a file that the sandbox's containers have no limits of their own for.
    fn new_container(&self, request: &CreateContainerRequest, memory: Option<OwnedFd>) -> Result<Arc<Container>, Status> {
        let limits = request.limits.unwrap_or_default();
        let name = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|name| String::from_utf8_lossy(name).into_owned());
        let uts = Uts {
            hostname: name(&request.hostname).unwrap_or_else(|| "nacre".into()),
            domainname: name(&request.domainname).unwrap_or_else(|| "(none)".into()),
        };
        let memory = match (memory, &self.memory) {
            (Some(file), _) => Ok(file),
            (None, Some(directory)) => hostcall::io::unnamed_file(directory.as_fd()),
            (None, None) => return Err(Status::new(Code::InvalidArgument, "memory is missing")),
        };
        let memory = memory
            .and_then(MemoryFile::new)
            .map_err(|errno| Status::new(Code::ResourceExhausted, format!("cannot make the memory file: {errno}")))?;
        let shared = self.shared(&request.shared_namespaces)?;
        let most = kernel::Limits::new(limits.memory, limits.pids.map(|most| most as usize));
        let container = Container::new(request.id.clone(), memory, uts, self.kernel.net.clone(), most, shared);
        container.cgroup.set_cpu_limits(limits.into());
        container.cpu_max_changed();
        Ok(container)
    }
}

impl From<Limits> for CpuLimits {
    fn from(limits: Limits) -> CpuLimits {
        CpuLimits { quota_us: limits.cpu_quota_us, period_us: limits.cpu_period_us, shares: limits.cpu_shares }
    }
}

fn seccomp(profile: &SeccompProfile) -> Result<Seccomp, Status> {
    let program = profile::compile(profile).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
    let filter = Filter::new(program, profile.log, None)
        .map_err(|_| Status::new(Code::InvalidArgument, "seccomp: the profile is too long"))?;
    Ok(Seccomp { mode: Mode::Filter, filter: Some(filter) })
}
