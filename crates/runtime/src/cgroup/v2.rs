//! cgroup v2: one directory.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::limits::weight;
use super::{Entrance, HostLimits, Usage, number, set};
use crate::error::{Doing, Error, Result};

const CONTROLLERS: &[&str] = &["memory", "pids", "cpu", "cpuset", "io"];

/// The directory, from the text of /proc/self/cgroup.
pub(super) fn dir(mount: &Path, own: &str, wanted: &Path) -> PathBuf {
    match wanted.strip_prefix("/") {
        Ok(absolute) => mount.join(absolute),
        Err(_) => {
            let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
            // A cgroup with processes can have no controlled children: beside ours, not below it.
            let parent = Path::new(own).parent().unwrap_or(Path::new("/"));
            mount.join(parent.strip_prefix("/").unwrap_or(parent)).join(wanted)
        }
    }
}

pub(super) fn create(mount: &Path, dirs: &[PathBuf]) -> Result<()> {
    let [dir] = dirs else { return Err(Error::Other("cgroup v2 has one directory".into())) };
    enable_controllers(mount, dir);
    match fs::create_dir(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e).doing(|| format!("cannot make the cgroup {}", dir.display())),
        _ => Ok(()),
    }
}

/// The directory, to be cloned into.
pub(super) fn entrance(dirs: &[PathBuf]) -> Result<Entrance> {
    let [dir] = dirs else { return Err(Error::Other("cgroup v2 has one directory".into())) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty()).doing(|| format!("cannot open the cgroup {}", dir.display()))?;
    Ok(Entrance::Birth(dir))
}

/// Hands controllers down from the root. What cannot be handed down shows when a limit is set.
fn enable_controllers(mount: &Path, dir: &Path) {
    let Some(parents) = dir.parent().and_then(|parent| parent.strip_prefix(mount).ok()) else { return };
    let mut at = mount.to_path_buf();
    let hand_down = |at: &Path| {
        for controller in CONTROLLERS {
            let _ = fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    };
    hand_down(&at);
    for part in parents {
        at.push(part);
        let _ = fs::create_dir(&at);
        hand_down(&at);
    }
}

pub(super) fn set_limits(dir: &Path, limits: &HostLimits) -> Result<()> {
    if let Some(bytes) = limits.memory {
        set(dir, "memory.max", &bytes.to_string())?;
    }
    if let Some(pids) = limits.pids {
        set(dir, "pids.max", &pids.to_string())?;
    }
    if let Some(shares) = limits.cpu_shares {
        set(dir, "cpu.weight", &weight(shares).to_string())?;
    }
    if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
        let quota = limits.cpu_quota_us.flatten().map_or("max".into(), |us| us.to_string());
        set(dir, "cpu.max", &format!("{quota} {}", limits.cpu_period_us.unwrap_or(100_000)))?;
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        set(dir, "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &limits.cpuset_mems {
        set(dir, "cpuset.mems", mems)?;
    }
    Ok(())
}

pub(super) fn usage(dir: &Path) -> Usage {
    let cpu = fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
    let microseconds = cpu.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse::<u64>().ok());
    Usage {
        cpu_ns: microseconds.map(|us| us.saturating_mul(1000)),
        memory: number(dir, "memory.current"),
        pids: number(dir, "pids.current"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_is() {
        let mount = Path::new("/sys/fs/cgroup");
        assert_eq!(dir(mount, "0::/user.slice/s.scope\n", Path::new("x")), mount.join("user.slice/x"));
        assert_eq!(dir(mount, "0::/\n", Path::new("x")), mount.join("x"));
        assert_eq!(dir(mount, "0::/a\n", Path::new("/kube/x")), mount.join("kube/x"));
    }
}
