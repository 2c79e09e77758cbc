//! [`Data`]: a file's bytes, as extents of pages of the container's memory file.
//!
//! Bytes of an extent past the file's size are zeros, always. Growth at the end allocates ahead, so that a file written piece by piece is in few
//! extents; what is ahead costs no memory until it is touched.
//!
//! Locking: one lock, a leaf. Guest memory is never copied under it (it may be a mapping of this very file): data passes through
//! a buffer. `appending`, before it, is held by who writes at the end, over copies too: those never append.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::Shared;
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down, page_up};
use crate::fs::Whence;
use crate::mm::{Access, Mappable, Pages, Piece};

/// Most bytes allocated ahead.
const AHEAD_MAX: u64 = 1 << 20;

/// Bytes allocated for a touch of a hole in a mapping.
const FAULT_LEN: u64 = 64 << 10;

/// Largest file (`MAX_LFS_FILESIZE`).
const SIZE_MAX: u64 = i64::MAX as u64;

/// A regular file's data.
pub(in crate::fs) struct Data {
    fs: Arc<Shared>,
    identity: u64,
    /// Held over a write at the end.
    appending: Mutex<()>,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    size: u64,
    /// Counts changes.
    version: u64,
    /// Has been mapped: mappings are told when pages go.
    mapped: bool,
    /// Has been mapped shared and writable: then changes cannot be counted.
    mapped_writable: bool,
    /// By their offset in the file. They do not overlap.
    extents: BTreeMap<u64, Pages>,
}

impl Data {
    pub fn new(fs: Arc<Shared>) -> Arc<Data> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // The top bit keeps these apart from host files' identities.
        let identity = 1 << 63 | NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Data { fs, identity, appending: Mutex::default(), inner: RwLock::default() })
    }

    /// While it is held, nobody else writes at the end.
    pub fn appending(&self) -> MutexGuard<'_, ()> {
        self.appending.lock()
    }

    pub fn size_and_blocks(&self) -> (u64, u64) {
        let inner = self.inner.read();
        let end = page_up(inner.size).unwrap_or(inner.size);
        let bytes: u64 = inner.extents.iter().map(|(&at, pages)| (at + pages.len()).min(end).saturating_sub(at)).sum();
        (inner.size, bytes / 512)
    }

    /// Copies bytes at `offset` out. Returns how many: fewer at the end.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let inner = self.inner.read();
        let len = (into.len() as u64).min(inner.size.saturating_sub(offset));
        let into = into.get_mut(..len as usize).unwrap_or_default();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let (extent, next) = inner.at(at);
            let n = next.min(offset + len) - at;
            let part = into.get_mut(done as usize..(done + n) as usize).unwrap_or_default();
            match extent {
                Some(place) => self.fs.memory.window().read(place, part).map_err(|_| Errno::EIO)?,
                None => part.fill(0),
            }
            done += n;
        }
        Ok(len as usize)
    }

    /// Copies bytes in, at an offset or (None) at the end. Returns where they end.
    pub fn write(&self, offset: Option<u64>, from: &[u8]) -> Result<u64, Errno> {
        let mut inner = self.inner.write();
        inner.version += 1;
        let offset = offset.unwrap_or(inner.size);
        let end = offset.checked_add(from.len() as u64).filter(|&end| end <= SIZE_MAX).ok_or(Errno::EFBIG)?;
        self.fill(&mut inner, offset, end, Ahead::Yes)?;
        let mut at = offset;
        while at < end {
            let (Some(place), next) = inner.at(at) else { return Err(Errno::EIO) };
            let n = next.min(end) - at;
            let part = from.get((at - offset) as usize..(at - offset + n) as usize).unwrap_or_default();
            self.fs.memory.window().write(place, part).map_err(|_| Errno::ENOSPC)?;
            at += n;
        }
        inner.size = inner.size.max(end);
        Ok(end)
    }

    /// Sees to it that there are pages for [start, end).
    fn fill(&self, inner: &mut Inner, start: u64, end: u64, ahead: Ahead) -> Result<(), Errno> {
        let (mut at, end) = (page_down(start), page_up(end).ok_or(Errno::EFBIG)?);
        while at < end {
            let (extent, next) = inner.at(at);
            if extent.is_some() {
                at = next;
                continue;
            }
            let len = next.min(end) - at;
            // The end of the file grows: as much again as the extent before has.
            let grows = ahead == Ahead::Yes && at >= page_down(inner.size);
            let before = inner.extents.range(..at).next_back();
            let more = match before {
                Some((&start, pages)) if grows && start + pages.len() == at => pages.len().min(AHEAD_MAX).min(next - at),
                _ => 0,
            };
            let len = if more > len && self.fs.charge(more).is_ok() {
                more
            } else {
                self.fs.charge(len)?;
                len
            };
            match self.fs.memory.alloc(len) {
                Ok(pages) => inner.extents.insert(at, pages),
                Err(errno) => {
                    self.fs.uncharge(len);
                    return Err(errno);
                }
            };
            at += len;
        }
        Ok(())
    }

    /// `ftruncate`.
    pub fn set_size(&self, size: u64) -> Result<(), Errno> {
        if size > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        let mut inner = self.inner.write();
        inner.version += 1;
        let mut gone = Vec::new();
        if size < inner.size {
            gone = self.cut(&mut inner, size, u64::MAX)?;
        }
        let shorter = size < inner.size;
        inner.size = size;
        let mapped = inner.mapped;
        drop(inner);
        if shorter && mapped {
            self.fs.memory.forget_file_range(self.identity, page_up(size).unwrap_or(u64::MAX)..u64::MAX);
        }
        self.give_back(gone);
        Ok(())
    }

    /// `fallocate` with mode 0 or `KEEP_SIZE`.
    pub fn allocate(&self, start: u64, end: u64, keep_size: bool) -> Result<(), Errno> {
        if end > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        let mut inner = self.inner.write();
        self.fill(&mut inner, start, end, Ahead::No)?;
        if !keep_size {
            inner.size = inner.size.max(end);
        }
        Ok(())
    }

    /// Makes [start, end) a hole.
    pub fn punch(&self, start: u64, end: u64) -> Result<(), Errno> {
        let mut inner = self.inner.write();
        inner.version += 1;
        let gone = self.cut(&mut inner, start, end)?;
        let mapped = inner.mapped;
        drop(inner);
        if mapped && !gone.is_empty() {
            self.fs.memory.forget_file_range(self.identity, page_up(start).unwrap_or(u64::MAX)..page_down(end));
        }
        self.give_back(gone);
        Ok(())
    }

    /// Takes whole pages of [start, end) out and zeroes the rest of it.
    fn cut(&self, inner: &mut Inner, start: u64, end: u64) -> Result<Vec<Pages>, Errno> {
        let first = page_up(start).unwrap_or(u64::MAX);
        let last = if end == u64::MAX { u64::MAX } else { page_down(end) };
        if first > last {
            self.zero(inner, start, end)?;
            return Ok(Vec::new());
        }
        self.zero(inner, start, first)?;
        if end != last {
            self.zero(inner, last, end)?;
        }
        let mut gone = Vec::new();
        // Split what reaches in from before and out behind.
        inner.split(first);
        if last != u64::MAX {
            inner.split(last);
        }
        let starts: Vec<u64> = inner.extents.range(first..last).map(|(&at, _)| at).collect();
        for at in starts {
            gone.extend(inner.extents.remove(&at));
        }
        Ok(gone)
    }

    /// Zeroes [start, end), which lies within a page, where there are pages.
    fn zero(&self, inner: &Inner, start: u64, end: u64) -> Result<(), Errno> {
        if start >= end {
            return Ok(());
        }
        match inner.at(start) {
            (Some(place), _) => self.fs.memory.window().zero(place, end - start).map_err(|_| Errno::EIO),
            (None, _) => Ok(()),
        }
    }

    fn give_back(&self, gone: Vec<Pages>) {
        self.fs.uncharge(gone.iter().map(Pages::len).sum());
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    pub fn seek(&self, offset: u64, whence: Whence) -> Result<u64, Errno> {
        let inner = self.inner.read();
        if offset >= inner.size {
            return Err(Errno::ENXIO);
        }
        let mut at = offset;
        loop {
            let (extent, next) = inner.at(at);
            match (whence, extent.is_some()) {
                (Whence::Data, true) | (Whence::Hole, false) => return Ok(at),
                (Whence::Data, false) if next >= inner.size => return Err(Errno::ENXIO),
                (Whence::Hole, true) if next >= inner.size => return Ok(inner.size),
                _ => at = next,
            }
        }
    }
}

/// Whether to allocate more than is needed now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ahead {
    Yes,
    No,
}

impl Inner {
    /// Where the byte at `at` lies in the memory file (None: in a hole), and where the extent or hole ends.
    fn at(&self, at: u64) -> (Option<u64>, u64) {
        if let Some((&start, pages)) = self.extents.range(..=at).next_back()
            && at < start + pages.len()
        {
            return (Some(pages.start() + (at - start)), start + pages.len());
        }
        (None, self.extents.range(at..).next().map_or(u64::MAX, |(&start, _)| start))
    }

    /// Makes `at` a border between extents.
    fn split(&mut self, at: u64) {
        if let Some((&start, pages)) = self.extents.range_mut(..at).next_back()
            && at < start + pages.len()
        {
            let rest = pages.split_off(at - start);
            self.extents.insert(at, rest);
        }
    }
}

impl Mappable for Data {
    /// Pages are made where the range begins with a hole, also to be read: what is written to the file later must appear there.
    fn pieces(&self, offset: u64, len: u64, access: Access) -> Result<Vec<Piece>, Errno> {
        let mut inner = self.inner.write();
        inner.mapped = true;
        inner.mapped_writable |= access == Access::Write;
        let end = offset.saturating_add(len).min(page_up(inner.size).unwrap_or(inner.size));
        if offset < end && inner.at(offset).0.is_none() {
            self.fill(&mut inner, offset, end.min(offset + FAULT_LEN), Ahead::No).map_err(|errno| match errno {
                Errno::ENOSPC => Errno::ENOMEM,
                other => other,
            })?;
        }
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < end {
            let found = inner.extents.range(..=at).next_back().filter(|(start, pages)| at < **start + pages.len());
            let Some((&start, pages)) = found else { break };
            let len = (start + pages.len()).min(end) - at;
            let part = pages.share(at - start, len);
            pieces.push(Piece { window: self.fs.memory.window().clone(), offset: part.start(), len, pages: Some(part) });
            at += len;
        }
        Ok(pieces)
    }

    fn size(&self) -> u64 {
        self.inner.read().size
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn version(&self) -> Option<u64> {
        let inner = self.inner.read();
        (!inner.mapped_writable).then_some(inner.version)
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let bytes = self.inner.get_mut().extents.values().map(Pages::len).sum();
        self.fs.uncharge(bytes);
    }
}

const _: () = assert!(FAULT_LEN.is_multiple_of(PAGE_SIZE) && AHEAD_MAX.is_multiple_of(PAGE_SIZE));
