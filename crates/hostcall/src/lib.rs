//! The door to the host.
//!
//! Everything Nacre's confined processes (sentry, gofer, stubs) ask of the host kernel goes through this crate, and each
//! process's seccomp list is made here, beside the wrappers. It is one of the few rooms with `unsafe`.
//!
//! Key types: [`Errno`]; [`Window`], a mapping of a host file with copies that survive `SIGBUS`; [`WindowSlice`], a piece of
//! one, for vectored host I/O straight to and from guest memory.
//!
//! It does not know guests, tasks or file systems, and keeps no state but the fault handler's and [`tally`]'s counts.

pub mod at;
pub mod auxv;
pub mod control;
pub mod copy;
pub mod doze;
mod errno;
pub mod event;
pub mod io;
pub mod memory;
pub mod net;
pub mod packet;
pub mod random;
pub mod seccomp;
pub mod tally;
pub mod thread;
pub mod time;
pub mod window;

pub use errno::Errno;
pub use window::{MemoryFault, Window, WindowSlice};
