//! Terminals: pseudo-terminals with Linux's line discipline, job control, and the bridge of a container's console to the host.
//!
//! [`Discipline`] is pure: bytes and settings in, bytes and [`Effects`] out. A [`Pty`] is a pair of ends around one, with two wait
//! queues; [`Master`] and [`Slave`] are its open files. [`Terminals`] are a container's ptys (its devpts).
//!
//! Locking: a pty's state lock is a leaf but for its byte queues; signals and wakes go out after it is released. Reads and writes
//! copy guest memory under it, as pipes do.

pub mod console;
mod discipline;
mod ioctl;
mod job;
mod pty;
mod terminals;
mod termios;

pub use discipline::{Discipline, Effects};
pub use pty::{Master, Pty, Slave, WindowSize};
pub use terminals::{Slaves, Terminals, open_device};
pub use termios::Termios;

#[cfg(test)]
mod tests;
