//! stat, status, limits, comm and the like.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::machine::TICK_NS;
use super::{Scope, Subject};
use crate::Errno;
use crate::fs::Inode;
use crate::fs::pseudo::TextFile;
use crate::mm::Usage;
use crate::task::{Resource, Task, Tid};

/// The letter and word of a task's state.
fn state(task: &Task) -> (&'static str, &'static str) {
    if task.group.ended().is_some() {
        ("Z", "Z (zombie)")
    } else if task.in_trace_stop() {
        ("t", "t (tracing stop)")
    } else if task.group.stopped() {
        ("T", "T (stopped)")
    } else if task.in_user() {
        ("R", "R (running)")
    } else {
        ("S", "S (sleeping)")
    }
}

fn resident(usage: &Usage) -> u64 {
    usage.resident_anonymous + usage.resident_file + usage.resident_shared
}

fn name(task: &Task) -> String {
    String::from_utf8_lossy(&task.name.lock()).into_owned()
}

/// `proc_pid_stat(5)`; what the kernel does not count is 0.
pub(super) fn stat(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let group = &task.group;
    let threads = group.threads();
    let cpu_ns: u64 = match subject.scope {
        Scope::Process => threads.iter().map(|thread| thread.cpu_time_ns()).sum(),
        Scope::Thread => task.cpu_time_ns(),
    };
    let session = group.session();
    let terminal = session.terminal();
    let (tty, foreground) = terminal.map_or((0, -1), |terminal| (terminal.device(), terminal.foreground()));
    let usage = super::memory::usage(&task);
    let started = group.start_ns.saturating_sub(subject.shared.kernel.boot_ns) / TICK_NS;
    let (letter, _) = state(&task);
    let mut text = format!(
        "{} ({}) {letter} {} {} {} {tty} {foreground} 0 0 0 0 0 {} 0 0 0 20 0 {} 0 {started} {} {} {}",
        subject.local(subject.tid),
        name(&task),
        subject.local(group.ppid()),
        subject.local(group.pgid()),
        subject.local(session.sid),
        cpu_ns / TICK_NS,
        threads.len().max(1),
        usage.total,
        resident(&usage) / 4096,
        u64::MAX,
    );
    // startcode .. arg and environment addresses: not shown; exit_signal 17, processor 0.
    text.push_str(" 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
    Ok(text.into_bytes())
}

/// A number in each pid namespace, from this procfs's to the task's own.
fn levels(subject: &Subject, task: &Task, number: Tid) -> String {
    let outer = subject.shared.pid_ns.level();
    let inner: Vec<Tid> = task.group.pid_ns.chain().filter(|ns| ns.level() > outer).map(|ns| ns.local(number)).collect();
    let all = std::iter::once(subject.local(number)).chain(inner.into_iter().rev());
    all.map(|number| number.to_string()).collect::<Vec<_>>().join("\t")
}

/// `proc_pid_status(5)`.
pub(super) fn status(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let (group, creds) = (&task.group, task.creds());
    let usage = super::memory::usage(&task);
    let seccomp = task.seccomp();
    let (_, word) = state(&task);
    let sighand = group.sighand();
    let umask = task.shared.read().as_ref().map_or(0, |shared| shared.fs.umask());
    let mut text = String::new();
    let groups: String = creds.groups.iter().map(|gid| format!("{gid} ")).collect();
    let files = task.shared.read().as_ref().map_or(0, |shared| shared.files.list().len().next_power_of_two().max(64));
    let _ = write!(
        text,
        "Name:\t{}\nUmask:\t{umask:04o}\nState:\t{word}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t{}\n",
        name(&task),
        subject.local(group.tgid),
        subject.local(task.tid()),
        subject.local(group.ppid()),
        subject.local(task.tracer_pid()),
    );
    let _ = write!(
        text,
        "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{files}\nGroups:\t{groups}\n",
        creds.uid, creds.euid, creds.suid, creds.fsuid, creds.gid, creds.egid, creds.sgid, creds.fsgid,
    );
    let _ = write!(
        text,
        "NStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\n",
        levels(subject, &task, group.tgid),
        levels(subject, &task, task.tid()),
        levels(subject, &task, group.pgid()),
        levels(subject, &task, group.session().sid),
    );
    for (label, bytes) in [
        ("VmPeak", usage.peak),
        ("VmSize", usage.total),
        ("VmLck", usage.locked),
        ("VmPin", 0),
        ("VmHWM", resident(&usage)),
        ("VmRSS", resident(&usage)),
        ("VmData", usage.data),
        ("VmStk", usage.stack),
        ("VmExe", usage.code),
        ("VmLib", usage.libraries),
        ("VmSwap", 0),
    ] {
        let _ = writeln!(text, "{label}:\t{:>8} kB", bytes / 1024);
    }
    let shared_pending = group.pending_signals();
    let (pending, blocked) = task.own_signals();
    let _ = write!(
        text,
        "Threads:\t{}\nSigQ:\t0/{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
        group.threads().len().max(1),
        group.rlimit(Resource::Sigpending).soft,
        pending.0,
        shared_pending.0,
        blocked.0,
        sighand.ignored().0,
        sighand.caught().0,
    );
    let _ = write!(
        text,
        "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t{}\n",
        creds.inheritable,
        creds.permitted,
        creds.effective,
        creds.bounding,
        creds.ambient,
        u8::from(creds.no_new_privs),
        seccomp.mode as u8,
        seccomp.filters(),
    );
    let cpus = subject.shared.kernel.machine.cpus.clamp(1, 64);
    let _ = write!(
        text,
        "Cpus_allowed:\t{:x}\nCpus_allowed_list:\t0-{}\nMems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
        u64::MAX >> (64 - cpus),
        cpus - 1,
    );
    Ok(text.into_bytes())
}

const LIMITS: [(&str, Resource, &str); 16] = [
    ("Max cpu time", Resource::Cpu, "seconds"),
    ("Max file size", Resource::Fsize, "bytes"),
    ("Max data size", Resource::Data, "bytes"),
    ("Max stack size", Resource::Stack, "bytes"),
    ("Max core file size", Resource::Core, "bytes"),
    ("Max resident set", Resource::Rss, "bytes"),
    ("Max processes", Resource::Nproc, "processes"),
    ("Max open files", Resource::Nofile, "files"),
    ("Max locked memory", Resource::Memlock, "bytes"),
    ("Max address space", Resource::As, "bytes"),
    ("Max file locks", Resource::Locks, "locks"),
    ("Max pending signals", Resource::Sigpending, "signals"),
    ("Max msgqueue size", Resource::Msgqueue, "bytes"),
    ("Max nice priority", Resource::Nice, ""),
    ("Max realtime priority", Resource::Rtprio, ""),
    ("Max realtime timeout", Resource::Rttime, "us"),
];

pub(super) fn limits(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let mut text = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let show = |limit: u64| if limit == u64::MAX { "unlimited".to_string() } else { limit.to_string() };
    for (label, resource, unit) in LIMITS {
        let limit = task.group.rlimit(resource);
        let _ = writeln!(text, "{label:<26}{:<21}{:<21}{unit:<10}", show(limit.soft), show(limit.hard));
    }
    Ok(text.into_bytes())
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

pub(super) fn io(subject: &Subject) -> Result<Vec<u8>, Errno> {
    subject.task()?;
    let names = ["rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"];
    Ok(names.iter().map(|name| format!("{name}: 0\n")).collect::<String>().into_bytes())
}

/// The name; writing changes it.
pub(super) fn comm(subject: &Subject) -> Arc<dyn Inode> {
    let (reader, writer) = (subject.clone(), subject.clone());
    TextFile::writable(
        subject.identity(0o644, "comm"),
        move || {
            let mut name = reader.task()?.name.lock().clone();
            name.push(b'\n');
            Ok(name)
        },
        move |bytes| {
            let name = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            *writer.task()?.name.lock() = name.iter().take(15).copied().collect();
            Ok(())
        },
    )
}

/// Which memory goes into a core file.
pub(super) fn coredump_filter(subject: &Subject) -> Arc<dyn Inode> {
    let (reader, writer) = (subject.clone(), subject.clone());
    TextFile::writable(
        subject.identity(0o644, "coredump_filter"),
        move || Ok(format!("{:08x}\n", reader.task()?.group.coredump_filter.load(Ordering::Relaxed)).into_bytes()),
        move |bytes| {
            let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim();
            let value = match text.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16),
                None if text.starts_with('0') => u32::from_str_radix(text, 8),
                None => text.parse(),
            };
            let value = value.map_err(|_| Errno::EINVAL)? & 0x1ff;
            writer.task()?.group.coredump_filter.store(value, Ordering::Relaxed);
            Ok(())
        },
    )
}

/// Kept and reported: the kernel picks out-of-memory victims by their size.
pub(super) fn oom_score_adj(subject: &Subject) -> Arc<dyn Inode> {
    let (reader, writer) = (subject.clone(), subject.clone());
    TextFile::writable(
        subject.identity(0o644, "oom_score_adj"),
        move || {
            let value = reader.task()?.group.oom_score_adj.load(Ordering::Relaxed);
            Ok(format!("{value}\n").into_bytes())
        },
        move |bytes| {
            let value = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse::<i32>().ok());
            let value = value.filter(|value| (-1000..=1000).contains(value)).ok_or(Errno::EINVAL)?;
            writer.task()?.group.oom_score_adj.store(value, Ordering::Relaxed);
            Ok(())
        },
    )
}
