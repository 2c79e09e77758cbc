//! When an executor spins, and when it moves to another CPU.
//!
//! Spinning pays only while the thread it waits for runs on *another* CPU. Stubs publish the CPU they are on, executors
//! theirs; each side spins only if the two differ. (Spinning on the CPU the other needs costs the whole spin each time; a
//! hand-over by futex on one CPU costs 2.5 microseconds.)
//!
//! The host's scheduler likes to put a waker and its wakee on one CPU and leaves them there. An executor that finds itself
//! together with its only running threads over and over moves away: then they hand over by spinning. Moves that do not pay
//! become rarer, and so do spins.

/// Longest spin.
const SPIN_NS: u64 = 30_000;
/// Spins that may fail in a row before they become rare.
const PATIENCE: u32 = 8;
/// How rare they become: one park in so many.
const PROBE_EVERY: u32 = 64;
/// Parks together with all running threads before the first move, and at most.
const FIRST_MOVE: u32 = 32;
const LAST_MOVE: u32 = 1 << 16;
/// Spins that must pay for a move to count as good.
const MOVE_PAYS: u32 = 16;

/// One executor's policy and its memory of what paid.
pub struct SpinPolicy {
    enabled: bool,
    /// Failed spins in a row, and parks since the last probe.
    failures: u32,
    since_probe: u32,
    /// Parks together in a row, and how many it takes to move.
    together: u32,
    move_after: u32,
    /// Spins that have paid since the last move.
    paid: u32,
}

impl SpinPolicy {
    pub fn new(enabled: bool) -> SpinPolicy {
        SpinPolicy { enabled, failures: 0, since_probe: 0, together: 0, move_after: FIRST_MOVE, paid: 0 }
    }

    /// The CPU this thread is on.
    pub fn cpu(&self) -> u32 {
        // SAFETY: no memory is involved.
        unsafe { libc::sched_getcpu() as u32 & super::layout::CPU_MASK }
    }

    /// How long to spin, with so many running threads on other CPUs and on this one.
    pub fn plan(&mut self, apart: usize, together: usize) -> u64 {
        if !self.enabled || apart + together == 0 {
            return 0;
        }
        if apart == 0 {
            self.together += 1;
            if self.together >= self.move_after {
                self.together = 0;
                self.move_after = if self.paid >= MOVE_PAYS { FIRST_MOVE } else { (self.move_after * 2).min(LAST_MOVE) };
                self.paid = 0;
                self.failures = 0;
                if move_away() {
                    return SPIN_NS;
                }
            }
            return 0;
        }
        if self.failures >= PATIENCE {
            self.since_probe += 1;
            if self.since_probe < PROBE_EVERY {
                return 0;
            }
            self.since_probe = 0;
        }
        SPIN_NS
    }

    pub fn paid(&mut self) {
        self.failures = 0;
        self.together = 0;
        self.paid = self.paid.saturating_add(1);
    }

    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }
}

/// Moves this thread to another of its CPUs, and leaves it free to be moved again.
fn move_away() -> bool {
    // SAFETY: plain structures that outlive the calls, which concern this thread only.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &raw mut allowed) != 0 {
            return false;
        }
        let mut others = allowed;
        libc::CPU_CLR(libc::sched_getcpu() as usize, &mut others);
        libc::CPU_COUNT(&others) > 0
            && libc::sched_setaffinity(0, size, &raw const others) == 0
            && libc::sched_setaffinity(0, size, &raw const allowed) == 0
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
