//! status: a process in words.

use std::fmt::Write;
use std::sync::Arc;

use super::Subject;
use super::stat::{resident, state};
use crate::Errno;
use crate::task::{Resource, Task, Tid};

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
    let mut text = String::new();
    identity(subject, &task, &mut text);
    // A zombie has no memory, and shows none.
    if task.shared.read().is_some() {
        memory(&task, &mut text);
    }
    signals(&task, &mut text);
    capabilities(&task, &mut text);
    cpus(subject, &task, &mut text);
    Ok(text.into_bytes())
}

fn identity(subject: &Subject, task: &Arc<Task>, text: &mut String) {
    let (group, creds) = (&task.group, task.creds());
    let (letter, word) = state(task);
    let groups: String = creds.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let shared = task.shared.read().clone();
    let umask = shared.as_ref().map(|shared| format!("Umask:\t{:04o}\n", shared.fs.umask())).unwrap_or_default();
    let files = shared.map_or(0, |shared| shared.files.list().len().next_power_of_two().max(64));
    let _ = write!(
        text,
        "Name:\t{}\n{umask}State:\t{letter} ({word})\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t{}\n",
        escaped(&task.name.lock()),
        subject.local(group.tgid),
        subject.local(task.tid()),
        subject.local(group.ppid()),
        subject.local(task.tracer_pid()),
    );
    let _ = write!(
        text,
        "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{files}\nGroups:\t{groups} \n",
        creds.uid, creds.euid, creds.suid, creds.fsuid, creds.gid, creds.egid, creds.sgid, creds.fsgid,
    );
    let _ = write!(
        text,
        "NStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\nKthread:\t0\n",
        levels(subject, task, group.tgid),
        levels(subject, task, task.tid()),
        levels(subject, task, group.pgid()),
        levels(subject, task, group.session().sid),
    );
}

/// A name in which a newline or backslash cannot fake a line.
fn escaped(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace('\\', "\\\\").replace('\n', "\\n")
}

fn memory(task: &Task, text: &mut String) {
    let sizes = super::memory::usage(task);
    for (label, bytes) in [
        ("VmPeak", sizes.peak),
        ("VmSize", sizes.total),
        ("VmLck", sizes.locked),
        ("VmPin", 0),
        ("VmHWM", resident(&sizes)),
        ("VmRSS", resident(&sizes)),
        ("RssAnon", sizes.resident_anonymous),
        ("RssFile", sizes.resident_file),
        ("RssShmem", sizes.resident_shared),
        ("VmData", sizes.data),
        ("VmStk", sizes.stack),
        ("VmExe", sizes.code),
        ("VmLib", sizes.libraries),
        ("VmPTE", 4096 * (1 + sizes.total.div_ceil(2 << 20))),
        ("VmSwap", 0),
    ] {
        let _ = writeln!(text, "{label}:\t{:>8} kB", bytes / 1024);
    }
    text.push_str("HugetlbPages:\t       0 kB\nCoreDumping:\t0\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\n");
}

fn signals(task: &Task, text: &mut String) {
    let group = &task.group;
    let sighand = group.sighand();
    let (pending, blocked) = task.own_signals();
    let _ = write!(
        text,
        "Threads:\t{}\nSigQ:\t{}/{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
        group.threads().len().max(1),
        group.queued_signals(),
        group.rlimit(Resource::Sigpending).soft,
        pending.0,
        group.pending_signals().0,
        blocked.0,
        sighand.ignored().0,
        sighand.caught().0,
    );
}

fn capabilities(task: &Task, text: &mut String) {
    let creds = task.creds();
    let seccomp = task.seccomp();
    let _ = write!(
        text,
        "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t{}\nSpeculation_Store_Bypass:\tunknown\nSpeculationIndirectBranch:\tunknown\n",
        creds.inheritable,
        creds.permitted,
        creds.effective,
        creds.bounding,
        creds.ambient,
        u8::from(creds.no_new_privs),
        seccomp.mode as u8,
        seccomp.filters(),
    );
}

fn cpus(subject: &Subject, task: &Task, text: &mut String) {
    let cpus = subject.shared.kernel.machine.cpus.clamp(1, 64);
    let allowed = task.scheduling.lock().affinity & (u64::MAX >> (64 - cpus));
    let counts = task.activity.counts();
    let _ = write!(
        text,
        "Cpus_allowed:\t{allowed:x}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
        crate::fs::pseudo::cpu_list(allowed),
        counts.voluntary_switches,
        counts.involuntary_switches,
    );
}
