//! [`Window`]: a shared mapping of a host file in this process, read and written only by copies that survive faults.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::tally::{self, Counted};
use crate::{Errno, copy};

/// The memory behind an address is gone: the file is shorter than the mapping, the tmpfs is full, or the page is read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory behind a mapping is not available")]
pub struct MemoryFault;

impl From<MemoryFault> for Errno {
    fn from(_: MemoryFault) -> Errno {
        Errno::EFAULT
    }
}

/// Whether a window may be written through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowMode {
    Read,
    ReadWrite,
}

/// A `MAP_SHARED` mapping of `len` bytes of a host file from `offset`.
///
/// Other processes (stubs) map the same file, so no Rust reference to its bytes is ever formed: all access is by copies and
/// atomics in [`crate::copy`]. Out-of-range accesses are [`MemoryFault`]s, never undefined.
pub struct Window {
    base: NonNull<u8>,
    len: u64,
    offset: u64,
    file: Arc<OwnedFd>,
}

// SAFETY: the mapping is owned by the Window and reached only through fault-safe copies and atomics, from any thread.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps `len` bytes of `file` from `offset` (page-aligned), without reserving memory.
    ///
    /// # Errors
    /// The host's `mmap` errors.
    pub fn map(file: Arc<OwnedFd>, offset: u64, len: u64, mode: WindowMode) -> Result<Window, Errno> {
        let prot = match mode {
            WindowMode::Read => libc::PROT_READ,
            WindowMode::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        let size = usize::try_from(len).map_err(|_| Errno::ENOMEM)?;
        let at = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        use std::os::fd::AsRawFd;
        tally::count(Counted::Mmap);
        // SAFETY: a new mapping at an address the kernel chooses touches no existing memory.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), size, prot, libc::MAP_SHARED | libc::MAP_NORESERVE, file.as_raw_fd(), at)
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::last_host());
        }
        let base = NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Window { base, len, offset, file })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the window has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file offset of the window's first byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The mapped file.
    pub fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    fn at(&self, at: u64, len: usize) -> Result<*mut u8, MemoryFault> {
        let end = at.checked_add(len as u64).ok_or(MemoryFault)?;
        if end > self.len {
            return Err(MemoryFault);
        }
        // SAFETY: `at` is inside the mapping (checked above), whose length fits usize.
        Ok(unsafe { self.base.as_ptr().add(at as usize) })
    }

    /// Copies `into.len()` bytes out of the window, from `at` bytes after its start.
    ///
    /// # Errors
    /// [`MemoryFault`]; then an unknown part of `into` is written.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        let src = self.at(at, into.len())?;
        // SAFETY: `src` is valid mapped memory of that length for the copy's purposes (faults are caught); `into` is ours.
        check(unsafe { copy::nacre_copy(into.as_mut_ptr(), src, into.len()) })
    }

    /// Copies `from` into the window at `at`.
    ///
    /// # Errors
    /// [`MemoryFault`]; then an unknown part is written.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), MemoryFault> {
        let dst = self.at(at, from.len())?;
        // SAFETY: as in `read`.
        check(unsafe { copy::nacre_copy(dst, from.as_ptr(), from.len()) })
    }

    /// Fills `len` bytes at `at` with zeros.
    ///
    /// # Errors
    /// [`MemoryFault`].
    pub fn zero(&self, at: u64, len: u64) -> Result<(), MemoryFault> {
        let size = usize::try_from(len).map_err(|_| MemoryFault)?;
        let dst = self.at(at, size)?;
        // SAFETY: as in `read`.
        check(unsafe { copy::nacre_zero(dst, size) })
    }

    /// Copies `len` bytes between two windows (or within one; the ranges must not overlap).
    ///
    /// # Errors
    /// [`MemoryFault`].
    pub fn copy_to(&self, at: u64, to: &Window, to_at: u64, len: u64) -> Result<(), MemoryFault> {
        let size = usize::try_from(len).map_err(|_| MemoryFault)?;
        let src = self.at(at, size)?;
        let dst = to.at(to_at, size)?;
        // SAFETY: both ranges are inside their mappings; the copy tolerates faults and concurrent writers.
        check(unsafe { copy::nacre_copy(dst, src, size) })
    }

    /// Loads an aligned 32-bit word (relaxed on x86-64's terms: acquire).
    ///
    /// # Errors
    /// [`MemoryFault`], also when `at` is not a multiple of 4.
    pub fn load_u32(&self, at: u64) -> Result<u32, MemoryFault> {
        let src = self.aligned(at, 4)?;
        let mut value = 0;
        // SAFETY: aligned and inside the mapping.
        check(unsafe { copy::nacre_load32(src.cast(), &mut value) })?;
        Ok(value)
    }

    /// Atomic compare-and-exchange of an aligned 32-bit word. Returns the value seen; it was replaced if that equals
    /// `expected`.
    ///
    /// # Errors
    /// [`MemoryFault`], also when `at` is not a multiple of 4.
    pub fn compare_exchange_u32(&self, at: u64, expected: u32, new: u32) -> Result<u32, MemoryFault> {
        let ptr = self.aligned(at, 4)?;
        let mut seen = 0;
        // SAFETY: aligned and inside the mapping.
        check(unsafe { copy::nacre_cmpxchg32(ptr.cast(), expected, new, &mut seen) })?;
        Ok(seen)
    }

    /// Stores an aligned 64-bit word in one instruction (used to rewrite text that other threads may be running).
    ///
    /// # Errors
    /// [`MemoryFault`], also when `at` is not a multiple of 8.
    pub fn store_u64(&self, at: u64, value: u64) -> Result<(), MemoryFault> {
        let ptr = self.aligned(at, 8)?;
        // SAFETY: aligned and inside the mapping.
        check(unsafe { copy::nacre_store64(ptr.cast(), value) })
    }

    fn aligned(&self, at: u64, size: u64) -> Result<*mut u8, MemoryFault> {
        if !at.is_multiple_of(size) {
            return Err(MemoryFault);
        }
        self.at(at, size as usize)
    }

    /// A piece of the window, for vectored host I/O.
    ///
    /// # Errors
    /// [`MemoryFault`] when the piece is not inside the window.
    pub fn slice(&self, at: u64, len: usize) -> Result<WindowSlice<'_>, MemoryFault> {
        Ok(WindowSlice { base: self.at(at, len)?, len, window: std::marker::PhantomData })
    }
}

fn check(faulted: u32) -> Result<(), MemoryFault> {
    if faulted == 0 { Ok(()) } else { Err(MemoryFault) }
}

impl Drop for Window {
    fn drop(&mut self) {
        tally::count(Counted::Munmap);
        // SAFETY: the mapping is ours and no slice outlives the window.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len as usize) };
    }
}

impl AsFd for Window {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({:#x} bytes at {:#x})", self.len, self.offset)
    }
}

/// A piece of a [`Window`]. The host kernel may copy to and from it (it answers a fault with `EFAULT`).
#[derive(Clone, Copy)]
pub struct WindowSlice<'a> {
    base: *mut u8,
    len: usize,
    window: std::marker::PhantomData<&'a Window>,
}

// SAFETY: a WindowSlice is a borrowed view of a Window, which is Sync, and exposes no references.
unsafe impl Send for WindowSlice<'_> {}

impl WindowSlice<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iovec(&self) -> libc::iovec {
        libc::iovec { iov_base: self.base.cast(), iov_len: self.len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(len: u64) -> Arc<OwnedFd> {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&fd, len).expect("ftruncate");
        Arc::new(fd)
    }

    #[test]
    fn reads_back_what_was_written() {
        let window = Window::map(memfd(8192), 0, 8192, WindowMode::ReadWrite).expect("map");
        for len in [0usize, 1, 7, 8, 63, 64, 65, 127, 128, 129, 5000] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            window.write(100, &data).expect("write");
            let mut back = vec![0; len];
            window.read(100, &mut back).expect("read");
            assert_eq!(back, data);
        }
        assert_eq!(window.compare_exchange_u32(0, 0, 7), Ok(0));
        assert_eq!(window.compare_exchange_u32(0, 0, 9), Ok(7));
        assert_eq!(window.load_u32(0), Ok(7));
    }

    #[test]
    fn a_file_cut_short_is_an_error_not_a_crash() {
        copy::install();
        let file = memfd(8192);
        let window = Window::map(file.clone(), 0, 8192, WindowMode::ReadWrite).expect("map");
        rustix::fs::ftruncate(&*file, 4096).expect("ftruncate");
        let mut buffer = [0; 200];
        assert_eq!(window.read(4090, &mut buffer), Err(MemoryFault));
        assert_eq!(window.write(5000, &[1]), Err(MemoryFault));
        assert_eq!(window.zero(5000, 10), Err(MemoryFault));
        assert_eq!(window.load_u32(4096), Err(MemoryFault));
        assert_eq!(window.compare_exchange_u32(4096, 0, 1), Err(MemoryFault));
        assert_eq!(window.read(8190, &mut [0; 4]), Err(MemoryFault));
    }
}
