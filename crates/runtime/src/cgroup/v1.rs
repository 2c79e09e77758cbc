//! cgroup v1: a directory in each hierarchy.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Entrance, HostLimits, Usage, number, set};
use crate::error::{Doing, Result};

/// Hierarchies that limit or count what a sandbox uses, or whose path engines look up.
const CONTROLLERS: &[&str] = &["memory", "pids", "cpu", "cpuacct", "cpuset", "blkio", "devices", "freezer", "name=systemd"];

/// One directory per hierarchy, from the texts of /proc/self/mountinfo and /proc/self/cgroup.
pub(super) fn dirs(mountinfo: &str, own: &str, wanted: &Path) -> Vec<PathBuf> {
    let own: HashMap<&str, &str> = own
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?))
        })
        .flat_map(|(controllers, path)| controllers.split(',').map(move |controller| (controller, path)))
        .collect();
    let mut dirs = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let (Some("cgroup"), Some(options)) = (right.next(), right.nth(1)) else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount)) = (left.next(), left.next()) else { continue };
        let Some(controller) = options.split(',').find(|option| CONTROLLERS.contains(option)) else { continue };
        let Some(own) = own.get(controller) else { continue };
        let relative = match wanted.strip_prefix("/") {
            Ok(absolute) => absolute.to_path_buf(),
            // What is mounted may be a part of the hierarchy (in a container).
            Err(_) => {
                let here = Path::new(own).strip_prefix(root).unwrap_or(Path::new(own));
                here.strip_prefix("/").unwrap_or(here).join(wanted)
            }
        };
        let dir = Path::new(mount).join(relative);
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

pub(super) fn create(dirs: &[PathBuf]) -> Result<()> {
    for dir in dirs {
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(dir).doing(|| format!("cannot make the cgroup {}", dir.display()))?;
            }
            Err(e) => return Err(e).doing(|| format!("cannot make the cgroup {}", dir.display())),
        }
        if dir.join("cpuset.mems").exists() {
            inherit_cpuset(dir)?;
        }
    }
    Ok(())
}

/// Descriptors by which a process can move itself in, whatever its user: what counts is who opened them.
pub(super) fn entrance(dirs: &[PathBuf]) -> Result<Entrance> {
    let open = |dir: &PathBuf| {
        let path = dir.join("tasks");
        fs::OpenOptions::new().write(true).open(&path).doing(|| format!("cannot open {}", path.display()))
    };
    dirs.iter().map(open).collect::<Result<_>>().map(Entrance::Walk)
}

/// A new cpuset is empty, and takes no process before it has CPUs and memory nodes.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let read =
            |dir: &Path| fs::read_to_string(dir.join(file)).doing(|| format!("cannot read {}", dir.join(file).display()));
        if !read(dir)?.trim().is_empty() {
            continue;
        }
        let Some(parent) = dir.parent().filter(|parent| parent.join(file).exists()) else { continue };
        inherit_cpuset(parent)?;
        set(dir, file, read(parent)?.trim())?;
    }
    Ok(())
}

pub(super) fn set_limits(dirs: &[PathBuf], limits: &HostLimits) -> Result<()> {
    let write = |file: &str, value: &str| match dirs.iter().find(|dir| dir.join(file).exists()) {
        Some(dir) => set(dir, file, value),
        None => Err(crate::error::Error::Other(format!("the host has no cgroup controller for {file}"))),
    };
    if let Some(bytes) = limits.memory {
        write("memory.limit_in_bytes", &bytes.to_string())?;
    }
    if let Some(pids) = limits.pids {
        write("pids.max", &super::limits::pids_max(pids))?;
    }
    if let Some(shares) = limits.cpu_shares {
        write("cpu.shares", &shares.to_string())?;
    }
    if let Some(period) = limits.cpu_period_us {
        write("cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = limits.cpu_quota_us {
        write("cpu.cfs_quota_us", &quota.map_or("-1".into(), |us| us.to_string()))?;
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        write("cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &limits.cpuset_mems {
        write("cpuset.mems", mems)?;
    }
    Ok(())
}

pub(super) fn usage(dirs: &[PathBuf]) -> Usage {
    let find = |file: &str| dirs.iter().find_map(|dir| number(dir, file));
    Usage { cpu_ns: find("cpuacct.usage"), memory: find("memory.usage_in_bytes"), pids: find("pids.current") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 29 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 29 0:27 / /sys/fs/cgroup/perf_event rw - cgroup cgroup rw,perf_event
33 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 29 0:29 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids
35 29 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
garbage line
";
    const OWN: &str = "5:memory:/user/1\n4:cpu,cpuacct:/\n3:pids:/docker/abc\n1:name=systemd:/init\n0::/\n";

    #[test]
    fn absolute_paths_count_from_the_root() {
        let dirs = dirs(MOUNTS, OWN, Path::new("/kube/x"));
        let expected = ["memory/kube/x", "cpu,cpuacct/kube/x", "pids/kube/x", "systemd/kube/x"];
        assert_eq!(dirs, expected.map(|d| Path::new("/sys/fs/cgroup").join(d)));
    }

    #[test]
    fn relative_paths_count_from_here() {
        let dirs = dirs(MOUNTS, OWN, Path::new("x"));
        let expected = ["memory/user/1/x", "cpu,cpuacct/x", "pids/x", "systemd/init/x"];
        assert_eq!(dirs, expected.map(|d| Path::new("/sys/fs/cgroup").join(d)));
    }
}
