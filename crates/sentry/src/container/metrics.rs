//! What is counted in a sentry: of each container, of the kernel, and of what it asks of its host. `docs/metrics.md` lists the families.

use std::sync::Arc;

use agent_api::{Metric, metrics};
use gofer::protocol::Request;
use hostcall::tally;
use platform::ExecutorId;

use super::report::stats_of;
use super::{Agent, Handle};
use crate::kernel::Ended;
use crate::syscalls;

const NS: f64 = 1e9;

impl Agent {
    /// All of it.
    pub fn metrics(&self) -> Vec<Metric> {
        let handles: Vec<(String, Arc<Handle>)> =
            self.containers.lock().iter().map(|(id, handle)| (id.clone(), handle.clone())).collect();
        let done: Vec<Ended> = handles.iter().map(|(_, handle)| handle.container.activity()).collect();
        let each = handles.iter().zip(&done);
        let mut all = metrics::containers(each.map(|((id, handle), done)| (id.as_str(), stats_of(&handle.container, done))));
        all.extend(activity(&handles, &done));
        all.extend(gofers(&handles));
        all.extend(self.network());
        all.extend(self.executors());
        all.push(self.unsupported());
        all.extend(host());
        all
    }

    /// The sandbox's interfaces, as its programs see them.
    fn network(&self) -> [Metric; 4] {
        let mut all = metrics::network();
        for device in self.kernel.net.devices() {
            let of = [("interface", device.name.as_str())];
            let counts = [device.received.bytes, device.received.dropped, device.sent.bytes, device.sent.dropped];
            for (metric, count) in all.iter_mut().zip(counts) {
                metric.add(&of, count as f64);
            }
        }
        all
    }

    fn executors(&self) -> [Metric; 3] {
        let mut spun =
            Metric::counter("nacre_sentry_executor_spin_seconds_total", "Time executors have kept a CPU and looked for work.");
        let mut slept = Metric::counter("nacre_sentry_executor_sleep_seconds_total", "Time executors have slept.");
        let mut sleeps = Metric::counter("nacre_sentry_executor_sleeps_total", "How often executors went to sleep.");
        for executor in 0..self.kernel.scheduler.executors() {
            let idle = self.kernel.platform.idle(ExecutorId(executor));
            let number = executor.to_string();
            let of = [("executor", number.as_str())];
            spun.add(&of, idle.spin_ns as f64 / NS);
            slept.add(&of, idle.sleep_ns as f64 / NS);
            sleeps.add(&of, idle.sleeps as f64);
        }
        [spun, slept, sleeps]
    }

    fn unsupported(&self) -> Metric {
        let help = "System calls that programs made and that are not supported.";
        let mut unsupported = Metric::counter("nacre_sentry_unsupported_calls_total", help);
        for (number, count) in self.kernel.counters.unsupported_counts() {
            unsupported.add(&[("call", name(number)), ("number", &number.to_string())], count as f64);
        }
        unsupported
    }
}

/// What containers' programs have done.
fn activity(handles: &[(String, Arc<Handle>)], done: &[Ended]) -> [Metric; 4] {
    let mut calls = Metric::counter(
        "nacre_container_syscalls_total",
        "System calls of a container that reached the kernel, by name (some are answered before).",
    );
    let mut faults =
        Metric::counter("nacre_container_faults_total", "Faults of a container's programs that reached the kernel.");
    let mut moved = Metric::counter(
        "nacre_container_io_bytes_total",
        "Bytes that a container's programs have read from and written to files, pipes, sockets and terminals.",
    );
    let mut switches =
        Metric::counter("nacre_container_context_switches_total", "How often a container's threads gave way to others.");
    for ((id, handle), done) in handles.iter().zip(done) {
        let container = &handle.container;
        for (number, count) in container.traps.calls() {
            calls.add(&[("container", id), ("call", number.map_or("unknown", name))], count as f64);
        }
        faults.add(&[("container", id)], container.traps.faults() as f64);
        let counts = &done.counts;
        moved.add(&[("container", id), ("direction", "read")], counts.read_bytes as f64);
        moved.add(&[("container", id), ("direction", "write")], counts.written_bytes as f64);
        switches.add(&[("container", id), ("kind", "voluntary")], counts.voluntary_switches as f64);
        switches.add(&[("container", id), ("kind", "involuntary")], counts.involuntary_switches as f64);
    }
    [calls, faults, moved, switches]
}

/// What goes to and comes from the processes that open containers' files.
fn gofers(handles: &[(String, Arc<Handle>)]) -> [Metric; 2] {
    let mut requests = Metric::counter("nacre_gofer_requests_total", "What the kernel has asked a container's gofer for.");
    let mut bytes = Metric::counter("nacre_gofer_bytes_total", "Bytes of messages to and from a container's gofer.");
    for (id, handle) in handles {
        let traffic = handle.gofer.traffic();
        for (op, count) in traffic.requests {
            requests.add(&[("container", id), ("request", Request::name_of(op).unwrap_or("unknown"))], count as f64);
        }
        bytes.add(&[("container", id), ("direction", "sent")], traffic.sent_bytes as f64);
        bytes.add(&[("container", id), ("direction", "received")], traffic.received_bytes as f64);
    }
    [requests, bytes]
}

/// What the whole process has asked of the host.
fn host() -> [Metric; 3] {
    let mut calls = Metric::counter("nacre_sentry_host_calls_total", "Host calls of the kernel, by name.");
    let mut orders = Metric::counter("nacre_sentry_stub_orders_total", "Host calls that stubs were ordered to make.");
    tally::calls().for_each(|(name, count)| calls.add(&[("call", name)], count as f64));
    tally::orders().for_each(|(name, count)| orders.add(&[("call", name)], count as f64));
    let help = "Bytes between the kernel and host files and pipes.";
    let (read, written) = tally::bytes();
    let bytes = Metric::counter("nacre_sentry_host_file_bytes_total", help)
        .with(&[("direction", "read")], read as f64)
        .with(&[("direction", "write")], written as f64);
    [calls, orders, bytes]
}

fn name(number: u64) -> &'static str {
    syscalls::line(number).map_or("unknown", |line| line.name)
}
