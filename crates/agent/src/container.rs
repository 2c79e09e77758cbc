//! [`Container`]: what PID 1 keeps of a container, and how one is made.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use agent_api::{Code, CreateContainerRequest, NamespaceKind, SeccompProfile, Status};
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::WaitStatus;
use rustix::thread::ThreadNameSpaceType as Namespaces;

use crate::cgroup::Cgroup;
use crate::device_rules::DeviceRules;
use crate::helper::{Step, launch};
use crate::init::channel::Plan;
use crate::process::Process;
use crate::reaper::Reaper;
use crate::stdio::Streams;

/// A container with its processes by their exec ids; its own has the empty id.
pub struct Container {
    pub id: String,
    pub cgroup: Cgroup,
    /// The filter of all its processes.
    pub seccomp: Option<SeccompProfile>,
    pub processes: Mutex<BTreeMap<String, Arc<Process>>>,
    /// Read while a process is made and let go: a pause comes before it or after.
    pub paused: RwLock<bool>,
    /// How many kills for want of memory have been told of.
    pub oom_told: Mutex<u64>,
    /// Readable when it has been deleted.
    pub deleted: OwnedFd,
}

/// A child's status, from the reaper to whoever follows the child.
#[derive(Default)]
pub struct Ending {
    status: Mutex<Option<WaitStatus>>,
    set: Condvar,
}

impl Ending {
    fn set(&self, status: WaitStatus) {
        *self.status.lock() = Some(status);
        self.set.notify_all();
    }

    /// Sleeps until the child has ended.
    pub fn wait(&self) -> WaitStatus {
        let mut status = self.status.lock();
        loop {
            match *status {
                Some(status) => return status,
                None => self.set.wait(&mut status),
            }
        }
    }
}

/// Where a new process comes to: to nobody, with the rules that hold for the container from now on, or to its container's first one, whose end kills what is in the container's cgroup. One that was not in
/// there by then would live on: so its life is asked for after that.
#[derive(Clone, Copy)]
enum Beside<'a> {
    Nobody(Option<&'a DeviceRules>),
    Running(&'a Process),
    Paused(&'a Process),
}

/// What is joined when one more process runs in a container.
const ALL: Namespaces = Namespaces::MOUNT
    .union(Namespaces::HOST_NAME_AND_NIS_DOMAIN_NAME)
    .union(Namespaces::INTER_PROCESS_COMMUNICATION)
    .union(Namespaces::PROCESS_ID)
    .union(Namespaces::CONTROL_GROUP);

impl Container {
    /// Makes a container whose process waits to be started. `owners` are the containers of the request's shared name spaces, in order.
    ///
    /// # Errors
    /// What cannot be had, by name.
    pub fn new(
        reaper: &Reaper,
        request: CreateContainerRequest,
        owners: &[Arc<Process>],
    ) -> Result<(Arc<Container>, Arc<Process>, Arc<Ending>), Status> {
        check(&request)?;
        let streams = match &request.process {
            Some(process) => Streams::connect(process)?,
            None => return Err(Status::new(Code::InvalidArgument, "process is missing")),
        };
        let mut joins = Vec::new();
        for shared in &request.shared_namespaces {
            joins.push(joinable(shared.kind)?.bits());
        }
        let owners = owners.iter().map(|owner| owner.pidfd()).collect::<Result<Vec<_>, _>>()?;
        let joined: Vec<BorrowedFd<'_>> = owners.iter().map(|owner| owner.as_fd()).collect();
        let deleted = eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|errno| Status::new(Code::ResourceExhausted, format!("cannot make an eventfd: {errno}")))?;
        let rules = DeviceRules::of(&request)?;
        let container = Arc::new(Container {
            id: request.id.clone(),
            // The last thing that can fail before the launch: it is nobody's but the container's to remove.
            cgroup: Cgroup::new(&request.id, &request.limits.unwrap_or_default())?,
            seccomp: request.seccomp.clone(),
            processes: Mutex::default(),
            paused: RwLock::new(false),
            oom_told: Mutex::new(0),
            deleted,
        });
        let seccomp = request.seccomp.clone();
        let device_rules = rules.is_some();
        let plan = Plan { seccomp, create: Some(request), joins, device_rules, ..Plan::default() };
        match container.launch(reaper, plan, &joined, streams, Beside::Nobody(rules.as_ref())) {
            Ok((process, ending)) => Ok((container, process, ending)),
            Err(status) => {
                container.end();
                Err(status)
            }
        }
    }

    /// Kills whatever is in it and removes what the kernel knows it by.
    pub fn end(&self) {
        self.cgroup.kill();
        self.cgroup.remove();
        let _ = rustix::io::write(&self.deleted, &1_u64.to_ne_bytes());
    }

    /// Makes one more process, which waits to be started. `first` is the container's own; `paused` is whether the container is.
    ///
    /// # Errors
    /// What cannot be had, by name; the container has ended meanwhile.
    pub fn add(
        &self,
        reaper: &Reaper,
        process: agent_api::Process,
        first: &Process,
        paused: &RwLockReadGuard<'_, bool>,
    ) -> Result<(Arc<Process>, Arc<Ending>), Status> {
        let streams = Streams::connect(&process)?;
        let plan = Plan { process: Some(process), seccomp: self.seccomp.clone(), joins: vec![ALL.bits()], ..Plan::default() };
        let beside = if **paused { Beside::Paused(first) } else { Beside::Running(first) };
        self.launch(reaper, plan, &[first.pidfd()?.as_fd()], streams, beside)
    }

    fn launch(
        &self,
        reaper: &Reaper,
        mut plan: Plan,
        joined: &[BorrowedFd<'_>],
        streams: Streams,
        beside: Beside<'_>,
    ) -> Result<(Arc<Process>, Arc<Ending>), Status> {
        plan.stdio = streams.theirs.iter().map(Option::is_some).collect();
        let fds: Vec<_> = joined.iter().copied().chain(streams.theirs.iter().flatten().map(AsFd::as_fd)).collect();
        let ending = Arc::new(Ending::default());
        let launched = launch(&plan, &fds, |pid, step| match (step, beside) {
            (Step::Forked, _) => {
                let ending = ending.clone();
                reaper.register(pid, Box::new(move |status| ending.set(status)));
                // What makes a process is within its container's limits already.
                match beside {
                    Beside::Nobody(_) => self.cgroup.add(pid, None),
                    Beside::Running(first) => self.cgroup.add(pid, Some(first)),
                    Beside::Paused(_) => Ok(()),
                }
            }
            // Its file systems are mounted, from disks that it may not open.
            (Step::Ready, Beside::Nobody(rules)) => rules.map_or(Ok(()), |rules| self.cgroup.allow_devices(rules)),
            (Step::Ready, Beside::Running(first)) => first.expect_alive(),
            // It stops here, until its container is resumed, and not before it is ready.
            (Step::Ready, Beside::Paused(first)) => self.cgroup.add(pid, Some(first)).and_then(|()| first.expect_alive()),
        })?;
        drop(fds);
        let outputs = streams.start(launched.terminal.as_ref())?;
        Ok((Process::new(launched, outputs), ending))
    }
}

/// An id becomes the name of a cgroup.
fn check(request: &CreateContainerRequest) -> Result<(), Status> {
    if request.id.contains(['/', '\0', '\n']) || request.id.len() > 200 {
        return Err(Status::new(Code::InvalidArgument, format!("{:?} is no id of a container", request.id)));
    }
    Ok(())
}

/// What a shared name space is to Linux.
fn joinable(kind: i32) -> Result<Namespaces, Status> {
    match NamespaceKind::try_from(kind) {
        Ok(NamespaceKind::Pid) => Ok(Namespaces::PROCESS_ID),
        Ok(NamespaceKind::Ipc) => Ok(Namespaces::INTER_PROCESS_COMMUNICATION),
        Ok(NamespaceKind::Uts) => Ok(Namespaces::HOST_NAME_AND_NIS_DOMAIN_NAME),
        // The VM's own, for all.
        Ok(NamespaceKind::Network) => Ok(Namespaces::NETWORK),
        Ok(other @ (NamespaceKind::User | NamespaceKind::Mount | NamespaceKind::Cgroup)) => {
            Err(Status::new(Code::Unimplemented, format!("{other:?} name spaces cannot be shared between containers of a VM")))
        }
        Err(_) => Err(Status::new(Code::InvalidArgument, format!("there is no name space of kind {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_named() {
        let request = |id: &str| CreateContainerRequest { id: id.into(), ..CreateContainerRequest::default() };
        assert!(check(&request("web-1")).is_ok());
        for bad in ["a/b", "a\nb"] {
            assert_eq!(check(&request(bad)).map_err(|status| status.code), Err(Code::InvalidArgument));
        }
        assert!(joinable(NamespaceKind::Mount.into()).expect_err("refused").message.contains("Mount"));
        assert!(joinable(77).is_err());
    }
}
