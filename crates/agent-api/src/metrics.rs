//! Metrics: made by agents, shown as Prometheus' text.
//!
//! An agent answers with families, not with text: who shows those of several sandboxes must join families of the same name and say whose each sample is, and
//! what a guest says is hostile input, which [`render`] checks and escapes.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::{Label, Metric, MetricKind, Sample, StatsResponse};

/// Most samples of one sandbox that are shown.
const MAX_SAMPLES: usize = 10_000;
/// Longest name, and longest value of a label, in bytes.
const MAX_TEXT: usize = 256;
const NS: f64 = 1e9;

impl Metric {
    /// What goes up and down.
    pub fn gauge(name: &str, help: &str) -> Metric {
        Metric { name: name.into(), help: help.into(), kind: MetricKind::Gauge as i32, samples: Vec::new() }
    }

    /// What only goes up.
    pub fn counter(name: &str, help: &str) -> Metric {
        Metric { kind: MetricKind::Counter as i32, ..Metric::gauge(name, help) }
    }

    /// Adds a sample.
    pub fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let label = |(name, value): &(&str, &str)| Label { name: (*name).into(), value: (*value).into() };
        self.samples.push(Sample { labels: labels.iter().map(label).collect(), value });
    }

    /// With one more sample.
    #[must_use]
    pub fn with(mut self, labels: &[(&str, &str)], value: f64) -> Metric {
        self.add(labels, value);
        self
    }
}

/// The use of the machine of containers, by their ids: the same for every kind of sandbox.
pub fn containers<'a>(all: impl Iterator<Item = (&'a str, StatsResponse)>) -> Vec<Metric> {
    let mut cpu = Metric::counter("nacre_container_cpu_seconds_total", "CPU time a container has used.");
    let mut memory = Metric::gauge("nacre_container_memory_bytes", "Memory a container uses.");
    let mut peak = Metric::gauge("nacre_container_memory_peak_bytes", "The most memory a container has used.");
    let mut most = Metric::gauge("nacre_container_memory_limit_bytes", "Memory a container may use, if that is limited.");
    let mut pids = Metric::gauge("nacre_container_tasks", "Threads of a container.");
    let mut most_pids = Metric::gauge("nacre_container_tasks_limit", "Threads a container may have, if that is limited.");
    let mut kills =
        Metric::counter("nacre_container_oom_kills_total", "Processes killed because the container's memory was full.");
    for (id, stats) in all {
        let of = [("container", id)];
        cpu.add(&[("container", id), ("mode", "user")], stats.cpu_user_ns as f64 / NS);
        cpu.add(&[("container", id), ("mode", "system")], stats.cpu_system_ns as f64 / NS);
        memory.add(&of, stats.memory_usage as f64);
        peak.add(&of, stats.memory_peak as f64);
        pids.add(&of, stats.pids as f64);
        kills.add(&of, stats.oom_kills as f64);
        if let Some(limit) = stats.memory_limit {
            most.add(&of, limit as f64);
        }
        if let Some(limit) = stats.pids_limit {
            most_pids.add(&of, limit as f64);
        }
    }
    vec![cpu, memory, peak, most, pids, most_pids, kills]
}

/// Of a sandbox's interfaces, with label `interface`: bytes received, frames dropped of them, bytes sent, frames dropped of them.
pub fn network() -> [Metric; 4] {
    [
        Metric::counter("nacre_guest_network_received_bytes_total", "Bytes that came in, by interface."),
        Metric::counter("nacre_guest_network_receive_drops_total", "Frames that came in and were dropped, by interface."),
        Metric::counter("nacre_guest_network_sent_bytes_total", "Bytes that went out, by interface."),
        Metric::counter("nacre_guest_network_send_drops_total", "Frames that were to go out and were dropped, by interface."),
    ]
}

/// The text of Prometheus' exposition format (version 0.0.4) for the metrics of several sandboxes, each with labels that say which it is.
/// Names that are none, and what is too much, are left out; a sandbox's labels cannot be taken by what comes out of it.
pub fn render<'a>(sandboxes: impl IntoIterator<Item = (&'a [Label], &'a [Metric])>) -> String {
    let mut families: BTreeMap<&str, (&Metric, String)> = BTreeMap::new();
    for (own, metrics) in sandboxes {
        let mut left = MAX_SAMPLES;
        for metric in metrics.iter().filter(|metric| is_name(&metric.name)) {
            let (_, lines) = families.entry(metric.name.as_str()).or_insert_with(|| (metric, String::new()));
            for sample in metric.samples.iter().take(left) {
                line(lines, &metric.name, own, sample);
            }
            left = left.saturating_sub(metric.samples.len());
        }
    }
    let mut text = String::new();
    for (name, (metric, lines)) in families.iter().filter(|(_, (_, lines))| !lines.is_empty()) {
        let kind = match metric.kind() {
            MetricKind::Gauge => "gauge",
            MetricKind::Counter => "counter",
        };
        let help = cut(&metric.help).replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
    }
    text
}

fn line(lines: &mut String, name: &str, own: &[Label], sample: &Sample) {
    let theirs = sample.labels.iter().filter(|label| is_name(&label.name) && own.iter().all(|own| own.name != label.name));
    lines.push_str(name);
    for (n, label) in own.iter().chain(theirs).enumerate() {
        let value = cut(&label.value).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(lines, "{}{}=\"{value}\"", if n == 0 { '{' } else { ',' }, label.name);
    }
    let end = if own.is_empty() && sample.labels.is_empty() { "" } else { "}" };
    let _ = writeln!(lines, "{end} {}", sample.value);
}

/// Whether it may name a metric or a label.
fn is_name(name: &str) -> bool {
    name.len() <= MAX_TEXT
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// As much of a text as is shown.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str, value: &str) -> Label {
        Label { name: name.into(), value: value.into() }
    }

    #[test]
    fn families_of_all_sandboxes_are_joined() {
        let stats = StatsResponse { memory_usage: 4096, cpu_user_ns: 1_500_000_000, ..StatsResponse::default() };
        let (one, two) = (containers([("a", stats)].into_iter()), containers([("b", stats)].into_iter()));
        let labels = [[label("sandbox", "x")], [label("sandbox", "y")]];
        let text = render([(&labels[0][..], &one[..]), (&labels[1][..], &two[..])]);
        let memory = "# HELP nacre_container_memory_bytes Memory a container uses.\n# TYPE nacre_container_memory_bytes gauge\n\
            nacre_container_memory_bytes{sandbox=\"x\",container=\"a\"} 4096\nnacre_container_memory_bytes{sandbox=\"y\",container=\"b\"} 4096\n";
        assert!(text.contains(memory), "{text}");
        assert!(text.contains("cpu_seconds_total{sandbox=\"x\",container=\"a\",mode=\"user\"} 1.5\n"), "{text}");
        assert!(!text.contains("limit"), "no limit, no family: {text}");
    }

    #[test]
    fn what_a_guest_says_stays_its_own() {
        let hostile = [
            Metric::gauge("up 1\nother", "").with(&[], 1.0),
            Metric::gauge("fine", "two\nlines").with(&[("sandbox", "another"), ("a b", "x"), ("path", "\"}\n\\")], f64::NAN),
            Metric::counter("many", "").with(&[], 0.0),
        ];
        let text = render([(&[label("sandbox", "own")][..], &hostile[..])]);
        assert_eq!(
            text,
            "# HELP fine two\\nlines\n# TYPE fine gauge\nfine{sandbox=\"own\",path=\"\\\"}\\n\\\\\"} NaN\n\
             # HELP many \n# TYPE many counter\nmany{sandbox=\"own\"} 0\n"
        );
        let mut flood = Metric::gauge("flood", "");
        (0..20_000).for_each(|_| flood.add(&[], 1.0));
        let long = "ä".repeat(1000);
        let flood = [flood.with(&[("long", &long)], 0.0), Metric::gauge("after", "").with(&[], 1.0)];
        let text = render([(&[][..], &flood[..])]);
        assert_eq!(text.lines().count(), MAX_SAMPLES + 2);
        let text = render([(&[][..], &[Metric::gauge("one", "").with(&[("long", &long)], 1.0)][..])]);
        assert!(text.len() < 400, "{text}");
    }
}
