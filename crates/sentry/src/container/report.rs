//! What is to be seen from outside: processes, statistics, stacks. Counters are in [`super::metrics`].

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use agent_api::{Empty, ListProcessesResponse, ProcessInfo, SetStraceRequest, StatsResponse, Status};

use super::Agent;
use crate::kernel::{Container, Ended};
use crate::task::{Task, TaskFlags, ThreadGroup};

impl Agent {
    /// The processes of a container, as `ps` shows them.
    pub fn processes(&self, id: &str) -> Result<ListProcessesResponse, Status> {
        let container = self.handle(id)?.container.clone();
        let processes = container.processes().iter().map(|group| self.process_info(group)).collect();
        Ok(ListProcessesResponse { processes })
    }

    fn process_info(&self, group: &ThreadGroup) -> ProcessInfo {
        let threads = group.threads();
        let leader = threads.first();
        let state = match leader {
            None => "Z",
            Some(_) if group.stopped() => "T",
            Some(_) if threads.iter().any(|thread| thread.in_user()) => "R",
            Some(_) => "S",
        };
        let age = self.kernel.clock.monotonic().0.saturating_sub(group.start_ns);
        ProcessInfo {
            pid: group.tgid,
            parent_pid: group.ppid(),
            uid: leader.map_or(0, |task| task.creds().uid),
            threads: threads.len() as u32,
            state: state.into(),
            cpu_time_ns: threads.iter().map(|thread| thread.cpu_time_ns()).sum(),
            started_at_ns: self.kernel.clock.realtime_ns().saturating_sub(age),
            terminal: terminal_name(group),
            args: leader.map(|task| arguments(task)).unwrap_or_default(),
        }
    }

    pub fn stats(&self, id: &str) -> Result<StatsResponse, Status> {
        let container = self.handle(id)?.container.clone();
        Ok(stats_of(&container, &container.activity()))
    }

    /// A line for each task of one container, or of all if `id` is empty.
    pub fn stacks(&self, id: &str) -> Result<String, Status> {
        let containers: Vec<_> = if id.is_empty() {
            self.containers.lock().values().map(|handle| handle.container.clone()).collect()
        } else {
            vec![self.handle(id)?.container.clone()]
        };
        let mut text = String::new();
        for container in containers {
            stacks_of(&container, &mut text);
        }
        Ok(text)
    }

    /// Turns the tracing of system calls on or off.
    pub fn set_strace(&self, request: &SetStraceRequest, fds: &mut [Option<OwnedFd>]) -> Result<Empty, Status> {
        let container = self.handle(&request.container_id)?.container.clone();
        let output = match request.output {
            Some(index) => Some(agent_api::take_fd(fds, index, "strace output")?),
            None => None,
        };
        container.life.strace.store(output.is_some(), Ordering::Relaxed);
        container.life.set_strace_output(output);
        for task in container.tasks() {
            task.raise(TaskFlags::IDENTITY);
        }
        Ok(Empty {})
    }
}

/// Of a container whose tasks have done this.
pub(super) fn stats_of(container: &Container, done: &Ended) -> StatsResponse {
    let used = container.memory.used_bytes();
    StatsResponse {
        cpu_user_ns: done.usage.user_ns,
        cpu_system_ns: done.usage.system_ns,
        memory_usage: used,
        memory_peak: used,
        memory_limit: container.limits.memory(),
        pids: container.pids.charged(|process| std::ptr::eq(&*process.container, container)) as u64,
        pids_limit: container.limits.tasks().map(|max| max as u64),
        oom_kills: container.oom_kills.load(Ordering::Relaxed),
    }
}

fn stacks_of(container: &Container, text: &mut String) {
    let _ = writeln!(text, "container {}", container.id);
    for task in container.tasks() {
        let name = String::from_utf8_lossy(&task.name.lock()).into_owned();
        let doing = if task.in_user() { "in user mode" } else { "in the kernel" };
        let _ = writeln!(text, "  {}/{} {name}: {doing}", task.tgid(), task.tid());
    }
}

fn terminal_name(group: &ThreadGroup) -> String {
    match group.session().terminal() {
        Some(terminal) => {
            let (major, minor) = crate::fs::dev::device_parts(terminal.device());
            if major == 136 { format!("pts/{minor}") } else { "console".into() }
        }
        None => String::new(),
    }
}

/// The command line; the name in brackets where there is none.
fn arguments(task: &Task) -> Vec<Vec<u8>> {
    let mm = task.shared.read().as_ref().map(|shared| shared.mm.clone());
    let bytes = mm.and_then(|mm| mm.strings(|places| places.args, 4096));
    match bytes.filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|&b| b == 0).map(<[u8]>::to_vec).collect(),
        None => vec![[b"[", task.name.lock().as_slice(), b"]"].concat()],
    }
}
