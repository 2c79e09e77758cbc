//! The rows of `nacre top`: figures of two moments, made into rates.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::ValueEnum;

use crate::cmd::printable;
use crate::gather::Seen;

/// What rows are sorted by, the largest first (names: the smallest).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Sort {
    #[default]
    Cpu,
    Memory,
    Pids,
    Calls,
    Net,
    Name,
}

/// A container's figures. None: not known (yet).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub name: String,
    pub pod: String,
    pub kind: String,
    pub status: String,
    /// In CPUs.
    pub cpu: Option<f64>,
    /// Bytes.
    pub memory: Option<f64>,
    pub pids: Option<f64>,
    /// In a second.
    pub calls: Option<f64>,
    /// Bytes in a second, of the sandbox: in the row of its first container.
    pub received: Option<f64>,
    pub sent: Option<f64>,
}

/// The counters of one moment.
#[derive(Debug)]
pub struct Moment {
    at: Instant,
    counters: BTreeMap<(String, &'static str), f64>,
}

pub const HEADING: [&str; 10] =
    ["CONTAINER", "POD", "KIND", "STATUS", "CPU%", "MEMORY", "PIDS", "CALLS/S", "NET IN/S", "NET OUT/S"];

const CPU: &str = "nacre_container_cpu_seconds_total";
const CALLS: &str = "nacre_container_syscalls_total";
const RECEIVED: &str = "nacre_guest_network_received_bytes_total";
const SENT: &str = "nacre_guest_network_sent_bytes_total";

/// The rows of what was seen at a moment, with rates since the moment before.
pub fn rows(seen: &[Seen], at: Instant, before: Option<&Moment>) -> (Vec<Row>, Moment) {
    let mut now = Moment { at, counters: BTreeMap::new() };
    let mut rows = Vec::new();
    for sandbox in seen {
        for container in &sandbox.containers {
            let id = container.id.as_str();
            let mut rate = |family: &'static str, of: Option<&str>| {
                let value = sandbox.sum(family, of)?;
                let key = (id.to_string(), family);
                let last = before.and_then(|before| Some((before.counters.get(&key)?, before.at)));
                let seconds = last.map(|(_, then)| at.saturating_duration_since(then).as_secs_f64());
                now.counters.insert(key, value);
                Some((value - last?.0).max(0.0) / seconds.filter(|seconds| *seconds > 0.0)?)
            };
            let is_first = id == sandbox.id;
            rows.push(Row {
                name: printable(container.name.as_deref().unwrap_or(id)),
                pod: printable(sandbox.label("pod").unwrap_or("-")),
                kind: sandbox.label("kind").unwrap_or_default().into(),
                status: match (sandbox.up, container.status) {
                    (false, runtime::state::Status::Running | runtime::state::Status::Paused) => "no answer".into(),
                    (_, status) => status.to_string(),
                },
                cpu: rate(CPU, Some(id)),
                calls: rate(CALLS, Some(id)),
                received: is_first.then(|| rate(RECEIVED, None)).flatten(),
                sent: is_first.then(|| rate(SENT, None)).flatten(),
                memory: sandbox.sum("nacre_container_memory_bytes", Some(id)),
                pids: sandbox.sum("nacre_container_tasks", Some(id)),
            });
        }
    }
    (rows, now)
}

/// Sorts; rows that are alike stay in order.
pub fn sort(rows: &mut [Row], by: Sort) {
    let net = |row: &Row| Some(row.received? + row.sent?);
    let of = |row: &Row| match by {
        Sort::Cpu => row.cpu,
        Sort::Memory => row.memory,
        Sort::Pids => row.pids,
        Sort::Calls => row.calls,
        Sort::Net => net(row),
        Sort::Name => None,
    };
    if by == Sort::Name {
        rows.sort_by(|a, b| (&a.pod, &a.name).cmp(&(&b.pod, &b.name)));
    } else {
        rows.sort_by(|a, b| of(b).unwrap_or(-1.0).total_cmp(&of(a).unwrap_or(-1.0)));
    }
}

impl Row {
    pub fn cells(&self) -> [String; 10] {
        let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.0}"));
        let bytes = |value: Option<f64>| value.map_or("-".into(), size);
        [
            self.name.clone(),
            self.pod.clone(),
            self.kind.clone(),
            self.status.clone(),
            self.cpu.map_or("-".into(), |cpus| format!("{:.1}", cpus * 100.0)),
            bytes(self.memory),
            number(self.pids),
            number(self.calls),
            bytes(self.received),
            bytes(self.sent),
        ]
    }
}

/// Bytes for people.
fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut units) = (bytes, UNITS.iter());
    let mut unit = units.next();
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = Some(next);
    }
    let digits = usize::from(value < 100.0 && bytes >= 1024.0);
    format!("{value:.digits$}{}", unit.unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_api::{Label, Metric};
    use runtime::state::Status;

    use super::*;
    use crate::gather::Member;

    fn seen(cpu: f64, calls: f64, received: f64) -> Seen {
        let member = |id: &str, name: &str| Member { id: id.into(), name: Some(name.into()), status: Status::Running };
        let of = |id| [("container", id)];
        Seen {
            id: "p".into(),
            labels: vec![Label { name: "kind".into(), value: "sentry".into() }],
            containers: vec![member("p", "first"), member("c", "web\u{1b}[2J")],
            up: true,
            metrics: vec![
                Metric::counter(CPU, "").with(&of("p"), 1.0).with(&of("c"), cpu),
                Metric::counter(CALLS, "")
                    .with(&[("container", "c"), ("call", "read")], calls)
                    .with(&[("container", "c"), ("call", "write")], 5.0),
                Metric::gauge("nacre_container_memory_bytes", "").with(&of("c"), 3.0 * 1024.0 * 1024.0),
                Metric::counter(RECEIVED, "").with(&[("interface", "eth0")], received),
            ],
        }
    }

    #[test]
    fn rates_are_between_two_moments() {
        let start = Instant::now();
        let (first, before) = rows(&[seen(2.0, 10.0, 0.0)], start, None);
        assert!(first.iter().all(|row| row.cpu.is_none() && row.calls.is_none()));
        let (mut second, _) = rows(&[seen(3.0, 110.0, 4096.0)], start + Duration::from_secs(2), Some(&before));
        sort(&mut second, Sort::Cpu);
        let cells: Vec<_> = second.iter().map(Row::cells).collect();
        assert_eq!(cells[0], ["web [2J", "-", "sentry", "running", "50.0", "3.0MiB", "-", "50", "-", "-"]);
        assert_eq!(cells[1], ["first", "-", "sentry", "running", "0.0", "-", "-", "-", "2.0KiB", "-"]);
        sort(&mut second, Sort::Name);
        assert_eq!(second[0].name, "first");
        sort(&mut second, Sort::Net);
        assert_eq!(second[0].name, "first", "sent bytes are not known, so neither is the sum, and all stays in order");
    }

    #[test]
    fn sizes() {
        let all = [0.0, 1023.0, 1024.0, 150.0 * 1024.0, 5e18].map(size);
        assert_eq!(all, ["0B", "1023B", "1.0KiB", "150KiB", "4547474TiB"]);
    }
}
