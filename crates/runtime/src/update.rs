//! Changing a running container's limits: those its kernel keeps, and the host's cgroup around it.

use agent_api::{Limits, UpdateContainerRequest};
use oci_spec::runtime::LinuxResources;

use crate::cgroup::{self, Cgroup, HostLimits};
use crate::container::{Runtime, connect};
use crate::error::{Doing, Error, Result};
use crate::pod;
use crate::process::memory;
use crate::sandbox::Kind;
use crate::state::{Access, Entry, Status};

impl Runtime {
    /// Sets the limits that `resources` names; what it does not name stays, and -1 takes a limit away.
    ///
    /// # Errors
    /// The container does not run; a value makes no sense, or is less than is in use; something that cannot be changed is asked for.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let entry = self.store.open(id, Access::Change)?;
        let status = pod::status(&entry);
        if !matches!(status, Status::Created | Status::Running | Status::Paused) {
            return Err(Error::WrongStatus { verb: "update", id: id.into(), status });
        }
        let limits = wanted(resources)?;
        if let (Kind::Sentry, Some(bytes)) = (entry.saved.kind, limits.memory) {
            resize_memory(&entry, bytes)?;
        }
        let request = UpdateContainerRequest { container_id: id.into(), limits: Some(limits) };
        connect(&entry)?.call(&request).doing(|| "cannot change the container's limits")?;
        let room = HostLimits::with_overhead(entry.saved.kind, limits.memory, limits.pids);
        let host = HostLimits { memory: room.memory, pids: room.pids, ..HostLimits::of(entry.saved.kind, resources)? };
        Cgroup::open(entry.saved.cgroup.clone()).set_limits(&host)
    }
}

fn resize_memory(entry: &Entry, bytes: u64) -> Result<()> {
    let holder = entry.saved.gofers.first().filter(|gofer| gofer.is_alive());
    match (holder, entry.saved.memory_dev) {
        (Some(holder), Some(dev)) => memory::resize(holder, dev, bytes),
        _ => Err(Error::Other("the memory limit of an ordinary user's container cannot be changed while it runs".into())),
    }
}

/// As the agent is told.
fn wanted(resources: &LinuxResources) -> Result<Limits> {
    let limit = |value: Option<i64>, name: &str| {
        cgroup::asked(value).map_err(|what| Error::Other(format!("linux.resources.{name}: {what}")))
    };
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    Ok(Limits {
        memory: limit(memory.and_then(|memory| memory.limit()), "memory.limit")?,
        pids: limit(resources.pids().as_ref().map(|pids| pids.limit()), "pids.limit")?,
        cpu_quota_us: limit(cpu.and_then(|cpu| cpu.quota()), "cpu.quota")?,
        cpu_period_us: cpu.and_then(|cpu| cpu.period()).filter(|&period| period != 0),
        cpu_shares: cpu.and_then(|cpu| cpu.shares()).filter(|&shares| shares != 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let resources: LinuxResources =
            serde_json::from_str(r#"{"memory":{"limit":0},"pids":{"limit":-1},"cpu":{"quota":50000}}"#).expect("resources");
        let limits = wanted(&resources).expect("limits");
        assert_eq!((limits.memory, limits.pids, limits.cpu_quota_us), (None, Some(Limits::NONE), Some(50_000)));
        let resources: LinuxResources = serde_json::from_str(r#"{"memory":{"limit":-7}}"#).expect("resources");
        assert!(wanted(&resources).expect_err("negative").to_string().contains("memory.limit"));
    }
}
