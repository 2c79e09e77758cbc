//! [`Neighbours`]: which Ethernet address an IP address of the link has, and what waits for the answer (RFC 826, 4861).

use core::net::IpAddr;
use std::collections::HashMap;

use crate::{Ns, SECOND};

/// Most entries (`gc_thresh3`), frames that wait for one, and bytes that wait in all.
const ENTRIES: usize = 1024;
const WAITING: usize = 64;
const BYTES: usize = 4 << 20;
/// An answer is good for this long; then it is asked for again while it is used; then forgotten.
const FRESH: Ns = 30 * SECOND;
const STALE: Ns = 90 * SECOND;
/// Between questions, and how often one is asked.
const AGAIN: Ns = SECOND;
const TRIES: u32 = 3;

/// An interface's position and an address on its link.
pub type Key = (usize, IpAddr);
pub type Mac = [u8; 6];

#[derive(Debug)]
enum Entry {
    Asked {
        at: Ns,
        tries: u32,
        frames: Vec<Vec<u8>>,
    },
    Known {
        mac: Mac,
        since: Ns,
        asked: Ns,
    },
    /// Made by hand.
    Permanent(Mac),
}

#[derive(Debug, Default)]
pub struct Neighbours {
    entries: HashMap<Key, Entry>,
    bytes: usize,
}

/// What to do to reach a neighbour.
#[derive(Debug, PartialEq, Eq)]
pub enum Reach {
    At(Mac),
    /// Known; ask again meanwhile.
    AtButAsk(Mac),
    /// The frame waits; ask.
    Ask,
    /// The frame waits (or there was no room for it); somebody has asked.
    Wait,
}

/// What became of those that were asked for.
#[derive(Debug, Default)]
pub struct Due {
    pub ask: Vec<Key>,
    /// Frames whose neighbour is not there.
    pub failed: Vec<Vec<u8>>,
}

/// An entry as it is shown: the address, its MAC, and `NUD_*`.
pub type Shown = (Key, Option<Mac>, u16);

impl Neighbours {
    pub fn add_permanent(&mut self, key: Key, mac: Mac) {
        self.entries.insert(key, Entry::Permanent(mac));
    }

    /// The way to a neighbour; `frame` makes the frame that waits for it, with no Ethernet address yet.
    pub fn reach(&mut self, now: Ns, key: Key, frame: impl FnOnce() -> Vec<u8>) -> Reach {
        if !self.entries.contains_key(&key) && self.entries.len() >= ENTRIES && !self.make_room() {
            return Reach::Wait;
        }
        match self.entries.get_mut(&key) {
            Some(Entry::Permanent(mac)) => return Reach::At(*mac),
            Some(Entry::Known { mac, since, asked }) => {
                let age = now.saturating_sub(*since);
                if age < FRESH || (age < STALE && now.saturating_sub(*asked) < AGAIN) {
                    return Reach::At(*mac);
                }
                if age < STALE {
                    *asked = now;
                    return Reach::AtButAsk(*mac);
                }
            }
            Some(Entry::Asked { frames, .. }) => {
                if frames.len() < WAITING {
                    let frame = frame();
                    if self.bytes + frame.len() <= BYTES {
                        self.bytes += frame.len();
                        frames.push(frame);
                    }
                }
                return Reach::Wait;
            }
            None => {}
        }
        let frame = frame();
        let frames = if self.bytes + frame.len() <= BYTES { vec![frame] } else { Vec::new() };
        self.bytes += frames.iter().map(Vec::len).sum::<usize>();
        self.entries.insert(key, Entry::Asked { at: now + AGAIN, tries: 1, frames });
        Reach::Ask
    }

    /// Forgets the entry that was heard of longest ago. False: all are in use.
    fn make_room(&mut self) -> bool {
        let known = self.entries.iter().filter_map(|(key, entry)| match entry {
            Entry::Known { since, .. } => Some((*since, *key)),
            _ => None,
        });
        let Some((_, oldest)) = known.min_by_key(|(since, _)| *since) else { return false };
        self.entries.remove(&oldest).is_some()
    }

    /// An answer, or (`unasked`) a neighbour's question: the frames that can go now.
    pub fn learn(&mut self, now: Ns, key: Key, mac: Mac, unasked: Unasked) -> Vec<Vec<u8>> {
        match self.entries.get_mut(&key) {
            Some(Entry::Permanent(_)) => Vec::new(),
            Some(entry) => {
                let old = std::mem::replace(entry, Entry::Known { mac, since: now, asked: now });
                let Entry::Asked { frames, .. } = old else { return Vec::new() };
                self.bytes -= frames.iter().map(Vec::len).sum::<usize>();
                frames
            }
            None => {
                if unasked == Unasked::Keep && (self.entries.len() < ENTRIES || self.make_room()) {
                    self.entries.insert(key, Entry::Known { mac, since: now, asked: now });
                }
                Vec::new()
            }
        }
    }

    /// When [`Neighbours::due`] is to be called.
    pub fn deadline(&self) -> Option<Ns> {
        let asked = self.entries.values().filter_map(|entry| match entry {
            Entry::Asked { at, .. } => Some(*at),
            _ => None,
        });
        asked.min()
    }

    pub fn due(&mut self, now: Ns) -> Due {
        let mut due = Due::default();
        let mut gone = Vec::new();
        for (key, entry) in &mut self.entries {
            let Entry::Asked { at, tries, frames } = entry else { continue };
            if *at > now {
                continue;
            }
            if *tries < TRIES {
                *tries += 1;
                *at = now + AGAIN;
                due.ask.push(*key);
            } else {
                due.failed.append(frames);
                gone.push(*key);
            }
        }
        for key in gone {
            self.entries.remove(&key);
        }
        self.bytes = self.bytes.saturating_sub(due.failed.iter().map(Vec::len).sum());
        due
    }

    pub fn shown(&self, now: Ns) -> Vec<Shown> {
        let state = |entry: &Entry| match entry {
            Entry::Asked { .. } => (None, 0x01),
            Entry::Known { mac, since, .. } if now.saturating_sub(*since) < FRESH => (Some(*mac), 0x02),
            Entry::Known { mac, .. } => (Some(*mac), 0x04),
            Entry::Permanent(mac) => (Some(*mac), 0x80),
        };
        let mut all: Vec<Shown> = self.entries.iter().map(|(key, entry)| (*key, state(entry).0, state(entry).1)).collect();
        all.sort_unstable_by_key(|(key, ..)| *key);
        all
    }
}

/// Whether to remember somebody nobody asked for: only who wants something of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unasked {
    Keep,
    Forget,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_wait_for_the_answer_or_fail() {
        let mut table = Neighbours::default();
        let key = (0, "10.0.0.2".parse().expect("address"));
        assert_eq!(table.reach(0, key, || vec![1]), Reach::Ask);
        for n in 0..100 {
            assert_eq!(table.reach(0, key, || vec![n]), Reach::Wait);
        }
        assert_eq!(table.deadline(), Some(AGAIN));
        assert_eq!(table.due(AGAIN).ask, [key]);
        assert_eq!(table.learn(AGAIN, key, [7; 6], Unasked::Forget).len(), WAITING);
        assert_eq!(table.reach(AGAIN, key, Vec::new), Reach::At([7; 6]));
        assert_eq!(table.reach(AGAIN + FRESH, key, Vec::new), Reach::AtButAsk([7; 6]));
        assert_eq!(table.reach(AGAIN + FRESH, key, Vec::new), Reach::At([7; 6]));
        assert_eq!(table.reach(AGAIN + STALE, key, || vec![1, 2]), Reach::Ask);
        let failed: Vec<_> = (0..4).flat_map(|n| table.due(STALE + (n + 3) * AGAIN).failed).collect();
        assert_eq!((failed, table.bytes, table.deadline()), (vec![vec![1, 2]], 0, None));
        // A flood of strangers.
        for n in 0..5000u32 {
            let stranger = (0, core::net::Ipv4Addr::from_bits(n).into());
            table.learn(u64::from(n), stranger, [1; 6], Unasked::Keep);
            table.learn(u64::from(n), (0, core::net::Ipv4Addr::from_bits(!n).into()), [1; 6], Unasked::Forget);
        }
        assert_eq!(table.entries.len(), ENTRIES);
    }
}
