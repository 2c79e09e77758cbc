//! The collector of sockets that only messages refer to: a socket sent over itself, or two over each other, would live for ever.
//!
//! As in Linux's `unix_gc`, by mark and sweep: *candidates* are in-flight sockets all of whose references are in messages; those that can be
//! received from a socket which is no candidate are alive, and so on; the inboxes of the rest are emptied.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::UnixSocket;
use crate::fs::{File, FileId};

/// Files in flight, of one sandbox.
#[derive(Default)]
pub struct Gc {
    state: Mutex<State>,
    /// Held by a collection; others need not start.
    running: Mutex<()>,
    leaving: Mutex<Leaving>,
}

/// Files of messages that nobody will receive, to be dropped.
#[derive(Default)]
struct Leaving {
    files: Vec<Arc<File>>,
    /// Somebody drops them.
    busy: bool,
    /// A collection is wanted afterwards.
    collect: bool,
}

#[derive(Default)]
struct State {
    /// Sockets in flight, and in how many messages.
    sockets: HashMap<FileId, (Weak<File>, usize)>,
    /// Files of any kind in flight.
    files: usize,
    /// Sockets closed since the last collection.
    closed: usize,
}

/// A collection looks at all sockets in flight; so many may be in flight for each that was closed since the last one.
const SHARE: usize = 64;

impl Gc {
    /// Files were put into a message.
    pub(super) fn sent(&self, files: &[Arc<File>]) {
        let mut state = self.state.lock();
        state.files += files.len();
        for file in files.iter().filter(|file| UnixSocket::of(file).is_some()) {
            state.sockets.entry(file.id()).or_insert_with(|| (Arc::downgrade(file), 0)).1 += 1;
        }
    }

    /// Files were taken out of a message (or the message dropped).
    pub(super) fn arrived(&self, files: &[Arc<File>]) {
        let mut state = self.state.lock();
        state.files = state.files.saturating_sub(files.len());
        for file in files {
            if let Some((_, count)) = state.sockets.get_mut(&file.id()) {
                *count -= 1;
                if *count == 0 {
                    state.sockets.remove(&file.id());
                }
            }
        }
    }

    /// Drops files of a message. A socket among them may hold messages with sockets in turn: those go one after the other, not one inside the
    /// other, since a guest decides how deep that is.
    pub(super) fn let_go(&self, files: Vec<Arc<File>>) {
        if files.is_empty() {
            return;
        }
        let mut leaving = self.leaving.lock();
        leaving.files.extend(files);
        if leaving.busy {
            return;
        }
        leaving.busy = true;
        while let Some(file) = leaving.files.pop() {
            drop(leaving);
            drop(file);
            leaving = self.leaving.lock();
        }
        leaving.busy = false;
        let collect = std::mem::take(&mut leaving.collect);
        drop(leaving);
        if collect {
            self.collect();
        }
    }

    /// How many files are in flight.
    pub fn in_flight(&self) -> usize {
        self.state.lock().files
    }

    /// Frees what nobody can receive any more. Called when a socket is closed.
    pub fn collect(&self) {
        {
            let mut state = self.state.lock();
            state.closed = state.closed.saturating_add(1);
            if state.sockets.is_empty() || state.sockets.len() / SHARE > state.closed {
                return;
            }
            state.closed = 0;
        }
        {
            let mut leaving = self.leaving.lock();
            if leaving.busy {
                leaving.collect = true;
                return;
            }
        }
        // Dropping garbage closes sockets, which calls here again: once is enough, as all garbage of this round goes together.
        let Some(running) = self.running.try_lock() else { return };
        let sockets: Vec<(Arc<File>, usize)> = {
            let state = self.state.lock();
            state.sockets.values().filter_map(|(file, count)| Some((file.upgrade()?, *count))).collect()
        };
        let garbage = self.unreachable(&sockets);
        let confirmed = self.still_unreachable(&garbage);
        let messages: Vec<_> = if confirmed {
            garbage.iter().filter_map(|(file, _)| UnixSocket::of(file)).map(UnixSocket::empty).collect()
        } else {
            Vec::new()
        };
        drop(garbage);
        drop(messages);
        drop(sockets);
        drop(running);
    }

    /// The sockets that only unreachable messages refer to.
    fn unreachable(&self, sockets: &[(Arc<File>, usize)]) -> Vec<(Arc<File>, usize)> {
        // The list itself holds one reference.
        let is_candidate = |file: &Arc<File>, count: usize| Arc::strong_count(file) - 1 == count;
        let mut candidates: HashMap<FileId, &(Arc<File>, usize)> =
            sockets.iter().filter(|(file, count)| is_candidate(file, *count)).map(|entry| (entry.0.id(), entry)).collect();
        // Who refers to a candidate from outside? Whatever no candidate's inbox accounts for.
        let mut inside: HashMap<FileId, usize> = HashMap::new();
        let mut held: HashMap<FileId, Vec<FileId>> = HashMap::new();
        for (id, (file, _)) in &candidates {
            let files = UnixSocket::of(file).map(UnixSocket::files_waiting).unwrap_or_default();
            for other in &files {
                *inside.entry(*other).or_default() += 1;
            }
            held.insert(*id, files);
        }
        let mut live: Vec<FileId> = candidates
            .iter()
            .filter(|(id, (_, count))| inside.get(*id).copied().unwrap_or(0) < *count)
            .map(|(id, _)| *id)
            .collect();
        let mut seen: HashSet<FileId> = live.iter().copied().collect();
        while let Some(id) = live.pop() {
            candidates.remove(&id);
            for other in held.get(&id).into_iter().flatten() {
                if seen.insert(*other) {
                    live.push(*other);
                }
            }
        }
        candidates.into_values().cloned().collect()
    }

    /// Whether nothing was received or duplicated since the look: what is garbage now stays garbage.
    fn still_unreachable(&self, garbage: &[(Arc<File>, usize)]) -> bool {
        let state = self.state.lock();
        garbage.iter().all(|(file, count)| {
            let same = state.sockets.get(&file.id()).is_some_and(|(_, now)| now == count);
            // Held by the snapshot and by the list of garbage.
            same && Arc::strong_count(file) - 2 == *count
        })
    }
}
