//! The platform against the real host: small guests in machine code.

mod guests;
mod harness;
mod hostile;
mod memory;
mod patching;
mod threads;
mod traps;
