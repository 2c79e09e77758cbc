//! Files about the machine: cpuinfo, meminfo, stat and the like, as the container's limits make it.

use std::fmt::Write;

use super::Shared;
use crate::task::Task;

/// Kernel time units per second in /proc (`USER_HZ`).
pub(super) const USER_HZ: u64 = 100;

/// Nanoseconds in one unit.
pub(super) const TICK_NS: u64 = 1_000_000_000 / USER_HZ;

/// One block for each CPU, from the model that the host reported at boot.
pub(super) fn cpuinfo(shared: &Shared) -> String {
    let machine = &shared.kernel.machine;
    let cpus = machine.cpus.max(1);
    let mut text = String::new();
    for cpu in 0..cpus {
        let _ = writeln!(text, "processor\t: {cpu}");
        for line in machine.cpu_model.lines() {
            // The topology is ours, as in /sys: one package of cores with one thread each.
            let _ = match line.split('\t').next().unwrap_or_default() {
                "physical id" => writeln!(text, "physical id\t: 0"),
                "siblings" => writeln!(text, "siblings\t: {cpus}"),
                "core id" => writeln!(text, "core id\t\t: {cpu}"),
                "cpu cores" => writeln!(text, "cpu cores\t: {cpus}"),
                "apicid" => writeln!(text, "apicid\t\t: {cpu}"),
                "initial apicid" => writeln!(text, "initial apicid\t: {cpu}"),
                _ => writeln!(text, "{line}"),
            };
        }
        text.push('\n');
    }
    text
}

/// Memory that the container may use, and has used, in bytes.
pub(super) fn memory(shared: &Shared) -> (u64, u64) {
    let total = shared.container.memory_bytes(&shared.kernel.machine);
    (total, shared.container.memory.used_bytes().min(total))
}

/// `proc_meminfo(5)`. The host's page cache is not the container's: what it uses counts as anonymous.
pub(super) fn meminfo(shared: &Shared) -> String {
    let (total, used) = memory(shared);
    let (total, used) = (total / 1024, used / 1024);
    let free = total - used;
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Active(anon)", used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Zswap", 0),
        ("Zswapped", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("SecPageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", total / 2),
        ("Committed_AS", used),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("HardwareCorrupted", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FileHugePages", 0),
        ("FilePmdMapped", 0),
    ];
    let mut text = String::new();
    for (name, kib) in rows {
        let _ = writeln!(text, "{:<16}{kib:>8} kB", format!("{name}:"));
    }
    for name in ["HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"] {
        let _ = writeln!(text, "{:<16}{:>8}", format!("{name}:"), 0);
    }
    text.push_str("Hugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    text
}

fn running(tasks: &[std::sync::Arc<Task>]) -> usize {
    tasks.iter().filter(|task| task.in_user() || task.activity.sleep().is_none()).count()
}

pub(super) fn loadavg(shared: &Shared) -> String {
    let (kernel, container) = (&shared.kernel, &shared.container);
    let [one, five, fifteen] = container.load.at(kernel.clock.monotonic().0, container.activity().usage.cpu_ns());
    let tasks = container.pids.tasks();
    format!("{one:.2} {five:.2} {fifteen:.2} {}/{} {}\n", running(&tasks).max(1), tasks.len(), container.pids.last())
}

/// Since the container's start, in ticks: all CPUs together, and what of that was used in user mode and by the kernel.
fn cpu_ticks(shared: &Shared) -> (u64, u64, u64) {
    let kernel = &shared.kernel;
    let up = kernel.clock.monotonic().0.saturating_sub(kernel.boot_ns) / TICK_NS;
    let all = up * kernel.machine.cpus.max(1) as u64;
    let used = shared.container.activity().usage;
    let user = (used.user_ns / TICK_NS).min(all);
    (all, user, (used.system_ns / TICK_NS).min(all - user))
}

/// `proc_stat(5)`: CPU time, spread over the CPUs evenly, since the host schedules; what is not known is zero.
pub(super) fn stat(shared: &Shared) -> String {
    let (kernel, container) = (&shared.kernel, &shared.container);
    let cpus = kernel.machine.cpus.max(1) as u64;
    let (all, user, system) = cpu_ticks(shared);
    let idle = all - user - system;
    let mut text = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    for cpu in 0..cpus {
        let _ = writeln!(text, "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0", user / cpus, system / cpus, idle / cpus);
    }
    let up_s = kernel.clock.monotonic().0.saturating_sub(kernel.boot_ns) / 1_000_000_000;
    let booted = (kernel.clock.realtime_ns() / 1_000_000_000).saturating_sub(up_s);
    let counts = container.activity().counts;
    let tasks = container.pids.tasks();
    let _ = write!(
        text,
        "intr 0\nctxt {}\nbtime {booted}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        counts.voluntary_switches + counts.involuntary_switches,
        container.pids.made(),
        running(&tasks).max(1),
    );
    text
}

pub(super) fn uptime(shared: &Shared) -> String {
    let kernel = &shared.kernel;
    let up = kernel.clock.monotonic().0.saturating_sub(kernel.boot_ns) / 10_000_000;
    let (all, user, system) = cpu_ticks(shared);
    let idle = all - user - system;
    format!("{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / USER_HZ, idle % USER_HZ)
}

pub(super) fn version(_shared: &Shared) -> String {
    format!("Linux version {} (nacre@nacre) (rustc) {}\n", crate::syscalls::uname::RELEASE, crate::syscalls::uname::VERSION)
}

/// The counters that tools read; what is not counted is zero.
pub(super) fn vmstat(shared: &Shared) -> String {
    let (total, used) = memory(shared);
    let (free, used) = ((total - used) / 4096, used / 4096);
    let mut text = format!("nr_free_pages {free}\nnr_zone_active_anon {used}\nnr_active_anon {used}\nnr_anon_pages {used}\n");
    const ZEROS: [&str; 38] = [
        "nr_zone_inactive_anon",
        "nr_zone_inactive_file",
        "nr_zone_active_file",
        "nr_zone_unevictable",
        "nr_mlock",
        "nr_inactive_anon",
        "nr_inactive_file",
        "nr_active_file",
        "nr_unevictable",
        "nr_slab_reclaimable",
        "nr_slab_unreclaimable",
        "nr_mapped",
        "nr_file_pages",
        "nr_dirty",
        "nr_writeback",
        "nr_shmem",
        "nr_dirtied",
        "nr_written",
        "nr_kernel_stack",
        "nr_page_table_pages",
        "pgpgin",
        "pgpgout",
        "pswpin",
        "pswpout",
        "pgfree",
        "pgactivate",
        "pgdeactivate",
        "pgfault",
        "pgmajfault",
        "pgsteal_kswapd",
        "pgsteal_direct",
        "pgscan_kswapd",
        "pgscan_direct",
        "oom_kill",
        "thp_fault_alloc",
        "thp_collapse_alloc",
        "swap_ra",
        "swap_ra_hit",
    ];
    for name in ZEROS {
        let _ = writeln!(text, "{name} 0");
    }
    text
}

/// All memory as one zone with one run of free pages for each order that fits.
pub(super) fn buddyinfo(shared: &Shared) -> String {
    let mut text = "Node 0, zone   Normal ".to_string();
    for count in free_runs(shared) {
        let _ = write!(text, "{count:>6} ");
    }
    text.push('\n');
    text
}

/// Free pages in runs of 2^order: as many large ones as there are, and the rest in binary.
fn free_runs(shared: &Shared) -> [u64; 11] {
    let (total, used) = memory(shared);
    let pages = (total - used) / 4096;
    std::array::from_fn(|order| if order == 10 { pages >> 10 } else { pages >> order & 1 })
}

pub(super) fn zoneinfo(shared: &Shared) -> String {
    let (total, used) = memory(shared);
    let (total, free, used) = (total / 4096, (total - used) / 4096, used / 4096);
    format!(
        "Node 0, zone   Normal\n  per-node stats\n      nr_inactive_anon 0\n      nr_active_anon {used}\n      nr_inactive_file 0\n      nr_active_file 0\n  pages free     {free}\n        boost    0\n        min      0\n        low      0\n        high     0\n        spanned  {total}\n        present  {total}\n        managed  {total}\n        cma      0\n      nr_free_pages {free}\n  node_unreclaimable:  0\n  start_pfn:           0\n"
    )
}

/// A column for each CPU and no interrupts: the host takes them.
pub(super) fn interrupts(shared: &Shared) -> String {
    let mut text = " ".repeat(11);
    for cpu in 0..shared.kernel.machine.cpus.max(1) {
        let _ = write!(text, "{:<11}", format!("CPU{cpu}"));
    }
    text.push('\n');
    text
}

pub(super) fn softirqs(shared: &Shared) -> String {
    let cpus = shared.kernel.machine.cpus.max(1);
    let mut text = " ".repeat(20);
    for cpu in 0..cpus {
        let _ = write!(text, "{:<11}", format!("CPU{cpu}"));
    }
    text.push('\n');
    for name in ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"] {
        let _ = write!(text, "{name:>12}:");
        for _ in 0..cpus {
            let _ = write!(text, "{:>11}", 0);
        }
        text.push('\n');
    }
    text
}

/// Open files, their number and Linux's third field.
pub(super) fn file_count(shared: &Shared) -> u64 {
    let mut seen = std::collections::HashSet::new();
    for task in shared.container.pids.tasks() {
        let Some(files) = task.shared.read().as_ref().map(|shared| shared.files.clone()) else { continue };
        seen.extend(files.list().iter().map(|(_, entry)| std::sync::Arc::as_ptr(&entry.file) as usize));
    }
    seen.len() as u64
}

/// The number of the process made last.
pub(super) fn last_pid(shared: &Shared) -> String {
    shared.container.pids.last().to_string()
}
