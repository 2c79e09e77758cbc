//! [`IoPool`]: a few host threads for host file I/O that would sleep on a disk.
//!
//! Jobs own what they work on: a task that gives up its job's result leaves nothing behind that the job could miss.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

type Work = Box<dyn FnOnce() + Send>;

/// The queue that the threads take from. It is no longer than the number of tasks, each of which waits for one job.
#[derive(Default)]
pub struct IoPool {
    queue: Mutex<VecDeque<Work>>,
    more: Condvar,
}

impl IoPool {
    /// How many threads a sandbox has.
    pub const THREADS: usize = 2;

    pub fn new() -> Arc<IoPool> {
        Arc::new(IoPool::default())
    }

    /// The body of a thread: never returns. Boot starts [`IoPool::THREADS`] before the seccomp filter.
    pub fn work(&self) {
        loop {
            let mut queue = self.queue.lock();
            let work = loop {
                match queue.pop_front() {
                    Some(work) => break work,
                    None => self.more.wait(&mut queue),
                }
            };
            drop(queue);
            work();
        }
    }

    /// Runs `job` on one of the threads, once the result is first polled. A job that has begun ends even if nobody waits for it any more.
    pub fn run<T: Send + 'static>(self: &Arc<IoPool>, job: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        Job { pool: self.clone(), work: Some(Box::new(job)), slot: Arc::default() }
    }

    fn push(&self, work: Work) {
        self.queue.lock().push_back(work);
        self.more.notify_one();
    }
}

struct Slot<T> {
    result: Option<T>,
    waker: Option<Waker>,
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot { result: None, waker: None }
    }
}

/// The future of [`IoPool::run`].
pub struct Job<T> {
    pool: Arc<IoPool>,
    work: Option<Box<dyn FnOnce() -> T + Send>>,
    slot: Arc<Mutex<Slot<T>>>,
}

impl<T: Send + 'static> Future for Job<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        {
            let mut slot = this.slot.lock();
            if let Some(result) = slot.result.take() {
                return Poll::Ready(result);
            }
            slot.waker = Some(cx.waker().clone());
        }
        if let Some(work) = this.work.take() {
            let slot = this.slot.clone();
            this.pool.push(Box::new(move || {
                let result = work();
                let mut slot = slot.lock();
                slot.result = Some(result);
                let waker = slot.waker.take();
                drop(slot);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::reactor::block_on;

    #[test]
    fn jobs_run_elsewhere_and_dropped_ones_do_no_harm() {
        let pool = IoPool::new();
        for _ in 0..IoPool::THREADS {
            let pool = pool.clone();
            std::thread::spawn(move || pool.work());
        }
        let caller = std::thread::current().id();
        for i in 0..100 {
            let mut given_up = Box::pin(pool.run(move || i));
            assert!(i % 2 == 1 || given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(given_up);
            let (n, thread) = block_on(pool.run(move || (i, std::thread::current().id())));
            assert!(n == i && thread != caller);
        }
    }
}
