//! Classic BPF: programs that are checked once and then run on what they filter, system calls (`seccomp`) or packets (`SO_ATTACH_FILTER`).
//!
//! [`Program::new`] checks, in a [`Dialect`]; [`Program::run`] interprets, on anything that is [`Data`]. A program ends on every path after
//! finitely many steps and touches nothing but its data and sixteen words of its own.

mod interpret;
mod program;

pub use interpret::Data;
pub use program::{Dialect, Instruction, Program, Size, fact};

#[cfg(test)]
mod tests;
