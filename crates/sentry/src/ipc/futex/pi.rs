//! Futexes with priority inheritance: the kernel knows the owner of a contended one, and hands it over.
//!
//! The host schedules, so there is no priority to lend: what is kept is the protocol. The word holds the owner's thread number, `FUTEX_WAITERS` when
//! the kernel must be asked to unlock, and `FUTEX_OWNER_DIED`. Waiters are served in order. A task that ends hands over what it owns.
//!
//! Locking: one lock for all of them, after a bucket's and before the `PidTable`'s. Words are changed under it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Missed, OWNER_DIED, Scope, TID_MASK, WAITERS, key};
use crate::Errno;
use crate::mm::{FutexKey, Mm};
use crate::task::{Cx, Task, Tid};
use crate::time::MonoTime;

/// Longest chain of owners who wait for others that is followed.
const CHAIN_MAX: usize = 1024;

/// All contended ones.
#[derive(Default)]
pub struct PiTable {
    states: Mutex<HashMap<FutexKey, State>>,
    /// Whether there are any: looked at without the lock.
    any: AtomicBool,
}

type States = HashMap<FutexKey, State>;

struct State {
    owner: Arc<Task>,
    waiters: VecDeque<Arc<PiWaiter>>,
}

/// Somebody who waits for one.
pub(super) struct PiWaiter {
    pub task: Arc<Task>,
    mm: Arc<Mm>,
    addr: u64,
    /// It is its owner now.
    pub granted: AtomicBool,
}

impl PiWaiter {
    pub fn new(cx: &Cx, addr: u64) -> Arc<PiWaiter> {
        Arc::new(PiWaiter { task: cx.task.clone(), mm: cx.mm.clone(), addr, granted: AtomicBool::new(false) })
    }

    fn grant(&self) {
        self.granted.store(true, Ordering::SeqCst);
        self.task.wake();
    }
}

/// A task's number as it is in futex words.
fn number(task: &Task) -> u32 {
    task.group.pid_ns.local(task.tid()) as u32
}

/// Replaces a word that has not changed. Its value otherwise.
fn exchange(mm: &Mm, addr: u64, old: u32, new: u32) -> Result<Result<(), u32>, Errno> {
    let seen = mm.compare_exchange_u32(addr, old, new)?;
    Ok(if seen == old { Ok(()) } else { Err(seen) })
}

/// What an attempt to lock came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Taken,
    /// Somebody else has it: its state is in the table.
    Owned,
}

/// `futex_lock_pi_atomic`, for `waiter` (the caller, or one that is being requeued). `mm` and `addr` are the caller's way to the word.
fn attempt(
    states: &mut States,
    cx: &Cx,
    addr: u64,
    key: FutexKey,
    waiter: &Arc<PiWaiter>,
    more: More,
) -> Result<Attempt, Errno> {
    let own = number(&waiter.task);
    let mut value = cx.mm.load_u32(addr)?;
    loop {
        if value & TID_MASK == own {
            return Err(Errno::EDEADLK);
        }
        if states.contains_key(&key) {
            return Ok(Attempt::Owned);
        }
        if value & TID_MASK == 0 {
            let waiters = if more == More::Waiters { WAITERS } else { value & WAITERS };
            match exchange(&cx.mm, addr, value, value & OWNER_DIED | own | waiters)? {
                Ok(()) => return Ok(Attempt::Taken),
                Err(seen) => value = seen,
            }
            continue;
        }
        let owner = cx.task.group.pid_ns.global((value & TID_MASK) as Tid).and_then(|tid| cx.task.container.pids.task(tid));
        match exchange(&cx.mm, addr, value, value | WAITERS)? {
            Err(seen) => {
                value = seen;
                continue;
            }
            Ok(()) => {
                let owner = owner.filter(|owner| !owner.is_gone()).ok_or(Errno::ESRCH)?;
                states.insert(key, State { owner, waiters: VecDeque::new() });
                return Ok(Attempt::Owned);
            }
        }
    }
}

/// Whether others will wait for the futex too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Nobody,
    Waiters,
}

/// Whether the owner of `key` waits, by way of others, for what `task` owns.
fn deadlock(states: &States, key: FutexKey, task: &Arc<Task>) -> bool {
    let mut at = key;
    for _ in 0..CHAIN_MAX {
        let Some(State { owner, .. }) = states.get(&at) else { return false };
        if Arc::ptr_eq(owner, task) {
            return true;
        }
        let owner_waits = |state: &State| state.waiters.iter().any(|waiter| Arc::ptr_eq(&waiter.task, owner));
        match states.iter().find(|(_, state)| owner_waits(state)) {
            Some((next, _)) => at = *next,
            None => return false,
        }
    }
    true
}

impl PiTable {
    /// Whether somebody waits for this one (which plain wake-ups must not touch).
    pub(super) fn waits_for(&self, key: &FutexKey) -> bool {
        self.any.load(Ordering::SeqCst) && self.states.lock().contains_key(key)
    }

    /// Joins those who wait; or has it at once.
    fn enter(&self, cx: &Cx, addr: u64, key: FutexKey, waiter: &Arc<PiWaiter>, how: Trying) -> Result<Attempt, Errno> {
        let mut states = self.states.lock();
        let result = attempt(&mut states, cx, addr, key, waiter, More::Nobody);
        if result == Ok(Attempt::Owned) && how == Trying::Waits {
            if deadlock(&states, key, &waiter.task) {
                drop_empty(&mut states, key);
                return Err(Errno::EDEADLK);
            }
            if let Some(state) = states.get_mut(&key) {
                state.waiters.push_back(waiter.clone());
            }
        }
        drop_empty(&mut states, key);
        self.any.store(!states.is_empty(), Ordering::SeqCst);
        result
    }

    /// Takes a waiter out. False when it has just been given the futex.
    pub(super) fn leave(&self, key: FutexKey, waiter: &Arc<PiWaiter>) -> bool {
        let mut states = self.states.lock();
        if waiter.granted.load(Ordering::SeqCst) {
            return false;
        }
        if let Some(state) = states.get_mut(&key) {
            state.waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        }
        drop_empty(&mut states, key);
        true
    }

    /// `FUTEX_UNLOCK_PI`.
    fn unlock(&self, cx: &Cx, addr: u64, key: FutexKey) -> Result<(), Errno> {
        let mut states = self.states.lock();
        let mut value = cx.mm.load_u32(addr)?;
        loop {
            if value & TID_MASK != number(&cx.task) {
                return Err(Errno::EPERM);
            }
            let next = states.get(&key).and_then(|state| state.waiters.front().cloned());
            let new = next.as_ref().map_or(0, |next| WAITERS | number(&next.task));
            match exchange(&cx.mm, addr, value, new)? {
                Err(seen) => value = seen,
                Ok(()) => {
                    hand_over(&mut states, key);
                    return Ok(());
                }
            }
        }
    }

    /// A task is ending: what it owns goes to the next, marked.
    pub(super) fn owner_ends(&self, task: &Arc<Task>) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let mut states = self.states.lock();
        let owned: Vec<FutexKey> =
            states.iter().filter(|(_, state)| Arc::ptr_eq(&state.owner, task)).map(|(key, _)| *key).collect();
        for key in owned {
            let Some(next) = states.get(&key).and_then(|state| state.waiters.front().cloned()) else { continue };
            // A word that cannot be written is its waiter's own fault.
            let Ok(mut value) = next.mm.load_u32(next.addr) else { continue };
            while let Ok(Err(seen)) = exchange(&next.mm, next.addr, value, WAITERS | OWNER_DIED | number(&next.task)) {
                value = seen;
            }
            hand_over(&mut states, key);
        }
        self.any.store(!states.is_empty(), Ordering::SeqCst);
    }

    /// `FUTEX_CMP_REQUEUE_PI`'s second half for one waiter: it has the futex now (true), or waits for it.
    pub(super) fn requeue(&self, cx: &Cx, addr: u64, key: FutexKey, waiter: &Arc<PiWaiter>, last: bool) -> Result<bool, Errno> {
        let mut states = self.states.lock();
        let more = if last { More::Nobody } else { More::Waiters };
        let result = match attempt(&mut states, cx, addr, key, waiter, more)? {
            Attempt::Taken => {
                waiter.grant();
                true
            }
            Attempt::Owned => {
                if deadlock(&states, key, &waiter.task) {
                    drop_empty(&mut states, key);
                    return Err(Errno::EDEADLK);
                }
                if let Some(state) = states.get_mut(&key) {
                    state.waiters.push_back(waiter.clone());
                }
                false
            }
        };
        self.any.store(!states.is_empty(), Ordering::SeqCst);
        Ok(result)
    }
}

/// The first waiter is the owner now; the word says so already.
fn hand_over(states: &mut States, key: FutexKey) {
    if let Some(state) = states.get_mut(&key)
        && let Some(next) = state.waiters.pop_front()
    {
        state.owner = next.task.clone();
        next.grant();
    }
    drop_empty(states, key);
}

/// Nobody waits any more: the word alone says who owns it.
fn drop_empty(states: &mut States, key: FutexKey) {
    if states.get(&key).is_some_and(|state| state.waiters.is_empty()) {
        states.remove(&key);
    }
}

/// Whether a lock that is taken is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trying {
    Waits,
    /// `FUTEX_TRYLOCK_PI`.
    Once,
}

/// `FUTEX_LOCK_PI`, `FUTEX_LOCK_PI2`, `FUTEX_TRYLOCK_PI`.
///
/// # Errors
/// `EDEADLK`, `ESRCH` (the owner is gone), `EAGAIN` (trying once), `EFAULT`; time-out and interruption.
pub async fn lock(cx: &Cx, addr: u64, scope: Scope, deadline: MonoTime, how: Trying) -> Result<(), Missed> {
    let key = key(&cx.mm, addr, scope)?;
    let table = &cx.kernel().futexes.pi;
    let waiter = PiWaiter::new(cx, addr);
    match table.enter(cx, addr, key, &waiter, how)? {
        Attempt::Taken => return Ok(()),
        Attempt::Owned if how == Trying::Once => return Err(Errno::EAGAIN.into()),
        Attempt::Owned => {}
    }
    wait(cx, key, &waiter, deadline).await
}

/// Waits to be given the futex.
pub(super) async fn wait(cx: &Cx, key: FutexKey, waiter: &Arc<PiWaiter>, deadline: MonoTime) -> Result<(), Missed> {
    let granted = || waiter.granted.load(Ordering::SeqCst).then_some(());
    match cx.wait(&[], deadline, granted).await {
        Ok(()) => Ok(()),
        Err(error) if cx.kernel().futexes.pi.leave(key, waiter) => Err(Missed::Cut(error)),
        Err(_) => Ok(()),
    }
}

/// `FUTEX_UNLOCK_PI`.
///
/// # Errors
/// `EPERM` when the caller does not own it; `EFAULT`, `EINVAL`.
pub fn unlock(cx: &Cx, addr: u64, scope: Scope) -> Result<(), Errno> {
    let key = key(&cx.mm, addr, scope)?;
    cx.kernel().futexes.pi.unlock(cx, addr, key)
}
