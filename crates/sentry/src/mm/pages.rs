//! [`Pages`]: a counted reference to pages of a [`MemoryFile`].

use std::fmt;
use std::sync::Arc;

use super::MemoryFile;

/// One reference to the pages at [start, start+len) of a memory file. Pages with no reference left are given back.
pub struct Pages {
    memory: Arc<MemoryFile>,
    start: u64,
    len: u64,
}

impl Pages {
    pub(super) fn new(memory: Arc<MemoryFile>, start: u64, len: u64) -> Pages {
        Pages { memory, start, len }
    }

    /// Offset of the first byte in the memory file.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory file.
    pub fn memory(&self) -> &Arc<MemoryFile> {
        &self.memory
    }

    /// A further reference to a part: `len` bytes from `at` bytes after the start, cut to what is there.
    pub fn share(&self, at: u64, len: u64) -> Pages {
        let at = at.min(self.len);
        let len = len.min(self.len - at);
        self.memory.retain(self.start + at, len);
        Pages::new(self.memory.clone(), self.start + at, len)
    }

    /// Gives up the last part, keeping `len` bytes.
    pub fn truncate(&mut self, len: u64) {
        if len < self.len {
            self.memory.release(self.start + len, self.len - len);
            self.len = len;
        }
    }

    /// Takes the part from `at` bytes after the start off into a value of its own.
    pub fn split_off(&mut self, at: u64) -> Pages {
        let at = at.min(self.len);
        let rest = Pages::new(self.memory.clone(), self.start + at, self.len - at);
        self.len = at;
        rest
    }

    /// The range; the caller takes over the reference.
    pub(super) fn into_raw(mut self) -> (u64, u64) {
        let range = (self.start, self.len);
        self.len = 0;
        range
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.len > 0 {
            self.memory.release(self.start, self.len);
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({:#x}+{:#x})", self.start, self.len)
    }
}
