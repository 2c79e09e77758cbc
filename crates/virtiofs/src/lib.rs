//! virtio-fs: the gofer's passthrough core behind FUSE, served to a VM as a vhost-user device.
//!
//! Rooms, from the bottom up:
//! - `abi`: the FUSE wire format; `memory`: a request's pieces of guest memory.
//! - `trees`, `inodes`, `handles`: what the device shows, and what a guest holds of it.
//! - `fuse`: the requests, each done by [`gofer::passthrough`].
//! - `watches`, `changes`: what others change on the host, which the guest is told.
//! - `device`: virtqueues and threads, on `vmm::vhost_user`.
//!
//! Its process is made and confined by the runtime. See `docs/virtiofs.md`.

mod abi;
mod changes;
mod device;
mod fuse;
mod handles;
mod inodes;
mod memory;
mod trees;
mod watches;

pub use self::{
    changes::{Change, Happening, tell_changes},
    device::{Config, Running, ServeError, Server, Shown},
    fuse::Limits,
    trees::{MAX_TREES, TreeConfig, TreeError},
};
