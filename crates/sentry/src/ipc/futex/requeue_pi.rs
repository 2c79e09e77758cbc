//! `FUTEX_WAIT_REQUEUE_PI` and `FUTEX_CMP_REQUEUE_PI`: condition variables over futexes with priority inheritance.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::pi::{self, PiWaiter};
use super::{Missed, Scope, Waiter, key};
use crate::Errno;
use crate::task::Cx;
use crate::time::MonoTime;
use crate::wait::WaitError;

/// `FUTEX_WAIT_REQUEUE_PI`: waits on `addr` until it is moved to `target` and owns that.
///
/// # Errors
/// `EAGAIN` when the word is not `expected`, or when it was interrupted after it had been moved; `EINVAL`, `EFAULT`; time-out and
/// interruption.
pub async fn wait(cx: &Cx, addr: u64, target: u64, scope: Scope, expected: u32, deadline: MonoTime) -> Result<(), Missed> {
    if addr == target {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (key(&cx.mm, addr, scope)?, key(&cx.mm, target, scope)?);
    if from == to {
        return Err(Errno::EINVAL.into());
    }
    let table = &cx.kernel().futexes;
    let pi = PiWaiter::new(cx, target);
    let waiter = Waiter::new(cx, from, u32::MAX, Some((to, pi.clone())));
    table.queue(cx, addr, &waiter, expected)?;
    // Moved on, or owner at once: either ends this wait.
    let moved = || waiter.woken.load(Ordering::SeqCst).then_some(());
    if let Err(error) = cx.wait(&[], deadline, moved).await {
        table.remove(&waiter);
        if moved().is_none() {
            return Err(Missed::Cut(error));
        }
    }
    match pi::wait(cx, to, &pi, deadline).await {
        // It cannot be restarted: it does not wait where it did.
        Err(Missed::Cut(WaitError::Interrupted)) => Err(Errno::EAGAIN.into()),
        other => other,
    }
}

/// `FUTEX_CMP_REQUEUE_PI`: gives the second futex to the first waiter if it is free, and has the others wait for it. Returns how many.
///
/// # Errors
/// `EINVAL` unless exactly one is to be woken, for the same word twice, and for waiters of another kind; `EAGAIN`, `EFAULT`.
pub fn requeue(cx: &Cx, from: u64, to: u64, scope: Scope, wake: i32, most: usize, expected: u32) -> Result<usize, Errno> {
    if wake != 1 || from == to {
        return Err(Errno::EINVAL);
    }
    let (from_key, to_key) = (key(&cx.mm, from, scope)?, key(&cx.mm, to, scope)?);
    if from_key == to_key {
        return Err(Errno::EINVAL);
    }
    let table = &cx.kernel().futexes;
    let mut bucket = table.lock(&from_key);
    if cx.mm.load_u32(from)? != expected {
        return Err(Errno::EAGAIN);
    }
    let waiting: Vec<Arc<Waiter>> = bucket.iter().filter(|waiter| *waiter.key.lock() == from_key).cloned().collect();
    let chosen = waiting.get(..waiting.len().min(most.saturating_add(1))).unwrap_or_default();
    let mut done = 0;
    for (n, waiter) in chosen.iter().enumerate() {
        let Some((target, pi)) = &waiter.pi else { return if done == 0 { Err(Errno::EINVAL) } else { Ok(done) } };
        if *target != to_key {
            return if done == 0 { Err(Errno::EINVAL) } else { Ok(done) };
        }
        match table.pi.requeue(cx, to, to_key, pi, n + 1 == chosen.len()) {
            Ok(_) => {}
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => return Ok(done),
        }
        bucket.retain(|other| !Arc::ptr_eq(other, waiter));
        waiter.woken.store(true, Ordering::SeqCst);
        waiter.task.wake();
        done += 1;
    }
    Ok(done)
}
