//! [`Expected`]: events of the host that our own doing brings about.
//!
//! What is expected is noted before it is done. It stays so until all events that were there when it had been done have been read; or for
//! [`LATE_NS`], where one does not come (a file that is still mapped is not closed yet).

use std::sync::Arc;

use gofer::protocol::Name;
use smallvec::SmallVec;

use super::host_changes::HostChanges;
use crate::fs::fsnotify::FsEvent;

/// How long after it was done an event can still come.
const LATE_NS: u64 = 50_000_000;

/// Most that are expected at a time; of others too much is told.
const MOST: usize = 1024;

/// What to do with an event that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expectation {
    /// A guest's doing: it is told, and known already.
    Ours,
    /// No doing of a guest's.
    NotTold,
}

struct One {
    number: u64,
    /// The watched inode, and the name in it.
    id: u64,
    name: Option<Name>,
    events: FsEvent,
    what: Expectation,
    done_at: Option<u64>,
}

/// All that is expected.
#[derive(Default)]
pub(super) struct Expecting {
    list: Vec<One>,
    last: u64,
}

impl Expecting {
    pub fn add(&mut self, id: u64, name: Option<&Name>, events: FsEvent, what: Expectation) -> Option<u64> {
        if self.list.len() >= MOST {
            self.drop_late();
        }
        if self.list.len() >= MOST {
            return None;
        }
        self.last += 1;
        self.list.push(One { number: self.last, id, name: name.cloned(), events, what, done_at: None });
        Some(self.last)
    }

    pub fn done(&mut self, numbers: &[u64]) {
        let now = hostcall::time::monotonic_ns();
        for one in self.list.iter_mut().filter(|one| numbers.contains(&one.number)) {
            one.done_at = Some(now);
        }
    }

    /// Those that have been done.
    pub fn all_done(&self) -> Vec<u64> {
        self.list.iter().filter(|one| one.done_at.is_some()).map(|one| one.number).collect()
    }

    pub fn forget(&mut self, numbers: &[u64]) {
        if !numbers.is_empty() {
            self.list.retain(|one| !numbers.contains(&one.number));
        }
    }

    /// What an event was expected as, if it was.
    pub fn look(&mut self, id: u64, name: Option<&Name>, events: FsEvent) -> Option<Expectation> {
        if self.list.is_empty() {
            return None;
        }
        self.drop_late();
        let mut fitting =
            self.list.iter().filter(|one| one.id == id && one.name.as_ref() == name && one.events.intersects(events));
        fitting.find(|one| one.what == Expectation::NotTold || one.done_at.is_some()).map(|one| one.what)
    }

    fn drop_late(&mut self) {
        let now = hostcall::time::monotonic_ns();
        self.list.retain(|one| one.done_at.is_none_or(|at| now < at.saturating_add(LATE_NS)));
    }
}

/// How what was expected to be done went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed,
}

/// Something is expected. When this is dropped, what is [`Expectation::NotTold`] has been done, and what is [`Expectation::Ours`] has failed.
pub(super) struct Expected {
    changes: Arc<HostChanges>,
    numbers: SmallVec<[u64; 2]>,
    outcome: Outcome,
}

impl Expected {
    pub fn new(changes: Arc<HostChanges>, numbers: SmallVec<[u64; 2]>, what: Expectation) -> Expected {
        let outcome = match what {
            Expectation::NotTold => Outcome::Done,
            Expectation::Ours => Outcome::Failed,
        };
        Expected { changes, numbers, outcome }
    }

    /// It has been done.
    pub fn done(mut self) {
        self.outcome = Outcome::Done;
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.changes.expected_is_done(&self.numbers, self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_told_apart_until_it_is_forgotten() {
        let mut all = Expecting::default();
        let (a, b) = (Name::new(b"a").expect("name"), Name::new(b"b").expect("name"));
        let own = all.add(1, Some(&a), FsEvent::CREATE, Expectation::Ours).expect("room");
        // Not done yet: it could be anybody's.
        assert_eq!(all.look(1, Some(&a), FsEvent::CREATE), None);
        all.done(&[own]);
        assert_eq!(all.look(1, Some(&a), FsEvent::CREATE), Some(Expectation::Ours));
        for (id, name, event) in [(2, &a, FsEvent::CREATE), (1, &b, FsEvent::CREATE), (1, &a, FsEvent::DELETE)] {
            assert_eq!(all.look(id, Some(name), event), None);
        }
        let close = all.add(1, None, FsEvent::CLOSE_WRITE, Expectation::NotTold).expect("room");
        assert_eq!(all.look(1, None, FsEvent::CLOSE_WRITE), Some(Expectation::NotTold));
        assert_eq!(all.all_done(), [own]);
        all.forget(&[own, close]);
        assert_eq!(all.look(1, None, FsEvent::CLOSE_WRITE), None);
    }

    #[test]
    fn what_does_not_come_is_not_expected_for_ever() {
        let mut all = Expecting::default();
        let numbers: Vec<u64> =
            std::iter::from_fn(|| all.add(1, None, FsEvent::CLOSE_WRITE, Expectation::NotTold)).take(MOST + 1).collect();
        assert_eq!(numbers.len(), MOST);
        all.done(&numbers);
        for one in &mut all.list {
            one.done_at = Some(0);
        }
        assert_eq!(all.look(1, None, FsEvent::CLOSE_WRITE), None);
        assert!(all.list.is_empty());
    }
}
