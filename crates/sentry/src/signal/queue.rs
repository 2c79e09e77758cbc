//! [`Pending`]: signals that have been sent and not yet delivered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{SigInfo, SigSet, Signal};

/// A queue of pending signals: at most one of each standard signal, any number of each realtime signal.
#[derive(Debug, Default)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    info: SigInfo,
    /// Counts against the user's limit as long as it is queued.
    _charge: Charge,
}

/// How many signals are queued for each real user (`RLIMIT_SIGPENDING`).
#[derive(Debug, Default)]
pub struct QueuedSignals(Mutex<HashMap<u32, Arc<AtomicUsize>>>);

impl QueuedSignals {
    /// The counter of a user.
    pub fn of(&self, uid: u32) -> Arc<AtomicUsize> {
        self.0.lock().entry(uid).or_default().clone()
    }
}

/// One signal counted.
#[derive(Debug)]
pub struct Charge(Arc<AtomicUsize>);

impl Charge {
    pub fn new(counter: &Arc<AtomicUsize>) -> Charge {
        counter.fetch_add(1, Ordering::Relaxed);
        Charge(counter.clone())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pending {
    /// Which signals are pending.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// How many are queued with their information.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.set == SigSet::EMPTY
    }

    /// All that hold information, in order.
    pub fn infos(&self) -> Vec<SigInfo> {
        self.queue.iter().map(|entry| entry.info).collect()
    }

    /// Adds a signal. A standard signal that is pending already is merged: false.
    pub fn push(&mut self, info: SigInfo, charge: Charge) -> bool {
        if !info.signal.is_realtime() && self.set.contains(info.signal) {
            return false;
        }
        self.set = self.set.with(info.signal);
        self.queue.push_back(Entry { info, _charge: charge });
        true
    }

    /// Marks a signal as pending without information (the queue is full).
    pub fn push_bare(&mut self, signal: Signal) {
        self.set = self.set.with(signal);
    }

    /// Takes the next signal out of those in `wanted`: synchronous ones first, then the lowest number; equal ones in order.
    pub fn take(&mut self, wanted: SigSet) -> Option<SigInfo> {
        let ready = SigSet(self.set.0 & wanted.0);
        let urgent = SigSet(ready.0 & SigSet::SYNCHRONOUS.0);
        let signal = urgent.first().or(ready.first())?;
        let at = self.queue.iter().position(|entry| entry.info.signal == signal);
        let info = match at.and_then(|at| self.queue.remove(at)) {
            Some(entry) => entry.info,
            // No information was kept: Linux shows SI_USER from nobody.
            None => SigInfo::user(signal, 0, 0),
        };
        if !self.queue.iter().any(|entry| entry.info.signal == signal) {
            self.set = self.set.minus(SigSet(signal.bit()));
        }
        Some(info)
    }

    /// Drops all pending signals of a set.
    pub fn discard(&mut self, which: SigSet) {
        if self.set.0 & which.0 != 0 {
            self.set = self.set.minus(which);
            self.queue.retain(|entry| !which.contains(entry.info.signal));
        }
    }

    /// Drops entries that `which` names (a deleted timer's).
    pub fn discard_if(&mut self, which: impl Fn(&SigInfo) -> bool) {
        let with_entries = |queue: &VecDeque<Entry>| queue.iter().fold(SigSet::EMPTY, |set, entry| set.with(entry.info.signal));
        let bare = self.set.minus(with_entries(&self.queue));
        self.queue.retain(|entry| !which(&entry.info));
        self.set = bare.union(with_entries(&self.queue));
    }

    /// The entries, to change one in place (timer overruns).
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut SigInfo> {
        self.queue.iter_mut().map(|entry| &mut entry.info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge() -> Charge {
        Charge::new(&Arc::default())
    }

    #[test]
    fn standard_signals_merge_and_realtime_ones_queue() {
        let mut pending = Pending::default();
        assert!(pending.push(SigInfo::user(Signal::USR1, 1, 0), charge()));
        assert!(!pending.push(SigInfo::user(Signal::USR1, 2, 0), charge()));
        let rt = Signal::new(40).unwrap();
        assert!(pending.push(SigInfo::user(rt, 3, 0), charge()));
        assert!(pending.push(SigInfo::user(rt, 4, 0), charge()));
        assert!(pending.push(SigInfo::fault(Signal::SEGV, 1, 0), charge()));
        let all = SigSet(!0);
        let order: Vec<_> = std::iter::from_fn(|| pending.take(all)).map(|i| (i.signal.number(), i.pid())).collect();
        assert_eq!(order, [(11, 0), (10, 1), (40, 3), (40, 4)]);
        assert!(pending.is_empty());
    }

    #[test]
    fn masked_signals_stay() {
        let mut pending = Pending::default();
        pending.push(SigInfo::user(Signal::TERM, 1, 0), charge());
        assert_eq!(pending.take(SigSet(!Signal::TERM.bit())), None);
        assert!(pending.set().contains(Signal::TERM));
    }
}
