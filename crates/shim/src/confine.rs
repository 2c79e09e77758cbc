//! What the shim, and so all that it starts, gives up of root's privileges.
//!
//! Containers are made by `nacre create`, which needs many of them (mounts, namespaces, cgroups, other users' files, packet sockets) and gives them up for each
//! process it makes. The rest would only be of use to somebody who has broken in.

use rustix::thread::{CapabilitySet, CapabilitySets};

/// What neither making a sandbox nor a hook has a use for.
const NEVER: CapabilitySet = CapabilitySet::SYS_MODULE
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::SYS_TIME)
    .union(CapabilitySet::SYS_PACCT)
    .union(CapabilitySet::SYS_TTY_CONFIG)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::MAC_ADMIN)
    .union(CapabilitySet::MAC_OVERRIDE)
    .union(CapabilitySet::AUDIT_CONTROL)
    .union(CapabilitySet::AUDIT_READ)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::WAKE_ALARM)
    .union(CapabilitySet::BLOCK_SUSPEND)
    .union(CapabilitySet::LINUX_IMMUTABLE)
    .union(CapabilitySet::LEASE)
    .union(CapabilitySet::NET_BROADCAST)
    .union(CapabilitySet::IPC_OWNER)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::CHECKPOINT_RESTORE);

/// For ever. Before there are threads.
///
/// # Errors
/// The step that failed.
pub fn drop_privileges() -> Result<(), String> {
    runtime::process::shrink_bounding_set(NEVER).map_err(|error| format!("cannot shrink the bounding set: {error}"))?;
    let now = rustix::thread::capabilities(None).map_err(|error| format!("cannot read capabilities: {error}"))?;
    let kept = CapabilitySets {
        effective: now.effective - NEVER,
        permitted: now.permitted - NEVER,
        inheritable: now.inheritable - NEVER,
    };
    rustix::thread::set_capabilities(None, kept).map_err(|error| format!("cannot drop capabilities: {error}"))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("cannot set no_new_privs: {error}"))
}
