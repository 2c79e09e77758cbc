//! The helper that makes a container, or runs one more process in one: `nacre-agent` executed under the name [`NAME`].
//!
//! It gets a [`Plan`], joins the name spaces that are there already, forks, tells the child's pid and leaves, so that the child becomes PID
//! 1's. The child goes on when PID 1 has put it into its cgroup: it makes the remaining name spaces, builds its root ([`root`],
//! [`mounts`]), becomes who it is to be ([`credentials`]), says that it is ready, and executes its program when it is told to ([`program`]).

pub mod channel;
mod credentials;
pub mod devices;
mod mounts;
mod place;
mod program;
mod root;
mod seccomp;
mod terminal;

pub use terminal::window;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_api::{Code, CreateContainerRequest, Process, Status};
use channel::{Kind, Plan, Report};
use rustix::io::Errno;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe};

use crate::sys::{self, Fork};

/// The name under which the program is this helper.
pub const NAME: &str = "container-init";
/// Descriptors of the helper's own are moved out of the way of its program's.
const OUT_OF_THE_WAY: i32 = 64;

/// The helper's life. Its standard input is the socket to PID 1.
pub fn live() -> ! {
    sys::reset_signals();
    // Until its program is executed: others in the container must not look into what is PID 1's (proc(5), ptrace(2)).
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // Until its program gives it another name; it was executed as "exe".
    let _ = rustix::thread::set_name(c"container-init");
    rustix::process::umask(rustix::fs::Mode::empty());
    // SAFETY: PID 1 gave it for this, and nothing has used it yet.
    let stdin = unsafe { sys::take_fd(0) };
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(&stdin, OUT_OF_THE_WAY) else { sys::leave(1) };
    std::mem::forget(stdin);
    match run(socket.as_fd()) {
        Ok(()) => sys::leave(0),
        Err(status) => {
            // PID 1 may be the one that has gone.
            let _ = channel::send(socket.as_fd(), &Report::failed(status), &[]);
            sys::leave(1)
        }
    }
}

/// Returns in the parent only.
fn run(socket: BorrowedFd<'_>) -> Result<(), Status> {
    let mut fds = Vec::new();
    let plan: Option<Plan> = channel::receive(socket, &mut fds).map_err(|errno| internal("receive the plan", errno))?;
    let plan = plan.ok_or_else(|| Status::new(Code::Internal, "no plan came"))?;
    let mut fds = fds.into_iter();
    let joins: Vec<(OwnedFd, u32)> = fds.by_ref().take(plan.joins.len()).zip(plan.joins.iter().copied()).collect();
    let stdio: Vec<Option<OwnedFd>> =
        plan.stdio.iter().map(|there| if *there { out_of_the_way(fds.next()) } else { None }).collect();
    let process = plan.create.as_ref().and_then(|create| create.process.as_ref()).or(plan.process.as_ref());
    let process = process.ok_or_else(|| Status::new(Code::InvalidArgument, "process is missing"))?;
    credentials::oom_score(process)?;
    let mut joined = 0;
    for (pidfd, kinds) in joins {
        let kinds = ThreadNameSpaceType::from_bits_retain(kinds);
        move_into_thread_name_spaces(pidfd.as_fd(), kinds).map_err(|errno| internal("join a name space", errno))?;
        joined |= kinds.bits();
    }
    let new = new_namespaces(plan.create.is_some(), joined);
    make_namespaces(new & UnshareFlags::NEWPID)?;
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| internal("make a pipe", errno))?;
    match sys::fork().map_err(|errno| internal("fork", errno))? {
        Fork::Parent(pid) => {
            drop(read);
            let report = Report { pid: pid.as_raw_pid(), ..Report::of(Kind::Forked) };
            channel::send(socket, &report, &[]).map_err(|errno| internal("report", errno))?;
            await_byte(socket);
            Ok(())
        }
        Fork::Child => {
            drop(write);
            // The end of the parent.
            let _ = rustix::io::read(&read, &mut [0; 1]);
            drop(read);
            let failed = match child(socket, &plan, process, new - UnshareFlags::NEWPID, stdio) {
                Ok(never) => match never {},
                Err(status) => status,
            };
            let _ = channel::send(socket, &Report::failed(failed), &[]);
            sys::leave(1)
        }
    }
}

/// Nothing: a life that is over when its program begins.
enum Never {}

fn child(
    socket: BorrowedFd<'_>,
    plan: &Plan,
    process: &Process,
    new: UnshareFlags,
    stdio: Vec<Option<OwnedFd>>,
) -> Result<Never, Status> {
    make_namespaces(new)?;
    if let Some(create) = &plan.create {
        names(create, new)?;
        root::enter(create, plan.device_rules)?;
    }
    rustix::process::setsid().map_err(|errno| internal("make a session", errno))?;
    let stdio = match &process.terminal {
        None => stdio,
        Some(size) => terminal::open(socket, size, process, plan.create.is_some())?,
    };
    let filter = plan.seccomp.as_ref().map(seccomp::compile).transpose()?;
    credentials::limits(process)?;
    credentials::become_user(process, filter.is_some())?;
    credentials::working_directory(process)?;
    let program = program::find(process)?;
    channel::send(socket, &Report::of(Kind::Ready), &[]).map_err(|errno| internal("report", errno))?;
    await_byte(socket);
    place_stdio(stdio)?;
    if let Some((filter, flags)) = filter {
        credentials::filter(process, &filter, flags)?;
    }
    Err(program.execute(process))
}

/// The name spaces that are new: all that were not joined, but the network, which is the pod's.
fn new_namespaces(create: bool, joined: u32) -> UnshareFlags {
    if !create {
        return UnshareFlags::empty();
    }
    let all =
        UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWPID | UnshareFlags::NEWCGROUP;
    all - UnshareFlags::from_bits_retain(joined)
}

fn make_namespaces(kinds: UnshareFlags) -> Result<(), Status> {
    if kinds.is_empty() {
        return Ok(());
    }
    // SAFETY: none of the kinds is CLONE_FILES or CLONE_FS with other threads about: this process has one thread.
    unsafe { unshare_unsafe(kinds) }.map_err(|errno| internal("make name spaces", errno))
}

fn names(create: &CreateContainerRequest, new: UnshareFlags) -> Result<(), Status> {
    if !new.contains(UnshareFlags::NEWUTS) {
        return Ok(());
    }
    if let Some(name) = &create.hostname {
        rustix::system::sethostname(name).map_err(|errno| invalid("hostname", errno))?;
    }
    if let Some(name) = &create.domainname {
        rustix::system::setdomainname(name).map_err(|errno| invalid("domainname", errno))?;
    }
    Ok(())
}

fn out_of_the_way(fd: Option<OwnedFd>) -> Option<OwnedFd> {
    fd.and_then(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, OUT_OF_THE_WAY).ok())
}

/// Waits for PID 1's word. Without PID 1 there is nothing more to do.
fn await_byte(socket: BorrowedFd<'_>) {
    match agent_api::fds::receive_bytes(socket, &mut [0; 1]) {
        Ok(1..) => {}
        _ => sys::leave(1),
    }
}

/// 0, 1 and 2 as they are wanted; what has no descriptor is closed, and all others at the exec.
fn place_stdio(stdio: Vec<Option<OwnedFd>>) -> Result<(), Status> {
    sys::close_on_exec_from(3);
    for (number, fd) in (0..).zip(stdio) {
        match fd {
            Some(fd) => sys::place_fd(fd.as_fd(), number).map_err(|errno| internal("place stdio", errno))?,
            None => sys::close_range(number as u32, number as u32),
        }
    }
    Ok(())
}

/// A step of the helper's that does not depend on the request.
fn internal(step: &str, errno: Errno) -> Status {
    Status::new(Code::Internal, format!("cannot {step}: {}", hostcall::Errno::from(errno)))
}

/// A mount, a device or another path of the request that cannot be done.
fn cannot(what: &str, path: &[u8], errno: Errno) -> Status {
    invalid(&format!("{what} {}", String::from_utf8_lossy(path)), errno)
}

/// Names the path of the request that something is about.
fn about(what: &str, path: &[u8], status: &Status) -> Status {
    Status::new(status.code, format!("{what} {}: {}", String::from_utf8_lossy(path), status.message))
}

/// A part of the request that cannot be done.
fn invalid(what: &str, errno: Errno) -> Status {
    Status::new(Code::InvalidArgument, format!("{what}: {}", hostcall::Errno::from(errno)))
}
