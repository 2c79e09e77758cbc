//! The Agent protocol: what the runtime asks of whatever is inside the sandbox boundary (the sentry; in a VM, PID 1).
//!
//! Messages are protobuf (`prost` derives written by hand; the numbers are the contract), carried in
//! [ttrpc](https://github.com/containerd/ttrpc) frames: a 10-byte header, then a ttrpc `Request` or `Response`. One service,
//! `nacre.agent.v1.Agent`; its methods are the variants of [`Call`]. Over a unix stream socket descriptors (stdio, gofer sockets)
//! travel by `SCM_RIGHTS` with the first byte of the frame that names them by index; over vsock a VM's agent gets streams instead ([`vm`]).
//!
//! Why not the `ttrpc` crate: the sentry answers from one control thread, behind a seccomp filter that forbids making
//! threads, and passes descriptors; that crate's server spawns threads per connection and its client cannot send descriptors. The
//! bytes on the wire are its own, so a VM agent may use it.
//!
//! Key types: [`Client`] (blocking, any number of calls outstanding from any threads), [`Connection`] (the serving side, one
//! thread, blocking or not), [`Status`] (an error as the other side sees it).
//!
//! Both ends bound what they accept ([`frame::MAX_PAYLOAD`], [`fds::MAX_FDS`]); a client takes no descriptors from an agent.

#![forbid(unsafe_code)]

pub mod client;
pub mod connection;
pub mod dev;
pub mod erofs;
pub mod execs;
pub mod fds;
pub mod frame;
mod messages;
pub mod metrics;
pub mod program;
pub mod rate;
pub mod seccomp;
mod service;
mod status;
pub mod text;
pub mod vm;

pub use client::{Client, ClientError};
pub use connection::{Connection, ConnectionError, Incoming};
pub use messages::*;
pub use service::{BOOTED, Call, Method, SERVICE, take_fd};
pub use status::{Code, Status};
