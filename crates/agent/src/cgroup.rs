//! A container's cgroup (v2): its limits, its use, and its processes as a set.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use agent_api::{Code, Limits, StatsResponse, Status};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::boot::CGROUPS;
use crate::device_rules::DeviceRules;
use crate::log;
use crate::process::Process;

/// How long the kernel may take to stop or bury a container's tasks.
const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(1);

/// Makes limits possible below the root. A kernel without a controller refuses its limits later, by name.
pub fn enable_controllers() {
    for controller in ["cpu", "cpuset", "memory", "pids", "io"] {
        if let Err(error) = fs::write(Path::new(CGROUPS).join("cgroup.subtree_control"), format!("+{controller}")) {
            log::warn(format_args!("the kernel has no {controller} controller for containers: {error}"));
        }
    }
}

/// A container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one with its limits.
    ///
    /// # Errors
    /// Names the limit that cannot be set.
    pub fn new(id: &str, limits: &Limits) -> Result<Cgroup, Status> {
        // Beside the kernel's own names.
        let cgroup = Cgroup { dir: Path::new(CGROUPS).join(format!("container-{id}")) };
        fs::create_dir(&cgroup.dir)
            .map_err(|error| Status::new(Code::Internal, format!("cannot make the container's cgroup: {error}")))?;
        match cgroup.set_limits(limits) {
            Ok(()) => Ok(cgroup),
            Err(status) => {
                cgroup.remove();
                Err(status)
            }
        }
    }

    /// Sets those that are given. Memory that its processes hold must fit: Linux would kill to make room, which is not what who lowers a limit wants.
    ///
    /// # Errors
    /// Names the limit.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), Status> {
        if let Some(limit) = limits.memory.filter(|limit| *limit < held(&self.read("memory.stat"))) {
            let why = format!("linux.resources.memory.limit: the container uses more than {limit} bytes of memory");
            return Err(Status::new(Code::InvalidArgument, why));
        }
        for (file, value) in files(limits) {
            self.write(file, &value)
                .map_err(|error| Status::new(Code::InvalidArgument, format!("cannot set {file} to {value:?}: {error}")))?;
        }
        Ok(())
    }

    /// Has its processes open just the devices of `rules` from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn allow_devices(&self, rules: &DeviceRules) -> Result<(), Status> {
        let about = |error: io::Error| Status::new(Code::Internal, format!("cannot open the container's cgroup: {error}"));
        rules.attach(fs::File::open(&self.dir).map_err(about)?)
    }

    /// Puts a process into it; `beside` is its first one, which is in it, perhaps deeper.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&self, pid: Pid, beside: Option<&Process>) -> Result<(), Status> {
        let number = pid.as_raw_pid().to_string();
        let mut result = self.write("cgroup.procs", &number);
        // A container that has divided its cgroup has no processes at its top: they go where its first one is, as in runc.
        if let (Err(error), Some(beside)) = (&result, beside)
            && error.kind() == ErrorKind::ResourceBusy
        {
            let text = fs::read_to_string(format!("/proc/{}/cgroup", beside.pid.as_raw_pid())).unwrap_or_default();
            // While it lives, its number is no other's.
            beside.expect_alive()?;
            if let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::")) {
                result = fs::write(format!("{CGROUPS}{path}/cgroup.procs"), &number);
            }
        }
        result.map_err(|error| Status::new(Code::Internal, format!("cannot put a process into its cgroup: {error}")))
    }

    /// All its processes, by the guest's pids.
    pub fn processes(&self) -> Vec<Pid> {
        let mut pids = Vec::new();
        collect(&self.dir, &mut pids, 0);
        pids
    }

    /// Stops all tasks, or lets them go on; returns when it has happened.
    ///
    /// # Errors
    /// When the kernel does not manage it in time.
    pub fn freeze(&self, what: Freeze) -> Result<(), Status> {
        let (value, wanted) = match what {
            Freeze::Stop => ("1", "frozen 1"),
            Freeze::GoOn => ("0", "frozen 0"),
        };
        let about = |why: String| Status::new(Code::Internal, format!("cannot pause or resume the container: {why}"));
        self.write("cgroup.freeze", value).map_err(|error| about(error.to_string()))?;
        let end = Instant::now() + PATIENCE;
        while !self.read("cgroup.events").lines().any(|line| line == wanted) {
            if Instant::now() > end {
                return Err(about("some of its tasks do not stop".into()));
            }
            sleep(BETWEEN);
        }
        Ok(())
    }

    /// Kills all its processes.
    pub fn kill(&self) {
        let _ = self.write("cgroup.kill", "1");
    }

    /// How many of its processes were killed because memory was full.
    pub fn oom_kills(&self) -> u64 {
        keyed(&self.read("memory.events"), "oom_kill")
    }

    /// Calls `changed` after each change of its memory events, until `end` is readable.
    pub fn watch_memory(&self, end: impl AsFd, changed: impl Fn()) {
        let Ok(file) = fs::File::open(self.dir.join("memory.events")) else { return };
        loop {
            // A change since the last reading of this open file is what the kernel tells of: read first, then look.
            let _ = rustix::io::pread(&file, &mut [0; 256], 0);
            changed();
            let mut fds = [PollFd::new(&file, PollFlags::PRI), PollFd::new(&end, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let [_, of_end] = fds.map(|fd| fd.revents());
            if !of_end.is_empty() {
                return;
            }
        }
    }

    /// Its use of the machine.
    pub fn stats(&self) -> StatsResponse {
        let cpu = self.read("cpu.stat");
        let number = |file: &str| self.read(file).trim().parse::<u64>().ok();
        StatsResponse {
            cpu_user_ns: keyed(&cpu, "user_usec").saturating_mul(1000),
            cpu_system_ns: keyed(&cpu, "system_usec").saturating_mul(1000),
            memory_usage: number("memory.current").unwrap_or(0),
            memory_peak: number("memory.peak").unwrap_or(0),
            memory_limit: number("memory.max"),
            pids: number("pids.current").unwrap_or(0),
            pids_limit: number("pids.max"),
            oom_kills: self.oom_kills(),
        }
    }

    /// Bytes read from and written to block devices: zeros where the kernel does not count them.
    pub fn block_bytes(&self) -> (u64, u64) {
        let text = self.read("io.stat");
        let sum = |key: &str| {
            let values = text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
            values.fold(0, u64::saturating_add)
        };
        (sum("rbytes="), sum("wbytes="))
    }

    /// Removes it when its last process is gone.
    pub fn remove(&self) {
        let end = Instant::now() + PATIENCE;
        while let Err(error) = remove_tree(&self.dir, 0) {
            if error.kind() == ErrorKind::NotFound {
                return;
            }
            if Instant::now() > end {
                return log::warn(format_args!("{} stays: {error}", self.dir.display()));
            }
            sleep(BETWEEN);
        }
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.dir.join(file), value)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }
}

/// What [`Cgroup::freeze`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    Stop,
    GoOn,
}

/// Levels of cgroups below a container's that are looked at: a container may make many.
const DEPTH: usize = 32;

fn collect(dir: &Path, pids: &mut Vec<Pid>, depth: usize) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)));
    if depth < DEPTH {
        below(dir).iter().for_each(|dir| collect(dir, pids, depth + 1));
    }
}

fn remove_tree(dir: &Path, depth: usize) -> io::Result<()> {
    if depth < DEPTH {
        below(dir).iter().try_for_each(|dir| remove_tree(dir, depth + 1))?;
    }
    fs::remove_dir(dir)
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// The files that limits are written to.
fn files(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    let most = |value: u64| if value == Limits::NONE { "max".into() } else { value.to_string() };
    files.extend(limits.memory.map(|bytes| ("memory.max", most(bytes))));
    files.extend(limits.pids.map(|tasks| ("pids.max", most(tasks))));
    let quota = limits.cpu_quota_us.filter(|quota| *quota > 0);
    if quota.is_some() || limits.cpu_period_us.is_some() {
        let quota = quota.map_or("max".into(), most);
        files.push(("cpu.max", format!("{quota} {}", limits.period_us())));
    }
    files.extend(limits.cpu_shares.filter(|shares| *shares > 0).map(|shares| ("cpu.weight", weight(shares).to_string())));
    files
}

/// Shares of cgroup v1 (2 to 262144) as a weight of v2 (1 to 10000), by the formula all runtimes use.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Bytes that a cgroup's processes hold: what the kernel could only take by killing, without swap.
fn held(memory_stat: &str) -> u64 {
    ["anon", "shmem"].into_iter().map(|kind| keyed(memory_stat, kind)).fold(0, u64::saturating_add)
}

/// The number after a name, in a file of such lines.
fn keyed(text: &str, key: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_cgroup_v2_reads_them() {
        let limits = Limits {
            memory: Some(1 << 20),
            pids: None,
            cpu_quota_us: Some(50_000),
            cpu_period_us: None,
            cpu_shares: Some(1024),
        };
        let expected = [("memory.max", "1048576"), ("cpu.max", "50000 100000"), ("cpu.weight", "39")];
        assert_eq!(files(&limits), expected.map(|(file, value)| (file, value.to_string())));
        assert_eq!(files(&Limits::default()), []);
        assert_eq!((weight(0), weight(2), weight(u64::MAX)), (1, 1, 10_000));
    }

    #[test]
    fn a_key_is_a_whole_word() {
        let text = "oom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!((keyed(text, "oom_kill"), keyed(text, "oom"), keyed(text, "o")), (2, 3, 0));
        assert_eq!(held("anon 4096\nfile 12288\nshmem 8192\nanon_thp 0\n"), 12288);
    }
}
