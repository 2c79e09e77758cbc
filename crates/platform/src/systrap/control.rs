//! The control file: the memory shared between the sentry and its stubs, as the sentry sees it.
//!
//! Invariant: `base` is a shared mapping of `len` bytes that lives as long as the value. Every access is an atomic or bounded
//! copy inside it, since stubs write to most of it at any time.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hostcall::Errno;

use super::layout::*;

/// The whole file.
pub struct Control {
    file: OwnedFd,
    base: *mut u8,
    len: u64,
}

// SAFETY: the mapping is shared memory; all access goes through atomics.
unsafe impl Send for Control {}
// SAFETY: as above.
unsafe impl Sync for Control {}

impl Control {
    /// A control file with room for `areas` stubs (the zygote's included).
    pub fn new(areas: usize) -> Result<Control, Errno> {
        let len = FILE_AREAS + AREA_LEN * areas as u64;
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"nacre-control".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(Errno::last_host());
        }
        // SAFETY: the descriptor is new and ours.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: no memory is involved.
        if unsafe { libc::ftruncate(fd, len as i64) } != 0 {
            return Err(Errno::last_host());
        }
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: a new mapping of our own file.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len as usize, prot, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last_host());
        }
        Ok(Control { file, base: base.cast(), len })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        let size = size_of::<T>() as u64;
        assert!(offset.is_multiple_of(size) && offset + size <= self.len, "control word out of bounds");
        // SAFETY: in bounds by the assertion.
        unsafe { self.base.add(offset as usize).cast() }
    }

    pub fn word32(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: aligned, mapped as long as `self`, and only accessed atomically.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    pub fn word64(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Copies out of the file; `offset` and length multiples of 8.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        for (i, chunk) in into.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&self.word64(offset + i as u64 * 8).load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// Copies into the file; `offset` and length multiples of 8.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        for (i, chunk) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight"));
            self.word64(offset + i as u64 * 8).store(word, Ordering::Relaxed);
        }
    }

    /// Gives pages back to the host; they read as zero afterwards.
    pub fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: no memory is involved.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, len as i64) } != 0 {
            return Err(Errno::last_host());
        }
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unused from here on.
        unsafe {
            libc::munmap(self.base.cast(), self.len as usize);
        }
    }
}

/// One context block.
#[derive(Clone)]
pub struct Block {
    control: Arc<Control>,
    offset: u64,
    /// Its address in the stub.
    pub address: u64,
}

impl Block {
    /// Block `index` of the stub whose area begins at `area`.
    pub fn new(control: Arc<Control>, area: u64, index: u64) -> Block {
        Block { control, offset: area + AREA_BLOCKS + index * BLOCK_LEN, address: BLOCKS + index * BLOCK_LEN }
    }

    pub fn word32(&self, field: u64) -> &AtomicU32 {
        self.control.word32(self.offset + field)
    }
    pub fn get(&self, field: u64) -> u64 {
        self.control.word64(self.offset + field).load(Ordering::Relaxed)
    }
    pub fn set(&self, field: u64, value: u64) {
        self.control.word64(self.offset + field).store(value, Ordering::Relaxed);
    }
    pub fn get32(&self, field: u64) -> u32 {
        self.word32(field).load(Ordering::Relaxed)
    }
    pub fn set32(&self, field: u64, value: u32) {
        self.word32(field).store(value, Ordering::Relaxed);
    }
    pub fn read(&self, field: u64, into: &mut [u8]) {
        self.control.read(self.offset + field, into);
    }
    pub fn write(&self, field: u64, bytes: &[u8]) {
        self.control.write(self.offset + field, bytes);
    }
    /// The offset in this block of `len` bytes the stub says are at `address`, if they lie on the signal stack.
    pub fn on_stack(&self, address: u64, len: u64) -> Option<u64> {
        let offset = address.checked_sub(self.address)?;
        (offset.is_multiple_of(8) && offset >= STACK && offset <= BLOCK_LEN - len).then_some(offset)
    }
}
