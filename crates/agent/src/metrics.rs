//! What is measured in the guest: the machine as its kernel sees it, each container, and this program itself.

use std::fs;

use agent_api::{Metric, metrics};

use crate::agent::Agent;

/// Linux shows times to user space in hundredths of a second (`USER_HZ`).
const TICKS: f64 = 100.0;
/// What /proc/stat counts a CPU's time by, in order (proc_stat(5)).
const CPU_MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
/// Lines of /proc/meminfo that are told, and as what.
const MEMORY: [(&str, &str); 8] = [
    ("MemTotal:", "total"),
    ("MemFree:", "free"),
    ("MemAvailable:", "available"),
    ("Buffers:", "buffers"),
    ("Cached:", "cached"),
    ("AnonPages:", "anonymous"),
    ("Shmem:", "shared"),
    ("Slab:", "slab"),
];

impl Agent {
    /// All of it. What the guest's kernel does not show is left out.
    pub fn metrics(&self) -> Vec<Metric> {
        let containers = self.containers();
        let mut all = metrics::containers(containers.iter().map(|container| (container.id.as_str(), container.cgroup.stats())));
        let mut block = Metric::counter(
            "nacre_container_block_bytes_total",
            "Bytes a container has read from and written to block devices.",
        );
        for container in &containers {
            let (read, written) = container.cgroup.block_bytes();
            block.add(&[("container", &container.id), ("direction", "read")], read as f64);
            block.add(&[("container", &container.id), ("direction", "write")], written as f64);
        }
        all.push(block);
        all.extend(machine());
        all.extend(network(&read("/proc/net/dev")));
        all.extend(own());
        all
    }
}

fn machine() -> Vec<Metric> {
    let mut memory = Metric::gauge("nacre_guest_memory_bytes", "The guest's memory, by its use.");
    let text = read("/proc/meminfo");
    for (key, name) in MEMORY {
        if let Some(kib) = field(&text, key) {
            memory.add(&[("kind", name)], kib * 1024.0);
        }
    }
    let stat = read("/proc/stat");
    let mut cpu = Metric::counter("nacre_guest_cpu_seconds_total", "CPU time of the guest, by what it was spent on.");
    let times = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    for (mode, ticks) in CPU_MODES.iter().zip(times.split_ascii_whitespace().filter_map(|word| word.parse::<f64>().ok())) {
        cpu.add(&[("mode", mode)], ticks / TICKS);
    }
    let online = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    let load = read("/proc/loadavg");
    let mut loads = Metric::gauge("nacre_guest_load", "Tasks of the guest that run or wait for a CPU, on average.");
    for (minutes, value) in ["1", "5", "15"].iter().zip(load.split(' ').filter_map(|word| word.parse().ok())) {
        loads.add(&[("minutes", minutes)], value);
    }
    let mut tasks = Metric::gauge("nacre_guest_tasks", "Threads of the guest, its kernel's among them.");
    // As `running/all`.
    if let Some(count) = load.split(' ').nth(3).and_then(|both| both.split_once('/')?.1.parse().ok()) {
        tasks.add(&[], count);
    }
    let mut uptime = Metric::gauge("nacre_guest_uptime_seconds", "Time since the guest's kernel started.");
    if let Some(seconds) = read("/proc/uptime").split(' ').next().and_then(|word| word.parse().ok()) {
        uptime.add(&[], seconds);
    }
    let cpus = Metric::gauge("nacre_guest_cpus", "CPUs of the guest that are on line.").with(&[], online as f64);
    vec![memory, cpu, cpus, loads, tasks, uptime]
}

/// From the text of /proc/net/dev.
fn network(text: &str) -> Vec<Metric> {
    // Columns behind the colon: 8 of what came in, 8 of what went out.
    let [received, receive_drops, sent, send_drops] = metrics::network();
    let mut all = [
        (0, received),
        (2, Metric::counter("nacre_guest_network_receive_errors_total", "Frames that came in broken, by interface.")),
        (3, receive_drops),
        (8, sent),
        (10, Metric::counter("nacre_guest_network_send_errors_total", "Frames that could not be sent, by interface.")),
        (11, send_drops),
    ];
    for (name, numbers) in text.lines().filter_map(|line| line.split_once(':')) {
        let numbers: Vec<f64> = numbers.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        for (column, metric) in &mut all {
            if let Some(value) = numbers.get(*column) {
                metric.add(&[("interface", name.trim())], *value);
            }
        }
    }
    all.into_iter().map(|(_, metric)| metric).collect()
}

/// Of PID 1.
fn own() -> Vec<Metric> {
    let status = read("/proc/self/status");
    let mut resident = Metric::gauge("nacre_agent_resident_bytes", "Memory of the agent in the guest.");
    if let Some(kib) = field(&status, "VmRSS:") {
        resident.add(&[], kib * 1024.0);
    }
    let mut threads = Metric::gauge("nacre_agent_threads", "Threads of the agent in the guest.");
    if let Some(count) = field(&status, "Threads:") {
        threads.add(&[], count);
    }
    // But the one that this reads by.
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count).saturating_sub(1);
    let fds = Metric::gauge("nacre_agent_open_fds", "Open descriptors of the agent in the guest.").with(&[], open as f64);
    vec![resident, threads, fds]
}

/// The number behind a key at the beginning of a line.
fn field(text: &str, key: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_ascii_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_has_what_is_told() {
        let all: Vec<Metric> = machine().into_iter().chain(own()).collect();
        for metric in &all {
            assert!(!metric.samples.is_empty(), "{} has no sample", metric.name);
        }
        let samples = |name: &str| all.iter().find(|metric| metric.name == name).unwrap().samples.len();
        assert_eq!((samples("nacre_guest_memory_bytes"), samples("nacre_guest_cpu_seconds_total")), (8, 8));
    }

    #[test]
    fn interfaces_are_read_by_their_columns() {
        let text =
            "Inter-|   Receive   |  Transmit\n face |bytes packets|bytes\n    lo:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let values: Vec<f64> = network(text).iter().map(|metric| metric.samples[0].value).collect();
        assert_eq!(values, [1.0, 3.0, 4.0, 9.0, 11.0, 12.0]);
    }
}
