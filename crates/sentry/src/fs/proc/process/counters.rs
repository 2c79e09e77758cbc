//! io, schedstat, sched, timers: what a process has done and has set up.

use std::fmt::Write;

use super::{Scope, Subject};
use crate::Errno;
use crate::task::{Counts, Task};

/// Counts of the thread, or of all living threads of the process.
fn counts(subject: &Subject, task: &Task) -> Counts {
    match subject.scope {
        Scope::Thread => task.activity.counts(),
        Scope::Process => {
            let mut all = Counts::default();
            for thread in task.group.threads() {
                all.add(&thread.activity.counts());
            }
            all
        }
    }
}

/// `proc_pid_io(5)`. What reaches a disk is the host's to know.
pub(super) fn io(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let counts = counts(subject, &task);
    let text = format!(
        "rchar: {}\nwchar: {}\nsyscr: {}\nsyscw: {}\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
        counts.read_bytes, counts.written_bytes, counts.reads, counts.writes
    );
    Ok(text.into_bytes())
}

/// Time on a CPU in nanoseconds, time waiting for one (the host's to know), and time slices.
pub(super) fn schedstat(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let counts = task.activity.counts();
    let slices = counts.voluntary_switches + counts.involuntary_switches;
    Ok(format!("{} 0 {slices}\n", task.cpu_time_ns()).into_bytes())
}

/// The lines of Linux's sched file that are known.
pub(super) fn sched(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let counts = task.activity.counts();
    let scheduling = *task.scheduling.lock();
    let cpu_ns = task.cpu_time_ns();
    let priority = if scheduling.priority > 0 { 99 - i64::from(scheduling.priority) } else { 120 + i64::from(scheduling.nice) };
    let threads = task.group.threads().len();
    let mut text =
        format!("{} ({}, #threads: {threads})\n", String::from_utf8_lossy(&task.name.lock()), subject.local(subject.tid));
    text.push_str("-------------------------------------------------------------------\n");
    let runtime = format!("{}.{:06}", cpu_ns / 1_000_000, cpu_ns % 1_000_000);
    for (name, value) in [
        ("se.sum_exec_runtime", runtime),
        ("nr_switches", (counts.voluntary_switches + counts.involuntary_switches).to_string()),
        ("nr_voluntary_switches", counts.voluntary_switches.to_string()),
        ("nr_involuntary_switches", counts.involuntary_switches.to_string()),
        ("policy", scheduling.policy.to_string()),
        ("prio", priority.to_string()),
    ] {
        let _ = writeln!(text, "{name:<45}:{value:>21}");
    }
    Ok(text.into_bytes())
}

/// `proc_pid_timers(5)`: POSIX timers.
pub(super) fn timers(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let mut text = String::new();
    for timer in task.group.timers.list() {
        let (signal, value) = timer.signal.map_or((0, 0), |(signal, value)| (signal.number(), value));
        let notify = if timer.signal.is_some() { "signal" } else { "none" };
        let (kind, number) = timer.tid.map_or(("pid", task.tgid()), |tid| ("tid", tid));
        let number = subject.local(number);
        let _ = write!(
            text,
            "ID: {}\nsignal: {signal}/{value:016x}\nnotify: {notify}/{kind}.{number}\nClockID: {}\n",
            timer.id, timer.clock
        );
    }
    Ok(text.into_bytes())
}
