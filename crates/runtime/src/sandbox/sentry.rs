//! The sentry sandbox: one sentry process, and one gofer per container.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_api::{Client, ClientError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions};

use super::{ContainerPlan, Ended, HostStdio, Sandbox};
use crate::cgroup::{Cgroup, Entrance};
use crate::error::{Doing, Error, Result};
use crate::process::gofer::{GoferConfig, detached};
use crate::process::report::{self, Report};
use crate::process::sentry::{Network, SentryConfig};
use crate::process::{Confined, IdMap, Ids, NOBODY, Privilege, Role, Spawn, message};
use crate::timing;

/// What a sentry sandbox is made from.
#[derive(Debug)]
pub struct Launch<'a> {
    pub config: SentryConfig,
    /// Where others than the maker reach the agent.
    pub listener: Option<UnixListener>,
    pub report: File,
    pub cgroup: &'a Cgroup,
    pub privilege: Privilege,
    /// What of the host's ids the containers' files have (ordinary users).
    pub file_ids: FileIds,
    pub log: Option<BorrowedFd<'a>>,
    pub die_with_parent: bool,
}

/// How file owners appear inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileIds {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

impl FileIds {
    /// All as they are, as far as `privilege` goes: for an ordinary user only their own.
    pub fn own(privilege: Privilege) -> FileIds {
        match privilege {
            Privilege::Root => FileIds { uids: vec![IdMap::IDENTITY], gids: vec![IdMap::IDENTITY] },
            Privilege::User => {
                let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                FileIds { uids: vec![IdMap::one(uid, uid)], gids: vec![IdMap::one(gid, gid)] }
            }
        }
    }
}

/// A sentry sandbox, held by the process that made it.
#[derive(Debug)]
pub struct SentrySandbox {
    sentry: Confined,
    /// Made before its container is known, so that it starts beside the sentry.
    spare_gofer: Option<Confined>,
    gofers: Vec<Confined>,
    agent: Arc<Client>,
    report: File,
    privilege: Privilege,
    entrance: Entrance,
    gofer_ids: Ids,
    spin: bool,
}

impl SentrySandbox {
    /// Starts the sentry and the first container's gofer, side by side.
    ///
    /// # Errors
    /// The host's. Nothing is left running.
    pub fn launch(launch: Launch<'_>) -> Result<SentrySandbox> {
        let nobody =
            Ids { uids: vec![IdMap::one(NOBODY, NOBODY)], gids: vec![IdMap::one(NOBODY, NOBODY)], switch_to: Some(NOBODY) };
        let own = FileIds::own(Privilege::User);
        let sentry_ids = match launch.privilege {
            Privilege::Root => nobody,
            Privilege::User => Ids { uids: own.uids, gids: own.gids, switch_to: None },
        };
        let gofer_ids = Ids { uids: launch.file_ids.uids, gids: launch.file_ids.gids, switch_to: None };
        let entrance = launch.cgroup.entrance()?;
        let spawn = |role, ids, network| Spawn {
            role,
            network,
            ids,
            privilege: launch.privilege,
            cgroup: &entrance,
            stderr: launch.log,
            die_with_parent: launch.die_with_parent,
        };
        let sentry = Guard::new(spawn(Role::Sentry, &sentry_ids, launch.config.network).spawn()?);
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
        message::send(&sentry.socket, &launch.config, &fds).doing(|| "cannot configure the sandbox")?;
        Ok(SentrySandbox {
            sentry: sentry.keep(),
            spare_gofer: Some(gofer.keep()),
            gofers: Vec::new(),
            agent: Arc::new(Client::new(ours.into())),
            report: launch.report,
            privilege: launch.privilege,
            entrance,
            gofer_ids,
            spin: launch.config.executors > 1,
        })
    }

    /// The processes on the host, sentry first.
    pub fn pids(&self) -> Vec<i32> {
        let gofers = self.gofers.iter().chain(&self.spare_gofer);
        std::iter::once(&self.sentry).chain(gofers).map(|confined| confined.pid.as_raw_nonzero().get()).collect()
    }

    /// The protocol's client, to share with threads.
    pub fn agent_handle(&self) -> Arc<Client> {
        self.agent.clone()
    }

    /// The sentry's pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.sentry.pidfd.as_fd()
    }

    /// A failed call, with the reason of the sandbox's death if that is why.
    pub fn explain(&self, what: &str, error: ClientError) -> Error {
        if !matches!(error, ClientError::Closed | ClientError::Socket(_)) {
            return Error::Agent { what: what.into(), cause: error };
        }
        let ended = self.wait(Some(Duration::from_secs(2)));
        let dead = self.gofers.iter().chain([&self.sentry]).filter(|confined| has_ended(confined));
        if let Some(words) = dead.filter_map(Confined::last_words).next() {
            return Error::SandboxEnded(words);
        }
        match ended {
            Some(Ended::Broke(reason)) => Error::SandboxEnded(reason),
            Some(Ended::Exited(status)) => Error::SandboxEnded(format!("it exited with status {status}")),
            Some(Ended::Unknown) => Error::SandboxEnded("it left no reason".into()),
            None => Error::Agent { what: what.into(), cause: error },
        }
    }

    /// The first container's exit status although waiting for it has failed: a sandbox ends with it, with its status, and which of the two is
    /// seen first does not matter.
    ///
    /// # Errors
    /// [`SentrySandbox::explain`]'s, if the sandbox has not ended in order.
    pub fn status_instead(&self, what: &str, error: ClientError) -> Result<u8> {
        if matches!(error, ClientError::Closed | ClientError::Socket(_))
            && let Some(Ended::Exited(status)) = self.wait(Some(Duration::from_secs(2)))
        {
            return Ok(status);
        }
        Err(self.explain(what, error))
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
        let gofer = spawn.spawn()?;
        gofer.release()?;
        Ok(gofer)
    }

    /// Gives a gofer its trees and its connection, whose other end is returned.
    fn configure_gofer(&self, gofer: &Confined, plan: &ContainerPlan) -> Result<OwnedFd> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing(|| "cannot make a socket pair")?;
        let prepared = self.privilege == Privilege::Root;
        let mounts: Vec<OwnedFd> = match prepared {
            true => plan.attaches.iter().map(detached).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        // With other maps there may be no such user; it is not the host's root in any case.
        let run_as = (self.gofer_ids.uids == [IdMap::IDENTITY]).then_some(NOBODY);
        let config = GoferConfig { attaches: plan.attaches.clone(), prepared, run_as, spin: self.spin };
        let fds: Vec<_> = std::iter::once(theirs.as_fd()).chain(mounts.iter().map(AsFd::as_fd)).collect();
        message::send(&gofer.socket, &config, &fds).doing(|| "cannot configure the gofer")?;
        Ok(ours)
    }
}

impl Sandbox for SentrySandbox {
    fn pid(&self) -> i32 {
        self.sentry.pid.as_raw_nonzero().get()
    }

    fn agent(&self) -> &Client {
        &self.agent
    }

    fn add_container(&mut self, mut plan: ContainerPlan, stdio: HostStdio<'_>) -> Result<()> {
        let gofer = match self.spare_gofer.take() {
            Some(gofer) => gofer,
            None => self.new_gofer()?,
        };
        self.gofers.push(gofer);
        let Some(gofer) = self.gofers.last() else { return Err(Error::Other("no gofer".into())) };
        let connection = self.configure_gofer(gofer, &plan)?;
        let mut fds = vec![connection.as_fd()];
        plan.request.gofer = 0;
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
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
        loop {
            let mut wait = [PollFd::new(&self.sentry.pidfd, PollFlags::IN)];
            match poll(&mut wait, timeout.as_ref()) {
                Ok(0) => return None,
                Ok(_) => break,
                Err(_) => {}
            }
        }
        let status =
            rustix::process::waitid(WaitId::PidFd(self.sentry.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let report = self.report.try_clone().ok().and_then(|mut file| {
            file.seek(SeekFrom::Start(0)).ok()?;
            report::read(file)
        });
        if let Some(Report::Broke(reason)) = report {
            return Some(Ended::Broke(reason));
        }
        let status = status.ok().flatten();
        if let Some(signal) = status.as_ref().and_then(|s| s.terminating_signal()) {
            return Some(Ended::Broke(match signal {
                libc::SIGSYS => "the sentry made a host system call that its filter forbids (SIGSYS)".into(),
                libc::SIGKILL => "the sentry was killed (SIGKILL), perhaps by the host's out-of-memory killer".into(),
                _ => format!("the sentry was killed by signal {signal}"),
            }));
        }
        match (status.and_then(|s| s.exit_status()), report) {
            (Some(status), _) => Some(Ended::Exited(status as u8)),
            (None, Some(Report::Exited(status))) => Some(Ended::Exited(status)),
            (None, _) => Some(Ended::Unknown),
        }
    }

    fn stop(&mut self) {
        self.sentry.kill();
        for gofer in self.gofers.drain(..).chain(self.spare_gofer.take()) {
            gofer.kill();
        }
    }
}

/// A file-system image: a regular file, only to be read.
fn open_image(path: &Path) -> Result<OwnedFd> {
    let about = || format!("cannot open the image {}", path.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).doing(about)?;
    let stat = rustix::fs::fstat(&file).doing(about)?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        true => Ok(file),
        false => Err(Error::Other(format!("the image {} is not a regular file", path.display()))),
    }
}

fn has_ended(confined: &Confined) -> bool {
    let mut wait = [PollFd::new(&confined.pidfd, PollFlags::IN)];
    let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    matches!(poll(&mut wait, Some(&patience)), Ok(1))
}

/// Kills the process unless it is kept.
struct Guard(Option<Confined>);

impl Guard {
    fn new(confined: Confined) -> Guard {
        Guard(Some(confined))
    }

    fn keep(mut self) -> Confined {
        self.0.take().expect("kept once: `keep` takes the guard")
    }
}

impl std::ops::Deref for Guard {
    type Target = Confined;
    fn deref(&self) -> &Confined {
        self.0.as_ref().expect("only `keep` empties it, and takes the guard")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(confined) = self.0.take() {
            confined.kill();
        }
    }
}
