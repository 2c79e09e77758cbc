//! Changing a running container: its limits, those its kernel keeps and the host's cgroup around it; and its pod's network.

use agent_api::{Limits, UpdateContainerRequest};
use oci_spec::runtime::LinuxResources;

use crate::cgroup::{self, Cgroup, HostLimits};
use crate::config::{self, resources::without_effect};
use crate::container::{Runtime, connect};
use crate::error::{Doing, Error, Result};
use crate::pod;
use crate::pod_network;
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
        refuse(&entry, resources)?;
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

    /// Has the VM that a container is in follow its pod's network: interfaces that have come to the namespace since are joined, those that have gone
    /// are let go.
    ///
    /// # Errors
    /// It is in a sentry; it has joined no network namespace that has a name; it does not run; an interface cannot be joined.
    pub fn update_network(&self, id: &str) -> Result<()> {
        let entry = self.store.open(id, Access::Look)?;
        // One at a time, whichever of the pod's containers is named.
        let sandbox = self.store.open(&entry.saved.sandbox_id, Access::Change)?;
        let status = pod::status(&sandbox);
        if !matches!(status, Status::Created | Status::Running | Status::Paused) {
            return Err(Error::WrongStatus { verb: "update", id: id.into(), status });
        }
        if sandbox.saved.kind == Kind::Sentry {
            return Err(Error::Other("the interfaces of a sentry are those of its start: none comes or goes later".into()));
        }
        let network = sandbox.saved.network.as_deref().ok_or_else(|| {
            Error::Other(
                "the sandbox has joined no network namespace that has a name (--net NAMESPACE, or the configuration)".into(),
            )
        })?;
        let agent = connect(&sandbox)?;
        pod_network::update(network, |request, fds| agent.call_with(request, fds).doing(|| "cannot change the VM's network"))
    }
}

/// What would have no effect is refused; but not if it is as it was when the container was made, as engines send all of it again.
fn refuse(entry: &Entry, resources: &LinuxResources) -> Result<()> {
    let asked = without_effect(resources);
    if asked.is_empty() {
        return Ok(());
    }
    let spec = config::load(&entry.saved.bundle)?;
    let before = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).map(without_effect).unwrap_or_default();
    match asked.into_iter().find(|(key, value)| before.get(key) != Some(value)) {
        Some((key, value)) => {
            Err(Error::Other(format!("linux.resources.{key}: {value} would have no effect: a sandbox has no such limit")))
        }
        None => Ok(()),
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
