//! [`Fragments`]: packets that come in pieces. All is bounded, and whoever sends overlapping pieces gets nothing (RFC 5722).

use core::net::IpAddr;
use std::collections::HashMap;

use super::frame::Cut;
use crate::{Ns, SECOND};

/// How long the rest of a packet is waited for (`ipfrag_time`).
const PATIENCE: Ns = 30 * SECOND;
/// Packets under way, pieces of one, and bytes in all (`ipfrag_high_thresh`).
const PACKETS: usize = 64;
const PIECES: usize = 64;
const BYTES: usize = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub id: u32,
}

#[derive(Debug, Default)]
struct Partial {
    pieces: Vec<(usize, Vec<u8>)>,
    total: Option<usize>,
    since: Ns,
}

#[derive(Debug, Default)]
pub struct Fragments {
    packets: HashMap<Key, Partial>,
    bytes: usize,
}

impl Fragments {
    /// Takes a piece. Returns the packet's payload when it was the last one missing.
    pub fn insert(&mut self, now: Ns, key: Key, cut: Cut, piece: &[u8]) -> Option<Vec<u8>> {
        self.expire(now);
        let start = usize::from(cut.offset);
        let end = start + piece.len();
        let malformed = piece.is_empty() || end > 65_535 || (cut.more && !piece.len().is_multiple_of(8));
        if malformed || self.bytes + piece.len() > BYTES {
            return None;
        }
        if !self.packets.contains_key(&key) && self.packets.len() >= PACKETS {
            let oldest = self.packets.iter().min_by_key(|(_, partial)| partial.since).map(|(key, _)| *key)?;
            self.forget(&oldest);
        }
        let partial = self.packets.entry(key).or_insert_with(|| Partial { since: now, ..Partial::default() });
        let overlaps = partial.pieces.iter().any(|(at, bytes)| *at < end && start < at + bytes.len());
        let contradicts = partial.total.is_some_and(|total| end > total || (!cut.more && end != total));
        if overlaps || contradicts || partial.pieces.len() >= PIECES {
            self.forget(&key);
            return None;
        }
        if !cut.more {
            partial.total = Some(end);
        }
        partial.pieces.push((start, piece.to_vec()));
        self.bytes += piece.len();
        let have: usize = partial.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        if partial.total != Some(have) {
            return None;
        }
        let mut pieces = std::mem::take(&mut partial.pieces);
        self.packets.remove(&key);
        self.bytes -= have;
        pieces.sort_unstable_by_key(|(at, _)| *at);
        Some(pieces.into_iter().flat_map(|(_, bytes)| bytes).collect())
    }

    fn forget(&mut self, key: &Key) {
        if let Some(partial) = self.packets.remove(key) {
            self.bytes -= partial.pieces.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        }
    }

    fn expire(&mut self, now: Ns) {
        let late: Vec<Key> = self
            .packets
            .iter()
            .filter(|(_, partial)| now.saturating_sub(partial.since) > PATIENCE)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.forget(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_and_hostile_ones() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        let key = |id| Key { from: ip("10.0.0.1"), to: ip("10.0.0.2"), protocol: 17, id };
        let cut = |offset, more| Cut { id: 0, offset, more };
        let mut fragments = Fragments::default();
        assert_eq!(fragments.insert(0, key(1), cut(8, true), &[2; 8]), None);
        assert_eq!(fragments.insert(0, key(1), cut(16, false), &[3; 5]), None);
        let whole = fragments.insert(0, key(1), cut(0, true), &[1; 8]).expect("all there");
        assert_eq!(whole, [&[1u8; 8][..], &[2; 8], &[3; 5]].concat());
        // Overlap: all of it is dropped.
        fragments.insert(0, key(2), cut(0, true), &[1; 16]);
        assert_eq!(fragments.insert(0, key(2), cut(8, false), &[2; 16]), None);
        assert_eq!((fragments.packets.len(), fragments.bytes), (0, 0));
        // A flood: bounded, and gone in the end.
        for id in 0..10_000 {
            fragments.insert(0, key(id), cut(65_000, true), &[0; 400]);
        }
        assert!(fragments.packets.len() <= PACKETS && fragments.bytes <= BYTES);
        fragments.insert(PATIENCE + 1, key(1), cut(8, true), &[0; 8]);
        assert_eq!((fragments.packets.len(), fragments.bytes), (1, 8));
    }
}
