//! What is to be seen from outside: processes, statistics, stacks.

use std::fmt::Write;
use std::fs;

use agent_api::{ListProcessesResponse, ProcessInfo, StatsResponse, Status};
use rustix::process::{Pid, Signal};

use crate::agent::Agent;
use crate::container::Container;

/// Longest command line that is shown, in bytes.
const ARGS: usize = 4096;

impl Agent {
    /// The processes of a container, as `ps` shows them.
    pub fn processes(&self, id: &str) -> Result<ListProcessesResponse, Status> {
        let pids = self.container(id)?.cgroup.processes();
        Ok(ListProcessesResponse { processes: pids.into_iter().filter_map(info).collect() })
    }

    pub fn stats(&self, id: &str) -> Result<StatsResponse, Status> {
        Ok(self.container(id)?.cgroup.stats())
    }

    /// What each task of one container is doing, or of all if `id` is empty.
    pub fn stacks(&self, id: &str) -> Result<String, Status> {
        let containers = if id.is_empty() { self.containers() } else { vec![self.container(id)?] };
        let mut text = String::new();
        containers.iter().for_each(|container| stacks_of(container, &mut text));
        Ok(text)
    }
}

fn stacks_of(container: &Container, text: &mut String) {
    let _ = writeln!(text, "container {}", container.id);
    for pid in container.cgroup.processes() {
        let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())).into_iter().flatten().flatten();
        for task in tasks.map(|task| task.path()) {
            let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
            let status = read("status");
            let (tgid, tid) = (last_word(&status, "NStgid:"), last_word(&status, "NSpid:"));
            let state = field(&status, "State:").split(' ').next().unwrap_or_default().to_string();
            let wchan = read("wchan");
            let doing = match (state.as_str(), wchan.as_str()) {
                ("R", _) => "running",
                (_, "" | "0") => "asleep",
                (_, wchan) => wchan,
            };
            let _ = writeln!(text, "  {tgid}/{tid} {}: {doing}", field(&status, "Name:"));
            for line in read("stack").lines() {
                let _ = writeln!(text, "    {}", line.split_once("] ").map_or(line, |(_, function)| function));
            }
        }
    }
}

/// Whether a process neither catches, ignores nor blocks a signal.
pub fn leaves_to_kernel(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap_or_default();
    let has = |name: &str| {
        let set = u64::from_str_radix(field(&status, name), 16).unwrap_or(u64::MAX);
        set >> (signal.as_raw() - 1) & 1 == 1
    };
    !["SigBlk:", "SigIgn:", "SigCgt:"].into_iter().any(has)
}

/// The pid that a process has in its own pid name space.
pub fn inner_pid(pid: Pid) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).ok()?;
    last_word(&status, "NSpid:").parse().ok()
}

fn info(pid: Pid) -> Option<ProcessInfo> {
    let dir = format!("/proc/{}", pid.as_raw_pid());
    let status = fs::read_to_string(format!("{dir}/status")).ok()?;
    let stat = Stat::parse(&fs::read_to_string(format!("{dir}/stat")).ok()?)?;
    let parent = Pid::from_raw(stat.parent).and_then(inner_pid);
    // A parent outside the container's pid name space is none there.
    let depth = field(&status, "NSpid:").split_ascii_whitespace().count();
    let parent_depth = fs::read_to_string(format!("/proc/{}/status", stat.parent))
        .map_or(0, |status| field(&status, "NSpid:").split_ascii_whitespace().count());
    let args = fs::read(format!("{dir}/cmdline")).unwrap_or_default();
    Some(ProcessInfo {
        pid: last_word(&status, "NSpid:").parse().ok()?,
        parent_pid: parent.filter(|_| parent_depth >= depth).unwrap_or(0),
        uid: field(&status, "Uid:").split_ascii_whitespace().next()?.parse().ok()?,
        threads: field(&status, "Threads:").parse().unwrap_or(0),
        state: stat.state,
        cpu_time_ns: stat.cpu_ticks.saturating_mul(TICK_NS),
        started_at_ns: started_at(stat.start_ticks),
        terminal: if stat.terminal >> 8 & 0xfff == 136 { format!("pts/{}", stat.terminal & 0xff) } else { String::new() },
        args: arguments(&args, field(&status, "Name:")),
    })
}

/// Linux shows times to user space in hundredths of a second (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

fn started_at(ticks_since_boot: u64) -> u64 {
    let now = crate::process::now_ns();
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let up = (up.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(up.tv_nsec as u64);
    now.saturating_sub(up).saturating_add(ticks_since_boot.saturating_mul(TICK_NS))
}

/// The command line; the name in brackets where there is none.
fn arguments(cmdline: &[u8], name: &str) -> Vec<Vec<u8>> {
    let bytes = cmdline.get(..cmdline.len().min(ARGS)).unwrap_or_default();
    match bytes.is_empty() {
        true => vec![format!("[{name}]").into_bytes()],
        false => bytes.strip_suffix(b"\0").unwrap_or(bytes).split(|&byte| byte == 0).map(<[u8]>::to_vec).collect(),
    }
}

/// The value of a line of /proc/PID/status.
fn field<'a>(status: &'a str, key: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim()
}

fn last_word<'a>(status: &'a str, key: &str) -> &'a str {
    field(status, key).rsplit(['\t', ' ']).next().unwrap_or_default()
}

/// What is used of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: String,
    parent: i32,
    terminal: u32,
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name, in parentheses, may have anything in it.
        let (_, rest) = text.rsplit_once(") ")?;
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| words.get(field - 3).and_then(|word| word.parse::<i64>().ok());
        Some(Stat {
            state: (*words.first()?).into(),
            parent: number(4)? as i32,
            terminal: number(7)? as u32,
            cpu_ticks: (number(14)? + number(15)?) as u64,
            start_ticks: number(22)? as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_parentheses() {
        let text = "12 (a) b (c) S 7 12 12 34816 12 4194560 1 0 0 0 3 4 0 0 20 0 1 0 555 0 0";
        let expected = Stat { state: "S".into(), parent: 7, terminal: 34816, cpu_ticks: 7, start_ticks: 555 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!((Stat::parse(""), Stat::parse("1 (x) S")), (None, None));
    }

    #[test]
    fn of_several_pids_the_innermost_counts() {
        let status = "Name:\tsh\nNSpid:\t120\t1\nThreads:\t2\n";
        assert_eq!((last_word(status, "NSpid:"), field(status, "Threads:")), ("1", "2"));
        assert_eq!(inner_pid(Pid::INIT), Some(1));
    }

    #[test]
    fn a_program_without_a_command_line_has_its_name() {
        assert_eq!(arguments(b"", "kworker"), [b"[kworker]".to_vec()]);
        assert_eq!(arguments(b"sh\0-c\0\0", "sh"), [b"sh".to_vec(), b"-c".to_vec(), b"".to_vec()]);
    }
}
