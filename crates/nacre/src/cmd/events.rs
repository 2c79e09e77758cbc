//! `nacre events`: out-of-memory notices and statistics, as runc's lines of JSON.

use std::sync::Arc;
use std::time::Duration;

use agent_api::{Client, ClientError, EventKind, StatsRequest};
use anyhow::anyhow;
use clap::Args;
use runtime::cgroup::Cgroup;
use runtime::state::{Access, Status};

use super::Failure;
use crate::cli::Global;

/// Print events and statistics of a container
#[derive(Debug, Args)]
pub struct Events {
    /// Time between statistics
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Print statistics once and exit
    #[arg(long)]
    stats: bool,
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

impl Events {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let entry = global.runtime().store.open(&self.id, Access::Look)?;
        if runtime::pod::status(&entry) == Status::Stopped {
            return Err(anyhow!("container with id {} is not running", self.id).into());
        }
        let agent = Arc::new(runtime::container::connect(&entry)?);
        let cgroup = Cgroup::open(entry.saved.cgroup.clone());
        if self.stats {
            super::print(&self.line(&agent, &cgroup)?)?;
            return Ok(0);
        }
        let (watched, id) = (agent.clone(), self.id.clone());
        std::thread::spawn(move || watch(&watched, &id));
        loop {
            match self.line(&agent, &cgroup) {
                Ok(line) => super::print(&line)?,
                // The container has ended.
                Err(ClientError::Closed | ClientError::Status(_)) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
            std::thread::sleep(self.interval);
        }
    }

    fn line(&self, agent: &Client, cgroup: &Cgroup) -> Result<String, ClientError> {
        let stats = agent.call(&StatsRequest { container_id: self.id.clone() })?;
        let host = cgroup.usage();
        let line = serde_json::json!({
            "type": "stats",
            "id": self.id,
            "data": {
                "cpu": {"usage": {
                    "total": stats.cpu_user_ns + stats.cpu_system_ns,
                    "kernel": stats.cpu_system_ns,
                    "user": stats.cpu_user_ns,
                }},
                "memory": {"usage": {
                    "usage": stats.memory_usage,
                    "max": stats.memory_peak,
                    "limit": stats.memory_limit.unwrap_or(u64::MAX),
                    "failcnt": stats.oom_kills,
                }},
                "pids": {"current": stats.pids, "limit": stats.pids_limit.unwrap_or(0)},
                // The sandbox as a whole, as the host counts it.
                "sandbox": {"cpu": host.cpu_ns, "memory": host.memory, "pids": host.pids},
            }
        });
        Ok(line.to_string())
    }
}

fn watch(agent: &Client, id: &str) {
    agent.follow(|event| {
        if event.container_id == id && event.kind() == EventKind::OutOfMemory {
            let _ = super::print(&serde_json::json!({"type": "oom", "id": id}).to_string());
        }
    });
}

/// `500ms`, `5s`, `1m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration like 500ms, 5s or 1m");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(bad()),
    };
    if duration.is_zero() { Err("the duration must be above zero".into()) } else { Ok(duration) }
}
