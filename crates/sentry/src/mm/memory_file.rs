//! [`MemoryFile`]: where application memory and tmpfs pages live.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hostcall::window::WindowMode;
use hostcall::{Errno, Window};

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

    /// The sentry's mapping of the whole file.
    pub fn window(&self) -> &Arc<Window> {
        &self.window
    }
}
