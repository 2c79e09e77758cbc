//! [`FdTable`]: the descriptors of a process.

use std::sync::Arc;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard, RwLock};

use super::File;
use crate::Errno;
use crate::ipc::locks::RecordLocks;

/// A descriptor: an open file, and whether exec closes it.
#[derive(Clone)]
pub struct FdEntry {
    pub file: Arc<File>,
    pub close_on_exec: bool,
}

type Chunk = [Option<FdEntry>; CHUNK];

/// Descriptors by number. Files that are taken out are returned, so that they are dropped outside the table's lock.
#[derive(Default)]
pub struct FdTable {
    slots: RwLock<Slots>,
    /// What goes when the table is closed: the process's record locks.
    locks: Mutex<Option<RecordLocks>>,
}

/// Numbers per piece of the table.
const CHUNK: usize = 64;

/// In pieces, of which only those in use exist: one high number in each of many processes must not cost a whole table each.
#[derive(Default, Clone)]
struct Slots {
    chunks: Vec<Option<Box<Chunk>>>,
    /// No number below this is free.
    lowest_free: usize,
}

impl FdTable {
    /// Linux's largest table (`fs.nr_open`).
    pub const MAX: usize = 1 << 20;

    pub fn new() -> Arc<FdTable> {
        Arc::new(FdTable::default())
    }

    /// The file of a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: i32) -> Result<Arc<File>, Errno> {
        self.entry(fd).map(|entry| entry.file)
    }

    /// A descriptor's entry.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn entry(&self, fd: i32) -> Result<FdEntry, Errno> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.read().get(fd).cloned().ok_or(Errno::EBADF)
    }

    /// Gives the lowest free number from `from` on, below `limit` (`RLIMIT_NOFILE`).
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn insert(&self, entry: FdEntry, from: usize, limit: usize) -> Result<i32, Errno> {
        let limit = limit.min(Self::MAX);
        let mut slots = self.slots.write();
        let fd = slots.first_free(from.max(slots.lowest_free));
        if fd >= limit {
            return Err(Errno::EMFILE);
        }
        slots.put(fd, entry);
        if from <= slots.lowest_free {
            slots.lowest_free = fd + 1;
        }
        i32::try_from(fd).map_err(|_| Errno::EMFILE)
    }

    /// Puts an entry at a given number, in place of what is there (`dup2`).
    ///
    /// # Errors
    /// `EBADF` when the number is not below `limit`.
    pub fn replace(&self, fd: i32, entry: FdEntry, limit: usize) -> Result<Option<FdEntry>, Errno> {
        let fd = usize::try_from(fd).ok().filter(|&fd| fd < limit.min(Self::MAX)).ok_or(Errno::EBADF)?;
        Ok(self.slots.write().put(fd, entry))
    }

    /// Takes a descriptor out.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&self, fd: i32) -> Result<FdEntry, Errno> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.write().take(fd).ok_or(Errno::EBADF)
    }

    /// Sets or clears close-on-exec.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_close_on_exec(&self, fd: i32, on: bool) -> Result<(), Errno> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut slots = self.slots.write();
        let entry = slots.slot_mut(fd).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        entry.close_on_exec = on;
        Ok(())
    }

    /// A copy with the same files (fork, unshare).
    pub fn duplicate(&self) -> Arc<FdTable> {
        Arc::new(FdTable { slots: RwLock::new(self.slots.read().clone()), locks: Mutex::new(None) })
    }

    /// Takes out all entries that `which` names.
    pub fn remove_if(&self, mut which: impl FnMut(i32, &FdEntry) -> bool) -> Vec<FdEntry> {
        let mut removed = Vec::new();
        let mut slots = self.slots.write();
        let named: Vec<usize> = slots.iter().filter(|(fd, entry)| which(*fd as i32, entry)).map(|(fd, _)| fd).collect();
        for fd in named {
            removed.extend(slots.take(fd));
        }
        removed
    }

    /// Sets close-on-exec on all descriptors from `first` to `last`.
    pub fn set_close_on_exec_range(&self, first: usize, last: usize) {
        let mut slots = self.slots.write();
        let named: Vec<usize> = slots.iter().map(|(fd, _)| fd).filter(|fd| (first..=last).contains(fd)).collect();
        for fd in named {
            if let Some(entry) = slots.slot_mut(fd).and_then(Option::as_mut) {
                entry.close_on_exec = true;
            }
        }
    }

    /// The process's record locks (`fcntl F_SETLK`), made when first needed.
    pub fn record_locks(&self, make: impl FnOnce() -> RecordLocks) -> MappedMutexGuard<'_, RecordLocks> {
        MutexGuard::map(self.locks.lock(), |locks| locks.get_or_insert_with(make))
    }

    /// Whether the process may hold record locks.
    pub fn has_record_locks(&self) -> bool {
        self.locks.lock().is_some()
    }

    /// The numbers in use with their entries.
    pub fn list(&self) -> Vec<(i32, FdEntry)> {
        let slots = self.slots.read();
        slots.iter().map(|(fd, entry)| (fd as i32, entry.clone())).collect()
    }
}

impl Slots {
    fn get(&self, fd: usize) -> Option<&FdEntry> {
        self.chunks.get(fd / CHUNK)?.as_ref()?.get(fd % CHUNK)?.as_ref()
    }

    fn slot_mut(&mut self, fd: usize) -> Option<&mut Option<FdEntry>> {
        self.chunks.get_mut(fd / CHUNK)?.as_mut()?.get_mut(fd % CHUNK)
    }

    /// Those in use.
    fn iter(&self) -> impl Iterator<Item = (usize, &FdEntry)> {
        let chunks = self.chunks.iter().enumerate().filter_map(|(i, chunk)| Some((i * CHUNK, chunk.as_ref()?)));
        chunks.flat_map(|(from, chunk)| chunk.iter().enumerate().filter_map(move |(i, slot)| Some((from + i, slot.as_ref()?))))
    }

    fn first_free(&self, from: usize) -> usize {
        let mut fd = from;
        while let Some(Some(chunk)) = self.chunks.get(fd / CHUNK) {
            match chunk.iter().skip(fd % CHUNK).position(Option::is_none) {
                Some(after) => return fd + after,
                None => fd = (fd / CHUNK + 1) * CHUNK,
            }
        }
        fd
    }

    fn put(&mut self, fd: usize, entry: FdEntry) -> Option<FdEntry> {
        if fd / CHUNK >= self.chunks.len() {
            self.chunks.resize(fd / CHUNK + 1, None);
        }
        let chunk = self.chunks.get_mut(fd / CHUNK)?;
        chunk.get_or_insert_with(|| Box::new([const { None }; CHUNK])).get_mut(fd % CHUNK)?.replace(entry)
    }

    fn take(&mut self, fd: usize) -> Option<FdEntry> {
        let entry = self.slot_mut(fd)?.take()?;
        self.lowest_free = self.lowest_free.min(fd);
        Some(entry)
    }
}
