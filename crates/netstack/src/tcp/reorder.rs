//! [`Reorder`]: bytes that came before those in front of them.

use std::collections::BTreeMap;

use super::segment::Sack;

/// Most runs that are kept: a sender that makes more holes must send again.
const RUNS: usize = 256;

/// Runs by their distance from the first missing byte. They do not overlap.
#[derive(Debug, Default)]
pub struct Reorder {
    runs: BTreeMap<u32, Vec<u8>>,
    bytes: usize,
    /// Where the latest came (RFC 2018: its block is told first).
    latest: u32,
}

impl Reorder {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Keeps `payload`, which starts `at` (more than 0) bytes after the first missing one.
    pub fn insert(&mut self, at: u32, payload: &[u8]) {
        self.latest = at;
        let (mut at, mut payload) = (at, payload);
        // What is there already stays; what is new goes into the gaps.
        while !payload.is_empty() && self.runs.len() < RUNS {
            if let Some((start, run)) = self.runs.range(..=at).next_back() {
                let covered = (*start as usize + run.len()).saturating_sub(at as usize);
                if covered > 0 {
                    let skip = covered.min(payload.len());
                    at += skip as u32;
                    payload = payload.get(skip..).unwrap_or_default();
                    continue;
                }
            }
            let next = self.runs.range(at..).next().map_or(usize::MAX, |(start, _)| (*start - at) as usize);
            let (piece, rest) = payload.split_at(next.min(payload.len()));
            self.bytes += piece.len();
            match self.runs.range_mut(..at).next_back() {
                Some((start, run)) if *start as usize + run.len() == at as usize => run.extend_from_slice(piece),
                _ => {
                    self.runs.insert(at, piece.to_vec());
                }
            }
            at += piece.len() as u32;
            payload = rest;
        }
    }

    /// The first missing byte has moved on by `bytes`: what is in order now is taken out, run by run. Returns how much that was.
    pub fn advance(&mut self, bytes: u32, deliver: &mut dyn FnMut(&[u8])) -> u32 {
        let mut done = bytes;
        while let Some(first) = self.runs.first_entry().filter(|first| *first.key() <= done) {
            let (start, run) = first.remove_entry();
            self.bytes -= run.len();
            if let Some(new) = run.get((done - start) as usize..).filter(|new| !new.is_empty()) {
                deliver(new);
                done += new.len() as u32;
            }
        }
        if done > 0 {
            self.runs = std::mem::take(&mut self.runs).into_iter().map(|(start, run)| (start - done, run)).collect();
            self.latest = self.latest.saturating_sub(done);
        }
        done - bytes
    }

    /// The blocks to tell the sender, for a first missing byte of `next`.
    pub fn blocks(&self, next: u32) -> Sack {
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (start, run) in &self.runs {
            let end = start + run.len() as u32;
            match merged.last_mut() {
                Some(last) if last.1 == *start => last.1 = end,
                _ => merged.push((*start, end)),
            }
        }
        let newest = merged.iter().position(|(start, end)| (*start..*end).contains(&self.latest)).unwrap_or(0);
        let told = merged.iter().cycle().skip(newest).take(merged.len().min(3));
        told.map(|(start, end)| (next.wrapping_add(*start), next.wrapping_add(*end))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_gives_the_same_bytes() {
        let text: Vec<u8> = (0..2000u32).map(|n| n as u8).collect();
        let mut seed = 99u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let mut reorder = Reorder::default();
        let mut got: Vec<u8> = Vec::new();
        let mut rounds = 0;
        while got.len() < text.len() {
            let at = got.len() + random((text.len() - got.len()).min(300));
            let end = (at + 1 + random(90)).min(text.len());
            if at == got.len() {
                got.extend_from_slice(&text[at..end]);
                let mut new = Vec::new();
                reorder.advance((end - at) as u32, &mut |bytes| new.extend_from_slice(bytes));
                got.extend_from_slice(&new);
            } else {
                reorder.insert((at - got.len()) as u32, &text[at..end]);
                let blocks = reorder.blocks(got.len() as u32);
                assert!(blocks.first().is_some_and(|(a, b)| (*a..*b).contains(&(at as u32))), "the latest comes first");
            }
            assert_eq!(got, text[..got.len()]);
            rounds += 1;
            assert!(rounds < 100_000);
        }
        assert!(reorder.is_empty() && reorder.blocks(0).is_empty());
    }
}
