//! ptrace: one task looks at another and steers it (kernel/ptrace.c, and the ptrace halves of kernel/signal.c, exit.c and fork.c).
//!
//! A tracee *stops* by itself, on its way: at a signal, at the ends of a system call, at an event, in a group stop. It leaves a [`Stop`] in its
//! [`Tracee`], with a copy of its registers, tells the tracer, and waits. The tracer works on that copy, and resumes; the tracee takes the
//! copy back if it was changed. Extended state is asked for only when the tracer wants it. So nobody touches another task's [`Cx`](crate::task::Cx).
//!
//! Files: `tracee` (what a task knows as a tracee, and links to its tracer), `stop` (stopping and resuming), `report` (what stops there are: syscall,
//! event, signal, job control), `attach` (TRACEME, ATTACH, SEIZE, DETACH, and the ends of tracers), `access` (who may look into whom),
//! `user_area` (registers as `struct user` has them). System calls: `syscalls/ptrace*.rs`. Waiting: `task/reap.rs`.
//!
//! Locking: who traces whom changes under the `PidTable`'s lock; a [`Tracee`]'s own lock is a leaf. Nothing is held over an await.

pub(crate) mod access;
mod attach;
mod report;
mod stop;
mod tracee;
pub(crate) mod user_area;

pub(crate) use access::Mode;
pub(crate) use attach::detach_all_of;
pub(crate) use report::{Called, Event};
pub(crate) use stop::{Extended, Stop, SyscallInfo};
pub(crate) use tracee::{Options, Tracee};

/// `SIGTRAP` with what says which stop it is: an event in the second byte, or 0x80 for a system call.
pub(crate) const TRAP: i32 = 5;
pub(crate) const SYSGOOD: i32 = 0x80;
/// `PTRACE_EVENT_STOP`.
pub(crate) const EVENT_STOP: i32 = 128;
