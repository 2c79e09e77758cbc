//! Host threads. All are made before the seccomp filter; none after.

use std::thread::{Builder, JoinHandle};

use crate::Errno;

/// Starts a thread named `name` (at most 15 bytes show) with a stack of `stack` bytes.
///
/// # Errors
/// The host's, usually `EAGAIN`.
pub fn spawn(name: &str, stack: usize, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Errno> {
    Ok(Builder::new().name(name.into()).stack_size(stack).spawn(body)?)
}
