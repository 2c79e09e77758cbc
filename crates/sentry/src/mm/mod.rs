//! Address spaces of guests, and the memory files behind them.
//!
//! `mm` defines what can be mapped ([`Mappable`]); it does not know files.

mod access;
mod fault;
mod fork;
mod memory_file;
mod pages;
mod user;

use std::sync::Arc;

pub use access::FutexKey;
pub use fault::FaultOutcome;
pub use memory_file::MemoryFile;
pub use pages::Pages;
pub use user::{Ranges, Sink, Source, UserSink, UserSource};

use hostcall::{Errno, Window};
use platform::{AddressSpace, Platform};

/// A piece of a host file that holds `len` bytes of something mappable.
#[derive(Debug)]
pub struct Piece {
    /// The host file, as the sentry maps it (and by its descriptor, a stub).
    pub window: Arc<Window>,
    /// Offset in the host file, page-aligned.
    pub offset: u64,
    pub len: u64,
    /// For pages of the container's memory file: a reference that keeps them from being reused. Taken under the lock that
    /// protects the file's own reference.
    pub pages: Option<Pages>,
}

/// What a mapping may do with the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Shared and writable: pages that do not exist yet are made.
    Write,
}

/// Something with pages that can be mapped: a regular file, shared memory.
pub trait Mappable: Send + Sync {
    /// Where the bytes [offset, offset+len) live now (page-aligned); holes and what lies past the end give a shorter answer. `Read`
    /// of a hole may give a page of zeros.
    ///
    /// # Errors
    /// `ENOMEM`, `EIO`, `EACCES` (not writable).
    fn pieces(&self, offset: u64, len: u64, access: Access) -> Result<Vec<Piece>, Errno>;

    /// Size in bytes now.
    fn size(&self) -> u64;

    /// A number that is the same for the same file as long as it lives (futex keys, /proc/PID/maps).
    fn identity(&self) -> u64;
}

/// A guest address space.
pub struct Mm {
    platform: Arc<dyn Platform>,
    space: Arc<dyn AddressSpace>,
    memory: Arc<MemoryFile>,
}

impl Mm {
    /// An empty address space whose anonymous memory comes from `memory`.
    ///
    /// # Errors
    /// `EAGAIN` when the platform can make no more.
    pub fn new(platform: Arc<dyn Platform>, memory: Arc<MemoryFile>) -> Result<Arc<Mm>, Errno> {
        let space = platform.new_address_space().map_err(|_| Errno::EAGAIN)?;
        Ok(Arc::new(Mm { platform, space, memory }))
    }

    /// The platform's side.
    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    pub fn memory(&self) -> &Arc<MemoryFile> {
        &self.memory
    }

    /// Whether memory ran out while this address space was written to by the sentry; the process is to be killed.
    pub fn out_of_memory(&self) -> bool {
        false
    }
}
