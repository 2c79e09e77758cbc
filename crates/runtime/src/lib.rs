//! The runtime: OCI's life cycle over a [`sandbox::Sandbox`].
//!
//! Rooms: `config` (config.json to typed data), `state` (what is on disk), `container` (create, start, kill, delete …), `pod` (several containers in one
//! sandbox), `sandbox` (the seam, and the sentry behind it), `process` (confined processes: how they are made, and what they do before the sentry's or gofer's own code),
//! `cgroup`, `hooks`, `console`.
//!
//! Single-threaded until the confined processes are cloned. Nothing watches a running sandbox: its state is derived from its process
//! (pid and start time) and its report file, so a crash of any runtime process loses nothing.

#![deny(unsafe_code)]

mod bpf;
pub mod cgroup;
pub mod child;
pub mod cni;
pub mod config;
pub mod console;
pub mod container;
pub mod error;
pub mod forward;
pub mod hooks;
pub mod logging;
pub mod machine;
pub mod nacre_cni;
pub mod pod;
pub mod pod_network;
pub mod process;
pub mod sandbox;
pub mod state;
pub mod sys;
pub mod timing;
mod update;

pub use error::{Error, Result};
