//! From a container's limits to its sandbox's.

use agent_api::Limits;
use oci_spec::runtime::LinuxResources;

use crate::error::{Error, Result};
use crate::sandbox::Kind;

/// Bytes a sandbox's own processes may need beside its guests' memory.
const MEMORY_OVERHEAD: u64 = 64 << 20;
/// And a VM's: its guest's kernel and agent, and the VMM, which keeps translated code where it emulates.
const VM_MEMORY_OVERHEAD: u64 = GUEST_MEMORY_OVERHEAD + (320 << 20);
/// Guest memory of a VM beside what containers may use: the guest's kernel, its page tables, the agent.
pub const GUEST_MEMORY_OVERHEAD: u64 = 128 << 20;
/// Host threads beside those of guest tasks: executors, zygote, gofers, pooled stubs.
const PIDS_OVERHEAD: u64 = 128;
/// Host threads of a VM, however many tasks its guest has: one for each vCPU, call and stream, and some of the VMM's.
const VM_PIDS: u64 = 2048;

/// Limits of a host cgroup. None: leave as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLimits {
    /// Bytes.
    pub memory: Option<u64>,
    pub pids: Option<u64>,
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; `Some(None)`: no quota.
    pub cpu_quota_us: Option<Option<u64>>,
    pub cpu_period_us: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
}

impl HostLimits {
    /// For guests that may use so many bytes and tasks.
    pub fn with_overhead(kind: Kind, memory: Option<u64>, pids: Option<u64>) -> HostLimits {
        let overhead = match kind {
            Kind::Sentry => MEMORY_OVERHEAD,
            Kind::Vm => VM_MEMORY_OVERHEAD,
        };
        let threads = |tasks: u64| match kind {
            // Each guest task is a host thread, each guest process at most one more.
            Kind::Sentry => tasks.saturating_mul(2).saturating_add(PIDS_OVERHEAD),
            Kind::Vm => VM_PIDS,
        };
        HostLimits {
            memory: memory.map(|bytes| bytes.saturating_add(overhead)),
            pids: pids.map(threads),
            ..HostLimits::default()
        }
    }

    /// For `resources` of an OCI config and this kind of sandbox.
    ///
    /// # Errors
    /// A value makes no sense; it is named.
    pub fn of(kind: Kind, resources: &LinuxResources) -> Result<HostLimits> {
        let mut limits = HostLimits::default();
        if let Some(memory) = resources.memory() {
            limits = HostLimits::with_overhead(kind, positive(memory.limit(), "memory.limit")?, None);
        }
        if let Some(pids) = resources.pids() {
            limits.pids = HostLimits::with_overhead(kind, None, positive(Some(pids.limit()), "pids.limit")?).pids;
        }
        if let Some(cpu) = resources.cpu() {
            limits.cpu_shares = cpu.shares().filter(|&shares| shares != 0);
            limits.cpu_quota_us = match cpu.quota() {
                None => None,
                Some(quota) if quota <= 0 => Some(None),
                Some(quota) => Some(Some(quota as u64)),
            };
            limits.cpu_period_us = cpu.period().filter(|&period| period != 0);
            limits.cpuset_cpus = cpu.cpus().clone().filter(|text| !text.is_empty());
            limits.cpuset_mems = cpu.mems().clone().filter(|text| !text.is_empty());
        }
        Ok(limits)
    }
}

/// What an OCI limit asks for: nothing, if it is absent or 0; [`Limits::NONE`] for -1.
///
/// # Errors
/// What is wrong with the value.
pub fn asked(value: Option<i64>) -> std::result::Result<Option<u64>, String> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Limits::NONE)),
        Some(value) => u64::try_from(value).map(Some).map_err(|_| format!("{value} is negative")),
    }
}

/// A limit of a cgroup that has none yet.
fn positive(value: Option<i64>, name: &str) -> Result<Option<u64>> {
    let limit = asked(value).map_err(|what| Error::Other(format!("linux.resources.{name}: {what}")))?;
    Ok(limit.filter(|&limit| limit != Limits::NONE))
}

/// v1's cpu.shares (2 to 262144) as v2's cpu.weight (1 to 10000).
pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// As pids.max takes it: a number that no machine reaches is refused.
pub(super) fn pids_max(pids: u64) -> String {
    if pids > 4 << 20 { "max".into() } else { pids.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};

    #[test]
    fn room_is_left_for_the_sandbox() {
        let resources = LinuxResourcesBuilder::default()
            .memory(LinuxMemoryBuilder::default().limit(1 << 20).build().expect("memory"))
            .pids(LinuxPidsBuilder::default().limit(10).build().expect("pids"))
            .cpu(LinuxCpuBuilder::default().quota(-1).build().expect("cpu"))
            .build()
            .expect("resources");
        let limits = HostLimits::of(Kind::Sentry, &resources).expect("limits");
        assert_eq!(limits.memory, Some((1 << 20) + MEMORY_OVERHEAD));
        assert_eq!(limits.pids, Some(20 + PIDS_OVERHEAD));
        assert_eq!(limits.cpu_quota_us, Some(None));
    }

    #[test]
    fn negative_limits_are_named() {
        let resources = LinuxResourcesBuilder::default()
            .memory(LinuxMemoryBuilder::default().limit(-5).build().expect("memory"))
            .build()
            .expect("resources");
        assert!(HostLimits::of(Kind::Sentry, &resources).expect_err("negative").to_string().contains("memory.limit"));
    }

    /// What a node's scheduler is told (`deploy/runtimeclass.yaml`) is what a sandbox may use.
    #[test]
    fn runtime_classes_have_the_same_overhead() {
        let text = include_str!("../../../../deploy/runtimeclass.yaml");
        let of = |name: &str| {
            let class = text.split("---").find(|class| class.contains(&format!("handler: {name}\n"))).expect("a class");
            let memory = class.lines().find_map(|line| line.trim().strip_prefix("memory: ")).expect("an overhead");
            memory.strip_suffix("Mi").and_then(|number| number.parse::<u64>().ok()).expect("MiB") << 20
        };
        assert_eq!((of("nacre"), of("nacre-vm")), (MEMORY_OVERHEAD, VM_MEMORY_OVERHEAD));
    }

    #[test]
    fn weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }
}
