//! stat and statm: a process in numbers on one line, and the state that others show too.

use std::fmt::Write;
use std::sync::Arc;

use super::super::machine::TICK_NS;
use super::{Scope, Subject, memory};
use crate::Errno;
use crate::mm::Usage as Sizes;
use crate::task::{ExitStatus, Resource, Task, Usage, ticks};
use crate::wait::Sleep;

/// A task's state: its letter and its word.
pub(super) fn state(task: &Task) -> (char, &'static str) {
    if task.has_ended() {
        ('Z', "zombie")
    } else if task.in_trace_stop() {
        ('t', "tracing stop")
    } else if task.group.stopped() {
        ('T', "stopped")
    } else {
        match task.activity.sleep() {
            _ if task.in_user() => ('R', "running"),
            None => ('R', "running"),
            Some(Sleep::Interruptible) => ('S', "sleeping"),
            Some(Sleep::Killable | Sleep::Uninterruptible) => ('D', "disk sleep"),
        }
    }
}

pub(super) fn resident(sizes: &Sizes) -> u64 {
    sizes.resident_anonymous + sizes.resident_file + sizes.resident_shared
}

/// What the subject has used, and (for a process) what its waited-for children have.
pub(super) fn used(subject: &Subject, task: &Task) -> (Usage, Usage) {
    match subject.scope {
        Scope::Process => (task.group.own_usage(), task.group.children_usage()),
        Scope::Thread => (task.usage(), Usage::default()),
    }
}

const PF_FORKNOEXEC: u32 = 0x40;
const PF_EXITING: u32 = 0x4;
const PF_RANDOMIZE: u32 = 0x40_0000;

/// `proc_pid_stat(5)`; what the kernel does not count is 0. Addresses are for those who may trace the process.
pub(super) fn stat(subject: &Subject, opener: &Arc<Task>) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let group = &task.group;
    let open = subject.may_inspect(opener).is_ok();
    let sizes = memory::usage(&task);
    let (letter, _) = state(&task);
    let session = group.session();
    let (tty, foreground) = session.terminal().map_or((0, -1), |terminal| (terminal.device(), terminal.foreground()));
    let mut flags = PF_RANDOMIZE;
    if !group.has_execed() {
        flags |= PF_FORKNOEXEC;
    }
    if letter == 'Z' {
        flags |= PF_EXITING;
    }
    let (own, children) = used(subject, &task);
    let scheduling = *task.scheduling.lock();
    // A real-time task shows its priority below zero.
    let priority = if scheduling.priority > 0 { -1 - i64::from(scheduling.priority) } else { 20 + i64::from(scheduling.nice) };
    let started = match subject.scope {
        Scope::Process => group.start_ns,
        Scope::Thread => task.start_ns,
    };
    let mut text = format!(
        "{} ({}) {letter} {} {} {} {tty} {foreground} {flags} {} {} 0 0",
        subject.local(subject.tid),
        String::from_utf8_lossy(&task.name.lock()),
        subject.local(group.ppid()),
        subject.local(group.pgid()),
        subject.local(session.sid),
        own.minor_faults,
        children.minor_faults,
    );
    let _ = write!(
        text,
        " {} {} {} {} {priority} {} {} 0 {} {} {} {}",
        ticks(own.user_ns),
        ticks(own.system_ns),
        ticks(children.user_ns),
        ticks(children.system_ns),
        scheduling.nice,
        group.threads().len(),
        started.saturating_sub(subject.shared.kernel.boot_ns) / TICK_NS,
        sizes.total,
        resident(&sizes) / 4096,
        group.rlimit(Resource::Rss).soft,
    );
    let mm = memory::mm(&task);
    let places = mm.filter(|_| open).map(|mm| mm.places());
    let places = places.as_ref();
    let part = |range: &std::ops::Range<u64>| [range.start, range.end];
    let [code_start, code_end] = places.map_or([0; 2], |places| part(&places.code));
    let stack = places.map_or(0, |places| places.stack_start);
    let (pending, blocked) = task.own_signals();
    let sighand = group.sighand();
    // Only signals below 32 fit; kstkesp and kstkeip are 0 for the living.
    let low = |set: u64| set & 0x7fff_ffff;
    let _ = write!(
        text,
        " {code_start} {code_end} {stack} 0 0 {} {} {} {} 0 0 0 {} {} {} {} 0 0 0",
        low(pending.0),
        low(blocked.0),
        low(sighand.ignored().0),
        low(sighand.caught().0),
        group.exit_signal().map_or(0, |signal| signal.number()),
        cpu(&task),
        scheduling.priority,
        scheduling.policy,
    );
    let [data_start, data_end] = places.map_or([0; 2], |places| part(&places.data));
    let [args_start, args_end] = places.map_or([0; 2], |places| part(&places.args));
    let [env_start, env_end] = places.map_or([0; 2], |places| part(&places.env));
    let exit_code = match group.ended() {
        Some(status) if open => ExitStatus::wait_status(status),
        _ => 0,
    };
    let heap = places.map_or(0, |places| places.brk_start);
    let _ = writeln!(text, " {data_start} {data_end} {heap} {args_start} {args_end} {env_start} {env_end} {exit_code}");
    Ok(text.into_bytes())
}

/// A CPU that the task may have run on last: the host schedules, so the lowest it is allowed.
fn cpu(task: &Task) -> u32 {
    let affinity = task.scheduling.lock().affinity;
    if affinity == 0 { 0 } else { affinity.trailing_zeros() }
}

/// The system call it is in, if it is stopped for a tracer; else as of one that runs.
pub(super) fn syscall(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let state = task.ptrace.lock();
    let Some(stop) = state.stopped() else { return Ok(b"running\n".to_vec()) };
    let r = &stop.registers;
    let text = match r.orig_rax as i64 {
        number if number >= 0 => format!(
            "{number} {:#x} {:#x} {:#x} {:#x} {:#x} {:#x} {:#x} {:#x}\n",
            r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9, r.rsp, r.rip
        ),
        _ => format!("-1 {:#x} {:#x}\n", r.rsp, r.rip),
    };
    Ok(text.into_bytes())
}

/// `proc_pid_statm(5)`.
pub(super) fn statm(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let sizes = memory::usage(&*subject.task()?);
    let pages = |bytes: u64| bytes / 4096;
    let shared = sizes.resident_file + sizes.resident_shared;
    let text = format!(
        "{} {} {} {} 0 {} 0\n",
        pages(sizes.total),
        pages(sizes.resident_anonymous + shared),
        pages(shared),
        pages(sizes.code),
        pages(sizes.data + sizes.stack),
    );
    Ok(text.into_bytes())
}
