//! [`MemoryFile`]: where application memory and tmpfs pages live.
//!
//! One sparse host file per container, mapped once into the sentry. Its offsets are plentiful, its pages are not. Every range in
//! use has a count of references (fork shares pages; a mapped tmpfs file's pages belong to the file and to the mapping).
//!
//! Offsets are handed out in two ways. An address space owns *chunks* of 64 MiB, one or more per 64 MiB of addresses, and places a page at
//! the chunk's offset that agrees with its address: so whatever is contiguous in addresses is contiguous in the file, the host merges
//! the mappings, and huge pages fit. Everything else (tmpfs) is packed into chunks of the file's own.
//!
//! Small freed ranges whose pages are present are zeroed and kept (*warm*), up to a limit: the next user is spared the
//! host's page allocation. Larger ones are punched.
//!
//! Locking: the inner lock is a leaf. Zeroing and punching happen outside it, while the range belongs to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hostcall::window::WindowMode;
use hostcall::{Errno, MemoryFault, Window};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::patch::TextCache;
use super::{Detail, Mm, Pages, VmaInfo};
use crate::abi::PAGE_SIZE;
use crate::wait::WaitQueue;

/// Bytes of a chunk.
pub(super) const CHUNK: u64 = 64 << 20;

/// Largest freed range that is looked at page by page; larger ones are punched.
const KEEP_MAX: u64 = 256 << 10;

/// Most bytes of warm pages.
const WARM_MAX: u64 = 8 << 20;

/// Largest allocation that may be served from warm pages anywhere in the file.
const WARM_ALLOC_MAX: u64 = 128 << 10;

/// A sparse host file in memory (on a private tmpfs), mapped once into the sentry.
pub struct MemoryFile {
    window: Arc<Window>,
    inner: Mutex<Inner>,
    pub(super) texts: TextCache,
    /// The address spaces that live on it, older ones first.
    spaces: Mutex<Vec<Weak<Mm>>>,
    /// How many address spaces there have been.
    registered: AtomicU64,
    spaces_gone: WaitQueue,
}

/// A range of offsets that was just allocated, with one reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub at: u64,
    /// All its pages are present.
    pub warm: bool,
}

/// Whether a freed range had pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touched {
    Yes,
    No,
    Unknown,
}

#[derive(Default)]
struct Inner {
    /// Ranges in use: start → (end, references). Neighbours with equal counts are merged. With 0 references: being zeroed or
    /// punched, not yet available.
    refs: BTreeMap<u64, (u64, u32)>,
    /// Present zero pages that nobody uses: start → length, and the same by length.
    warm: BTreeMap<u64, u64>,
    warm_by_len: BTreeSet<(u64, u64)>,
    warm_bytes: u64,
    chunks: Vec<Chunk>,
    free_chunks: BTreeSet<u32>,
    packing: Packing,
}

/// Where `alloc` puts things: chunks [start, end), used up to `next`.
#[derive(Default)]
struct Packing {
    start: u64,
    next: u64,
    end: u64,
}

#[derive(Clone, Copy, Default)]
struct Chunk {
    /// Pages with references, and warm ones.
    busy: u32,
    /// An address space (or the packing) may still allocate here.
    owned: bool,
}

impl MemoryFile {
    /// Bytes of offsets that can be given out: far more than memory, and few enough for dozens of containers in one sentry (in
    /// tests, for many machines).
    pub const SPAN: u64 = if cfg!(test) { 256 << 30 } else { 2 << 40 };

    /// Takes an empty file in memory, whose pages are to be given out.
    ///
    /// # Errors
    /// The host's `ftruncate` and `mmap` errors.
    pub fn new(file: OwnedFd) -> Result<Arc<MemoryFile>, Errno> {
        hostcall::io::set_len(&file, Self::SPAN)?;
        let window = Window::map(Arc::new(file), 0, Self::SPAN, WindowMode::ReadWrite)?;
        Ok(Arc::new(MemoryFile {
            window: Arc::new(window),
            inner: Mutex::default(),
            texts: TextCache::default(),
            spaces: Mutex::default(),
            registered: AtomicU64::new(0),
            spaces_gone: WaitQueue::new(),
        }))
    }

    /// Woken (`IN`) when an address space has given its memory back.
    pub fn spaces_gone(&self) -> &WaitQueue {
        &self.spaces_gone
    }

    /// The sentry's mapping of the whole file.
    pub fn window(&self) -> &Arc<Window> {
        &self.window
    }

    /// Allocates `len` bytes (a multiple of the page size) of zeros, contiguous.
    ///
    /// # Errors
    /// `ENOMEM` when offsets run out.
    pub fn alloc(self: &Arc<Self>, len: u64) -> Result<Pages, Errno> {
        let mut inner = self.inner.lock();
        let at = match inner.claim_warm(len) {
            Some(at) => at,
            None => {
                let at = inner.pack(len).ok_or(Errno::ENOMEM)?;
                inner.claim(at, len).ok_or(Errno::ENOMEM)?;
                at
            }
        };
        drop(inner);
        Ok(Pages::new(self.clone(), at, len))
    }

    /// Allocates exactly [at, at+len) if nobody uses it.
    pub(super) fn claim(&self, at: u64, len: u64) -> Option<Claim> {
        self.inner.lock().claim(at, len)
    }

    /// Allocates `len` bytes of warm pages, if there are.
    pub(super) fn claim_warm(&self, len: u64) -> Option<Claim> {
        self.inner.lock().claim_warm(len).map(|at| Claim { at, warm: true })
    }

    /// Takes `count` neighbouring chunks. Returns the first.
    pub(super) fn take_chunks(&self, count: u32) -> Option<u32> {
        self.inner.lock().take_chunks(count)
    }

    /// Gives a chunk up; it is reused when its last page is.
    pub(super) fn give_chunk(&self, chunk: u32) {
        self.inner.lock().disown(chunk);
    }

    /// Takes one more reference to pages that have one.
    pub(super) fn retain(&self, start: u64, len: u64) {
        self.inner.lock().adjust(start, len, true);
    }

    /// Gives up a reference; pages without one are zeroed or punched, and reused. Says whether any page had been touched, where that
    /// has become known.
    pub(super) fn release(&self, start: u64, len: u64) -> Touched {
        let freed = self.inner.lock().adjust(start, len, false);
        let mut touched = if freed.is_empty() { Touched::Unknown } else { Touched::No };
        for (start, end) in freed {
            match self.free(start, end - start) {
                Touched::No => {}
                other => touched = other,
            }
        }
        touched
    }

    /// The pages around `page` that have just one reference, within [start, end). None if `page` has more.
    pub(super) fn sole(&self, page: u64, start: u64, end: u64) -> Option<(u64, u64)> {
        let inner = self.inner.lock();
        let (&from, &(to, count)) = inner.refs.range(..=page).next_back()?;
        (page < to && count == 1).then_some((from.max(start), to.min(end)))
    }

    /// Makes the pages of a range in use read as zeros, by punching.
    pub(super) fn punch(&self, start: u64, len: u64) {
        if hostcall::memory::punch(&*self.window, start, len).is_err() {
            // Cannot fail on a tmpfs; if it does, the contents must still go.
            let _ = self.window.zero(start, len);
        }
    }

    /// Makes the present pages of a range in use read as zeros, keeping them.
    pub(super) fn zero_present(&self, start: u64, len: u64) {
        self.present_runs(start, len, |at, len| {
            let _ = self.window.zero(at, len);
        });
    }

    /// Takes note of a new address space.
    pub(super) fn register(&self, mm: &Arc<Mm>) {
        let mut spaces = self.spaces.lock();
        if spaces.len() == spaces.capacity() {
            spaces.retain(|mm| mm.strong_count() > 0);
        }
        spaces.push(Arc::downgrade(mm));
        self.registered.fetch_add(1, Ordering::SeqCst);
    }

    /// The bytes `range` of a file whose pages are ours are gone (truncated, punched): no mapping shows the old pages any more. Call
    /// it without locks, after the file has changed.
    pub fn forget_file_range(&self, identity: u64, range: Range<u64>) {
        // A child is behind its parent, so a fork meanwhile copies what is right, or is seen later.
        let spaces: Vec<Arc<Mm>> = self.spaces.lock().iter().filter_map(Weak::upgrade).collect();
        for mm in spaces {
            mm.forget_file_range(identity, &range);
        }
    }

    /// Counts the mappings (of all address spaces on this memory) that `which` names.
    pub fn count_vmas(&self, which: impl Fn(&VmaInfo) -> bool) -> u64 {
        let spaces: Vec<Arc<Mm>> = self.spaces.lock().iter().filter_map(Weak::upgrade).collect();
        spaces.iter().flat_map(|mm| mm.vmas(Detail::Places)).filter(which).count() as u64
    }

    /// Whether there is a mapping that `which` names. Forks meanwhile are seen; among too many of them it is taken that there is one.
    pub fn has_vma(&self, which: impl Fn(&VmaInfo) -> bool) -> bool {
        const ROUNDS: usize = 16;
        for _ in 0..ROUNDS {
            let before = self.registered.load(Ordering::SeqCst);
            if self.count_vmas(&which) > 0 {
                return true;
            }
            // A child that came meanwhile may have the mapping of a parent that was looked at when it was gone. (One that was there is behind its
            // parent.)
            if self.registered.load(Ordering::SeqCst) == before {
                return false;
            }
        }
        true
    }

    /// Bytes of memory in use.
    pub fn used_bytes(&self) -> u64 {
        let warm = self.inner.lock().warm_bytes;
        hostcall::memory::allocated_bytes(&*self.window).unwrap_or(0).saturating_sub(warm)
    }

    /// Gives the warm pages back to the host. Returns how many bytes that were.
    pub fn trim(&self) -> u64 {
        let warm = {
            let mut inner = self.inner.lock();
            inner.warm_bytes = 0;
            inner.warm_by_len.clear();
            let warm = std::mem::take(&mut inner.warm);
            for (&start, &len) in &warm {
                inner.insert_refs(start, start + len, 0);
            }
            warm
        };
        let mut total = 0;
        for (start, len) in warm {
            self.punch(start, len);
            self.inner.lock().make_available(start, len);
            total += len;
        }
        total
    }

    /// Zeroes or punches a range that has just lost its last reference, and makes it available.
    fn free(&self, start: u64, len: u64) -> Touched {
        let room = self.inner.lock().warm_bytes < WARM_MAX;
        if len > KEEP_MAX || !room {
            self.punch(start, len);
            self.inner.lock().make_available(start, len);
            return Touched::Unknown;
        }
        let mut kept: SmallVec<[(u64, u64); 8]> = SmallVec::new();
        let mut touched = Touched::No;
        self.present_runs(start, len, |at, len| match self.scrub(at, len) {
            Ok(written) => {
                kept.push((at, len));
                if written == Touched::Yes {
                    touched = Touched::Yes;
                }
            }
            Err(_) => self.punch(at, len),
        });
        let mut inner = self.inner.lock();
        let mut from = start;
        for (at, len) in kept {
            inner.make_available(from, at - from);
            inner.remove_refs(at, at + len);
            inner.add_warm(at, len);
            from = at + len;
        }
        inner.make_available(from, start + len - from);
        touched
    }

    /// Makes present pages read as zeros, and says whether they did not before. Reading costs no more than writing, and
    /// tells a mapping that was given warm pages for nothing from one that has used them.
    fn scrub(&self, start: u64, len: u64) -> Result<Touched, MemoryFault> {
        let mut page = [0; PAGE_SIZE as usize];
        for at in (start..start + len).step_by(page.len()) {
            self.window.read(at, &mut page)?;
            if page.iter().any(|&byte| byte != 0) {
                return self.window.zero(at, start + len - at).map(|()| Touched::Yes);
            }
        }
        Ok(Touched::No)
    }

    fn present_runs(&self, start: u64, len: u64, mut run: impl FnMut(u64, u64)) {
        const STEP: usize = 64;
        let mut at = start;
        let end = start + len;
        while at < end {
            let mut present = [0; STEP];
            let pages = STEP.min(((end - at) / PAGE_SIZE) as usize);
            let Some(present) = present.get_mut(..pages) else { return };
            if self.window.present(at, present).is_err() {
                present.fill(1);
            }
            for group in present.chunk_by(|a, b| a & 1 == b & 1) {
                let len = group.len() as u64 * PAGE_SIZE;
                if group.first().is_some_and(|byte| byte & 1 == 1) {
                    run(at, len);
                }
                at += len;
            }
        }
    }
}

impl Inner {
    fn claim(&mut self, at: u64, len: u64) -> Option<Claim> {
        let end = at.checked_add(len).filter(|&end| end <= MemoryFile::SPAN)?;
        if self.refs.range(..end).next_back().is_some_and(|(_, &(used_end, _))| used_end > at) {
            return None;
        }
        // In this order, so that a chunk does not look empty in between.
        self.busy(at, len, true);
        let warm = self.remove_warm(at, end);
        self.insert_refs(at, end, 1);
        Some(Claim { at, warm })
    }

    fn claim_warm(&mut self, len: u64) -> Option<u64> {
        if len > WARM_ALLOC_MAX {
            return None;
        }
        let &(_, at) = self.warm_by_len.range((len, 0)..).next()?;
        self.claim(at, len).map(|claim| claim.at)
    }

    /// Takes warm pages in the range out of the pool. Returns whether they covered it.
    fn remove_warm(&mut self, at: u64, end: u64) -> bool {
        let mut covered = 0;
        while let Some((&start, &len)) = self.warm.range(..end).next_back().filter(|&(&start, &len)| start + len > at) {
            self.drop_warm(start, len);
            if start < at {
                self.add_warm_uncounted(start, at - start);
            }
            if start + len > end {
                self.add_warm_uncounted(end, start + len - end);
            }
            let from = start.max(at);
            let to = (start + len).min(end);
            covered += to - from;
            self.busy(from, to - from, false);
        }
        covered == end - at
    }

    fn drop_warm(&mut self, start: u64, len: u64) {
        self.warm.remove(&start);
        self.warm_by_len.remove(&(len, start));
        self.warm_bytes -= len;
    }

    fn add_warm_uncounted(&mut self, start: u64, len: u64) {
        self.warm.insert(start, len);
        self.warm_by_len.insert((len, start));
        self.warm_bytes += len;
    }

    /// Adds pages that are still counted as busy, merging neighbours.
    fn add_warm(&mut self, mut start: u64, mut len: u64) {
        if let Some((&before, &before_len)) = self.warm.range(..start).next_back()
            && before + before_len == start
        {
            self.drop_warm(before, before_len);
            start = before;
            len += before_len;
        }
        if let Some(&after_len) = self.warm.get(&(start + len)) {
            self.drop_warm(start + len, after_len);
            len += after_len;
        }
        self.add_warm_uncounted(start, len);
    }

    /// Inserts a used range, merging it with neighbours of the same count.
    fn insert_refs(&mut self, mut start: u64, mut end: u64, count: u32) {
        if let Some((&before, &(before_end, before_count))) = self.refs.range(..start).next_back()
            && before_end == start
            && before_count == count
        {
            self.refs.remove(&before);
            start = before;
        }
        if let Some(&(after_end, after_count)) = self.refs.get(&end)
            && after_count == count
        {
            self.refs.remove(&end);
            end = after_end;
        }
        self.refs.insert(start, (end, count));
    }

    /// Takes a range that is all in use out of `refs`.
    fn remove_refs(&mut self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let Some((&from, &(to, count))) = self.refs.range(..=at).next_back().filter(|(_, range)| range.0 > at) else {
                return;
            };
            self.refs.remove(&from);
            if from < at {
                self.refs.insert(from, (at, count));
            }
            if end < to {
                self.refs.insert(end, (to, count));
            }
            at = to;
        }
    }

    /// Ends the use of a range that has no references and reads as zeros.
    fn make_available(&mut self, start: u64, len: u64) {
        self.remove_refs(start, start + len);
        self.busy(start, len, false);
    }

    /// Adds or takes away a reference over a used range. Returns what has none left: it reads as before and is not yet available.
    fn adjust(&mut self, start: u64, len: u64, more: bool) -> SmallVec<[(u64, u64); 4]> {
        let mut freed = SmallVec::new();
        let end = start + len;
        let mut at = start;
        while at < end {
            let Some((&from, &(to, count))) = self.refs.range(..=at).next_back().filter(|(_, range)| range.0 > at) else {
                debug_assert!(false, "a reference to pages that nobody has: {at:#x}");
                return freed;
            };
            let stop = to.min(end);
            self.refs.remove(&from);
            if from < at {
                self.refs.insert(from, (at, count));
            }
            if stop < to {
                self.refs.insert(stop, (to, count));
            }
            match (more, count) {
                (true, _) => self.insert_refs(at, stop, count.saturating_add(1)),
                (false, 0 | 1) => {
                    self.insert_refs(at, stop, 0);
                    freed.push((at, stop));
                }
                (false, _) => self.insert_refs(at, stop, count - 1),
            }
            at = stop;
        }
        freed
    }

    /// Counts pages of a range as busy or not in their chunks.
    fn busy(&mut self, start: u64, len: u64, more: bool) {
        let end = start + len;
        let mut at = start;
        while at < end {
            let index = at / CHUNK;
            let stop = ((index + 1) * CHUNK).min(end);
            let pages = ((stop - at) / PAGE_SIZE) as u32;
            at = stop;
            let Some(chunk) = self.chunks.get_mut(index as usize) else { continue };
            if more {
                chunk.busy += pages;
            } else {
                chunk.busy = chunk.busy.saturating_sub(pages);
                if chunk.busy == 0 && !chunk.owned && pages > 0 {
                    self.free_chunks.insert(index as u32);
                }
            }
        }
    }

    fn take_chunks(&mut self, count: u32) -> Option<u32> {
        let reuse = match count {
            1 => self.free_chunks.first().copied(),
            _ => self.neighbouring(count),
        };
        let first = match reuse {
            Some(first) => first,
            None => {
                let first = self.chunks.len() as u32;
                let total = u64::from(first) + u64::from(count);
                if total > MemoryFile::SPAN / CHUNK {
                    return None;
                }
                self.chunks.resize(total as usize, Chunk::default());
                first
            }
        };
        for chunk in first..first + count {
            self.free_chunks.remove(&chunk);
            if let Some(state) = self.chunks.get_mut(chunk as usize) {
                state.owned = true;
            }
        }
        Some(first)
    }

    fn neighbouring(&self, count: u32) -> Option<u32> {
        let mut run = (0, 0);
        for &chunk in &self.free_chunks {
            run = if run.0 + run.1 == chunk && run.1 > 0 { (run.0, run.1 + 1) } else { (chunk, 1) };
            if run.1 == count {
                return Some(run.0);
            }
        }
        None
    }

    /// A place for `len` bytes that belongs to no address space.
    fn pack(&mut self, len: u64) -> Option<u64> {
        if self.packing.end - self.packing.next < len {
            let count = u32::try_from(len.div_ceil(CHUNK)).ok()?;
            let start = u64::from(self.take_chunks(count)?) * CHUNK;
            let old =
                std::mem::replace(&mut self.packing, Packing { start, next: start, end: start + u64::from(count) * CHUNK });
            for index in old.start / CHUNK..old.end / CHUNK {
                self.disown(index as u32);
            }
        }
        let at = self.packing.next;
        self.packing.next += len;
        Some(at)
    }

    fn disown(&mut self, index: u32) {
        if let Some(chunk) = self.chunks.get_mut(index as usize) {
            chunk.owned = false;
            if chunk.busy == 0 {
                self.free_chunks.insert(index);
            }
        }
    }
}
