//! [`Gatherer`]: what all sandboxes of this host say of themselves, in bounded time: for `nacre metrics` and `nacre top`.
//!
//! Sandboxes are found on disk, those of containerd's shims too, and asked all at once, each by a thread of its own. One that does not answer in time is down in this
//! round, and is not asked again before its last question has come to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_api::{GetMetricsRequest, Label, Metric};
use clap::Args;
use runtime::cgroup::{Cgroup, Usage};
use runtime::state::{Entry, Status, Store};

use crate::cli::Global;

/// How long sandboxes may take to answer, all together.
const PATIENCE: Duration = Duration::from_secs(3);
/// Stack of a thread that asks, in bytes.
const STACK: usize = 128 << 10;
/// What a sandbox may not speak of: it is said here.
const OURS: [&str; 2] = ["nacre_sandbox_", "nacre_container_status"];
/// Engines' annotations: of containerd's CRI, of CRI-O and podman.
const POD: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const POD_NAMESPACE: [&str; 2] = ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"];
const CONTAINER: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];

/// Where sandboxes are looked for.
#[derive(Debug)]
struct Place {
    store: Store,
    /// containerd's, of its shim's sandboxes.
    namespace: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Gatherer {
    root: Store,
    shims: Shims,
    patience: Duration,
    /// Held by who gathers: what one is asking just now would be down to another.
    turn: Mutex<()>,
    /// State directories of sandboxes that have not answered yet.
    asked: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// Which sandboxes.
#[derive(Debug, Args)]
pub struct Which {
    /// Only the sandboxes of --root, not those of containerd's shims
    #[arg(long)]
    no_shims: bool,
}

impl Which {
    pub fn gatherer(&self, global: &Global) -> Gatherer {
        let shims = if self.no_shims { Shims::LeftOut } else { Shims::Included };
        Gatherer { root: Store::new(global.root()), shims, patience: PATIENCE, turn: Mutex::default(), asked: Arc::default() }
    }
}

/// Whether the sandboxes of containerd's shims are looked for, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shims {
    Included,
    LeftOut,
}

/// A sandbox, as it is now.
#[derive(Debug)]
pub struct Seen {
    pub id: String,
    /// Which it is, as labels of all its samples.
    pub labels: Vec<Label>,
    pub containers: Vec<Member>,
    /// It has answered.
    pub up: bool,
    /// Its own, and what the host counts of it.
    pub metrics: Vec<Metric>,
}

/// A container of a sandbox.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: String,
    /// The engine's word for it.
    pub name: Option<String>,
    pub status: Status,
}

impl Gatherer {
    /// Asks all sandboxes there are.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn gather(&self) -> anyhow::Result<Vec<Seen>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + self.patience;
        let (answers, answered) = channel();
        let mut seen = Vec::new();
        for place in self.places() {
            let entries = match place.store.list() {
                // Of somebody else's.
                Err(error) if place.namespace.is_some() => {
                    tracing::warn!("{error}");
                    continue;
                }
                listed => listed?,
            };
            for (id, entries) in by_sandbox(entries) {
                let mut sandbox = look(&id, place.namespace.as_deref(), &entries);
                sandbox.metrics.extend(host(&entries));
                if let Some(first) = entries.into_iter().find(|entry| !entry.saved.is_member()) {
                    self.ask(first, seen.len(), &answers);
                }
                seen.push(sandbox);
            }
        }
        drop(answers);
        while let Ok((index, metrics)) = answered.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Some(sandbox) = seen.get_mut(index) {
                sandbox.take(metrics);
            }
        }
        for sandbox in &mut seen {
            let help = "Whether the sandbox has told what it counts; 0: it has ended, hangs, or is just being made.";
            sandbox.metrics.push(Metric::gauge("nacre_sandbox_up", help).with(&[], f64::from(u8::from(sandbox.up))));
        }
        Ok(seen)
    }

    fn places(&self) -> Vec<Place> {
        let own = Place { store: self.root.clone(), namespace: None };
        let shims = match self.shims {
            Shims::Included => shim::states(),
            Shims::LeftOut => Vec::new(),
        };
        let of = |(namespace, root)| Place { store: Store::new(root), namespace: Some(namespace) };
        std::iter::once(own).chain(shims.into_iter().map(of)).collect()
    }

    /// Has a thread ask a sandbox, by its first container.
    fn ask(&self, entry: Entry, index: usize, answers: &Sender<(usize, Vec<Metric>)>) {
        if matches!(entry.saved.status(), Status::Stopped | Status::Creating) {
            return;
        }
        let dir = entry.dir.clone();
        if !lock(&self.asked).insert(dir.clone()) {
            return;
        }
        let (asked, answers) = (self.asked.clone(), answers.clone());
        let asking = move || {
            let answer = runtime::container::connect(&entry).map_err(|error| error.to_string());
            let answer = answer.and_then(|agent| agent.call(&GetMetricsRequest {}).map_err(|error| error.to_string()));
            lock(&asked).remove(&entry.dir);
            match answer {
                // Who has asked may have lost patience.
                Ok(answer) => drop(answers.send((index, answer.metrics))),
                Err(error) => tracing::debug!("sandbox {}: {error}", entry.saved.id),
            }
        };
        let thread = std::thread::Builder::new().name("gather".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(asking) {
            lock(&self.asked).remove(&dir);
            tracing::warn!("a sandbox cannot be asked: {error}");
        }
    }
}

impl Seen {
    /// Takes up what it has said.
    fn take(&mut self, mut said: Vec<Metric>) {
        self.up = true;
        said.retain(|metric| metric.name.starts_with("nacre_") && !OURS.iter().any(|ours| metric.name.starts_with(ours)));
        for sample in said.iter_mut().flat_map(|metric| &mut metric.samples) {
            sample.labels.retain(|label| label.name != "container_name");
            let of = sample.labels.iter().position(|label| label.name == "container");
            let id = of.and_then(|at| sample.labels.get(at)).map(|label| label.value.as_str());
            let name = self.containers.iter().find(|container| Some(container.id.as_str()) == id).and_then(|c| c.name.clone());
            if let (Some(at), Some(name)) = (of, name) {
                sample.labels.insert(at + 1, label("container_name", name));
            }
        }
        self.metrics.extend(said);
    }

    /// The sum of a family's samples, of one container or (None) of all that are said of the sandbox.
    pub fn sum(&self, family: &str, container: Option<&str>) -> Option<f64> {
        let samples = self.metrics.iter().filter(|metric| metric.name == family).flat_map(|metric| &metric.samples);
        let is_of = |label: &Label| label.name == "container" && Some(label.value.as_str()) == container;
        let wanted = samples.filter(|sample| container.is_none() || sample.labels.iter().any(is_of));
        wanted.map(|sample| sample.value).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|label| label.name == name).map(|label| label.value.as_str())
    }
}

fn lock(asked: &Mutex<BTreeSet<PathBuf>>) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn by_sandbox(entries: Vec<Entry>) -> BTreeMap<String, Vec<Entry>> {
    let mut all: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        all.entry(entry.saved.sandbox_id.clone()).or_default().push(entry);
    }
    all
}

/// What is on disk of a sandbox.
fn look(id: &str, namespace: Option<&str>, entries: &[Entry]) -> Seen {
    let annotated = |entry: &Entry, names: &[&str]| {
        names.iter().find_map(|name| entry.saved.annotations.get(*name)).filter(|value| !value.is_empty()).cloned()
    };
    let of_pod = |names: &[&str]| entries.iter().find_map(|entry| annotated(entry, names));
    let kind = entries.first().map(|entry| entry.saved.kind).unwrap_or_default();
    let mut labels = vec![label("sandbox", id.into()), label("kind", kind.to_string())];
    labels.extend(namespace.map(|namespace| label("containerd_namespace", namespace.into())));
    labels.extend(of_pod(&POD).map(|pod| label("pod", pod)));
    labels.extend(of_pod(&POD_NAMESPACE).map(|namespace| label("pod_namespace", namespace)));
    let member =
        |entry: &Entry| Member { id: entry.saved.id.clone(), name: annotated(entry, &CONTAINER), status: entry.saved.status() };
    let containers: Vec<Member> = entries.iter().map(member).collect();
    let help = "Containers there are, with what they do (as far as the state on disk tells); always 1.";
    let mut status = Metric::gauge("nacre_container_status", help);
    for container in &containers {
        let text = container.status.to_string();
        let mut labels = vec![("container", container.id.as_str())];
        labels.extend(container.name.as_deref().map(|name| ("container_name", name)));
        labels.push(("status", &text));
        status.add(&labels, 1.0);
    }
    Seen { id: id.into(), labels, containers, up: false, metrics: vec![status] }
}

/// What the host counts of a sandbox's processes, all together.
fn host(entries: &[Entry]) -> [Metric; 3] {
    let usage: Vec<Usage> = entries.iter().map(|entry| Cgroup::open(entry.saved.cgroup.clone()).usage()).collect();
    let sum = |of: fn(&Usage) -> Option<u64>| usage.iter().filter_map(of).reduce(u64::saturating_add).map(|sum| sum as f64);
    let with = |mut metric: Metric, value: Option<f64>| {
        value.into_iter().for_each(|value| metric.add(&[], value));
        metric
    };
    let cpu = Metric::counter("nacre_sandbox_host_cpu_seconds_total", "CPU time of a sandbox's processes on the host.");
    let memory = Metric::gauge("nacre_sandbox_host_memory_bytes", "Memory that the host counts for a sandbox's processes.");
    let tasks = Metric::gauge("nacre_sandbox_host_tasks", "Threads of a sandbox's processes on the host.");
    [
        with(cpu, sum(|usage| usage.cpu_ns).map(|ns| ns / 1e9)),
        with(memory, sum(|usage| usage.memory)),
        with(tasks, sum(|usage| usage.pids)),
    ]
}

fn label(name: &str, value: String) -> Label {
    Label { name: name.into(), value }
}

/// Prometheus' text of all.
pub fn text(all: &[Seen]) -> String {
    agent_api::metrics::render(all.iter().map(|sandbox| (sandbox.labels.as_slice(), sandbox.metrics.as_slice())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let containers = vec![Member { id: "c1".into(), name: Some("web".into()), status: Status::Running }];
        Seen { id: "p".into(), labels: vec![label("sandbox", "p".into())], containers, up: false, metrics: Vec::new() }
    }

    #[test]
    fn a_sandbox_speaks_of_itself_only() {
        let mut sandbox = seen();
        sandbox.take(vec![
            Metric::gauge("nacre_sandbox_up", "").with(&[], 7.0),
            Metric::gauge("go_threads", "").with(&[], 7.0),
            Metric::gauge("nacre_container_tasks", "")
                .with(&[("container", "c1"), ("container_name", "db")], 3.0)
                .with(&[("container", "c2"), ("sandbox", "q"), ("container_name", "db")], 4.0),
        ]);
        assert!(sandbox.up);
        assert_eq!(
            text(&[sandbox]),
            "# HELP nacre_container_tasks \n# TYPE nacre_container_tasks gauge\n\
             nacre_container_tasks{sandbox=\"p\",container=\"c1\",container_name=\"web\"} 3\n\
             nacre_container_tasks{sandbox=\"p\",container=\"c2\"} 4\n"
        );
    }

    #[test]
    fn samples_are_summed() {
        let mut sandbox = seen();
        sandbox.take(vec![
            Metric::counter("nacre_x_total", "")
                .with(&[("container", "c1"), ("mode", "a")], 1.0)
                .with(&[("container", "c1"), ("mode", "b")], 2.0)
                .with(&[("container", "c2")], 4.0),
        ]);
        assert_eq!(sandbox.sum("nacre_x_total", Some("c1")), Some(3.0));
        assert_eq!(sandbox.sum("nacre_x_total", None), Some(7.0));
        assert_eq!(sandbox.sum("nacre_x_total", Some("c3")), None);
        assert_eq!(sandbox.sum("nacre_y", None), None);
    }
}
