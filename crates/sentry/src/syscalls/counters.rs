//! Counts of what guests asked for and did not get.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{Line, Support};

/// Unsupported calls: counted, and logged once each.
#[derive(Default)]
pub struct Counters {
    unsupported: Mutex<BTreeMap<u64, u64>>,
}

impl Counters {
    /// Counts a call of an unsupported system call.
    pub fn unsupported(&self, line: &Line) {
        let mut counts = self.unsupported.lock();
        let count = counts.entry(line.number).or_insert(0);
        *count += 1;
        if *count > 1 {
            return;
        }
        match line.support {
            // Missing on purpose: programs are expected to do without.
            Support::None(_, note) if !note.is_empty() => {
                tracing::debug!(number = line.number, name = line.name, note, "unsupported system call");
            }
            _ => tracing::warn!(number = line.number, name = line.name, "unsupported system call"),
        }
    }

    /// How often each was called, by number.
    pub fn unsupported_counts(&self) -> BTreeMap<u64, u64> {
        self.unsupported.lock().clone()
    }
}
