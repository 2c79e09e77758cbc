//! Who a process is: limits, ids, capabilities, its filter.

use std::fs;

use agent_api::{Code, Process, Status};
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{internal, invalid};
use crate::sys;

/// Linux's resources by number.
const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// While the agent's /proc is still there.
///
/// # Errors
/// When the value is out of range.
pub fn oom_score(process: &Process) -> Result<(), Status> {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    fs::write("/proc/self/oom_score_adj", score.to_string())
        .map_err(|error| invalid("oom_score_adj", Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

/// Sets the resource limits.
///
/// # Errors
/// Names the resource.
pub fn limits(process: &Process) -> Result<(), Status> {
    for limit in &process.rlimits {
        let resource = RESOURCES
            .get(limit.resource as usize)
            .ok_or_else(|| Status::new(Code::InvalidArgument, format!("there is no resource {}", limit.resource)))?;
        let value = |value: u64| (value != u64::MAX).then_some(value);
        setrlimit(*resource, Rlimit { current: value(limit.soft), maximum: value(limit.hard) })
            .map_err(|errno| invalid(&format!("rlimit {}", limit.resource), errno))?;
    }
    Ok(())
}

/// Becomes the user with its capabilities. What installing a filter needs is kept until [`filter`].
///
/// # Errors
/// The kernel's.
pub fn become_user(process: &Process, filter: bool) -> Result<(), Status> {
    let about = |errno| internal("become the user", errno);
    let sets = process.capabilities.unwrap_or_default();
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if sets.bounding & one.bits() != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Linux has no more.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(about(errno)),
        }
    }
    set_keep_capabilities(true).map_err(about)?;
    let groups: Vec<Gid> = process.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).map_err(about)?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    set_thread_res_gid(gid, gid, gid).map_err(about)?;
    set_thread_res_uid(uid, uid, uid).map_err(about)?;
    set_keep_capabilities(false).map_err(about)?;
    rustix::process::umask(Mode::from_raw_mode(process.umask.unwrap_or(0o022) & 0o777));
    if process.no_new_privs {
        set_no_new_privs(true).map_err(about)?;
    }
    let keep = if filter && !process.no_new_privs { CapabilitySet::SYS_ADMIN.bits() } else { 0 };
    set(process, keep).map_err(about)?;
    for number in 0..64 {
        let one = 1 << number;
        if sets.ambient & one != 0 {
            configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(one), true).map_err(about)?;
        }
    }
    Ok(())
}

fn set(process: &Process, more: u64) -> Result<(), Errno> {
    let sets = process.capabilities.unwrap_or_default();
    let bits = CapabilitySet::from_bits_retain;
    let sets = CapabilitySets {
        effective: bits(sets.effective | more),
        permitted: bits(sets.permitted | more),
        inheritable: bits(sets.inheritable),
    };
    set_capabilities(None, sets)
}

/// Goes to the process's working directory, as its user.
///
/// # Errors
/// Names the directory.
pub fn working_directory(process: &Process) -> Result<(), Status> {
    let cwd = if process.cwd.is_empty() { b"/".as_slice() } else { &process.cwd };
    rustix::process::chdir(cwd).map_err(|errno| invalid(&format!("cwd {}", String::from_utf8_lossy(cwd)), errno))
}

/// Installs the filter and drops what that needed. The last thing before the program.
///
/// # Errors
/// The kernel's.
pub fn filter(process: &Process, program: &[libc::sock_filter], flags: u32) -> Result<(), Status> {
    sys::install_filter(program, flags).map_err(|errno| internal("install the seccomp filter", errno))?;
    match process.no_new_privs {
        true => Ok(()),
        false => set(process, 0).map_err(|errno| internal("drop what the seccomp filter needed", errno)),
    }
}
