//! [`MemoryFile`]: where application memory and tmpfs pages live.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hostcall::window::WindowMode;
use hostcall::{Errno, Window};

use super::Pages;

/// A sparse host file in memory (on a private tmpfs), mapped once into the sentry.
pub struct MemoryFile {
    window: Arc<Window>,
}

impl MemoryFile {
    /// Bytes of offsets that can be given out: far more than memory.
    pub const SPAN: u64 = 4 << 40;

    /// Takes an empty file in memory, whose pages are to be given out.
    ///
    /// # Errors
    /// The host's `ftruncate` and `mmap` errors.
    pub fn new(file: OwnedFd) -> Result<Arc<MemoryFile>, Errno> {
        hostcall::io::set_len(&file, Self::SPAN)?;
        let window = Window::map(Arc::new(file), 0, Self::SPAN, WindowMode::ReadWrite)?;
        Ok(Arc::new(MemoryFile { window: Arc::new(window) }))
    }

    /// Allocates `len` bytes (a multiple of the page size) of zeros, contiguous.
    ///
    /// # Errors
    /// `ENOMEM` when offsets run out.
    pub fn alloc(self: &Arc<Self>, _len: u64) -> Result<Pages, Errno> {
        Err(Errno::ENOMEM)
    }

    /// Takes one more reference to pages that have one.
    pub(super) fn retain(&self, _start: u64, _len: u64) {}

    /// Gives up a reference; pages without one are zeroed or punched, and reused.
    pub(super) fn release(&self, _start: u64, _len: u64) {}

    /// Bytes of memory in use.
    pub fn used_bytes(&self) -> u64 {
        0
    }

    /// The sentry's mapping of the whole file.
    pub fn window(&self) -> &Arc<Window> {
        &self.window
    }
}
