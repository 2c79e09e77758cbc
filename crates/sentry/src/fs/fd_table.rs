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

/// Descriptors by number. Files that are taken out are returned, so that they are dropped outside the table's lock.
#[derive(Default)]
pub struct FdTable {
    slots: RwLock<Slots>,
    /// What goes when the table is closed: the process's record locks.
    locks: Mutex<Option<RecordLocks>>,
}

#[derive(Default, Clone)]
struct Slots {
    entries: Vec<Option<FdEntry>>,
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
        self.slots.read().entries.get(fd).cloned().flatten().ok_or(Errno::EBADF)
    }

    /// Gives the lowest free number from `from` on, below `limit` (`RLIMIT_NOFILE`).
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn insert(&self, entry: FdEntry, from: usize, limit: usize) -> Result<i32, Errno> {
        let limit = limit.min(Self::MAX);
        let mut slots = self.slots.write();
        let start = from.max(slots.lowest_free);
        let end = slots.entries.len();
        let fd = (start..end).find(|&fd| slots.entries.get(fd).is_some_and(Option::is_none)).unwrap_or(end.max(start));
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
        let entry = slots.entries.get_mut(fd).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
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
        for fd in 0..slots.entries.len() {
            let named = slots.entries.get(fd).and_then(Option::as_ref).is_some_and(|entry| which(fd as i32, entry));
            if named {
                removed.extend(slots.take(fd));
            }
        }
        removed
    }

    /// Sets close-on-exec on all descriptors from `first` to `last`.
    pub fn set_close_on_exec_range(&self, first: usize, last: usize) {
        for entry in self.slots.write().entries.iter_mut().take(last.saturating_add(1)).skip(first).flatten() {
            entry.close_on_exec = true;
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
        slots.entries.iter().enumerate().filter_map(|(fd, slot)| Some((fd as i32, slot.clone()?))).collect()
    }
}

impl Slots {
    fn put(&mut self, fd: usize, entry: FdEntry) -> Option<FdEntry> {
        if fd >= self.entries.len() {
            self.entries.resize(fd + 1, None);
        }
        self.entries.get_mut(fd).and_then(|slot| slot.replace(entry))
    }

    fn take(&mut self, fd: usize) -> Option<FdEntry> {
        let entry = self.entries.get_mut(fd).and_then(Option::take)?;
        self.lowest_free = self.lowest_free.min(fd);
        Some(entry)
    }
}
