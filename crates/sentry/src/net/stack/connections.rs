//! [`Connections`]: who has which pair of TCP addresses, sockets and what is no socket yet or no more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use netstack::ip::Way;
use netstack::tcp::{HalfOpen, Segment, TimeWait};

use super::Pair;
use crate::net::tcp::Tcp;
use crate::time::MonoTime;

/// Connections under way to a listener, of all listeners (`tcp_max_syn_backlog`). When there are as many, those that come get a cookie.
const HALF_OPEN: usize = 4096;
/// Connections in TIME_WAIT (`tcp_max_tw_buckets`), and how long.
const TIME_WAITS: usize = 16_384;
const TIME_WAIT_NS: u64 = 60_000_000_000;

/// One entry for each pair. Those that make way for others stand in a queue too, by a serial number: each once, for as long as it is here.
#[derive(Default)]
pub(super) struct Connections {
    entries: HashMap<Pair, Entry>,
    half_open: BTreeMap<u64, Pair>,
    time_waits: BTreeMap<u64, (MonoTime, Pair)>,
    next_serial: u64,
}

/// Who has a pair of addresses. The numbers are its places in the queues.
pub(super) enum Entry {
    Live(Arc<Tcp>),
    HalfOpen(u64, Box<Half>),
    TimeWait(u64, TimeWait),
}

pub(super) struct Half {
    pub half: HalfOpen,
    pub listener: Weak<Tcp>,
    pub way: Way,
}

impl Connections {
    pub fn get(&self, pair: &Pair) -> Option<&Entry> {
        self.entries.get(pair)
    }

    pub fn has_half_open(&self) -> bool {
        !self.half_open.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.half_open.len() >= HALF_OPEN
    }

    /// Half-open connections whose answer is to be sent again; those that have waited too long are forgotten.
    pub fn late_half_open(&mut self, now: u64) -> Vec<(Pair, Segment, Way)> {
        let (mut again, mut gone) = (Vec::new(), Vec::new());
        for pair in self.half_open.values() {
            let Some(Entry::HalfOpen(_, half)) = self.entries.get_mut(pair) else { continue };
            if half.half.again_at > now {
                continue;
            }
            match half.half.is_late(now) {
                true => again.push((*pair, half.half.reply(now), half.way)),
                false => gone.push(*pair),
            }
        }
        for pair in gone {
            self.remove(&pair);
        }
        again
    }

    /// What had the pair comes back: it may be a socket's last reference, to be dropped after the lock is released.
    pub fn add_live(&mut self, pair: Pair, socket: Arc<Tcp>) -> Option<Entry> {
        let old = self.remove(&pair);
        self.entries.insert(pair, Entry::Live(socket));
        old
    }

    /// Likewise.
    pub fn add_half_open(&mut self, pair: Pair, half: Half) -> Option<Entry> {
        let old = self.remove(&pair);
        while self.half_open.len() >= HALF_OPEN {
            let Some((_, oldest)) = self.half_open.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        let serial = self.serial();
        self.half_open.insert(serial, pair);
        self.entries.insert(pair, Entry::HalfOpen(serial, Box::new(half)));
        old
    }

    /// Likewise.
    pub fn add_time_wait(&mut self, pair: Pair, rest: TimeWait, now: MonoTime) -> Option<Entry> {
        let old = self.remove(&pair);
        let mut room = TIME_WAITS.saturating_sub(self.time_waits.len());
        while let Some(first) = self.time_waits.first_entry() {
            let (since, oldest) = *first.get();
            if now.since(since) < TIME_WAIT_NS && room > 0 {
                break;
            }
            first.remove();
            self.entries.remove(&oldest);
            room += 1;
        }
        let serial = self.serial();
        self.time_waits.insert(serial, (now, pair));
        self.entries.insert(pair, Entry::TimeWait(serial, rest));
        old
    }

    pub fn remove(&mut self, pair: &Pair) -> Option<Entry> {
        let entry = self.entries.remove(pair);
        match &entry {
            Some(Entry::HalfOpen(serial, _)) => drop(self.half_open.remove(serial)),
            Some(Entry::TimeWait(serial, _)) => drop(self.time_waits.remove(serial)),
            Some(Entry::Live(_)) | None => {}
        }
        entry
    }

    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Entries, and places in the two queues.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.entries.len(), self.half_open.len(), self.time_waits.len())
    }
}
