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
        set(dir, "pids.max", &super::limits::pids_max(pids))?;
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

    /// A tree with the files that the kernel would make (cgroup-v2.rst, "Interface Files"), in which writes stay to be read.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Tree {
            let mount = std::env::temp_dir().join(format!("nacre-cgroup2-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&mount);
            fs::create_dir_all(mount.join("kube")).expect("tree");
            Tree(mount)
        }

        fn furnish(&self, dir: &Path) {
            for name in ["memory.max", "pids.max", "cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.mems"] {
                fs::write(dir.join(name), "max").expect("file");
            }
            fs::write(dir.join("cpu.stat"), "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n").expect("file");
            fs::write(dir.join("memory.current"), "4096\n").expect("file");
            fs::write(dir.join("pids.current"), "3\n").expect("file");
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn controllers_are_handed_down_to_the_parent_and_no_further() {
        let tree = Tree::new("create");
        let dir = tree.0.join("kube/pod/x");
        create(&tree.0, std::slice::from_ref(&dir)).expect("created");
        let handed = |dir: &str| fs::read_to_string(tree.0.join(dir).join("cgroup.subtree_control")).unwrap_or_default();
        // A real file collects what is written; here the last write stays.
        assert_eq!((handed("."), handed("kube"), handed("kube/pod")), ("+io".into(), "+io".into(), "+io".into()));
        // A cgroup that hands controllers down may hold no processes ("no internal processes").
        assert_eq!(handed("kube/pod/x"), "");
        // There already: content.
        create(&tree.0, std::slice::from_ref(&dir)).expect("found");
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let tree = Tree::new("limits");
        let dir = tree.0.join("kube");
        tree.furnish(&dir);
        let limits = HostLimits {
            memory: Some(64 << 20),
            pids: Some(100),
            cpu_shares: Some(1024),
            cpu_quota_us: Some(Some(50_000)),
            cpu_period_us: None,
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
        };
        set_limits(&dir, &limits).expect("set");
        let is = |name: &str| fs::read_to_string(dir.join(name)).expect("file");
        assert_eq!(is("memory.max"), "67108864");
        assert_eq!(is("pids.max"), "100");
        assert_eq!(is("cpu.max"), "50000 100000");
        assert_eq!((is("cpuset.cpus"), is("cpuset.mems")), ("0-1".into(), "0".into()));
        // 2..262144 shares are 1..10000 of weight.
        assert!((1..=10_000).contains(&is("cpu.weight").parse::<u64>().expect("a number")));
        set_limits(&dir, &HostLimits { cpu_quota_us: Some(None), cpu_period_us: Some(20_000), ..HostLimits::default() })
            .expect("set");
        assert_eq!(is("cpu.max"), "max 20000");
        let usage = usage(&dir);
        assert_eq!((usage.cpu_ns, usage.memory, usage.pids), (Some(1_500_000), Some(4096), Some(3)));
    }

    #[test]
    fn where_it_is() {
        let mount = Path::new("/sys/fs/cgroup");
        assert_eq!(dir(mount, "0::/user.slice/s.scope\n", Path::new("x")), mount.join("user.slice/x"));
        assert_eq!(dir(mount, "0::/\n", Path::new("x")), mount.join("x"));
        assert_eq!(dir(mount, "0::/a\n", Path::new("/kube/x")), mount.join("kube/x"));
    }
}
