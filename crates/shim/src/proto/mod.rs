//! containerd's messages: the Task service (`containerd.task.v2` and `v3`, which are the same), events, statistics.
//!
//! Written by hand from the published field numbers; what a shim has no use for is left out (protobuf skips unknown fields).

mod events;
mod sandbox;
mod stats;
mod task;
mod types;

pub use events::*;
pub use sandbox::*;
pub use stats::*;
pub use task::*;
pub use types::*;
