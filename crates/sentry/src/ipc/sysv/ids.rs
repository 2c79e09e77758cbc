//! [`Ids`]: objects by id and by key, with Linux's numbering: an id is a slot's index and a count of how often slots came round (ipc/util.c).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE};
use crate::Errno;

/// Most objects of a kind.
pub const IPCMNI: usize = 1 << SHIFT;
const SHIFT: u32 = 15;
const SEQ_MAX: u32 = (i32::MAX as u32) >> SHIFT;

/// The id that the next object shall have (`kernel.msg_next_id`, for checkpoint/restore), or -1.
pub struct NextId(AtomicI32);

impl Default for NextId {
    fn default() -> NextId {
        NextId(AtomicI32::new(-1))
    }
}

impl NextId {
    pub fn get(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, id: i32) {
        self.0.store(id, Ordering::Relaxed);
    }

    fn take(&self) -> i32 {
        self.0.swap(-1, Ordering::Relaxed)
    }
}

/// A kind's objects.
pub struct Ids<T> {
    slots: Vec<Option<Entry<T>>>,
    by_key: HashMap<i32, usize>,
    in_use: usize,
    seq: u32,
    last: Option<usize>,
}

struct Entry<T> {
    id: i32,
    key: i32,
    object: Arc<T>,
}

impl<T> Default for Ids<T> {
    fn default() -> Ids<T> {
        Ids { slots: Vec::new(), by_key: HashMap::new(), in_use: 0, seq: 0, last: None }
    }
}

/// What a `get` call found.
pub enum Found<T> {
    Old(i32, Arc<T>),
    /// To be made.
    New,
}

fn index(id: i32) -> Option<usize> {
    usize::try_from(id).ok().map(|id| id & (IPCMNI - 1))
}

impl<T> Ids<T> {
    /// By key, as `ipcget`: what is there, or whether one is to be made.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`.
    pub fn find_key(&self, key: i32, flags: u32) -> Result<Found<T>, Errno> {
        if key == IPC_PRIVATE {
            return Ok(Found::New);
        }
        let entry = self.by_key.get(&key).and_then(|&at| self.slots.get(at)?.as_ref());
        match entry {
            None if flags & IPC_CREAT == 0 => Err(Errno::ENOENT),
            None => Ok(Found::New),
            Some(_) if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 => Err(Errno::EEXIST),
            Some(entry) => Ok(Found::Old(entry.id, entry.object.clone())),
        }
    }

    /// Whether one more object may be made.
    ///
    /// # Errors
    /// `ENOSPC` at `limit` objects.
    pub fn room(&self, limit: usize) -> Result<(), Errno> {
        if self.in_use < limit.min(IPCMNI) { Ok(()) } else { Err(Errno::ENOSPC) }
    }

    /// Puts a new object in, for which there is [`Ids::room`]; `make`, called if that succeeds, is told the id and its sequence number. `wish` is the id to give
    /// if it is free (-1: none), and is then taken back.
    ///
    /// # Errors
    /// `ENOSPC` if nothing is free from the wished id on.
    pub fn insert(&mut self, key: i32, wish: &NextId, make: impl FnOnce(i32, u16) -> Arc<T>) -> Result<i32, Errno> {
        let wished = u32::try_from(wish.take()).ok();
        if let Some((at, seq)) = wished.and_then(|id| Some((index(id as i32)?, id >> SHIFT))) {
            // As Linux: the first free place from the wished one on.
            let at = (at..IPCMNI).find(|&at| self.slots.get(at).is_none_or(Option::is_none)).ok_or(Errno::ENOSPC)?;
            if at >= self.slots.len() {
                self.slots.resize_with(at + 1, || None);
            }
            return Ok(self.put(key, at, seq, make));
        }
        let at = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if at == self.slots.len() {
            self.slots.push(None);
        }
        if self.last.is_some_and(|last| at <= last) {
            self.seq = if self.seq >= SEQ_MAX { 0 } else { self.seq + 1 };
        }
        self.last = Some(at);
        Ok(self.put(key, at, self.seq, make))
    }

    /// Fills a free slot.
    fn put(&mut self, key: i32, at: usize, seq: u32, make: impl FnOnce(i32, u16) -> Arc<T>) -> i32 {
        let id = (seq << SHIFT) as i32 | at as i32;
        let object = make(id, seq as u16);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(Entry { id, key, object });
        }
        if key != IPC_PRIVATE {
            self.by_key.insert(key, at);
        }
        self.in_use += 1;
        id
    }

    /// By id.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn get(&self, id: i32) -> Result<Arc<T>, Errno> {
        let entry = index(id).and_then(|at| self.slots.get(at)?.as_ref()).filter(|entry| entry.id == id);
        entry.map(|entry| entry.object.clone()).ok_or(Errno::EINVAL)
    }

    /// By the index in an id (`*_STAT`): the id and the object.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn at(&self, at: i32) -> Result<(i32, Arc<T>), Errno> {
        let entry = index(at).and_then(|at| self.slots.get(at)?.as_ref());
        entry.map(|entry| (entry.id, entry.object.clone())).ok_or(Errno::EINVAL)
    }

    /// Takes the key away: the object can no longer be found by it.
    pub fn forget_key(&mut self, id: i32) {
        if let Some(entry) = index(id).and_then(|at| self.slots.get_mut(at)?.as_mut()).filter(|entry| entry.id == id) {
            self.by_key.remove(&entry.key);
            entry.key = IPC_PRIVATE;
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, id: i32) -> Option<Arc<T>> {
        self.forget_key(id);
        let slot = index(id).and_then(|at| self.slots.get_mut(at))?;
        if slot.as_ref().is_none_or(|entry| entry.id != id) {
            return None;
        }
        let entry = slot.take()?;
        self.in_use -= 1;
        Some(entry.object)
    }

    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// The largest index in use (what `*_INFO` return); 0 without any.
    pub fn max_index(&self) -> u64 {
        self.slots.iter().rposition(Option::is_some).unwrap_or(0) as u64
    }

    /// All objects with their ids, by index.
    pub fn iter(&self) -> impl Iterator<Item = (i32, &Arc<T>)> {
        self.slots.iter().flatten().map(|entry| (entry.id, &entry.object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_not_given_again_soon() {
        let mut ids: Ids<u8> = Ids::default();
        let make = |ids: &mut Ids<u8>, key| ids.insert(key, &NextId::default(), |_, _| Arc::new(0));
        assert_eq!(make(&mut ids, 7), Ok(0));
        assert_eq!(make(&mut ids, 0), Ok(1));
        assert!(matches!(ids.find_key(7, 0), Ok(Found::Old(0, _))));
        assert_eq!(ids.find_key(7, IPC_CREAT | IPC_EXCL).err(), Some(Errno::EEXIST));
        assert_eq!(ids.find_key(8, 0).err(), Some(Errno::ENOENT));
        assert!(ids.remove(0).is_some() && ids.remove(0).is_none());
        assert_eq!(make(&mut ids, 7), Ok(1 << 15));
        assert_eq!((ids.get(0).err(), ids.get(1 << 15).err()), (Some(Errno::EINVAL), None));
        assert_eq!((ids.in_use(), ids.max_index()), (2, 1));
    }
}
