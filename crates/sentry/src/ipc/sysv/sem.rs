//! Semaphore sets (`semget(2)`, `semop(2)`, `semctl(2)`; ipc/sem.c).
//!
//! Operations of one call happen together or not at all. One that cannot happen waits in the set's list; whoever changes the set performs what has become
//! possible, in the order of arrival, and tells the waiters.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ids::{Found, Ids, NextId};
use super::{IPC_NOWAIT, Perm, Wanted, now_sec};
use crate::Errno;
use crate::ipc::limits::IpcLimits;
use crate::task::{Cx, Tid};
use crate::wait::{PollEvents, WaitQueue};

/// Most semaphores of a set, of all sets, most sets, most operations of a call, largest value and largest adjustment.
pub const SEMMSL: i32 = 32000;
pub const SEMMNS: u64 = 1_024_000_000;
pub const SEMMNI: usize = 32000;
pub const SEMOPM: u64 = 500;
pub const SEMVMX: i32 = 32767;
pub const SEM_UNDO: u16 = 0x1000;

/// Semaphores that a namespace may really have: the sentry keeps them.
const BUDGET: u64 = 4 << 20;

/// Adjustments other than 0 that the processes of a namespace may have pending.
const UNDO_BUDGET: u64 = 1 << 20;

/// The sets of a namespace.
#[derive(Default)]
pub struct SemaphoreSets {
    ids: Mutex<Ids<Set>>,
    pub next_id: NextId,
    used: Arc<AtomicU64>,
    undos: Arc<AtomicU64>,
}

/// `struct sembuf`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Operation {
    pub number: u16,
    pub value: i16,
    pub flags: u16,
}

/// A semaphore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Semaphore {
    pub value: i32,
    /// The last process that changed it.
    pub pid: Tid,
}

/// A set.
pub struct Set {
    pub id: i32,
    pub count: usize,
    pub state: Mutex<State>,
    queue: WaitQueue,
    used: Arc<AtomicU64>,
}

/// What changes of a set.
pub struct State {
    pub perm: Perm,
    pub otime: i64,
    pub ctime: i64,
    pub semaphores: Vec<Semaphore>,
    /// Adjustments at the end of a process, by its [`UndoList`].
    undo: HashMap<u64, Adjustments>,
    /// How many there are in the namespace's sets.
    undos: Arc<AtomicU64>,
    pending: Vec<Arc<Pending>>,
    removed: bool,
}

/// Adjustments of a set's semaphores, by number; none is 0.
type Adjustments = BTreeMap<u16, i16>;

/// Operations that wait.
pub struct Pending {
    operations: SmallVec<[Operation; 4]>,
    undo: Option<u64>,
    pid: Tid,
    result: Mutex<Option<Result<(), Errno>>>,
}

/// How an attempt at operations went.
enum Attempt {
    Done,
    /// This one is in the way.
    Blocked(Operation),
    Failed(Errno),
}

/// The adjustments that the processes of one `CLONE_SYSVSEM` group have pending: made when the last of them ends.
pub struct UndoList {
    id: u64,
    pid: Tid,
    sets: Mutex<Vec<Weak<Set>>>,
}

impl UndoList {
    pub fn new(pid: Tid) -> Arc<UndoList> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(UndoList { id: NEXT.fetch_add(1, Ordering::Relaxed), pid, sets: Mutex::default() })
    }

    fn note(&self, set: &Arc<Set>) {
        let mut sets = self.sets.lock();
        sets.retain(|other| other.strong_count() > 0);
        if !sets.iter().any(|other| other.as_ptr() == Arc::as_ptr(set)) {
            sets.push(Arc::downgrade(set));
        }
    }
}

impl Drop for UndoList {
    fn drop(&mut self) {
        for set in self.sets.get_mut().drain(..).filter_map(|set| set.upgrade()) {
            set.process_ended(self.id, self.pid);
        }
    }
}

impl SemaphoreSets {
    /// `semget`.
    ///
    /// # Errors
    /// As semget(2).
    pub fn get(&self, cx: &Cx, limits: &IpcLimits, key: i32, count: i32, flags: u32) -> Result<i32, Errno> {
        if !u64::try_from(count).is_ok_and(|count| count <= limits.semmsl.get()) {
            return Err(Errno::EINVAL);
        }
        let count = count as usize;
        let creds = cx.creds();
        let mut ids = self.ids.lock();
        if let Found::Old(id, set) = ids.find_key(key, flags)? {
            if count > set.count {
                return Err(Errno::EINVAL);
            }
            set.state.lock().perm.check(&creds, Wanted(flags & 0o777))?;
            return Ok(id);
        }
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        ids.room(limits.semmni.count())?;
        let used = self.used.load(Ordering::Relaxed);
        if used + count as u64 > limits.semmns.get() {
            return Err(Errno::ENOSPC);
        }
        if used + count as u64 > BUDGET {
            return Err(Errno::ENOMEM);
        }
        let (mut perm, ctime) = (Perm::new(key, flags, &creds), now_sec(cx));
        ids.insert(key, &self.next_id, |id, seq| {
            self.used.fetch_add(count as u64, Ordering::Relaxed);
            perm.seq = seq;
            let state = State {
                perm,
                otime: 0,
                ctime,
                semaphores: vec![Semaphore::default(); count],
                undo: HashMap::new(),
                undos: self.undos.clone(),
                pending: Vec::new(),
                removed: false,
            };
            Arc::new(Set { id, count, state: Mutex::new(state), queue: WaitQueue::new(), used: self.used.clone() })
        })
    }

    /// # Errors
    /// `EINVAL`.
    pub fn find(&self, id: i32) -> Result<Arc<Set>, Errno> {
        self.ids.lock().get(id)
    }

    /// # Errors
    /// `EINVAL`.
    pub fn at(&self, index: i32) -> Result<Arc<Set>, Errno> {
        self.ids.lock().at(index).map(|(_, set)| set)
    }

    /// `IPC_RMID`.
    pub fn remove(&self, set: &Set) {
        let removed = self.ids.lock().remove(set.id);
        let mut state = set.state.lock();
        state.removed = true;
        state.forget_undo();
        for pending in std::mem::take(&mut state.pending) {
            *pending.result.lock() = Some(Err(Errno::EIDRM));
        }
        drop(state);
        set.queue.wake(PollEvents::IN);
        drop(removed);
    }

    /// How many sets there are, the largest index, and how many semaphores.
    pub fn totals(&self) -> (usize, u64, u64) {
        let ids = self.ids.lock();
        (ids.in_use(), ids.max_index(), self.used.load(Ordering::Relaxed))
    }

    /// All sets, by index.
    pub fn list(&self) -> Vec<Arc<Set>> {
        self.ids.lock().iter().map(|(_, set)| set.clone()).collect()
    }
}

impl Set {
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Tries operations; those that must wait are put on the list.
    ///
    /// # Errors
    /// `EIDRM`, `EFBIG`, `EACCES`, `ERANGE`, `EAGAIN`.
    pub fn operate(
        self: &Arc<Set>,
        cx: &Cx,
        operations: &[Operation],
        undo: Option<&UndoList>,
    ) -> Result<Option<Arc<Pending>>, Errno> {
        let alters = operations.iter().any(|operation| operation.value != 0);
        let mut state = self.state.lock();
        if operations.iter().any(|operation| usize::from(operation.number) >= self.count) {
            return Err(Errno::EFBIG);
        }
        state.perm.check(&cx.creds(), if alters { Wanted::WRITE } else { Wanted::READ })?;
        if state.removed {
            return Err(Errno::EIDRM);
        }
        if let Some(undo) = undo {
            undo.note(self);
        }
        let pid = cx.task.tgid();
        match state.attempt(operations, undo.map(|undo| undo.id), pid) {
            Attempt::Failed(errno) => Err(errno),
            Attempt::Blocked(operation) if u32::from(operation.flags) & IPC_NOWAIT != 0 => Err(Errno::EAGAIN),
            Attempt::Blocked(_) => {
                let pending = Arc::new(Pending {
                    operations: operations.into(),
                    undo: undo.map(|undo| undo.id),
                    pid,
                    result: Mutex::new(None),
                });
                state.pending.push(pending.clone());
                Ok(Some(pending))
            }
            Attempt::Done => {
                state.otime = now_sec(cx);
                let woken = alters && state.update(now_sec(cx));
                drop(state);
                if woken {
                    self.queue.wake(PollEvents::IN);
                }
                Ok(None)
            }
        }
    }

    /// What has come of waiting operations.
    pub fn result(&self, pending: &Pending) -> Option<Result<(), Errno>> {
        let _state = self.state.lock();
        *pending.result.lock()
    }

    /// The wait was cut short: the operations do not happen, unless they have.
    pub fn withdraw(&self, pending: &Arc<Pending>) -> Option<Result<(), Errno>> {
        let mut state = self.state.lock();
        state.pending.retain(|other| !Arc::ptr_eq(other, pending));
        *pending.result.lock()
    }

    /// Changes values by `semctl`: adjustments of processes for them are forgotten.
    ///
    /// # Errors
    /// What `change` says.
    pub fn set_values(&self, cx: &Cx, which: impl Fn(usize) -> Option<i32>) {
        let mut state = self.state.lock();
        let pid = cx.task.tgid();
        for (number, semaphore) in state.semaphores.iter_mut().enumerate() {
            if let Some(value) = which(number) {
                *semaphore = Semaphore { value, pid };
            }
        }
        let mut gone = 0;
        state.undo.retain(|_, adjustments| {
            let before = adjustments.len();
            adjustments.retain(|&number, _| which(usize::from(number)).is_none());
            gone += before - adjustments.len();
            !adjustments.is_empty()
        });
        state.undos.fetch_sub(gone as u64, Ordering::Relaxed);
        state.ctime = now_sec(cx);
        let woken = state.update(now_sec(cx));
        drop(state);
        if woken {
            self.queue.wake(PollEvents::IN);
        }
    }

    /// Makes a process's adjustments.
    fn process_ended(&self, undo: u64, pid: Tid) {
        let mut state = self.state.lock();
        let Some(adjustments) = state.undo.remove(&undo) else { return };
        state.undos.fetch_sub(adjustments.len() as u64, Ordering::Relaxed);
        for (number, adjustment) in adjustments {
            if let Some(semaphore) = state.semaphores.get_mut(usize::from(number)) {
                semaphore.value = (semaphore.value + i32::from(adjustment)).clamp(0, SEMVMX);
                semaphore.pid = pid;
            }
        }
        let otime = state.otime;
        let woken = state.update(otime);
        drop(state);
        if woken {
            self.queue.wake(PollEvents::IN);
        }
    }

    /// How many wait for a semaphore to grow (`GETNCNT`) and to become 0 (`GETZCNT`).
    pub fn waiters(&self, number: usize) -> (u64, u64) {
        let state = self.state.lock();
        let mut counts = (0, 0);
        for pending in &state.pending {
            if let Attempt::Blocked(operation) = state.probe(&pending.operations)
                && usize::from(operation.number) == number
            {
                if operation.value == 0 {
                    counts.1 += 1;
                } else {
                    counts.0 += 1;
                }
            }
        }
        counts
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self.used.fetch_sub(self.count as u64, Ordering::Relaxed);
        self.state.get_mut().forget_undo();
    }
}

impl State {
    fn forget_undo(&mut self) {
        let gone: usize = self.undo.values().map(BTreeMap::len).sum();
        self.undos.fetch_sub(gone as u64, Ordering::Relaxed);
        self.undo.clear();
    }

    /// Notes what operations with [`SEM_UNDO`] will have to be adjusted by: all, or nothing is changed.
    ///
    /// # Errors
    /// `ERANGE`; `ENOMEM` when the namespace has too many.
    fn note_undo(&mut self, operations: &[Operation], undo: u64) -> Result<(), Errno> {
        let old = self.undo.get(&undo);
        let mut changed: SmallVec<[(u16, i16); 4]> = SmallVec::new();
        for operation in operations.iter().filter(|operation| operation.flags & SEM_UNDO != 0) {
            let known = changed.iter().position(|(number, _)| *number == operation.number);
            let before = match known.and_then(|at| changed.get(at)) {
                Some((_, adjustment)) => *adjustment,
                None => old.and_then(|old| old.get(&operation.number)).copied().unwrap_or(0),
            };
            // SEMAEM is SEMVMX.
            let then = i16::try_from(i32::from(before) - i32::from(operation.value)).map_err(|_| Errno::ERANGE)?;
            match known.and_then(|at| changed.get_mut(at)) {
                Some(entry) => entry.1 = then,
                None => changed.push((operation.number, then)),
            }
        }
        let had = |number: &u16| old.is_some_and(|old| old.contains_key(number));
        let more = changed.iter().filter(|(number, then)| *then != 0 && !had(number)).count() as u64;
        let less = changed.iter().filter(|(number, then)| *then == 0 && had(number)).count() as u64;
        let charge = |used: u64| Some(used - less + more).filter(|&sum| sum <= UNDO_BUDGET || more == 0);
        if self.undos.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).is_err() {
            return Err(Errno::ENOMEM);
        }
        let adjustments = self.undo.entry(undo).or_default();
        for (number, then) in changed {
            match then {
                0 => adjustments.remove(&number),
                then => adjustments.insert(number, then),
            };
        }
        if adjustments.is_empty() {
            self.undo.remove(&undo);
        }
        Ok(())
    }

    /// Whether operations could happen now.
    fn probe(&self, operations: &[Operation]) -> Attempt {
        let mut values: SmallVec<[(u16, i32); 8]> = SmallVec::new();
        for &operation in operations {
            let known = values.iter().position(|(number, _)| *number == operation.number);
            let now = match known.and_then(|at| values.get(at)) {
                Some((_, value)) => *value,
                None => self.semaphores.get(usize::from(operation.number)).map_or(0, |semaphore| semaphore.value),
            };
            let then = now + i32::from(operation.value);
            if (operation.value == 0 && now != 0) || then < 0 {
                return Attempt::Blocked(operation);
            }
            if then > SEMVMX {
                return Attempt::Failed(Errno::ERANGE);
            }
            match known.and_then(|at| values.get_mut(at)) {
                Some(entry) => entry.1 = then,
                None => values.push((operation.number, then)),
            }
        }
        Attempt::Done
    }

    /// Performs operations, all or none.
    fn attempt(&mut self, operations: &[Operation], undo: Option<u64>, pid: Tid) -> Attempt {
        match self.probe(operations) {
            Attempt::Done => {}
            other => return other,
        }
        if let Some(undo) = undo
            && let Err(errno) = self.note_undo(operations, undo)
        {
            return Attempt::Failed(errno);
        }
        for operation in operations {
            if let Some(semaphore) = self.semaphores.get_mut(usize::from(operation.number)) {
                semaphore.value += i32::from(operation.value);
                semaphore.pid = pid;
            }
        }
        Attempt::Done
    }

    /// Performs what has become possible. Returns whether anything was decided.
    fn update(&mut self, now: i64) -> bool {
        let mut any = false;
        let mut at = 0;
        while let Some(pending) = self.pending.get(at).cloned() {
            let result = match self.attempt(&pending.operations, pending.undo, pending.pid) {
                Attempt::Done => {
                    self.otime = now;
                    Ok(())
                }
                Attempt::Failed(errno) => Err(errno),
                Attempt::Blocked(operation) if u32::from(operation.flags) & IPC_NOWAIT != 0 => Err(Errno::EAGAIN),
                Attempt::Blocked(_) => {
                    at += 1;
                    continue;
                }
            };
            self.pending.remove(at);
            *pending.result.lock() = Some(result);
            any = true;
            // It may have made room for one before it.
            if pending.operations.iter().any(|operation| operation.value != 0) {
                at = 0;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(semaphores: usize, undos: &Arc<AtomicU64>) -> State {
        State {
            perm: Perm::default(),
            otime: 0,
            ctime: 0,
            semaphores: vec![Semaphore::default(); semaphores],
            undo: HashMap::new(),
            undos: undos.clone(),
            pending: Vec::new(),
            removed: false,
        }
    }

    fn undoing(number: u16, value: i16) -> Operation {
        Operation { number, value, flags: SEM_UNDO }
    }

    #[test]
    fn only_adjustments_that_are_not_0_are_kept_and_counted() {
        let undos = Arc::new(AtomicU64::new(0));
        let count = || undos.load(Ordering::Relaxed);
        let mut state = state(32000, &undos);
        assert!(matches!(state.attempt(&[undoing(7, 2), undoing(9, 1), undoing(7, 1)], Some(1), 1), Attempt::Done));
        assert_eq!(count(), 2);
        assert_eq!(
            state.undo.get(&1).map(|adjustments| adjustments.clone().into_iter().collect()),
            Some(vec![(7, -3), (9, -1)])
        );
        assert!(matches!(state.attempt(&[undoing(7, -3)], Some(1), 1), Attempt::Done));
        assert_eq!(count(), 1);
        // The last goes too far: nothing is changed.
        state.semaphores[9].value = 0;
        let plain = Operation { flags: 0, ..undoing(9, -32767) };
        let far = [undoing(3, 1), undoing(9, 32767), plain, undoing(9, 1)];
        assert!(matches!(state.attempt(&far, Some(1), 1), Attempt::Failed(Errno::ERANGE)));
        assert_eq!((count(), state.semaphores[3].value), (1, 0));
        undos.store(UNDO_BUDGET, Ordering::Relaxed);
        assert!(matches!(state.attempt(&[undoing(3, 1)], Some(2), 1), Attempt::Failed(Errno::ENOMEM)));
        assert!(matches!(state.attempt(&[undoing(9, 1)], Some(1), 1), Attempt::Done));
        state.forget_undo();
        assert_eq!(count(), UNDO_BUDGET - 1);
    }
}
