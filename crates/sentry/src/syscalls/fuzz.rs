//! Random system calls on the scripted platform: whatever a guest asks for, the kernel does not panic.
//!
//! A run is the same for the same seed. `NACRE_FUZZ_SECONDS` makes it long; a failure names its seed, which `NACRE_FUZZ_SEED` runs first.
//! `cargo xtask fuzz` does the same in a real sandbox.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::testing::{Machine, Role, User, map_memory};

/// Runs without `NACRE_FUZZ_SECONDS`.
const RUNS: u64 = 60;
const CALLS: usize = 250;
const NUMBERS: u64 = 470;
const AREA: u64 = 256 << 10;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.pick(&EDGES),
            1 => self.below(64),
            2 => 1 << self.below(64),
            _ => self.next() >> self.below(64),
        }
    }

    fn pointer(&mut self, area: u64) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => area + AREA - self.below(64),
            2 => self.pick(&EDGES),
            _ => area + (self.below(AREA - 8192) & !7),
        }
    }

    fn argument(&mut self, area: u64) -> u64 {
        match self.below(4) {
            0 => self.below(24),
            1 => self.number(),
            _ => self.pointer(area),
        }
    }

    /// Bytes for the area: words, small and large, pointers, paths.
    fn object(&mut self, area: u64) -> Vec<u8> {
        match self.below(4) {
            0 => self.pick(&["/", ".", "..", "/a/b", "", "/proc/self/fd/0", "x"]).bytes().chain([0]).collect(),
            1 => (0..16).flat_map(|_| [self.pointer(area), self.below(70_000)]).flat_map(u64::to_le_bytes).collect(),
            2 => (0..16).flat_map(|_| (self.number() as u32).to_le_bytes()).collect(),
            _ => (0..16).flat_map(|_| self.number().to_le_bytes()).collect(),
        }
    }
}

const EDGES: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    127,
    128,
    255,
    256,
    1024,
    4095,
    4096,
    4097,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX,
];

/// Calls that end or replace the caller, or make a task (which [`run`] does in its own way).
const APART: [u64; 13] = [15, 34, 56, 57, 58, 59, 60, 130, 231, 322, 435, 169, 219];

async fn calls(u: User, seed: u64) {
    let mut random = Random(seed);
    let area = map_memory(&u, AREA).await;
    // Descriptors of some kinds: pipes, socket pairs, an eventfd, an epoll, a timerfd, a memfd.
    let fds = area;
    u.syscall(22, [fds]).await;
    for kind in [1, 2, 5] {
        u.syscall(53, [1, kind | 0o4000, 0, fds]).await;
    }
    u.syscall(290, [3, 0o4000]).await;
    u.syscall(291, [0]).await;
    u.syscall(283, [1, 0o4000]).await;
    u.store(area, b"name\0").await;
    u.syscall(319, [area, 2]).await;
    // All signals are blocked, or the first would end it.
    u.store(area, &u64::MAX.to_le_bytes()).await;
    u.syscall(14, [2, area, 0, 8]).await;
    // A call may wait for ever: an alarm ends the process for it, in virtual time.
    u.syscall(37, [1000]).await;
    for _ in 0..CALLS {
        let number = if random.below(50) == 0 { random.number() } else { random.below(NUMBERS) };
        if APART.contains(&number) {
            continue;
        }
        for _ in 0..random.below(3) {
            let (at, bytes) = (random.pointer(area), random.object(area));
            if (area..area + AREA - 4096).contains(&at) {
                u.store(at, &bytes).await;
            }
        }
        let args: [u64; 6] = std::array::from_fn(|_| random.argument(area));
        u.syscall(number, args).await;
    }
    u.syscall(231, [0]).await;
}

fn run(seed: u64) {
    let machine = Machine::with_max_tasks(Some(32));
    let process = machine.start(move |u| async move {
        // The caller is init; those that call at random are its children, one with a second thread.
        for child in 0..3 {
            let seed = seed ^ (child << 56);
            u.spawn(57, [], Role::Program, move |u| async move {
                if child == 2 {
                    const THREAD: u64 = 0x5_0f00;
                    u.spawn(56, [THREAD, 0, 0, 0, 0], Role::Thread, move |u| calls(u, !seed)).await;
                }
                calls(u, seed).await;
            })
            .await;
        }
        // Kills what waits for ever.
        u.compute(5_000_000_000).await;
        u.syscall(62, [u64::MAX, 9]).await;
        while u.syscall(61, [u64::MAX, 0, 0, 0]).await > 0 {}
    });
    machine.run_until(|| process.ended().is_some());
}

#[test]
fn no_call_panics() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("NACRE_FUZZ_SEED").unwrap_or(1);
    let end = number("NACRE_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    for seed in first.. {
        let over = match end {
            Some(end) => Instant::now() >= end,
            None => seed >= first + RUNS,
        };
        if over {
            break;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("NACRE_FUZZ_SEED={seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}
