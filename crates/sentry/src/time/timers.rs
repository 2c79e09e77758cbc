//! [`Timers`]: one heap of deadlines; executors park until the earliest and fire what is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::MonoTime;

/// What a timer does when it is due. Runs on an executor, must not block.
pub type Fire = Arc<dyn Fn() + Send + Sync>;

/// All pending timers, by deadline.
pub struct Timers {
    pending: Mutex<BTreeMap<(MonoTime, u64), Fire>>,
    /// The earliest deadline in nanoseconds (`u64::MAX`: none), to look at without the lock.
    earliest: AtomicU64,
    next_id: AtomicU64,
}

impl Timers {
    pub fn new() -> Arc<Timers> {
        Arc::new(Timers {
            pending: Mutex::new(BTreeMap::new()),
            earliest: AtomicU64::new(u64::MAX),
            next_id: AtomicU64::new(0),
        })
    }

    /// The earliest deadline, if any.
    pub fn earliest(&self) -> Option<MonoTime> {
        match self.earliest.load(Ordering::SeqCst) {
            u64::MAX => None,
            at => Some(MonoTime(at)),
        }
    }

    /// Arms a timer; dropping the result disarms it.
    pub fn arm(self: &Arc<Timers>, at: MonoTime, fire: Fire) -> Timer {
        let key = (at, self.next_id.fetch_add(1, Ordering::Relaxed));
        let mut pending = self.pending.lock();
        pending.insert(key, fire);
        self.publish(&pending);
        Timer { timers: self.clone(), key }
    }

    /// Fires all timers due at `now`. Returns how many.
    pub fn fire_due(&self, now: MonoTime) -> usize {
        if self.earliest.load(Ordering::SeqCst) > now.0 {
            return 0;
        }
        let mut fired = 0;
        loop {
            let mut pending = self.pending.lock();
            let due = pending.first_entry().filter(|first| first.key().0 <= now);
            let Some(fire) = due.map(|first| first.remove()) else { break };
            self.publish(&pending);
            drop(pending);
            fire();
            fired += 1;
        }
        fired
    }

    fn publish(&self, pending: &BTreeMap<(MonoTime, u64), Fire>) {
        let earliest = pending.first_key_value().map_or(u64::MAX, |(key, _)| key.0.0);
        self.earliest.store(earliest, Ordering::SeqCst);
    }
}

/// An armed timer. Dropping it disarms it (its action may be running just then).
pub struct Timer {
    timers: Arc<Timers>,
    key: (MonoTime, u64),
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut pending = self.timers.pending.lock();
        if pending.remove(&self.key).is_some() {
            self.timers.publish(&pending);
        }
    }
}
