//! Whether an executor stands apart from its threads, or has closed up with them on one CPU.
//!
//! An executor on another CPU than its thread answers a call in well under a microsecond, since both look for each other's words. But it
//! takes a CPU for that. Where each CPU has a thread of an application to run, or the host has other work for it, an
//! executor that spins keeps somebody waiting, and is made to wait itself: for a time slice, which is a thousand calls. Then it *closes up*: it and the threads
//! of its list are bound to one CPU, and give it to each other by `sched_yield` (2 microseconds there and back, and no wake-up ever
//! crosses CPUs). Threads that compute are let go after two milliseconds, so that the host can balance them.
//!
//! Each park is a vote: for closing up if this sandbox alone has work for all its CPUs (threads in user mode, executors that are busy), and no executor is
//! idle; against it otherwise. When the host has interrupted two spins in a row of milliseconds, it has other work: the executor
//! closes up for a while, for longer each time that turns out to have been too short. All open now and then, so that the host can move them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};

use hostcall::time::monotonic_ns;

use super::layout::YIELD;
use super::spin::{Cpus, YIELDS};
use super::sys;
use super::thread::Thread;

/// What a park counts while all CPUs have work; it is one vote against while they have not.
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
    lines: Box<[Line]>,
}

#[repr(align(64))]
#[derive(Default)]
struct Line {
    /// Threads in user mode, when it last parked.
    running: AtomicU32,
    /// It is polling tasks.
    busy: AtomicBool,
    /// The CPU it has closed up on, plus one.
    taken: AtomicU32,
}

impl Crowd {
    pub fn new(cpus: Cpus, executors: usize) -> Arc<Crowd> {
        Arc::new(Crowd { cpus, lines: (0..executors).map(|_| Line::default()).collect() })
    }

    /// Whether there is work for each CPU that this sandbox may use, from all its executors.
    fn is_dense(&self) -> bool {
        let mut sum = 0;
        for line in &self.lines {
            let work = line.running.load(Relaxed) + u32::from(line.busy.load(Relaxed));
            if work == 0 {
                return false;
            }
            sum += work;
        }
        sum as usize >= self.cpus.count().min(self.lines.len())
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
    /// Ticks of a spin that was interrupted.
    too_long: u64,
}

impl Closeness {
    pub fn new(index: usize, crowd: Arc<Crowd>, spins: bool) -> Closeness {
        let too_long = if spins { sys::ticks_of_us() * INTERRUPTED_NS / 1000 } else { 0 };
        let zero = || AtomicU64::new(0);
        let (votes, parks) = (AtomicI32::new(0), AtomicU32::new(0));
        Closeness { index, crowd, spins, votes, parks, interrupted_ns: zero(), hold_ns: zero(), until_ns: zero(), too_long }
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
        let line = self.line();
        line.running.store(running as u32, Relaxed);
        line.busy.store(false, Relaxed);
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
        self.line().busy.store(true, Relaxed);
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
        self.crowd.cpus.release(0);
    }

    /// A spin took so many ticks.
    pub fn spun(&self, ticks: u64) {
        if ticks > self.too_long {
            self.interrupted(monotonic_ns());
        }
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

    /// Lets the host place a thread.
    pub fn release(&self, thread: &Thread) {
        self.bind(thread, 0);
    }

    fn bind(&self, thread: &Thread, wanted: u32) {
        if thread.bound.swap(wanted, Relaxed) == wanted {
            return;
        }
        thread.block.set32(YIELD, if wanted == 0 { 0 } else { YIELDS });
        match wanted.checked_sub(1) {
            Some(cpu) => sys::pin(thread.tid, cpu),
            None => self.crowd.cpus.release(thread.tid),
        }
    }
}
