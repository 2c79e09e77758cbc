//! When an executor spins, when it yields, and when it moves to another CPU.
//!
//! Spinning pays only while the thread it waits for runs on *another* CPU. Stubs publish the CPU they are on, executors
//! theirs; each side spins only if the two differ. (Spinning on the CPU the other needs costs the whole spin each time; a
//! hand-over by futex on one CPU costs 2.5 microseconds.)
//!
//! Where they have one CPU only (`closeness`), each side gives it to the other by `sched_yield` and sleeps when that was in vain a few times: a
//! hand-over and back takes 2 to 3 microseconds so, 7.7 by futex. Unbound on more CPUs that is worse: an idle one takes whoever yields.
//!
//! The host's scheduler likes to put a waker and its wakee on one CPU and leaves them there. An executor that finds itself
//! together with its only running threads over and over moves away: then they hand over by spinning. Moves that do not pay
//! become rarer, and so do spins.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicU32};

/// Longest spin.
const SPIN_NS: u64 = 30_000;
/// How often a stub or an executor gives its CPU to the other before it sleeps.
pub const YIELDS: u32 = 3;
/// After giving its CPU away for so long an executor sleeps: then what wakes it need not wait for a whole time slice.
pub const YIELD_NS: u64 = 50_000;
/// Spins that may fail in a row before they become rare.
const PATIENCE: u32 = 8;
/// How rare they become: one park in so many.
const PROBE_EVERY: u32 = 64;
/// Parks together with all running threads before the first move, and at most.
const FIRST_MOVE: u32 = 32;
const LAST_MOVE: u32 = 1 << 16;
/// Spins that must pay for a move to count as good.
const MOVE_PAYS: u32 = 16;

/// What an executor with nothing to do does before it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    Sleep,
    /// Gives its CPU away a few times.
    Yield,
    /// Looks at the turn words for so long.
    Spin {
        ns: u64,
    },
}

/// One executor's policy and its memory of what paid. Statistics of one thread, in relaxed atomics since executors are shared.
pub struct SpinPolicy {
    enabled: bool,
    cpus: Cpus,
    /// Failed spins in a row, and parks since the last probe.
    failures: AtomicU32,
    since_probe: AtomicU32,
    /// Parks together in a row, and how many it takes to move.
    together: AtomicU32,
    move_after: AtomicU32,
    /// Calls in a row that were answered at once, to a thread that slept on this CPU meanwhile.
    prompt: AtomicU32,
    /// That thread.
    last_woken: AtomicI32,
    /// Spins that have paid since the last move.
    paid: AtomicU32,
}

fn add(counter: &AtomicU32) -> u32 {
    let value = counter.load(Relaxed).saturating_add(1);
    counter.store(value, Relaxed);
    value
}

impl SpinPolicy {
    pub fn new(enabled: bool, cpus: Cpus) -> SpinPolicy {
        let zero = || AtomicU32::new(0);
        SpinPolicy {
            enabled,
            cpus,
            failures: zero(),
            since_probe: zero(),
            together: zero(),
            move_after: AtomicU32::new(FIRST_MOVE),
            prompt: zero(),
            last_woken: AtomicI32::new(0),
            paid: zero(),
        }
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The CPU this thread is on.
    pub fn cpu(&self) -> u32 {
        super::sys::cpu()
    }

    /// What to do with so many running threads on other CPUs and on this one.
    pub fn plan(&self, apart: usize, together: usize) -> Plan {
        if apart + together == 0 || !self.enabled {
            return Plan::Sleep;
        }
        if apart == 0 {
            return if self.was_together() { Plan::Spin { ns: SPIN_NS } } else { Plan::Sleep };
        }
        if self.failures.load(Relaxed) >= PATIENCE {
            if add(&self.since_probe) < PROBE_EVERY {
                return Plan::Sleep;
            }
            self.since_probe.store(0, Relaxed);
        }
        Plan::Spin { ns: SPIN_NS }
    }

    /// A thread that slept on this CPU was given its turn. It takes the CPU at once and has trapped again before this executor runs on, which so
    /// never gets to park, where it would notice that they are together.
    pub fn woke_together(&self, tid: i32) {
        // Threads that take turns are better off on one CPU.
        if self.last_woken.swap(tid, Relaxed) != tid {
            self.prompt.store(0, Relaxed);
        }
        if self.enabled && add(&self.prompt) >= self.move_after.load(Relaxed) {
            self.prompt.store(0, Relaxed);
            self.move_now();
        }
    }

    /// A call blocked.
    pub fn blocked(&self) {
        self.prompt.store(0, Relaxed);
    }

    /// Counts; moves when it has been so often. True: moved.
    fn was_together(&self) -> bool {
        add(&self.together) >= self.move_after.load(Relaxed) && self.move_now()
    }

    fn move_now(&self) -> bool {
        let move_after = self.move_after.load(Relaxed);
        let paid = self.paid.load(Relaxed) >= MOVE_PAYS;
        self.move_after.store(if paid { FIRST_MOVE } else { (move_after * 2).min(LAST_MOVE) }, Relaxed);
        for counter in [&self.together, &self.paid, &self.failures] {
            counter.store(0, Relaxed);
        }
        self.cpus.move_away()
    }

    pub fn paid(&self) {
        self.failures.store(0, Relaxed);
        self.together.store(0, Relaxed);
        add(&self.paid);
    }

    pub fn failed(&self) {
        add(&self.failures);
    }
}

/// The CPUs this process may use, asked for once: before the sentry's filter, which does not allow the question.
#[derive(Clone, Copy)]
pub struct Cpus(libc::cpu_set_t);

impl Cpus {
    pub fn of_host() -> Cpus {
        // SAFETY: a plain structure that outlives the call; empty if that fails.
        unsafe {
            let mut allowed: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed);
            Cpus(allowed)
        }
    }

    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        // SAFETY: a plain structure that outlives the call.
        (0..libc::CPU_SETSIZE as u32).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu as usize, &self.0) })
    }

    /// Whether a guest's choice has one of them: bit N is for the Nth.
    pub fn allows(&self, choice: u64, cpu: u32) -> bool {
        choice == u64::MAX || self.chosen(choice).any(|chosen| chosen == cpu)
    }

    fn chosen(&self, choice: u64) -> impl Iterator<Item = u32> {
        self.numbers().enumerate().filter(move |(n, _)| *n < 64 && choice >> n & 1 != 0).map(|(_, cpu)| cpu)
    }

    /// Lets a thread run on those of a guest's choice; on all, if that has none.
    pub fn release(&self, tid: i32, choice: u64) {
        if choice == u64::MAX || self.chosen(choice).next().is_none() {
            super::sys::bind(tid, &self.0);
            return;
        }
        super::sys::bind(tid, &super::sys::set_of(self.chosen(choice)));
    }

    /// Moves this thread to another of them, and leaves it free to be moved again.
    fn move_away(&self) -> bool {
        let mut others = self.0;
        // SAFETY: plain structures.
        let any = unsafe {
            libc::CPU_CLR(super::sys::cpu() as usize % libc::CPU_SETSIZE as usize, &mut others);
            libc::CPU_COUNT(&others) > 0
        };
        any && super::sys::bind(0, &others) && super::sys::bind(0, &self.0)
    }
}

/// Measures one turn of a spin loop, in nanoseconds.
pub fn pause_ns() -> u64 {
    const TURNS: u64 = 200;
    let once = || {
        let start = hostcall::time::monotonic_ns();
        (0..TURNS).for_each(|_| std::hint::spin_loop());
        (hostcall::time::monotonic_ns() - start) / TURNS
    };
    (0..5).map(|_| once()).min().unwrap_or(0).clamp(1, 1000)
}

/// Turns of a stub's spin loop: as long as an executor's longest spin.
pub fn stub_turns(pause_ns: u64) -> u32 {
    (SPIN_NS / pause_ns) as u32
}
