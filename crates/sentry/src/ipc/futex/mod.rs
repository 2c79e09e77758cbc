//! Futexes: waiting on a word of memory (kernel/futex).
//!
//! A table of buckets by key. A waiter checks the word and queues itself under its bucket's lock, and a waker takes the same lock, so no wake-up
//! falls between. Requeueing moves waiters between buckets and changes their key.
//!
//! Here: plain waiting, waking, requeueing. `pi` has priority inheritance, `requeue_pi` condition variables over it, `robust` what a thread leaves
//! locked at its end.
//!
//! Locking: a bucket's lock (two in order of index), then `pi`'s, then the address space's. Wakers run under it: they only put a task
//! in a run queue.

pub mod pi;
pub mod requeue_pi;
mod robust;

pub use robust::{end_robust_list, walk_robust_list};

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::Errno;
use crate::kernel::Kernel;
use crate::mm::{FutexKey, Mm};
use crate::task::{Cx, Task};
use crate::time::MonoTime;
use crate::wait::WaitError;

const BUCKETS: usize = 64;

/// `FUTEX_WAITERS`, `FUTEX_OWNER_DIED`, `FUTEX_TID_MASK`.
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

/// All futex waiters of the sandbox.
pub struct FutexTable {
    buckets: [Mutex<Vec<Arc<Waiter>>>; BUCKETS],
    pi: pi::PiTable,
}

impl Default for FutexTable {
    fn default() -> FutexTable {
        FutexTable { buckets: std::array::from_fn(|_| Mutex::default()), pi: pi::PiTable::default() }
    }
}

struct Waiter {
    /// Changed by requeueing, under the locks of both buckets.
    key: Mutex<FutexKey>,
    bitset: u32,
    woken: AtomicBool,
    task: Arc<Task>,
    /// For `FUTEX_WAIT_REQUEUE_PI`: where it may be moved to.
    pi: Option<(FutexKey, Arc<pi::PiWaiter>)>,
}

impl Waiter {
    fn new(cx: &Cx, key: FutexKey, bitset: u32, pi: Option<(FutexKey, Arc<pi::PiWaiter>)>) -> Arc<Waiter> {
        Arc::new(Waiter { key: Mutex::new(key), bitset, woken: AtomicBool::new(false), task: cx.task.clone(), pi })
    }

    fn woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }
}

type Bucket<'a> = MutexGuard<'a, Vec<Arc<Waiter>>>;

/// Two buckets, which may be the same.
struct Pair<'a> {
    first: Bucket<'a>,
    second: Option<Bucket<'a>>,
}

impl<'a> Pair<'a> {
    fn second(&mut self) -> &mut Bucket<'a> {
        self.second.as_mut().unwrap_or(&mut self.first)
    }
}

fn index(key: &FutexKey) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(key);
    hash as usize % BUCKETS
}

impl FutexTable {
    fn lock(&self, key: &FutexKey) -> Bucket<'_> {
        self.at(index(key))
    }

    fn at(&self, index: usize) -> Bucket<'_> {
        #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the number of buckets")]
        self.buckets[index % BUCKETS].lock()
    }

    fn lock_both(&self, first: &FutexKey, second: &FutexKey) -> Pair<'_> {
        let (a, b) = (index(first), index(second));
        match a.cmp(&b) {
            std::cmp::Ordering::Equal => Pair { first: self.at(a), second: None },
            std::cmp::Ordering::Less => {
                let first = self.at(a);
                Pair { first, second: Some(self.at(b)) }
            }
            std::cmp::Ordering::Greater => {
                let second = self.at(b);
                Pair { first: self.at(a), second: Some(second) }
            }
        }
    }

    /// Queues a waiter, if the word is still `expected`.
    ///
    /// # Errors
    /// `EAGAIN` when it is not; `EFAULT`.
    fn queue(&self, cx: &Cx, addr: u64, waiter: &Arc<Waiter>, expected: u32) -> Result<(), Errno> {
        let key = *waiter.key.lock();
        let mut bucket = self.lock(&key);
        if cx.mm.load_u32(addr)? != expected {
            return Err(Errno::EAGAIN);
        }
        bucket.push(waiter.clone());
        Ok(())
    }

    /// Takes a waiter out, wherever requeueing has put it.
    fn remove(&self, waiter: &Arc<Waiter>) {
        loop {
            let key = *waiter.key.lock();
            let mut bucket = self.lock(&key);
            if *waiter.key.lock() == key {
                bucket.retain(|other| !Arc::ptr_eq(other, waiter));
                return;
            }
        }
    }

    /// Wakes at most `most` waiters of a key whose bit sets meet `bitset`. Returns how many.
    pub fn wake(&self, key: &FutexKey, most: usize, bitset: u32) -> usize {
        wake_in(&mut self.lock(key), key, most, bitset)
    }
}

fn wake_in(bucket: &mut Bucket<'_>, key: &FutexKey, most: usize, bitset: u32) -> usize {
    let mut woken = 0;
    bucket.retain(|waiter| {
        if woken >= most || waiter.bitset & bitset == 0 || *waiter.key.lock() != *key {
            return true;
        }
        woken += 1;
        waiter.woken.store(true, Ordering::SeqCst);
        waiter.task.wake();
        false
    });
    woken
}

/// Whether futex words are shared between processes (no `FUTEX_PRIVATE_FLAG`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Private,
    Shared,
}

fn key(mm: &Mm, addr: u64, scope: Scope) -> Result<FutexKey, Errno> {
    mm.futex_key(addr, scope == Scope::Shared)
}

/// How a futex wait ended without being woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    Failed(Errno),
    Cut(WaitError),
}

impl From<Errno> for Missed {
    fn from(errno: Errno) -> Missed {
        Missed::Failed(errno)
    }
}

/// `FUTEX_WAIT` and `FUTEX_WAIT_BITSET`.
///
/// # Errors
/// `EAGAIN` when the word is not `expected`; `EFAULT`; time-out and interruption.
pub async fn wait(cx: &Cx, addr: u64, scope: Scope, expected: u32, bitset: u32, deadline: MonoTime) -> Result<(), Missed> {
    let key = key(&cx.mm, addr, scope)?;
    let table = &cx.kernel().futexes;
    let waiter = Waiter::new(cx, key, bitset, None);
    table.queue(cx, addr, &waiter, expected)?;
    let woken = || waiter.woken().then_some(());
    let waited = cx.wait(&[], deadline, woken).await;
    if waited.is_err() {
        table.remove(&waiter);
        // Woken in the last moment: the wake-up counts.
        if woken().is_some() {
            return Ok(());
        }
    }
    waited.map_err(Missed::Cut)
}

/// One of the words that `futex_waitv` waits for.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    pub addr: u64,
    pub scope: Scope,
    pub expected: u32,
}

/// `futex_waitv`: waits for any of several words. Returns the place of one that was woken.
///
/// # Errors
/// `EAGAIN` when a word is not what is expected; `EFAULT`, `EINVAL`; time-out and interruption.
pub async fn wait_any(cx: &Cx, words: &[Word], deadline: MonoTime) -> Result<usize, Missed> {
    let table = &cx.kernel().futexes;
    let mut waiters: Vec<Arc<Waiter>> = Vec::with_capacity(words.len());
    for word in words {
        let waiter = match key(&cx.mm, word.addr, word.scope) {
            Ok(key) => Waiter::new(cx, key, u32::MAX, None),
            Err(errno) => return leave_all(table, &waiters).ok_or(Missed::Failed(errno)),
        };
        if let Err(errno) = table.queue(cx, word.addr, &waiter, word.expected) {
            return leave_all(table, &waiters).ok_or(Missed::Failed(errno));
        }
        waiters.push(waiter);
    }
    let woken = || waiters.iter().any(|waiter| waiter.woken()).then_some(());
    let waited = cx.wait(&[], deadline, woken).await;
    match (leave_all(table, &waiters), waited) {
        (Some(at), _) => Ok(at),
        (None, Err(error)) => Err(Missed::Cut(error)),
        (None, Ok(())) => Err(Missed::Failed(Errno::EAGAIN)),
    }
}

/// Takes all out. The last that had been woken, as Linux reports it.
fn leave_all(table: &FutexTable, waiters: &[Arc<Waiter>]) -> Option<usize> {
    waiters.iter().for_each(|waiter| table.remove(waiter));
    waiters.iter().rposition(|waiter| waiter.woken())
}

/// `FUTEX_WAKE` and `FUTEX_WAKE_BITSET`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn wake(cx: &Cx, addr: u64, scope: Scope, most: usize, bitset: u32) -> Result<usize, Errno> {
    let key = key(&cx.mm, addr, scope)?;
    if cx.kernel().futexes.pi.waits_for(&key) {
        return Err(Errno::EINVAL);
    }
    Ok(cx.kernel().futexes.wake(&key, most, bitset))
}

/// Wakes waiters of a word, as the kernel itself does.
pub fn wake_address(kernel: &Kernel, mm: &Mm, addr: u64, most: usize) {
    if let Ok(key) = key(mm, addr, Scope::Shared) {
        kernel.futexes.wake(&key, most, u32::MAX);
    }
}

/// `FUTEX_REQUEUE` and `FUTEX_CMP_REQUEUE` (with `expected`): wakes some and moves others to another word. Returns the number of both
/// (for plain requeue too, as Linux does).
///
/// # Errors
/// `EAGAIN` when the word is not `expected`; `EINVAL`, `EFAULT`.
pub fn requeue(
    cx: &Cx,
    (from, scope): (u64, Scope),
    (to, to_scope): (u64, Scope),
    wake: usize,
    most: usize,
    expected: Option<u32>,
) -> Result<usize, Errno> {
    let (from_key, to_key) = (key(&cx.mm, from, scope)?, key(&cx.mm, to, to_scope)?);
    let mut pair = cx.kernel().futexes.lock_both(&from_key, &to_key);
    if let Some(expected) = expected
        && cx.mm.load_u32(from)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    // Waiters for a handed-over futex are moved by CMP_REQUEUE_PI only.
    if pair.first.iter().any(|waiter| waiter.pi.is_some() && *waiter.key.lock() == from_key) {
        return Err(Errno::EINVAL);
    }
    let woken = wake_in(&mut pair.first, &from_key, wake, u32::MAX);
    if from_key == to_key {
        let there = pair.first.iter().filter(|waiter| *waiter.key.lock() == from_key).count();
        return Ok(woken + there.min(most));
    }
    let mut moved = Vec::new();
    pair.first.retain(|waiter| {
        let mut key = waiter.key.lock();
        if moved.len() >= most || *key != from_key {
            return true;
        }
        *key = to_key;
        moved.push(waiter.clone());
        false
    });
    let count = woken + moved.len();
    pair.second().extend(moved);
    Ok(count)
}

/// The operation of `FUTEX_WAKE_OP`, from its encoded argument.
fn operate(encoded: u32, old: u32) -> Result<u32, Errno> {
    let shift = encoded & 0x8000_0000 != 0;
    let argument = (((encoded << 8) as i32) >> 20) as u32;
    let argument = if shift { 1u32 << (argument & 31) } else { argument };
    Ok(match encoded >> 28 & 7 {
        0 => argument,
        1 => old.wrapping_add(argument),
        2 => old | argument,
        3 => old & !argument,
        4 => old ^ argument,
        _ => return Err(Errno::ENOSYS),
    })
}

/// The comparison of `FUTEX_WAKE_OP`.
fn compare(encoded: u32, old: u32) -> Result<bool, Errno> {
    let argument = ((encoded << 20) as i32) >> 20;
    let old = old as i32;
    Ok(match encoded >> 24 & 15 {
        0 => old == argument,
        1 => old != argument,
        2 => old < argument,
        3 => old <= argument,
        4 => old > argument,
        5 => old >= argument,
        _ => return Err(Errno::ENOSYS),
    })
}

/// `FUTEX_WAKE_OP`: changes the second word atomically, wakes waiters of the first, and, by the second's old value, of the second.
///
/// # Errors
/// `ENOSYS` for an unknown operation; `EINVAL`, `EFAULT`.
pub fn wake_op(
    cx: &Cx,
    first: u64,
    second: u64,
    scope: Scope,
    wake: usize,
    wake2: usize,
    encoded: u32,
) -> Result<usize, Errno> {
    let (key, key2) = (key(&cx.mm, first, scope)?, key(&cx.mm, second, scope)?);
    let mut pair = cx.kernel().futexes.lock_both(&key, &key2);
    let mut old = cx.mm.load_u32(second)?;
    loop {
        let seen = cx.mm.compare_exchange_u32(second, old, operate(encoded, old)?)?;
        if seen == old {
            break;
        }
        old = seen;
    }
    let mut woken = wake_in(&mut pair.first, &key, wake, u32::MAX);
    if compare(encoded, old)? {
        woken += wake_in(pair.second(), &key2, wake2, u32::MAX);
    }
    Ok(woken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_op_encoding() {
        // FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_GT, -1)
        let encoded = 1 << 28 | 4 << 24 | 3 << 12 | 0xfff;
        assert_eq!(operate(encoded, 4), Ok(7));
        assert_eq!(compare(encoded, 0), Ok(true));
        assert_eq!(compare(encoded, u32::MAX - 1), Ok(false));
        // FUTEX_OP_SET of 1 << 5
        assert_eq!(operate(0x8000_0000 | 5 << 12, 0), Ok(32));
    }
}
