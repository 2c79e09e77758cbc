//! [`FdTable`]: the descriptors of a process.

use std::sync::Arc;

use parking_lot::RwLock;

use super::File;
use crate::Errno;

/// A descriptor: an open file, and whether exec closes it.
#[derive(Clone)]
pub struct FdEntry {
    pub file: Arc<File>,
    pub close_on_exec: bool,
}

/// Descriptors by number. Files that are taken out are returned, so that they are dropped outside the table's lock.
#[derive(Default)]
pub struct FdTable {
    slots: RwLock<Vec<Option<FdEntry>>>,
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
        self.slots.read().get(fd).cloned().flatten().ok_or(Errno::EBADF)
    }

    /// Gives the lowest free number from `from` on, below `limit` (`RLIMIT_NOFILE`).
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn insert(&self, entry: FdEntry, from: usize, limit: usize) -> Result<i32, Errno> {
        let mut slots = self.slots.write();
        let limit = limit.min(Self::MAX);
        let free = (from..slots.len()).find(|&fd| slots.get(fd).is_some_and(Option::is_none));
        let fd = free.unwrap_or(slots.len().max(from));
        if fd >= limit {
            return Err(Errno::EMFILE);
        }
        if fd >= slots.len() {
            slots.resize(fd + 1, None);
        }
        if let Some(slot) = slots.get_mut(fd) {
            *slot = Some(entry);
        }
        i32::try_from(fd).map_err(|_| Errno::EMFILE)
    }

    /// Puts an entry at a given number, in place of what is there (`dup2`).
    ///
    /// # Errors
    /// `EBADF` when the number is not below `limit`.
    pub fn replace(&self, fd: i32, entry: FdEntry, limit: usize) -> Result<Option<FdEntry>, Errno> {
        let fd = usize::try_from(fd).ok().filter(|&fd| fd < limit.min(Self::MAX)).ok_or(Errno::EBADF)?;
        let mut slots = self.slots.write();
        if fd >= slots.len() {
            slots.resize(fd + 1, None);
        }
        Ok(slots.get_mut(fd).and_then(|slot| slot.replace(entry)))
    }

    /// Takes a descriptor out.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&self, fd: i32) -> Result<FdEntry, Errno> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.write().get_mut(fd).and_then(Option::take).ok_or(Errno::EBADF)
    }

    /// Sets or clears close-on-exec.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_close_on_exec(&self, fd: i32, on: bool) -> Result<(), Errno> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut slots = self.slots.write();
        let entry = slots.get_mut(fd).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        entry.close_on_exec = on;
        Ok(())
    }

    /// A copy with the same files (fork, unshare).
    pub fn duplicate(&self) -> Arc<FdTable> {
        Arc::new(FdTable { slots: RwLock::new(self.slots.read().clone()) })
    }

    /// Takes out all entries that `which` names.
    pub fn remove_if(&self, mut which: impl FnMut(i32, &FdEntry) -> bool) -> Vec<FdEntry> {
        let mut removed = Vec::new();
        for (fd, slot) in self.slots.write().iter_mut().enumerate() {
            if slot.as_ref().is_some_and(|entry| which(fd as i32, entry)) {
                removed.extend(slot.take());
            }
        }
        removed
    }

    /// The numbers in use with their entries.
    pub fn list(&self) -> Vec<(i32, FdEntry)> {
        let slots = self.slots.read();
        slots.iter().enumerate().filter_map(|(fd, slot)| Some((fd as i32, slot.clone()?))).collect()
    }
}
