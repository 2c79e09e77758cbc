//! The system-call layer: one table, from which dispatch, traces and the compatibility page are made, and one file per family of
//! handlers. A handler decodes, calls a room, and encodes.
//!
//! A handler returns a [`Flow`]: a result at once, or a future where it may have to wait. Results are [`Fail`]s or values;
//! "interrupted, maybe restart" is a kind of `Fail` that never reaches the guest as a number: the task loop turns it into a restart
//! or into `EINTR` by Linux's rules.

mod aio;
mod args;
mod capability;
mod copy;
mod counters;
mod credentials;
mod epoll;
mod eventfd;
mod exec;
mod exit;
mod fcntl;
pub mod fds;
mod fs_attr;
mod fs_data;
mod fs_dir;
mod fs_mount;
mod fs_names;
mod fs_open;
mod fs_path;
mod fs_stat;
mod fs_types;
mod fs_xattr;
mod fsize;
mod futex;
mod futex2;
#[cfg(test)]
mod fuzz;
mod inotify;
mod io;
mod ioctl;
mod kcmp;
pub(crate) mod kill;
pub mod mask;
mod membarrier;
mod memory;
mod memory_advice;
mod mempolicy;
mod message;
mod mount_api;
mod mount_query;
mod mqueue;
mod namespaces;
mod pidfd;
mod pipe;
mod poll;
mod prctl;
mod process;
pub(crate) mod process_vm;
mod ptrace;
mod ptrace_data;
mod rlimit;
mod sched;
mod seccomp;
mod signal;
mod socket;
pub(crate) mod strace;
mod system;
mod sysv_msg;
mod sysv_sem;
mod sysv_shm;
pub mod table;
mod time;
mod timers;
pub mod transfer;
pub mod uname;
mod wait4;

use hostcall::Errno;

use crate::step::BoxFuture;
use crate::task::Cx;
use crate::wait::WaitError;
pub use args::Args;
pub use counters::{Counters, Traps};
pub(crate) use prctl::persona;
pub use table::{Arg, Line, Support, line};

/// A handler of one system call.
pub type Handler = for<'a> fn(&'a mut Cx, Args) -> Flow<'a>;

/// What a system call came to.
pub type Outcome = Result<u64, Fail>;

/// A result at once, or a future of it.
pub enum Flow<'a> {
    Done(Outcome),
    Wait(BoxFuture<'a, Outcome>),
}

impl<'a> Flow<'a> {
    /// A result at once.
    pub fn done(result: Result<u64, Errno>) -> Flow<'a> {
        Flow::Done(result.map_err(Fail::Errno))
    }

    /// A call that may wait.
    pub fn wait(future: impl Future<Output = Outcome> + Send + 'a) -> Flow<'a> {
        Flow::Wait(Box::pin(future))
    }
}

/// How a system call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    /// The guest sees this number.
    Errno(Errno),
    /// A signal cut it short.
    Restart(Restart),
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Fail {
        Fail::Errno(errno)
    }
}

impl From<hostcall::MemoryFault> for Fail {
    fn from(_: hostcall::MemoryFault) -> Fail {
        Fail::Errno(Errno::EFAULT)
    }
}

/// Linux's four ways to go on after a signal (include/linux/errno.h). A restart is a second run of the same handler with the
/// same arguments inside the sentry; a deadline is kept ([`Cx::deadline`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// `ERESTARTSYS`: `EINTR` if a handler without `SA_RESTART` runs.
    Sys,
    /// `ERESTARTNOINTR`: always.
    Always,
    /// `ERESTARTNOHAND`: `EINTR` if any handler runs.
    NoHandler,
    /// `ERESTART_RESTARTBLOCK`: as `NoHandler`; the remaining time is what is left to the first deadline.
    Block,
}

impl Fail {
    /// An interrupted wait of a socket with this time-out (`sock_intr_errno`).
    pub fn interrupted(timeout_ns: Option<u64>) -> Fail {
        match timeout_ns {
            None => Fail::Restart(Restart::Sys),
            Some(_) => Fail::Errno(Errno::EINTR),
        }
    }

    /// A wait that ended early: a time-out becomes `timed_out`, an interruption `restart`.
    pub fn from_wait(error: WaitError, timed_out: Errno, restart: Restart) -> Fail {
        match error {
            WaitError::Interrupted => Fail::Restart(restart),
            WaitError::TimedOut => Fail::Errno(timed_out),
        }
    }
}
