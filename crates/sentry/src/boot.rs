//! Boot: from a set-up host process to a running kernel.
//!
//! The caller has made the process small: namespaces, no capabilities, an empty root, the platform started. Here the kernel's
//! threads are made, then the caller's `lock_down` installs the seccomp filter on all of them, and only then does anything of a guest run.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Barrier};

use platform::{ExecutorId, Platform};

use crate::Errno;
use crate::container::Agent;
use crate::control::Server;
use crate::executor::{IoPool, Reactor};
use crate::kernel::{Kernel, Machine};
use crate::net::Network;
use crate::time::Clock;

/// Stack of an executor thread in bytes: tasks are futures on the heap, so this holds one poll's frames.
const EXECUTOR_STACK: usize = 512 << 10;

/// Stack of the reactor's thread in bytes.
const REACTOR_STACK: usize = 128 << 10;

/// Stack of a thread for host file I/O in bytes.
const IO_STACK: usize = 64 << 10;

/// Stack of a thread that receives frames in bytes.
const NET_STACK: usize = 256 << 10;

/// What a sandbox process hands to its kernel.
pub struct Boot {
    pub platform: Arc<dyn Platform>,
    /// The Agent protocol's first client: a connected unix stream socket, non-blocking.
    pub client: OwnedFd,
    /// Where others connect: listening, non-blocking.
    pub listener: Option<OwnedFd>,
    /// A directory of a private tmpfs, limited in size, where memory files are made; none: each container brings its own.
    pub memory: Option<OwnedFd>,
    pub machine: Machine,
    /// The container whose end is the sandbox's.
    pub first_container: String,
    /// Host threads that run tasks.
    pub executors: usize,
    pub network: Network,
    /// Installs the filter on all threads of the process. The last step before guests.
    pub lock_down: Box<dyn FnOnce() -> Result<(), String>>,
}

/// Why a sandbox could not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("cannot start the thread {name}: {errno}")]
    Thread { name: &'static str, errno: Errno },
    #[error("cannot lock the sandbox process down: {0}")]
    LockDown(String),
    #[error("cannot serve the control socket: {0}")]
    Control(Errno),
}

/// Runs the kernel until its first container ends, whose exit status (128 + signal) it returns; or until a `Shutdown` on the control
/// socket.
///
/// # Errors
/// [`BootError`], before any guest has run.
pub fn run(boot: Boot) -> Result<Option<u8>, BootError> {
    // Memory of guests may vanish under a copy: the container's limit is met, a file of the host is cut short.
    hostcall::copy::install();
    let executors = boot.executors.max(1);
    let kernel = Kernel::new(boot.platform, Clock::Host, executors, boot.machine);
    let reactor = Reactor::new().map_err(|errno| BootError::Thread { name: "reactor", errno })?;
    let _ = kernel.reactor.set(reactor.clone());
    let receivers = match boot.network {
        Network::Loopback => Vec::new(),
        Network::Host { names } => {
            kernel.net.use_host(&reactor, names);
            Vec::new()
        }
        Network::Packets { description, wires } => kernel.net.use_packets(description, wires),
    };
    let agent = Agent::new(kernel.clone(), reactor.clone(), boot.memory);
    let server = Server::new(agent, boot.client, boot.listener, boot.first_container).map_err(BootError::Control)?;
    let gate = Gate::new(executors + 1 + IoPool::THREADS + receivers.len());
    for id in 0..executors {
        let kernel = kernel.clone();
        gate.spawn("executor", EXECUTOR_STACK, move || kernel.scheduler.run(ExecutorId(id)))?;
    }
    gate.spawn("reactor", REACTOR_STACK, move || {
        // Without host I/O nothing goes on; and a thread may not end (its last host calls are forbidden).
        panic!("the host's epoll failed: {}", reactor.run());
    })?;
    for _ in 0..IoPool::THREADS {
        let pool = kernel.host_files.pool.clone();
        gate.spawn("io", IO_STACK, move || pool.work())?;
    }
    for receiver in receivers {
        let scheduler = kernel.scheduler.clone();
        gate.spawn("net", NET_STACK, move || {
            panic!("the host gives no more frames: {}", receiver.run(&|| scheduler.nudge()));
        })?;
    }
    gate.started.wait();
    (boot.lock_down)().map_err(BootError::LockDown)?;
    gate.locked.wait();
    server.run().map_err(BootError::Control)
}

/// Holds the threads back: a thread that is just starting makes host calls that the filter forbids, so all have started before it is
/// installed, and none works before.
struct Gate {
    started: Arc<Barrier>,
    locked: Arc<Barrier>,
}

impl Gate {
    fn new(threads: usize) -> Gate {
        Gate { started: Arc::new(Barrier::new(threads + 1)), locked: Arc::new(Barrier::new(threads + 1)) }
    }

    fn spawn(&self, name: &'static str, stack: usize, body: impl FnOnce() + Send + 'static) -> Result<(), BootError> {
        let (started, locked) = (self.started.clone(), self.locked.clone());
        let held = move || {
            started.wait();
            locked.wait();
            body();
        };
        hostcall::thread::spawn(name, stack, held).map(drop).map_err(|errno| BootError::Thread { name, errno })
    }
}
