//! The sentry sandbox: one sentry process, and one gofer per container.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use agent_api::Client;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::main_process::{Guard, MainProcess, has_ended};
use super::{ContainerPlan, Ended, HostStdio, Join, Kind, Launch, Sandbox, open_image};
use crate::cgroup::Entrance;
use crate::error::{Doing, Error, Result};
use crate::pod_network::Way;
use crate::process::gofer::{GoferConfig, Trees};
use crate::process::memory::Memory;
use crate::process::sentry::{MemoryOf, SentryConfig};
use crate::process::{Confined, Ids, Network, Privilege, Role, Spawn, message};
use crate::{machine, pod_network, timing};

/// A sentry sandbox, held by the process that made it, or joined.
#[derive(Debug)]
pub struct SentrySandbox {
    main: MainProcess,
    /// Made before its container is known, so that it starts beside the sentry.
    spare_gofer: Option<Confined>,
    gofers: Vec<Confined>,
    agent: Arc<Client>,
    privilege: Privilege,
    entrance: Entrance,
    gofer_ids: Ids,
    spin: bool,
    memory_dev: Option<u64>,
}

impl SentrySandbox {
    /// Starts the sentry and the first container's gofer, side by side.
    ///
    /// # Errors
    /// The host's. Nothing is left running.
    pub fn launch(launch: Launch<'_>) -> Result<SentrySandbox> {
        let sentry_ids = Ids::of_main_process(launch.privilege);
        let gofer_ids = Ids::from(launch.file_ids);
        let entrance = launch.cgroup.entrance()?;
        let spawn = |role, ids, network| Spawn {
            role,
            network,
            ids,
            privilege: launch.privilege,
            cgroup: &entrance,
            stderr: launch.log_file,
            die_with_parent: launch.die_with_parent,
        };
        let joined = match &launch.network {
            Network::Namespace(path) => Some(pod_network::join(path, Way::PacketSocket)?),
            Network::None | Network::Host => None,
        };
        let sentry = Guard::new(spawn(Role::Sentry, &sentry_ids, launch.network.clone()).spawn()?);
        let gofer = Guard::new(spawn(Role::Gofer, &gofer_ids, Network::None).spawn()?);
        timing::mark("runtime: cloned");
        sentry.release()?;
        gofer.release()?;
        timing::mark("runtime: released");
        let (ours, theirs) = UnixStream::pair().doing(|| "cannot make a socket pair")?;
        theirs.set_nonblocking(true).doing(|| "cannot make the agent's connection non-blocking")?;
        let mut fds = vec![launch.report.as_fd(), theirs.as_fd()];
        if let Some(listener) = &launch.listener {
            listener.set_nonblocking(true).doing(|| "cannot make the agent's socket non-blocking")?;
            fds.push(listener.as_fd());
        }
        fds.extend(
            joined.iter().flat_map(|joined| joined.ways.iter().map(|(_, way)| way).chain(&joined.hold)).map(AsFd::as_fd),
        );
        let config = SentryConfig {
            first_container: launch.first_container,
            executors: launch.cpus,
            memory: match launch.privilege {
                Privilege::Root => MemoryOf::Containers,
                Privilege::User => MemoryOf::Sandbox { limit: launch.memory_limit },
            },
            max_processes: launch.max_processes,
            cpus: launch.cpus,
            memory_bytes: launch.memory_bytes,
            host_memory_bytes: machine::memory_bytes(),
            cpu_model: machine::cpu_model(),
            host_names: match launch.network {
                Network::Host => pod_network::names().unwrap_or_else(|error| {
                    tracing::warn!("the names of the host's interfaces are not known to the sandbox: {error}");
                    Vec::new()
                }),
                Network::None | Network::Namespace(_) => Vec::new(),
            },
            network: launch.network,
            pod: joined.as_ref().map(|joined| (joined.description.clone(), joined.ways.iter().map(|(way, _)| *way).collect())),
            log: launch.log,
        };
        message::send(&sentry.socket, &config, &fds).doing(|| "cannot configure the sandbox")?;
        Ok(SentrySandbox {
            main: MainProcess { confined: sentry.keep(), report: launch.report, name: "sentry" },
            spare_gofer: Some(gofer.keep()),
            gofers: Vec::new(),
            agent: Arc::new(Client::new(ours.into())),
            privilege: launch.privilege,
            entrance,
            gofer_ids,
            spin: launch.cpus > 1,
            memory_dev: None,
        })
    }

    /// Holds a running one, and starts the gofer of the container that is to be added.
    ///
    /// # Errors
    /// It has ended; the host's.
    pub fn join(join: Join<'_>) -> Result<SentrySandbox> {
        let confined = Confined::found(&join.main)?;
        let mut sandbox = SentrySandbox {
            main: MainProcess { confined, report: join.report, name: "sentry" },
            spare_gofer: None,
            gofers: Vec::new(),
            agent: Arc::new(join.agent),
            privilege: join.privilege,
            entrance: join.cgroup.entrance()?,
            gofer_ids: Ids::from(join.file_ids),
            spin: join.cpus > 1,
            memory_dev: None,
        };
        sandbox.spare_gofer = Some(sandbox.new_gofer()?);
        Ok(sandbox)
    }

    fn new_gofer(&self) -> Result<Confined> {
        let spawn = Spawn {
            role: Role::Gofer,
            ids: &self.gofer_ids,
            privilege: self.privilege,
            cgroup: &self.entrance,
            stderr: None,
            die_with_parent: false,
            network: Network::None,
        };
        let gofer = Guard::new(spawn.spawn()?);
        gofer.release()?;
        Ok(gofer.keep())
    }

    /// Gives a gofer its trees, its container's memory to hold, and its connection, whose other end is returned.
    fn configure_gofer(&self, gofer: &Confined, plan: &ContainerPlan, memory: Option<&Memory>) -> Result<OwnedFd> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing(|| "cannot make a socket pair")?;
        let (trees, mounts) = Trees::new(&plan.attaches, self.privilege, &self.gofer_ids)?;
        let config = GoferConfig { trees, holds_memory: memory.is_some(), spin: self.spin };
        let held = memory.map(|memory| memory.dir.as_fd());
        let fds: Vec<_> = std::iter::once(theirs.as_fd()).chain(held).chain(mounts.iter().map(AsFd::as_fd)).collect();
        message::send(&gofer.socket, &config, &fds).doing(|| "cannot configure the gofer")?;
        Ok(ours)
    }
}

impl Sandbox for SentrySandbox {
    fn pids(&self) -> Vec<i32> {
        let gofers = self.gofers.iter().chain(&self.spare_gofer);
        std::iter::once(&self.main.confined).chain(gofers).map(|confined| confined.pid.as_raw_nonzero().get()).collect()
    }

    fn agent(&self) -> &Arc<Client> {
        &self.agent
    }

    fn memory_dev(&self) -> Option<u64> {
        self.memory_dev
    }

    fn add_container(&mut self, mut plan: ContainerPlan, stdio: HostStdio<'_>) -> Result<()> {
        plan.fits(Kind::Sentry)?;
        let gofer = match self.spare_gofer.take() {
            Some(gofer) => gofer,
            None => self.new_gofer()?,
        };
        self.gofers.push(gofer);
        let Some(gofer) = self.gofers.last() else { return Err(Error::Other("no gofer".into())) };
        // An ordinary user cannot mount: its containers share the sandbox's.
        let memory = match self.privilege {
            Privilege::Root => Some(Memory::new(plan.request.limits.and_then(|limits| limits.memory))?),
            Privilege::User => None,
        };
        self.memory_dev = memory.as_ref().map(|memory| memory.dev);
        let connection = self.configure_gofer(gofer, &plan, memory.as_ref())?;
        let mut fds = vec![connection.as_fd()];
        plan.request.gofer = 0;
        if let Some(memory) = &memory {
            plan.request.memory = Some(fds.len() as u32);
            fds.push(memory.file.as_fd());
        }
        let images = plan.images.iter().map(|path| open_image(path)).collect::<Result<Vec<OwnedFd>>>()?;
        plan.request.images = (0..images.len() as u32).map(|index| fds.len() as u32 + index).collect();
        fds.extend(images.iter().map(AsFd::as_fd));
        let placed = stdio.place(&mut fds);
        if let Some(process) = &mut plan.request.process {
            process.stdio = Some(placed);
        }
        timing::mark("runtime: gofer configured");
        let made = self.agent.call_with(&plan.request, &fds);
        timing::mark("runtime: container made");
        match made {
            Ok(_) => Ok(()),
            // The gofer's own words say more than the sentry's "connection closed".
            Err(error) => match self.gofers.last().filter(|g| has_ended(g)).and_then(Confined::last_words) {
                Some(words) => Err(Error::Other(words)),
                None => Err(self.explain("cannot make the container", error)),
            },
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Option<Ended> {
        self.main.wait(timeout)
    }

    fn last_words(&self) -> Option<String> {
        let dead = self.gofers.iter().chain([&self.main.confined]).filter(|confined| has_ended(confined));
        dead.filter_map(Confined::last_words).next()
    }

    fn stop(&mut self) {
        self.main.confined.kill();
        for gofer in self.gofers.drain(..).chain(self.spare_gofer.take()) {
            gofer.kill();
        }
    }
}
