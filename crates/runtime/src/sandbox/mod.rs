//! [`Sandbox`]: the boundary a container runs behind, whatever it is made of.
//!
//! The runtime above knows the Agent protocol ([`Sandbox::agent`]) and this trait; which kind of sandbox it drives it does not know.

pub mod sentry;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use agent_api::{Client, CreateContainerRequest, Stdio};

use crate::error::Result;
use crate::process::gofer::Attach;

/// A container to add, with everything of the host it may see.
#[derive(Debug)]
pub struct ContainerPlan {
    /// Descriptor indices in it (gofer, stdio) are the sandbox's to fill in.
    pub request: CreateContainerRequest,
    /// Trees of the host, in the order the request's attach indices name them.
    pub attaches: Vec<Attach>,
    /// EROFS images, in the order the request names them by: opened here, mapped by the sentry, no gofer between.
    pub images: Vec<PathBuf>,
}

/// Host descriptors of a process's standard streams. With a terminal, `stdin` and `stdout` are its wire.
#[derive(Debug, Clone, Copy)]
pub struct HostStdio<'a> {
    pub stdin: Option<BorrowedFd<'a>>,
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
}

impl<'a> HostStdio<'a> {
    /// Appends the descriptors to `fds` and names their indices.
    pub fn place(&self, fds: &mut Vec<BorrowedFd<'a>>) -> Stdio {
        let mut place = |fd: Option<BorrowedFd<'a>>| {
            fd.map(|fd| {
                fds.push(fd);
                fds.len() as u32 - 1
            })
        };
        Stdio { stdin: place(self.stdin), stdout: place(self.stdout), stderr: place(self.stderr) }
    }
}

/// How a sandbox ended, as its parent or its report tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// In order, with its first container's exit status.
    Exited(u8),
    /// It broke; the reason.
    Broke(String),
    /// It is gone, and left no word.
    Unknown,
}

/// A running sandbox.
pub trait Sandbox {
    /// Its main process's pid on the host.
    fn pid(&self) -> i32;

    /// The protocol's client.
    fn agent(&self) -> &Client;

    /// Makes a container in it (not started).
    ///
    /// # Errors
    /// The agent's, or those of what the host has to provide (mounts that do not exist).
    fn add_container(&mut self, plan: ContainerPlan, stdio: HostStdio<'_>) -> Result<()>;

    /// Waits until the sandbox has ended; None if `timeout` passed first.
    fn wait(&self, timeout: Option<Duration>) -> Option<Ended>;

    /// Ends it at once, with all that runs in it.
    fn stop(&mut self);
}
