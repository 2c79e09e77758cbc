//! [`Pending`]: signals that have been sent and not yet delivered.

use std::collections::VecDeque;

use super::{SigInfo, SigSet, Signal};

/// A queue of pending signals: at most one of each standard signal, any number of each realtime signal.
#[derive(Debug, Default)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// Which signals are pending.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// How many entries hold information (they count against `RLIMIT_SIGPENDING`).
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.set == SigSet::EMPTY
    }

    /// All that hold information, in order.
    pub fn infos(&self) -> Vec<SigInfo> {
        self.queue.iter().copied().collect()
    }

    /// Adds a signal. A standard signal that is pending already is merged: false.
    pub fn push(&mut self, info: SigInfo) -> bool {
        if !info.signal.is_realtime() && self.set.contains(info.signal) {
            return false;
        }
        self.set = self.set.with(info.signal);
        self.queue.push_back(info);
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
        let at = self.queue.iter().position(|info| info.signal == signal);
        let info = match at.and_then(|at| self.queue.remove(at)) {
            Some(info) => info,
            // No information was kept: Linux shows SI_USER from nobody.
            None => SigInfo::user(signal, 0, 0),
        };
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set = self.set.minus(SigSet(signal.bit()));
        }
        Some(info)
    }

    /// Drops all pending signals of a set.
    pub fn discard(&mut self, which: SigSet) {
        if self.set.0 & which.0 != 0 {
            self.set = self.set.minus(which);
            self.queue.retain(|info| !which.contains(info.signal));
        }
    }

    /// Drops entries that `which` names (a deleted timer's).
    pub fn discard_if(&mut self, which: impl Fn(&SigInfo) -> bool) {
        let with_entries = |queue: &VecDeque<SigInfo>| queue.iter().fold(SigSet::EMPTY, |set, info| set.with(info.signal));
        let bare = self.set.minus(with_entries(&self.queue));
        self.queue.retain(|info| !which(info));
        self.set = bare.union(with_entries(&self.queue));
    }

    /// The entries, to change one in place (timer overruns).
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut SigInfo> {
        self.queue.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_signals_merge_and_realtime_ones_queue() {
        let mut pending = Pending::default();
        assert!(pending.push(SigInfo::user(Signal::USR1, 1, 0)));
        assert!(!pending.push(SigInfo::user(Signal::USR1, 2, 0)));
        let rt = Signal::new(40).unwrap();
        assert!(pending.push(SigInfo::user(rt, 3, 0)));
        assert!(pending.push(SigInfo::user(rt, 4, 0)));
        assert!(pending.push(SigInfo::fault(Signal::SEGV, 1, 0)));
        let all = SigSet(!0);
        let order: Vec<_> = std::iter::from_fn(|| pending.take(all)).map(|i| (i.signal.number(), i.pid())).collect();
        assert_eq!(order, [(11, 0), (10, 1), (40, 3), (40, 4)]);
        assert!(pending.is_empty());
    }

    #[test]
    fn masked_signals_stay() {
        let mut pending = Pending::default();
        pending.push(SigInfo::user(Signal::TERM, 1, 0));
        assert_eq!(pending.take(SigSet(!Signal::TERM.bit())), None);
        assert!(pending.set().contains(Signal::TERM));
    }
}
