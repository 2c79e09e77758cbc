//! [`AsyncMutex`]: the one lock that may be held across an await. It guards a directory while names in it are made or removed, and an
//! inode while it is copied up.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// A mutex whose waiters are futures.
#[derive(Default)]
pub struct AsyncMutex {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: bool,
    next_id: u64,
    waiting: VecDeque<(u64, Waker)>,
}

impl AsyncMutex {
    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<AsyncGuard<'_>> {
        let mut state = self.state.lock();
        (!std::mem::replace(&mut state.held, true)).then(|| AsyncGuard(self))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Lock<'_> {
        Lock { mutex: self, id: None }
    }

    /// Wakes the first waiter. The lock is free.
    fn wake_next(&self) {
        let next = self.state.lock().waiting.pop_front();
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }
}

/// The lock, held. Dropping it gives it back.
pub struct AsyncGuard<'a>(&'a AsyncMutex);

impl Drop for AsyncGuard<'_> {
    fn drop(&mut self) {
        self.0.state.lock().held = false;
        self.0.wake_next();
    }
}

/// The future of [`AsyncMutex::lock`].
pub struct Lock<'a> {
    mutex: &'a AsyncMutex,
    /// Our place in the queue, once we wait.
    id: Option<u64>,
}

impl<'a> Future for Lock<'a> {
    type Output = AsyncGuard<'a>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<AsyncGuard<'a>> {
        let this = self.get_mut();
        let mut state = this.mutex.state.lock();
        if !state.held {
            state.held = true;
            if let Some(id) = this.id.take() {
                state.waiting.retain(|(other, _)| *other != id);
            }
            return Poll::Ready(AsyncGuard(this.mutex));
        }
        let id = *this.id.get_or_insert_with(|| {
            state.next_id += 1;
            state.next_id
        });
        match state.waiting.iter_mut().find(|(other, _)| *other == id) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => state.waiting.push_back((id, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut state = self.mutex.state.lock();
        let before = state.waiting.len();
        state.waiting.retain(|(other, _)| *other != id);
        // Not in the queue: we were woken and leave without the lock. The wake goes on to the next.
        let pass_on = state.waiting.len() == before && !state.held;
        drop(state);
        if pass_on {
            self.mutex.wake_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_waiter_is_woken_and_a_dropped_one_passes_the_wake_on() {
        let mutex = AsyncMutex::default();
        let guard = mutex.try_lock().expect("free");
        assert!(mutex.try_lock().is_none());
        let (first, second) = (Arc::new(Count(AtomicUsize::new(0))), Arc::new(Count(AtomicUsize::new(0))));
        let mut waiting = Box::pin(mutex.lock());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&first.clone().into())).is_pending());
        let mut later = pin!(mutex.lock());
        assert!(later.as_mut().poll(&mut Context::from_waker(&second.clone().into())).is_pending());
        drop(guard);
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (1, 0));
        drop(waiting);
        assert_eq!(second.0.load(Ordering::SeqCst), 1);
        assert!(later.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}
