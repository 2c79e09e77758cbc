//! What of the host's hardware a sandbox gets and shows.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::sys::cycles;

/// CPUs this process may use, by affinity. At least 1.
pub fn cpus() -> usize {
    let affinity = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    affinity.max(1)
}

/// The host's memory in bytes.
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(info.mem_unit.into())
}

/// One CPU's lines in /proc/cpuinfo, without `processor`.
pub fn cpu_model() -> String {
    // One block is 1.5 KiB; reading them all takes long on large machines.
    let mut text = vec![0; 4096];
    let n = File::open("/proc/cpuinfo").and_then(|mut file| file.read(&mut text)).unwrap_or(0);
    let text = String::from_utf8_lossy(text.get(..n).unwrap_or_default());
    let block = text.split("\n\n").next().unwrap_or_default();
    block.lines().filter(|line| !line.starts_with("processor")).flat_map(|line| [line, "\n"]).collect()
}

/// A moment, by the CPU's time stamp counter and by the host's clock.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    cycles: u64,
    at: Instant,
}

impl Moment {
    /// Now: the reading of some in which the counter went on least, as nothing came in between then.
    pub fn now() -> Moment {
        let reading = || {
            let (before, at, after) = (cycles(), Instant::now(), cycles());
            (after.wrapping_sub(before), Moment { cycles: before.wrapping_add(after.wrapping_sub(before) / 2), at })
        };
        let first = reading();
        [reading(), reading(), reading()].into_iter().fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
    }

    /// How much the counter counts in a second, measured from this moment on: over a millisecond at least, for which it waits, so to a thousandth or better.
    pub fn cycles_per_second(self) -> u64 {
        const LEAST: Duration = Duration::from_millis(1);
        std::thread::sleep(LEAST.saturating_sub(self.at.elapsed()));
        let now = Moment::now();
        per_second(now.cycles.wrapping_sub(self.cycles), now.at.duration_since(self.at))
    }
}

fn per_second(cycles: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(cycles) * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// How many executors for a CPU quota: no more threads than can run at once.
pub fn executors(cpus: usize, quota_us: Option<u64>, period_us: Option<u64>) -> usize {
    let Some(quota) = quota_us else { return cpus };
    let period = period_us.unwrap_or(100_000).max(1);
    usize::try_from(quota.div_ceil(period)).unwrap_or(cpus).clamp(1, cpus.max(1))
}

/// How many guest processes a sandbox is prepared for: each takes address space in the sentry, so there is a bound without a limit too.
pub fn max_processes(limit: Option<u64>) -> usize {
    const MOST: u64 = 16384;
    limit.unwrap_or(MOST).min(MOST) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_bound_the_executors() {
        assert_eq!(executors(8, None, None), 8);
        assert_eq!(executors(8, Some(150_000), Some(100_000)), 2);
        assert_eq!(executors(8, Some(10_000), None), 1);
        assert_eq!(executors(2, Some(u64::MAX), Some(1)), 2);
    }

    #[test]
    fn cycles_of_some_time_are_so_many_in_a_second() {
        assert_eq!(per_second(2_400_000, Duration::from_millis(1)), 2_400_000_000);
        assert_eq!(per_second(7, Duration::from_secs(2)), 3);
        // Neither a long time nor none is too much for it.
        assert_eq!(per_second(u64::MAX, Duration::from_secs(1)), u64::MAX);
        assert_eq!(per_second(u64::MAX, Duration::from_millis(1)), u64::MAX);
        assert_eq!(per_second(5, Duration::ZERO), 5_000_000_000);
        assert!(Moment::now().cycles_per_second() > 0);
    }

    #[test]
    fn one_cpu_is_described() {
        let model = cpu_model();
        assert!(!model.contains("processor") && model.contains("flags"), "{model}");
    }
}
