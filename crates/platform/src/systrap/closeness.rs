//! Whether an executor stands apart from its threads, or has closed up with them on one CPU.
//!
//! An executor on another CPU than its thread answers a call in well under a microsecond, since both look for each other's words. But it
//! takes a CPU for that. Where every executor has work (there are as many as CPUs), or the host has other work, an
//! executor that spins keeps somebody waiting, and is made to wait itself: for a time slice, which is a thousand calls. Then it *closes up*: it and the threads
//! of its list are bound to one CPU, and give it to each other by `sched_yield` (2 microseconds there and back, and no wake-up ever
//! crosses CPUs). When none of its threads has come back for two milliseconds they are let go, so that the host can balance those that compute.
//!
//! Each park is a vote: for closing up if no executor of the sandbox is idle (without a thread in user mode, and not polling either), against it otherwise. When the host has
//! interrupted two spins in a row of milliseconds, it has other work: the executor closes up for a while, for longer each time that turns out to have been too short. All
//! open now and then, so that the host can move them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};

use hostcall::time::monotonic_ns;

use super::layout::YIELD;
use super::spin::{Cpus, YIELDS};
use super::sys;
use super::thread::Thread;

/// What a park counts while all executors have work; it is one vote against while they have not.
const DENSE: i32 = 2;
/// So many more votes for one side than for the other change the state.
const MAJORITY: i32 = 64;
/// A spin that took longer, in nanoseconds, was interrupted: the host had other work for the CPU.
const INTERRUPTED_NS: u64 = 150_000;
/// Two interruptions within this time close up, at first for `FIRST_HOLD_NS`. All in nanoseconds.
const SOON_NS: u64 = 200_000_000;
const FIRST_HOLD_NS: u64 = 100_000_000;
const LAST_HOLD_NS: u64 = 2_000_000_000;
/// Parks after which it opens in any case.
const LONGEST_STAY: u32 = 1 << 16;
/// A thread that has not come back for so long, in nanoseconds, computes.
pub const COMPUTES_NS: u64 = 2_000_000;

/// What executors know of each other. Each writes its own line.
pub struct Crowd {
    cpus: Cpus,
    /// The sandbox's own nice value: its guest's are counted from there.
    nice: i32,
    lines: Box<[Line]>,
    /// Ticks of a spin that was interrupted.
    too_long: u64,
}

#[repr(align(64))]
#[derive(Default)]
struct Line {
    /// It polls tasks, or had threads in user mode when it last parked. Written only when it changes: the others read it.
    working: AtomicBool,
    /// The CPU it has closed up on, plus one.
    taken: AtomicU32,
}

impl Crowd {
    pub fn new(cpus: Cpus, executors: usize) -> Arc<Crowd> {
        let too_long = hostcall::time::ticks_of_us() * INTERRUPTED_NS / 1000;
        Arc::new(Crowd { cpus, nice: sys::own_nice(), lines: (0..executors).map(|_| Line::default()).collect(), too_long })
    }

    /// Whether no executor is idle.
    fn is_dense(&self) -> bool {
        self.lines.iter().all(|line| line.working.load(Relaxed))
    }

    /// A CPU for an executor: the one it is on, unless another has it.
    fn choose(&self, index: usize) -> Option<u32> {
        let is_free = |cpu: u32| {
            let others = self.lines.iter().enumerate().filter(|(other, _)| *other != index);
            others.map(|(_, line)| line.taken.load(Relaxed)).all(|taken| taken != cpu + 1)
        };
        let here = sys::cpu();
        std::iter::once(here).chain(self.cpus.numbers()).find(|cpu| is_free(*cpu))
    }
}

/// One executor's state. Statistics of one thread, in relaxed atomics since executors are shared.
pub struct Closeness {
    index: usize,
    crowd: Arc<Crowd>,
    /// It may spin at all; else it closes up at once.
    spins: bool,
    votes: AtomicI32,
    /// Parks since it closed up.
    parks: AtomicU32,
    /// When a spin was last interrupted; for how long that closes up, and until when it has.
    interrupted_ns: AtomicU64,
    hold_ns: AtomicU64,
    until_ns: AtomicU64,
}

impl Closeness {
    pub fn new(index: usize, crowd: Arc<Crowd>, spins: bool) -> Closeness {
        let zero = || AtomicU64::new(0);
        let (votes, parks) = (AtomicI32::new(0), AtomicU32::new(0));
        Closeness { index, crowd, spins, votes, parks, interrupted_ns: zero(), hold_ns: zero(), until_ns: zero() }
    }

    fn line(&self) -> &Line {
        &self.crowd.lines[self.index]
    }

    /// Whether it has closed up.
    pub fn is_closed(&self) -> bool {
        self.line().taken.load(Relaxed) != 0
    }

    /// The executor has nothing to do, and so many threads in user mode. True: it has closed up or opened, and its threads must be placed.
    pub fn park(&self, running: usize) -> bool {
        self.set_working(running > 0);
        let vote = match self.crowd.is_dense() {
            false => -1,
            true if self.spins => DENSE,
            true => 2 * MAJORITY,
        };
        let votes = (self.votes.load(Relaxed) + vote).clamp(-MAJORITY, MAJORITY);
        self.votes.store(votes, Relaxed);
        if !self.is_closed() {
            return votes == MAJORITY && self.close();
        }
        let parks = self.parks.load(Relaxed) + 1;
        self.parks.store(parks, Relaxed);
        if parks < LONGEST_STAY && (votes > -MAJORITY || monotonic_ns() < self.until_ns.load(Relaxed)) {
            return false;
        }
        self.open();
        true
    }

    /// It has something to do.
    pub fn unpark(&self) {
        self.set_working(true);
    }

    fn set_working(&self, working: bool) {
        let word = &self.line().working;
        if word.load(Relaxed) != working {
            word.store(working, Relaxed);
        }
    }

    fn close(&self) -> bool {
        let Some(cpu) = self.crowd.choose(self.index) else { return false };
        self.parks.store(0, Relaxed);
        self.line().taken.store(cpu + 1, Relaxed);
        sys::pin(0, cpu);
        true
    }

    fn open(&self) {
        self.votes.store(0, Relaxed);
        self.line().taken.store(0, Relaxed);
        self.crowd.cpus.release(0, u64::MAX);
    }

    /// A spin has ended that began at these ticks; how many it took.
    pub fn spun(&self, from: u64) -> u64 {
        let ticks = hostcall::time::ticks().saturating_sub(from);
        if ticks > self.crowd.too_long {
            self.interrupted(monotonic_ns());
        }
        ticks
    }

    #[cold]
    fn interrupted(&self, now: u64) {
        let since = now - self.interrupted_ns.swap(now, Relaxed);
        if since > SOON_NS {
            return;
        }
        let idle = now.saturating_sub(self.until_ns.load(Relaxed));
        let hold = if idle > LAST_HOLD_NS { FIRST_HOLD_NS } else { (self.hold_ns.load(Relaxed) * 2).min(LAST_HOLD_NS) };
        self.hold_ns.store(hold, Relaxed);
        self.until_ns.store(now + hold, Relaxed);
        // The next park closes.
        self.votes.store(MAJORITY + 1, Relaxed);
    }

    /// Has a thread run where it should: on the CPU closed up on, or where the host likes.
    pub fn place(&self, thread: &Thread) {
        self.bind(thread, self.line().taken.load(Relaxed));
    }

    /// Gives a thread a nice value. False: the host refuses.
    pub fn set_nice(&self, thread: &Thread, nice: u8) -> bool {
        sys::set_nice(thread.tid, (self.crowd.nice + i32::from(nice)).min(19))
    }

    /// Lets the host place a thread.
    pub fn release(&self, thread: &Thread) {
        self.bind(thread, 0);
    }

    fn bind(&self, thread: &Thread, wanted: u32) {
        // Only the executor in whose list it is does this, and who changes what its guest wishes.
        let cpus = thread.cpus.load(Relaxed);
        // A thread that must not run where we are is left to the host.
        let wanted = if wanted != 0 && !self.crowd.cpus.allows(cpus, wanted - 1) { 0 } else { wanted };
        if thread.bound.load(Relaxed) == wanted {
            return;
        }
        thread.bound.store(wanted, Relaxed);
        thread.block.set32(YIELD, if wanted == 0 { 0 } else { YIELDS });
        match wanted.checked_sub(1) {
            Some(cpu) => sys::pin(thread.tid, cpu),
            None => self.crowd.cpus.release(thread.tid, cpus),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two executors of one sandbox. Only this test's thread is bound.
    fn two(spins: bool) -> [Closeness; 2] {
        let crowd = Crowd::new(Cpus::of_host(), 2);
        [0, 1].map(|index| Closeness::new(index, crowd.clone(), spins))
    }

    /// Parks so often, with so many threads in user mode, and whether it is closed then.
    fn parks(executor: &Closeness, times: i32, running: usize) -> bool {
        (0..times).for_each(|_| {
            executor.park(running);
        });
        executor.is_closed()
    }

    #[test]
    fn dense_work_closes_up_and_sparse_work_opens() {
        let [one, other] = two(true);
        other.unpark();
        assert!(!parks(&one, MAJORITY / DENSE - 1, 1));
        assert!(parks(&one, 1, 1));
        other.park(0);
        assert!(parks(&one, 2 * MAJORITY - 1, 1));
        assert!(!parks(&one, 1, 1));
    }

    #[test]
    fn an_idle_executor_keeps_the_others_apart() {
        let [one, other] = two(true);
        other.park(0);
        assert!(!parks(&one, 10 * MAJORITY, 5));
    }

    #[test]
    fn who_may_not_spin_closes_up_at_once() {
        let [one, other] = two(false);
        other.unpark();
        assert!(parks(&one, 1, 1));
    }

    #[test]
    fn two_interruptions_close_up_for_a_while() {
        let [one, _] = two(true);
        let late = monotonic_ns() + 1_000_000_000_000;
        one.interrupted(late);
        assert!(!parks(&one, 1, 1));
        one.interrupted(late + SOON_NS + 1);
        assert!(!parks(&one, 1, 1));
        one.interrupted(late + SOON_NS + 2);
        assert!(parks(&one, 10 * MAJORITY, 1), "the time has not come");
        one.interrupted(late + SOON_NS + 3);
        assert_eq!(one.hold_ns.load(Relaxed), 2 * FIRST_HOLD_NS);
        one.until_ns.store(0, Relaxed);
        assert!(!parks(&one, 3 * MAJORITY, 1));
    }

    #[test]
    fn all_open_now_and_then() {
        let [one, other] = two(true);
        other.unpark();
        assert!(parks(&one, MAJORITY, 1));
        let opened = (0..=LONGEST_STAY).any(|_| one.park(1) && !one.is_closed());
        assert!(opened);
    }
}
