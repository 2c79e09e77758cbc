//! The messages. Field numbers are the contract: never reuse one.
//!
//! Paths, arguments and the environment are bytes, as in Linux. Descriptors are named by their index among those sent with the
//! frame.

mod changes;
mod container;
mod control;
mod metrics;
mod mounts;
mod process;
mod sandbox;
mod seccomp;

pub use changes::*;
pub use container::*;
pub use control::*;
pub use metrics::*;
pub use mounts::*;
pub use process::*;
pub use sandbox::*;
pub use seccomp::*;
