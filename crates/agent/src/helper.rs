//! Starts a helper ([`crate::init`]) and talks with it until its process is ready to run.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use agent_api::{Code, Status};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::init::NAME;
use crate::init::channel::{self, Kind, Plan, Report};

/// How long a helper may take over one step: the host's files may be slow.
const PATIENCE: Duration = Duration::from_secs(50);

/// A process that waits to execute its program.
pub struct Launched {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// The other end of its terminal, if it was to have one.
    pub terminal: Option<OwnedFd>,
    pub gate: Gate,
}

/// How far a helper's process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is there, and cannot have been buried yet.
    Forked,
    /// Its program is what comes next.
    Ready,
}

/// What holds a process back.
#[derive(Debug)]
pub struct Gate {
    socket: OwnedFd,
}

/// Runs a helper up to the point where its process is ready. `at` is told of the process at each step.
///
/// # Errors
/// The helper's, or what kept it from working.
pub fn launch(plan: &Plan, fds: &[BorrowedFd<'_>], at: impl Fn(Pid, Step) -> Result<(), Status>) -> Result<Launched, Status> {
    let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(internal)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(internal)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).env_clear().stdin(Stdio::from(theirs)).current_dir("/");
    // The reaper waits for it.
    drop(command.spawn().map_err(|error| Status::new(Code::ResourceExhausted, format!("cannot start a helper: {error}")))?);
    // Its end of the socket must be its own alone, for its death to be seen.
    drop(command);
    channel::send(socket.as_fd(), plan, fds).map_err(internal)?;
    let (pid, pidfd) = match next(&socket, &mut Vec::new())? {
        (Kind::Forked, report) => {
            let pid = Pid::from_raw(report.pid).ok_or_else(|| internal(Errno::PROTO))?;
            (pid, pidfd_open(pid, PidfdFlags::empty()).map_err(internal)?)
        }
        _ => return Err(internal(Errno::PROTO)),
    };
    let prepare = || -> Result<Option<OwnedFd>, Status> {
        at(pid, Step::Forked)?;
        go(&socket).map_err(internal)?;
        let mut fds = Vec::new();
        loop {
            match next(&socket, &mut fds)?.0 {
                Kind::Terminal => {}
                Kind::Ready => return at(pid, Step::Ready).map(|()| fds.pop()),
                _ => return Err(internal(Errno::PROTO)),
            }
        }
    };
    match prepare() {
        Ok(terminal) => Ok(Launched { pid, pidfd, terminal, gate: Gate { socket } }),
        Err(status) => {
            // It may be gone, and then this fails.
            let _ = kill_process(pid, Signal::KILL);
            Err(status)
        }
    }
}

impl Gate {
    /// Lets the process execute its program; returns when it has.
    ///
    /// # Errors
    /// Why it could not.
    pub fn open(self) -> Result<(), Status> {
        // A process that was killed meanwhile is no failure to start it: its exit tells.
        if go(&self.socket).is_err() {
            return Ok(());
        }
        match channel::receive::<Report>(self.socket.as_fd(), &mut Vec::new()) {
            Ok(None) => Ok(()),
            Ok(Some(report)) => Err(report.status()),
            Err(errno) => Err(internal(errno)),
        }
    }

    /// As [`open`](Gate::open), for a process that is stopped: it executes its program when it goes on, and if it cannot, it ends.
    pub fn unlock(self) {
        let _ = go(&self.socket);
    }
}

fn go(socket: &OwnedFd) -> Result<(), Errno> {
    agent_api::fds::send(socket.as_fd(), &[1], &[]).map(drop)
}

/// The next report that is no failure.
fn next(socket: &OwnedFd, fds: &mut Vec<OwnedFd>) -> Result<(Kind, Report), Status> {
    let report: Report = match channel::receive(socket.as_fd(), fds) {
        Ok(Some(report)) => report,
        Ok(None) => return Err(Status::new(Code::Internal, "the container's helper ended without a word")),
        Err(Errno::AGAIN) => {
            return Err(Status::new(Code::Internal, "the container's helper did not get on: do the host's files answer?"));
        }
        Err(errno) => return Err(internal(errno)),
    };
    match Kind::try_from(report.kind) {
        Ok(Kind::Failed) => Err(report.status()),
        Ok(kind) => Ok((kind, report)),
        Err(_) => Err(internal(Errno::PROTO)),
    }
}

fn internal(errno: Errno) -> Status {
    Status::new(Code::Internal, format!("cannot talk with the container's helper: {errno}"))
}
