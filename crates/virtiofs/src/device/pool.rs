//! When helpers and the watcher wake, work and end; and how many requests are under way.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long the leader may be in one request before others are taken over by a helper.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long a queue that is to stop waits for the requests taken from it.
const STOP: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// For how many times that nothing has to happen before the watcher sleeps.
const IDLE_ROUNDS: u32 = 50;

#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    help: Condvar,
    watch: Condvar,
    /// Never notified: for a pause.
    stop: Condvar,
    /// Of the leader's requests: odd while it is in one.
    pub turns: AtomicU64,
    /// Requests taken and not yet given back.
    pub taken: AtomicUsize,
    /// How often the leader began.
    begun: AtomicU64,
    watching: AtomicBool,
}

#[derive(Default)]
struct State {
    calls: usize,
    idle: usize,
    end: bool,
}

impl Pool {
    /// Wakes a helper, if one is free.
    pub fn call(&self) {
        let mut state = self.state.lock();
        if state.calls < state.idle {
            state.calls += 1;
            self.help.notify_one();
        }
    }

    /// Waits until a helper is called for; false at the end.
    pub fn await_call(&self) -> bool {
        let mut state = self.state.lock();
        state.idle += 1;
        while state.calls == 0 && !state.end {
            self.help.wait(&mut state);
        }
        if state.end {
            return false;
        }
        state.idle -= 1;
        state.calls -= 1;
        true
    }

    pub fn end(&self) {
        self.state.lock().end = true;
        self.help.notify_all();
        self.watch.notify_all();
    }

    pub fn is_at_its_end(&self) -> bool {
        self.state.lock().end
    }

    /// Waits until all requests that were taken are given back; false if that takes too long: a queue
    /// that goes on, though another stops, had better be idle.
    pub fn settle(&self) -> bool {
        let end = Instant::now() + STOP;
        while self.taken.load(Ordering::SeqCst) > 0 {
            if Instant::now() > end {
                return false;
            }
            self.stop.wait_for(&mut self.state.lock(), LOOK);
        }
        true
    }

    /// The leader begins: somebody must watch.
    pub fn begin(&self) {
        // Then the swap: a watcher about to sleep sees the one, or is seen to sleep by the other.
        self.begun.fetch_add(1, Ordering::SeqCst);
        if !self.watching.swap(true, Ordering::SeqCst) {
            let _state = self.state.lock();
            self.watch.notify_one();
        }
    }

    /// The watcher's life.
    pub fn watch(&self) {
        let (mut idle, mut last, mut begun) = (0, 0, 0);
        loop {
            {
                let mut state = self.state.lock();
                if idle >= IDLE_ROUNDS {
                    self.watching.store(false, Ordering::SeqCst);
                    if self.begun.load(Ordering::SeqCst) != begun {
                        self.watching.store(true, Ordering::SeqCst);
                    }
                    while !self.watching.load(Ordering::SeqCst) && !state.end {
                        self.watch.wait(&mut state);
                    }
                    idle = 0;
                } else {
                    self.watch.wait_for(&mut state, PATIENCE);
                }
                if state.end {
                    return;
                }
            }
            begun = self.begun.load(Ordering::SeqCst);
            let turns = self.turns.load(Ordering::Relaxed);
            match turns == last {
                true if turns % 2 == 1 => self.call(),
                true => idle += 1,
                false => idle = 0,
            }
            last = turns;
        }
    }
}
