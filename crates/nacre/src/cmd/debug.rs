//! `nacre debug`: a look inside from outside.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use agent_api::{Client, ClientError, GetMetricsRequest, SetStraceRequest, StacksRequest};
use clap::Args;
use runtime::state::Access;
use runtime::sys::SignalSet;

use super::events::duration;
use super::{Failure, ps};
use crate::cli::Global;

/// Look into a running sandbox
#[derive(Debug, Args)]
pub struct Debug {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// What each task is doing
    #[arg(long)]
    stacks: bool,
    /// Print system calls until interrupted
    #[arg(long)]
    strace: bool,
    /// The processes inside
    #[arg(long)]
    ps: bool,
    /// Count for so long what its programs ask for, and what that asks of the host (500ms, 5s, 1m)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    profile: Option<Duration>,
}

impl Debug {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        if self.what.ps {
            ps::print(&ps::processes(global, &self.id)?)?;
            return Ok(0);
        }
        let entry = global.runtime().store.open(&self.id, Access::Look)?;
        let agent = runtime::container::connect(&entry)?;
        if self.what.stacks {
            let stacks = agent.call(&StacksRequest { container_id: self.id.clone() })?;
            // Guests choose names in it.
            let text: String = stacks.text.lines().map(|line| super::printable(line) + "\n").collect();
            std::io::stdout().write_all(text.as_bytes())?;
            return Ok(0);
        }
        if let Some(time) = self.what.profile {
            return profile(&agent, &self.id, time);
        }
        let stop = SignalSet::new(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
        stop.block();
        let request = SetStraceRequest { container_id: self.id.clone(), output: Some(0) };
        agent.call_with(&request, &[std::io::stdout().as_fd()])?;
        std::thread::scope(|scope| {
            // The sandbox's end is an end too: the long poll fails.
            scope.spawn(|| {
                agent.follow(drop);
                std::process::exit(0);
            });
            stop.wait();
            match agent.call(&SetStraceRequest { container_id: self.id.clone(), output: None }) {
                Ok(_) | Err(ClientError::Closed) => std::process::exit(0),
                Err(error) => {
                    tracing::error!("{error}");
                    std::process::exit(1)
                }
            }
        })
    }
}

/// Families that a profile has, and what they are called there. Those of a container come first.
const PROFILED: [(&str, &str); 5] = [
    ("nacre_container_syscalls_total", "system call"),
    ("nacre_container_faults_total", "fault"),
    ("nacre_gofer_requests_total", "to the gofer"),
    ("nacre_sentry_stub_orders_total", "order to a stub"),
    ("nacre_sentry_host_calls_total", "host call"),
];

/// Prints how often each thing was done in a while, the most frequent first.
fn profile(agent: &Client, id: &str, time: Duration) -> Result<u8, Failure> {
    let before = counted(agent, id)?;
    if before.is_empty() {
        return Err(anyhow::anyhow!("{id} is not in a sentry: what runs in a VM is not counted by system call").into());
    }
    std::thread::sleep(time);
    let after = counted(agent, id)?;
    let mut rows: Vec<_> = after.into_iter().map(|(what, count)| (count - before.get(&what).unwrap_or(&0.0), what)).collect();
    rows.retain(|(count, _)| *count > 0.0);
    rows.sort_by(|(a, this), (b, that)| (this.0, b).partial_cmp(&(that.0, a)).unwrap_or(std::cmp::Ordering::Equal));
    let heading = ["WHAT", "NAME", "COUNT", "PER SECOND"].map(String::from);
    let row = |(count, (kind, name)): &(f64, (usize, String))| {
        let what = PROFILED.get(*kind).map_or("", |(_, what)| what);
        [what.into(), super::printable(name), format!("{count:.0}"), format!("{:.0}", count / time.as_secs_f64())]
    };
    super::table(&[vec![heading], rows.iter().map(row).collect()].concat())?;
    Ok(0)
}

/// The counters of [`PROFILED`] that are a container's, or its sandbox's: by place there, and name.
fn counted(agent: &Client, id: &str) -> anyhow::Result<BTreeMap<(usize, String), f64>> {
    let mut all = BTreeMap::new();
    for metric in agent.call(&GetMetricsRequest {})?.metrics {
        let Some(kind) = PROFILED.iter().position(|(family, _)| *family == metric.name) else { continue };
        for sample in metric.samples {
            let is_other = |label: &agent_api::Label| label.name == "container" && label.value != id;
            if !sample.labels.iter().any(is_other) {
                let name = sample.labels.iter().find(|label| label.name != "container").map_or("", |label| &label.value);
                *all.entry((kind, name.to_string())).or_insert(0.0) += sample.value;
            }
        }
    }
    Ok(all)
}
