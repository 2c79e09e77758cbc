//! The gofer: one separate, unprivileged process per container, which opens files for the sentry.
//!
//! Rooms, from the bottom up:
//! - [`passthrough`]: file operations on a host directory by raw descriptors, safe against every name and every race of
//!   a hostile tree. Knows no protocol; virtio-fs will stand on it too.
//! - [`protocol`]: numbered requests and responses as checked types, and their bytes.
//! - [`server`]: the gofer process: handle table, request loop, lock-down.
//! - [`client`]: the sentry's end, which never blocks for long: calls are futures.
//!
//! The rules, and why they hold against renames behind our back, are in `docs/gofer.md`.

#![forbid(unsafe_code)]

pub mod client;
pub mod passthrough;
pub mod protocol;
pub mod server;
mod socket;
#[cfg(test)]
mod testdir;
#[cfg(test)]
mod testrandom;

pub use hostcall::Errno;
