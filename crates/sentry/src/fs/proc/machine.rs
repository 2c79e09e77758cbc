//! Files about the machine: cpuinfo, meminfo, stat and the like.

use std::fmt::Write;

use super::Shared;

/// Kernel time units per second in /proc (`USER_HZ`).
pub(super) const USER_HZ: u64 = 100;

/// Nanoseconds in one unit.
pub(super) const TICK_NS: u64 = 1_000_000_000 / USER_HZ;

/// One block for each CPU, from the model that the host reported at boot.
pub(super) fn cpuinfo(shared: &Shared) -> String {
    let machine = &shared.kernel.machine;
    let mut text = String::new();
    for cpu in 0..machine.cpus {
        let _ = writeln!(text, "processor\t: {cpu}");
        for line in machine.cpu_model.lines() {
            let _ = writeln!(text, "{line}");
        }
        text.push('\n');
    }
    text
}

pub(super) fn meminfo(shared: &Shared) -> String {
    let total = shared.container.memory_limit.unwrap_or(shared.kernel.machine.memory_bytes) / 1024;
    let used = (shared.container.memory.used_bytes() / 1024).min(total);
    let free = total - used;
    let mut text = String::new();
    for (name, kib) in [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
    ] {
        let _ = writeln!(text, "{:<16}{kib:>8} kB", format!("{name}:"));
    }
    for (name, pages) in [("HugePages_Total", 0), ("HugePages_Free", 0), ("HugePages_Rsvd", 0), ("HugePages_Surp", 0)] {
        let _ = writeln!(text, "{:<16}{pages:>8}", format!("{name}:"));
    }
    let _ = writeln!(text, "Hugepagesize:       2048 kB");
    text
}

pub(super) fn loadavg(shared: &Shared) -> String {
    let tasks = shared.container.pids.tasks();
    let last = tasks.iter().map(|task| task.tid()).max().unwrap_or(0);
    format!("0.00 0.00 0.00 1/{} {last}\n", tasks.len())
}

/// CPU time of the container's living tasks as user time of the CPUs together; what is not known is zero.
pub(super) fn stat(shared: &Shared) -> String {
    let kernel = &shared.kernel;
    let up = kernel.clock.monotonic().0.saturating_sub(kernel.boot_ns) / TICK_NS;
    let cpus = kernel.machine.cpus.max(1) as u64;
    let user: u64 = shared.container.pids.tasks().iter().map(|task| task.cpu_time_ns()).sum::<u64>() / TICK_NS;
    let idle = (up * cpus).saturating_sub(user);
    let mut text = format!("cpu  {user} 0 0 {idle} 0 0 0 0 0 0\n");
    for cpu in 0..cpus {
        let _ = writeln!(text, "cpu{cpu} {} 0 0 {} 0 0 0 0 0 0", user / cpus, idle / cpus);
    }
    let booted = kernel.clock.realtime_ns() / 1_000_000_000 - up / USER_HZ;
    let tasks = shared.container.pids.tasks().len();
    let _ = write!(text, "intr 0\nctxt 0\nbtime {booted}\nprocesses {tasks}\nprocs_running 1\nprocs_blocked 0\n");
    text
}

pub(super) fn uptime(shared: &Shared) -> String {
    let kernel = &shared.kernel;
    let up = kernel.clock.monotonic().0.saturating_sub(kernel.boot_ns) / 10_000_000;
    format!("{}.{:02} {}.{:02}\n", up / 100, up % 100, up / 100, up % 100)
}

pub(super) fn version(_shared: &Shared) -> String {
    format!(
        "Linux version {} (nacre) {}\n",
        crate::syscalls::uname::RELEASE,
        crate::syscalls::uname::VERSION
    )
}

pub(super) fn vmstat(shared: &Shared) -> String {
    let total = shared.container.memory_limit.unwrap_or(shared.kernel.machine.memory_bytes);
    let free = total.saturating_sub(shared.container.memory.used_bytes()) / 4096;
    format!("nr_free_pages {free}\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault 0\npgmajfault 0\n")
}
