//! Address spaces of guests, and the memory files behind them.
//!
//! [`Mm`] is a guest address space: a [`segment::SegmentMap`] under one read-write lock, and the platform's address space, which is
//! kept equal to it by orders. Memory comes from the container's [`MemoryFile`], which the sentry maps once: a copy to or from the guest
//! translates an address to an offset and copies there, with no host call. `mm` defines what can be mapped ([`Mappable`]); it does
//! not know files. How it works is told in docs/memory.md.
//!
//! Files: `space` (state, orders, and what must wait for them), `map` (mmap, munmap, mprotect, mremap, brk), `advise`, `fault` (faults, copy on
//! write), `fork`, `access` and `user` (copies), `patch` (system-call sites), `places` (where things go), `report` (/proc).
//!
//! Locking: the state lock is held for writing over `settle` (microseconds), never over calls into a [`Mappable`] or the drop of one, and never
//! across an await. A reader holds it for at most one 64 KiB copy. Below it: the memory file's lock (a leaf).

mod access;
mod advise;
mod fault;
mod fork;
mod map;
mod memory_file;
mod pages;
mod patch;
mod places;
mod remap;
mod report;
mod segment;
mod space;
#[cfg(test)]
mod tests;
mod user;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

pub use access::FutexKey;
pub use advise::Locked;
pub use fault::FaultOutcome;
pub use map::{MapRequest, Placement};
pub use memory_file::MemoryFile;
pub use pages::Pages;
pub use places::{MIN_ADDR, Places, Randomisation};
pub use remap::{Remap, RemapTo};
pub use report::{Detail, Resident, Usage, VmaInfo};
pub use segment::{MappedFile, SegmentFlags};
pub use user::{Buffer, Ranges, Sink, Source, UserSink, UserSource};

use hostcall::{Errno, Window};
use parking_lot::{Mutex, MutexGuard, RwLock};
use platform::{AddressSpace, Platform};
use space::State;

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

    /// A number that is the same for the same file as long as it lives (futex keys, patched text). Never given to another file
    /// with the same `version`.
    fn identity(&self) -> u64;

    /// A number that changes whenever the contents may have changed. None: not known; then text of this file is not patched.
    fn version(&self) -> Option<u64> {
        None
    }
}

/// Objects of other rooms by the address they belong to.
pub type Attached = BTreeMap<u64, Arc<dyn Any + Send + Sync>>;

/// A guest address space.
pub struct Mm {
    id: u64,
    platform: Arc<dyn Platform>,
    space: Arc<dyn AddressSpace>,
    memory: Arc<MemoryFile>,
    state: RwLock<State>,
    /// An order was refused: the two sides differ.
    broken: AtomicBool,
    /// How often memory ran out under a copy of the sentry's.
    shortages: AtomicU32,
    /// Set when its memory has gone back.
    released: Arc<AtomicBool>,
    /// What `membarrier` has been registered for (`MEMBARRIER_CMD_REGISTER_*`).
    pub membarrier: AtomicU32,
    /// Orders so far that give something: the same fault after another one is not the same again.
    posted: AtomicU64,
    /// What of other rooms lies in the address space and goes with it, by address (rings of asynchronous I/O).
    attached: Mutex<Attached>,
    /// The length of the last mapping that went without having been touched: the next of that length waits for its first touch.
    untouched_len: Arc<AtomicU64>,
}

impl Mm {
    /// An empty address space whose anonymous memory comes from `memory`.
    ///
    /// # Errors
    /// `EAGAIN` when the platform can make no more.
    pub fn new(platform: Arc<dyn Platform>, memory: Arc<MemoryFile>) -> Result<Arc<Mm>, Errno> {
        Mm::with_randomisation(platform, memory, Randomisation::On)
    }

    /// The same, whose places are perhaps always the same.
    ///
    /// # Errors
    /// As [`Mm::new`].
    pub fn with_randomisation(
        platform: Arc<dyn Platform>,
        memory: Arc<MemoryFile>,
        randomisation: Randomisation,
    ) -> Result<Arc<Mm>, Errno> {
        let places = Places::new(platform.layout(), randomisation)?;
        Mm::with_state(platform, memory, State::new(places))
    }

    fn with_state(platform: Arc<dyn Platform>, memory: Arc<MemoryFile>, state: State) -> Result<Arc<Mm>, Errno> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let space = platform.new_address_space().map_err(|error| {
            tracing::warn!("{error}");
            Errno::EAGAIN
        })?;
        let mm = Arc::new(Mm {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            platform,
            space,
            memory,
            state: RwLock::new(state),
            broken: AtomicBool::new(false),
            shortages: AtomicU32::new(0),
            released: Arc::default(),
            membarrier: AtomicU32::new(0),
            posted: AtomicU64::new(0),
            attached: Mutex::default(),
            untouched_len: Arc::default(),
        });
        mm.memory.register(&mm);
        Ok(mm)
    }

    /// The platform's side.
    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    /// What of other rooms goes with the address space, by address.
    pub fn attached(&self) -> MutexGuard<'_, Attached> {
        self.attached.lock()
    }

    pub fn memory(&self) -> &Arc<MemoryFile> {
        &self.memory
    }

    /// Whether an order on it was refused; the process is to be killed.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Counts the times that memory ran out while the sentry copied from or to this address space (and gave `EFAULT`).
    pub fn shortages(&self) -> u32 {
        self.shortages.load(Ordering::Relaxed)
    }

    fn count_shortage(&self) {
        self.shortages.fetch_add(1, Ordering::Relaxed);
    }

    /// Set when the last user is gone and the memory has gone back; see [`MemoryFile::spaces_gone`].
    pub fn released(&self) -> &Arc<AtomicBool> {
        &self.released
    }
}
