//! The host's clocks, by its vDSO: no host system call in the usual case. And the CPU's own.

use std::cell::Cell;
use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// `CLOCK_REALTIME` in nanoseconds since 1970.
pub fn realtime_ns() -> u64 {
    nanoseconds(ClockId::Realtime)
}

/// `CLOCK_BOOTTIME` in nanoseconds.
pub fn boottime_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// The CPU's own clock, read in some nanoseconds.
pub fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// CPU time of the calling thread, in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

/// How many [`ticks`] a microsecond has: measured once, three times over 20 microseconds, of which the one counts that was interrupted least.
pub fn ticks_of_us() -> u64 {
    static MEASURED: OnceLock<u64> = OnceLock::new();
    let measure = || {
        let (from, start) = (ticks(), monotonic_ns());
        let passed = loop {
            let passed = monotonic_ns() - start;
            if passed > 20_000 {
                break passed;
            }
        };
        (ticks().wrapping_sub(from) * 1000 / passed).max(1)
    };
    *MEASURED.get_or_init(|| (0..3).map(|_| measure()).min().unwrap_or(1))
}

thread_local! {
    /// Ticks that this thread has slept where it is thought to work.
    static SLEPT: Cell<u64> = const { Cell::new(0) };
}

/// Sleeps by `sleep` in the middle of some work.
pub fn slept<R>(sleep: impl FnOnce() -> R) -> R {
    let from = ticks();
    let result = sleep();
    SLEPT.set(SLEPT.get().saturating_add(ticks().saturating_sub(from)));
    result
}

/// The ticks slept so since this was last asked.
pub fn take_slept() -> u64 {
    SLEPT.take()
}

/// So many [`ticks`] in nanoseconds.
pub fn ns_of_ticks(ticks: u64) -> u64 {
    (u128::from(ticks) * 1000 / u128::from(ticks_of_us())) as u64
}
