//! Robust futexes: what a thread has locked when it ends is marked, and a waiter told (get_robust_list(2)).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{OWNER_DIED, TID_MASK, WAITERS, wake_address};
use crate::mm::Mm;
use crate::task::Task;

/// Longest list that is walked.
const ROBUST_LIST_LIMIT: usize = 2048;

/// What an entry of the list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Plain,
    /// In the middle of being locked or unlocked.
    Pending,
    /// With priority inheritance (bit 0 of the pointer): its waiter is told by [`pi`](super::pi).
    Inherits,
}

impl Entry {
    fn new(pointer: u64, pending: bool) -> Entry {
        match (pointer & 1 != 0, pending) {
            (true, _) => Entry::Inherits,
            (false, true) => Entry::Pending,
            (false, false) => Entry::Plain,
        }
    }
}

/// Marks the futexes that an ending thread holds as `FUTEX_OWNER_DIED`, and wakes one waiter of each; those with priority inheritance are
/// handed over.
/// May be done again, where memory was short: those that are marked no longer are the thread's.
pub fn walk_robust_list(task: &Arc<Task>, mm: &Arc<Mm>) {
    let head = task.robust_list.load(Ordering::Relaxed);
    if head == 0 {
        return;
    }
    // struct robust_list_head: next, offset of the word, the entry being (un)locked. Bit 0 of a pointer marks a PI futex.
    let Ok([first, offset, pending]) = mm.read_val::<[u64; 3]>(head) else { return };
    let mut entry = first;
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = mm.read_val::<u64>(entry & !1);
        if entry != pending {
            owner_died(task, mm, (entry & !1).wrapping_add(offset), Entry::new(entry, false));
        }
        let Ok(next) = next else { break };
        entry = next;
    }
    if pending != 0 {
        owner_died(task, mm, (pending & !1).wrapping_add(offset), Entry::new(pending, true));
    }
}

/// The thread has no robust futexes any more.
pub fn end_robust_list(task: &Arc<Task>) {
    task.robust_list.store(0, Ordering::Relaxed);
    task.kernel.futexes.pi.owner_ends(task);
}

fn owner_died(task: &Task, mm: &Mm, addr: u64, entry: Entry) {
    let Ok(mut value) = mm.load_u32(addr) else { return };
    if entry == Entry::Pending && value == 0 {
        // Between unlocking and waking: the wake-up is still owed.
        wake_address(&task.kernel, mm, addr, 1);
        return;
    }
    let own = task.group.pid_ns.local(task.tid()) as u32;
    while value & TID_MASK == own {
        match mm.compare_exchange_u32(addr, value, value & WAITERS | OWNER_DIED) {
            Ok(seen) if seen == value => {
                if value & WAITERS != 0 && entry != Entry::Inherits {
                    wake_address(&task.kernel, mm, addr, 1);
                }
                return;
            }
            Ok(seen) => value = seen,
            Err(_) => return,
        }
    }
}
