//! Executors: the host threads that poll tasks.
//!
//! [`Scheduler`] holds a run queue per executor. A task lives on the executor it was spawned on; waking it puts it in that
//! queue, and costs a host call only when that executor is parked. Between tasks an executor asks the platform for
//! contexts that have trapped and fires due timers.
//!
//! Locking: each queue has its own lock, never held while a task runs.

mod host_io;
mod io_pool;
mod pace;
mod reactor;
mod yielding;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_task::Runnable;
use parking_lot::Mutex;
use platform::{ExecutorId, Platform};

use crate::time::{Clock, Timers};
pub use host_io::{CAREFUL, read_now, write_now};
pub use io_pool::{IoPool, Job};
pub use pace::Pace;
#[cfg(test)]
pub use reactor::block_on;
pub use reactor::{HostWatch, Reactor};
pub use yielding::yield_now;

/// After so many polls an executor looks at the platform and the timers, even when its queue is not empty.
const POLLS_PER_ROUND: usize = 16;

thread_local! {
    /// The executor that runs on this thread: it need not be woken by what it does itself.
    static CURRENT: Cell<Option<ExecutorId>> = const { Cell::new(None) };
}

/// The run queues and the way to sleep.
pub struct Scheduler {
    queues: Vec<Queue>,
    platform: Arc<dyn Platform>,
    clock: Clock,
    timers: Arc<Timers>,
    next: AtomicUsize,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Queue {
    ready: Mutex<VecDeque<Runnable<ExecutorId>>>,
    parked: AtomicBool,
}

impl Scheduler {
    /// A scheduler of `executors` run queues (at least 1). The caller runs each by [`Scheduler::run`] on a thread of its own.
    pub fn new(platform: Arc<dyn Platform>, clock: Clock, executors: usize) -> Arc<Scheduler> {
        Arc::new(Scheduler {
            queues: (0..executors.max(1)).map(|_| Queue::default()).collect(),
            platform,
            clock,
            timers: Timers::new(),
            next: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    /// How many executors there are.
    pub fn executors(&self) -> usize {
        self.queues.len()
    }

    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// Starts a future on the next executor in turn; `make` gets that executor's number.
    pub fn spawn<F>(self: &Arc<Scheduler>, make: impl FnOnce(ExecutorId) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let home = ExecutorId(self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len());
        let scheduler = self.clone();
        let future = make(home);
        let (runnable, task) = async_task::Builder::new()
            .metadata(home)
            .spawn(move |_| future, move |runnable: Runnable<ExecutorId>| scheduler.schedule(runnable));
        task.detach();
        runnable.schedule();
    }

    fn schedule(&self, runnable: Runnable<ExecutorId>) {
        let home = *runnable.metadata();
        let Some(queue) = self.queues.get(home.0) else { return };
        queue.ready.lock().push_back(runnable);
        if CURRENT.get() != Some(home) && queue.parked.load(Ordering::SeqCst) {
            self.platform.unpark(home);
        }
    }

    /// Runs executor `id` on the calling thread until [`Scheduler::stop`].
    pub fn run(&self, id: ExecutorId) {
        CURRENT.set(Some(id));
        while !self.stopping.load(Ordering::Relaxed) {
            if self.round(id) == 0 {
                self.park(id);
            }
        }
    }

    /// Ends all `run` loops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for id in 0..self.queues.len() {
            self.platform.unpark(ExecutorId(id));
        }
    }

    /// A thread that is no executor has armed a timer: somebody must look at it. Those who are awake do so before they park.
    pub fn nudge(&self) {
        if self.queues.iter().all(|queue| queue.parked.load(Ordering::SeqCst)) {
            self.platform.unpark(ExecutorId(0));
        }
    }

    /// Polls what is ready once around. Returns how much there was to do.
    pub fn round(&self, id: ExecutorId) -> usize {
        let Some(queue) = self.queues.get(id.0) else { return 0 };
        let mut done = self.fire_timers();
        for _ in 0..POLLS_PER_ROUND {
            let Some(runnable) = queue.ready.lock().pop_front() else { break };
            runnable.run();
            done += 1;
        }
        done + self.platform.poll(id)
    }

    fn fire_timers(&self) -> usize {
        match self.timers.earliest() {
            Some(_) => self.timers.fire_due(self.clock.monotonic()),
            None => 0,
        }
    }

    fn park(&self, id: ExecutorId) {
        let Some(queue) = self.queues.get(id.0) else { return };
        queue.parked.store(true, Ordering::SeqCst);
        if queue.ready.lock().is_empty() {
            self.platform.park(id, self.timers.earliest().map(|at| at.0));
        }
        queue.parked.store(false, Ordering::SeqCst);
    }
}
