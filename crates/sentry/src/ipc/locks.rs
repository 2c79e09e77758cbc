//! Advisory file locks: `flock(2)`, and the record locks of `fcntl(2)`, POSIX's (owned by a process) and those of open file descriptions.
//!
//! One table for the sandbox, by inode. Owners are told apart by [`Owner`]; a description's locks go when it is closed for
//! good (the table is its [`Watcher`]), a process's when its descriptor table goes or it closes any descriptor of the file.
//!
//! Locking: the table's lock is a leaf; the queue is woken after it is released.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Errno;
use crate::fs::{FileId, Watcher};
use crate::wait::{PollEvents, WaitQueue};

/// Device and inode number.
pub type InodeKey = (u64, u64);

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A process: the number of its descriptor table's [`RecordLocks`].
    Process(u64),
    Description(FileId),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    Shared,
    Exclusive,
    Unlock,
}

/// Bytes `start` to `last` inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub last: u64,
}

impl Range {
    /// To the end of any file.
    pub const MAX: u64 = i64::MAX as u64;
    pub const WHOLE: Range = Range { start: 0, last: Self::MAX };

    fn overlaps(self, other: Range) -> bool {
        self.start <= other.last && other.start <= self.last
    }
}

/// A lock that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub owner: Owner,
    pub range: Range,
    /// `Shared` or `Exclusive`.
    pub kind: LockKind,
    /// The owner's process number, -1 for descriptions.
    pub pid: i32,
}

impl Held {
    fn conflicts(&self, owner: Owner, range: Range, kind: LockKind) -> bool {
        self.owner != owner && self.range.overlaps(range) && (self.kind == LockKind::Exclusive || kind == LockKind::Exclusive)
    }
}

/// Which family a lock belongs to: the two do not see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    Flock,
    Record,
}

/// All locks of the sandbox.
#[derive(Default)]
pub struct LockTable {
    state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    held: HashMap<(Family, InodeKey), Vec<Held>>,
    /// Processes that wait, and for whom.
    waiting: HashMap<Owner, Owner>,
    next_owner: u64,
    /// Locks held in all.
    total: usize,
}

/// Locks that the sandbox may hold; each is kept in the sentry.
const TOTAL_MAX: usize = 1 << 19;

/// Why a lock was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This one is in the way.
    Held(Held),
    /// `ENOLCK`.
    TooMany,
}

impl LockTable {
    /// Woken when a lock is given up.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Takes, changes or gives up a lock on a range, by POSIX's rules: the owner's own locks in the range are replaced.
    ///
    /// # Errors
    /// The lock in the way; too many locks.
    pub fn set(&self, family: Family, inode: InodeKey, wanted: Held) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if state.total >= TOTAL_MAX && wanted.kind != LockKind::Unlock {
            return Err(Refusal::TooMany);
        }
        let list = state.held.entry((family, inode)).or_default();
        if wanted.kind != LockKind::Unlock {
            let conflict = list.iter().find(|held| held.conflicts(wanted.owner, wanted.range, wanted.kind)).copied();
            if let Some(conflict) = conflict {
                return Err(Refusal::Held(conflict));
            }
        }
        let before = list.len();
        let shrunk = replace(list, wanted);
        let after = list.len();
        if after == 0 {
            state.held.remove(&(family, inode));
        }
        state.total = state.total - before + after;
        state.waiting.remove(&wanted.owner);
        drop(state);
        if shrunk {
            self.queue.wake(PollEvents::IN);
        }
        Ok(())
    }

    /// The lock that would be in the way.
    pub fn conflict(&self, family: Family, inode: InodeKey, wanted: Held) -> Option<Held> {
        let state = self.state.lock();
        let list = state.held.get(&(family, inode))?;
        let conflicts = |held: &&Held| held.conflicts(wanted.owner, wanted.range, wanted.kind);
        // An owner's locks stand together in Linux, by their places.
        let first = list.iter().find(conflicts)?;
        list.iter().filter(conflicts).filter(|held| held.owner == first.owner).min_by_key(|held| held.range.start).copied()
    }

    /// Notes that `who` waits for `whom`.
    ///
    /// # Errors
    /// `EDEADLK` when `whom` waits for `who`, perhaps by way of others.
    pub fn wait_for(&self, who: Owner, whom: Owner) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let mut next = Some(whom);
        let mut steps = 0;
        while let Some(owner) = next {
            // Linux gives up after ten steps, too.
            if owner == who || steps > 10 {
                return Err(Errno::EDEADLK);
            }
            next = state.waiting.get(&owner).copied();
            steps += 1;
        }
        state.waiting.insert(who, whom);
        Ok(())
    }

    /// `who` waits no more.
    pub fn stop_waiting(&self, who: Owner) {
        self.state.lock().waiting.remove(&who);
    }

    /// Gives up all locks of an owner, on one inode or on all.
    pub fn release(&self, owner: Owner, inode: Option<InodeKey>) {
        let mut released = 0;
        let mut state = self.state.lock();
        state.held.retain(|(_, key), list| {
            if inode.is_none_or(|inode| inode == *key) {
                let before = list.len();
                list.retain(|held| held.owner != owner);
                released += before - list.len();
            }
            !list.is_empty()
        });
        state.total -= released;
        drop(state);
        if released > 0 {
            self.queue.wake(PollEvents::IN);
        }
    }

    /// All locks, for /proc/locks.
    pub fn list(&self) -> Vec<(Family, InodeKey, Held)> {
        let state = self.state.lock();
        let mut all: Vec<_> =
            state.held.iter().flat_map(|((family, inode), list)| list.iter().map(|held| (*family, *inode, *held))).collect();
        all.sort_by_key(|(_, inode, held)| (*inode, held.range.start));
        all
    }
}

/// Puts `wanted` in place of what its owner holds in the range. Returns whether the owner may hold less than before.
fn replace(list: &mut Vec<Held>, wanted: Held) -> bool {
    let mut shrunk = false;
    let mut kept = Vec::with_capacity(list.len() + 2);
    for held in list.drain(..) {
        if held.owner != wanted.owner || !held.range.overlaps(wanted.range) {
            kept.push(held);
            continue;
        }
        shrunk |= held.kind == LockKind::Exclusive || wanted.kind == LockKind::Unlock;
        if held.range.start < wanted.range.start {
            kept.push(Held { range: Range { last: wanted.range.start - 1, ..held.range }, ..held });
        }
        if held.range.last > wanted.range.last {
            kept.push(Held { range: Range { start: wanted.range.last + 1, ..held.range }, ..held });
        }
    }
    if wanted.kind != LockKind::Unlock {
        // Joined with its neighbours of the same kind.
        let mut whole = wanted;
        kept.retain(|held| {
            let near = held.range.start <= whole.range.last.saturating_add(1)
                && whole.range.start <= held.range.last.saturating_add(1);
            let joins = held.owner == whole.owner && held.kind == whole.kind && near;
            if joins {
                whole.range.start = whole.range.start.min(held.range.start);
                whole.range.last = whole.range.last.max(held.range.last);
            }
            !joins
        });
        kept.push(whole);
    }
    *list = kept;
    shrunk
}

impl Watcher for LockTable {
    fn file_closed(&self, file: FileId) {
        self.release(Owner::Description(file), None);
    }
}

/// A process's claim to record locks; dropping it (with the descriptor table) gives all of them up.
pub struct RecordLocks {
    table: Arc<LockTable>,
    owner: Owner,
}

impl RecordLocks {
    pub fn new(table: &Arc<LockTable>) -> RecordLocks {
        let mut state = table.state.lock();
        state.next_owner += 1;
        RecordLocks { table: table.clone(), owner: Owner::Process(state.next_owner) }
    }

    pub fn owner(&self) -> Owner {
        self.owner
    }
}

impl Drop for RecordLocks {
    fn drop(&mut self) {
        self.table.release(self.owner, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INODE: InodeKey = (1, 2);

    fn lock(owner: u64, start: u64, last: u64, kind: LockKind) -> Held {
        Held { owner: Owner::Process(owner), range: Range { start, last }, kind, pid: owner as i32 }
    }

    #[test]
    fn ranges_split_and_conflict() {
        let table = LockTable::default();
        let set = |held| table.set(Family::Record, INODE, held);
        assert_eq!(set(lock(1, 0, 99, LockKind::Exclusive)), Ok(()));
        let held = |lock| Err(Refusal::Held(lock));
        assert_eq!(set(lock(2, 50, 60, LockKind::Shared)), held(lock(1, 0, 99, LockKind::Exclusive)));
        assert_eq!(set(lock(1, 40, 59, LockKind::Unlock)), Ok(()));
        assert_eq!(set(lock(2, 40, 59, LockKind::Exclusive)), Ok(()));
        assert_eq!(set(lock(2, 59, 60, LockKind::Shared)), held(lock(1, 60, 99, LockKind::Exclusive)));
        assert_eq!(set(lock(1, 60, 99, LockKind::Shared)), Ok(()));
        assert_eq!(set(lock(2, 60, 99, LockKind::Shared)), Ok(()));
        let other = table.conflict(Family::Record, INODE, lock(3, 0, 5, LockKind::Shared));
        assert_eq!(other, Some(lock(1, 0, 39, LockKind::Exclusive)));
        table.release(Owner::Process(1), Some(INODE));
        assert_eq!(table.conflict(Family::Record, INODE, lock(3, 0, 5, LockKind::Shared)), None);
        assert_eq!(table.conflict(Family::Flock, INODE, lock(3, 0, 99, LockKind::Exclusive)), None);
    }

    #[test]
    fn a_circle_of_waiters_is_found() {
        let table = LockTable::default();
        let owner = Owner::Process;
        assert_eq!(table.wait_for(owner(1), owner(2)), Ok(()));
        assert_eq!(table.wait_for(owner(2), owner(3)), Ok(()));
        assert_eq!(table.wait_for(owner(3), owner(1)), Err(Errno::EDEADLK));
        table.stop_waiting(owner(1));
        assert_eq!(table.wait_for(owner(3), owner(1)), Ok(()));
    }
}
