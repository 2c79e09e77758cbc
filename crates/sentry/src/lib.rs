//! The sentry: a Linux-compatible kernel in user space.
//!
//! A guest thread is a [`task::Task`], driven by a future on an [`executor`]; its system calls come from a
//! [`platform::Context`] and are dispatched by the one table in [`syscalls`]. Every object that lives here (pipes, sockets,
//! timers, child exits …) is non-blocking and pollable; only the system-call layer waits, through [`wait`].
//!
//! Rooms: `task` (processes, exec, exit, credentials), `signal`, `mm` (address spaces), `fs` (VFS and file systems), `ipc`
//! (pipes, epoll, unix sockets, futex …), `net` (sockets), `time`, `syscalls` (one file per family, decode-call-encode), `bpf`, `executor`, `wait`, `control` (the Agent
//! protocol), `boot`.
//!
//! This crate has no unsafe code and reaches the host only through `hostcall`, `platform` and `gofer`.

#![forbid(unsafe_code)]

pub mod abi;
pub mod boot;
pub mod bpf;
pub mod cgroup;
pub mod container;
mod control;
pub mod coredump;
pub mod executor;
pub mod fs;
pub mod ipc;
pub mod kernel;
pub mod loader;
pub mod mm;
pub mod net;
pub mod ns;
pub mod ptrace;
pub mod seccomp;
pub mod signal;
pub mod step;
pub mod syscalls;
pub mod task;
#[cfg(test)]
pub mod testing;
pub mod time;
pub mod wait;

pub use boot::{Boot, BootError, run};
pub use hostcall::Errno;
