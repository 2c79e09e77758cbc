//! The filters of a running sandbox, read back from the host kernel (`PTRACE_SECCOMP_GET_FILTER`): what was proven is what runs.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hostcall::seccomp::AllowList;
use platform::systrap::{Instruction, memory_filter, thread_filter};

/// A filter's program, one word per instruction.
type Program = Vec<u64>;

struct Sandbox(Child);

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The sandbox dies with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn check(lists: &[(&str, AllowList)], failures: &mut Vec<String>) {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        println!("live filters: not read (only root may)");
        return;
    }
    let compiled = |name: &str| -> Program {
        let list = lists.iter().find(|(known, _)| *known == name).map(|(_, list)| list.clone()).expect("a list");
        list.compile().expect("a filter").iter().map(|i| word(i.code, i.jt, i.jf, i.k)).collect()
    };
    let stub = |program: Vec<Instruction>| -> Program { program.iter().map(|i| word(i.code, i.jt, i.jf, i.k)).collect() };
    // In the order in which they were installed.
    let known: [(&str, Vec<Program>); 6] = [
        ("sentry", vec![compiled("sentry")]),
        ("sentry, with --net host", vec![compiled("sentry, with --net host")]),
        ("gofer, read-only", vec![compiled("gofer, read-only")]),
        ("gofer, writable", vec![compiled("gofer, writable")]),
        ("stub's memory thread", vec![stub(memory_filter())]),
        ("stub's application thread", vec![stub(memory_filter()), stub(thread_filter())]),
    ];
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for flag in [None, Some("--volume=/tmp:/mnt"), Some("--net=host")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacre"));
        command.arg("do").args(flag).args(["--", "sh", "-c", "echo ready; exec sleep 100"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("nacre do");
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line);
        }
        let sandbox = Sandbox(child);
        if line != "ready\n" {
            failures.push("live filters: the sandbox does not start".into());
            return;
        }
        // Until its exec is over.
        std::thread::sleep(Duration::from_millis(500));
        for (process, thread, name) in threads(sandbox.0.id()) {
            let filters = match filters(thread) {
                Ok(filters) => filters,
                Err(errno) => {
                    failures.push(format!("live filters: cannot read those of thread {thread} of {name} {process}: {errno}"));
                    continue;
                }
            };
            match known.iter().find(|(_, programs)| *programs == filters) {
                Some((which, _)) if which.split([',', '\'']).next().is_some_and(|kind| name.ends_with(kind)) => {
                    *seen.entry(which).or_default() += 1
                }
                Some((which, _)) => failures.push(format!("live filters: a thread of {name} has those of {which}")),
                None => failures.push(format!("live filters: a thread of {name} has {} unknown ones", filters.len())),
            }
        }
    }
    for (which, _) in known {
        match seen.get(which) {
            Some(count) => println!("live filters: {count} threads have exactly those of {which}"),
            None => failures.push(format!("live filters: no thread has those of {which}")),
        }
    }
}

fn word(code: u16, jt: u8, jf: u8, k: u32) -> u64 {
    u64::from(code) | u64::from(jt) << 16 | u64::from(jf) << 24 | u64::from(k) << 32
}

/// All threads of the confined processes below `top`: process, thread, the process's name.
fn threads(top: u32) -> Vec<(i32, i32, String)> {
    let mut processes: Vec<(i32, i32, String)> = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_string());
        let (Some(name), Some(parent)) = (field("Name:"), field("PPid:").and_then(|value| value.parse().ok())) else {
            continue;
        };
        // Those that have ended but are not reaped yet have no filters.
        if !field("State:").is_some_and(|state| state.starts_with(['Z', 'X'])) {
            processes.push((pid, parent, name));
        }
    }
    let children = |parent: i32| processes.iter().filter(move |(_, its, _)| *its == parent);
    let mut found = Vec::new();
    for (pid, _, name) in children(top as i32) {
        found.push((*pid, name.clone()));
        found.extend(children(*pid).map(|(pid, _, name)| (*pid, name.clone())));
    }
    found.retain(|(_, name)| name.starts_with("nacre-"));
    let tasks = |pid: i32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let thread = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
    found
        .into_iter()
        .flat_map(|(pid, name)| tasks(pid).filter_map(thread).map(move |tid| (pid, tid, name.clone())).collect::<Vec<_>>())
        .collect()
}

/// A thread's filters, the first one installed first.
fn filters(thread: i32) -> Result<Vec<Program>, std::io::Error> {
    const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
    let last = std::io::Error::last_os_error;
    // SAFETY: a thread of a sandbox of our own; the buffer is as long as the kernel said.
    unsafe {
        if libc::ptrace(libc::PTRACE_SEIZE, thread, 0usize, 0usize) != 0
            || libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0usize, 0usize) != 0
        {
            return Err(last());
        }
        let mut status = 0;
        let end = Instant::now() + Duration::from_secs(5);
        while libc::waitpid(thread, &raw mut status, libc::__WALL | libc::WNOHANG) != thread {
            if Instant::now() > end {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut all = Vec::new();
        loop {
            let len = libc::ptrace(PTRACE_SECCOMP_GET_FILTER, thread, all.len(), 0usize);
            if len < 0 && last().raw_os_error() == Some(libc::ENOENT) {
                break;
            }
            if len < 0 {
                return Err(last());
            }
            let mut program = vec![0u64; len as usize];
            if libc::ptrace(PTRACE_SECCOMP_GET_FILTER, thread, all.len(), program.as_mut_ptr()) != len {
                return Err(last());
            }
            all.push(program);
        }
        libc::ptrace(libc::PTRACE_DETACH, thread, 0usize, 0usize);
        Ok(all)
    }
}
