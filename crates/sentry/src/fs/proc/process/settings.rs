//! Files of a process that take writes: its name, its place before the out-of-memory killer, timer slack, who logged in.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Subject;
use crate::Errno;
use crate::fs::Inode;
use crate::fs::pseudo::{TakesWrites, TextFile};
use crate::task::{Capability, Login, Task};

/// `TASK_COMM_LEN` without the end.
const NAME_MAX: usize = 15;
/// `(uid_t)-1`: nobody has logged in.
const NOBODY: u32 = u32::MAX;

type Read = fn(&Subject) -> Result<Vec<u8>, Errno>;
type Write = fn(&Subject, &Arc<Task>, &[u8]) -> Result<(), Errno>;

/// The files: name, permissions, and what reads and writes do.
pub(super) const FILES: [(&str, u32, Read, Write); 7] = [
    ("comm", 0o644, comm, set_comm),
    ("clear_refs", 0o200, |_| Err(Errno::EINVAL), clear_refs),
    ("coredump_filter", 0o644, coredump_filter, set_coredump_filter),
    ("loginuid", 0o644, loginuid, set_loginuid),
    ("oom_adj", 0o644, oom_adj, set_oom_adj),
    ("oom_score_adj", 0o644, oom_score_adj, set_oom_score_adj),
    ("timerslack_ns", 0o666, timerslack, set_timerslack),
];

/// One of [`FILES`].
pub(super) fn file(subject: &Subject, name: &[u8]) -> Option<Arc<dyn Inode>> {
    let &(name, permissions, read, write) = FILES.iter().find(|(file, ..)| file.as_bytes() == name)?;
    let (reader, writer) = (subject.clone(), subject.clone());
    let taken = TakesWrites::Taken(Arc::new(move |opener: &Arc<Task>, bytes: &[u8]| write(&writer, opener, bytes)));
    let file = TextFile::for_opener(subject.identity(permissions, name), move |_| read(&reader));
    Some(file.writes(taken).into_inode())
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, Errno> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)
}

fn comm(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut name = subject.task()?.name.lock().clone();
    name.push(b'\n');
    Ok(name)
}

/// Only a thread of the same process may.
fn set_comm(subject: &Subject, opener: &Arc<Task>, bytes: &[u8]) -> Result<(), Errno> {
    let task = subject.task()?;
    if task.tgid() != opener.tgid() {
        return Err(Errno::EINVAL);
    }
    let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    *task.name.lock() = name.iter().take(NAME_MAX).copied().collect();
    Ok(())
}

/// Nothing is kept about single pages; 5 sets the peak to what is used now, which is what is shown anyway.
fn clear_refs(_subject: &Subject, _opener: &Arc<Task>, bytes: &[u8]) -> Result<(), Errno> {
    match number::<i32>(bytes)? {
        1..=5 => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// Which memory goes into a core file.
fn coredump_filter(subject: &Subject) -> Result<Vec<u8>, Errno> {
    Ok(format!("{:08x}\n", subject.task()?.group.coredump_filter.load(Ordering::Relaxed)).into_bytes())
}

fn set_coredump_filter(subject: &Subject, _opener: &Arc<Task>, bytes: &[u8]) -> Result<(), Errno> {
    let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim();
    let value = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None if text.starts_with('0') => u32::from_str_radix(text, 8),
        None => text.parse(),
    };
    let value = value.map_err(|_| Errno::EINVAL)? & 0x1ff;
    subject.task()?.group.coredump_filter.store(value, Ordering::Relaxed);
    Ok(())
}

fn loginuid(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let login = subject.task()?.creds().login;
    Ok(login.map_or(NOBODY, |login| login.uid).to_string().into_bytes())
}

/// The session of a login; there is no file to change it by.
pub(super) fn sessionid(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let login = subject.task()?.creds().login;
    Ok(login.map_or(NOBODY, |login| login.session).to_string().into_bytes())
}

/// A task may say once who has logged in; to say it again needs `CAP_AUDIT_CONTROL` (kernel/audit.c).
fn set_loginuid(subject: &Subject, opener: &Arc<Task>, bytes: &[u8]) -> Result<(), Errno> {
    let task = subject.task()?;
    if !Arc::ptr_eq(&task, opener) && task.tid() != opener.tid() {
        return Err(Errno::EPERM);
    }
    let uid = number::<u32>(bytes)?;
    let mut creds = (*task.creds()).clone();
    if creds.login.is_some() && !creds.has(Capability::AuditControl) {
        return Err(Errno::EPERM);
    }
    let session = || task.container.logins.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    creds.login = (uid != NOBODY).then(|| Login { uid, session: session() });
    *task.creds.write() = Arc::new(creds);
    Ok(())
}

const SCORE_MAX: i32 = 1000;
const ADJ_MIN: i32 = -17;
const ADJ_MAX: i32 = 15;

fn oom_score_adj(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let value = subject.task()?.group.oom_score_adj.load(Ordering::Relaxed);
    Ok(format!("{value}\n").into_bytes())
}

/// See `task/oom.rs`.
fn set_oom_score_adj(subject: &Subject, opener: &Arc<Task>, bytes: &[u8]) -> Result<(), Errno> {
    let value = number::<i32>(bytes)?;
    if !(-SCORE_MAX..=SCORE_MAX).contains(&value) {
        return Err(Errno::EINVAL);
    }
    store_oom_score(&*subject.task()?, opener, value)
}

/// Below 0 only with `CAP_SYS_RESOURCE`.
fn store_oom_score(task: &Task, opener: &Arc<Task>, value: i32) -> Result<(), Errno> {
    let old = task.group.oom_score_adj.load(Ordering::Relaxed);
    if value < old.min(0) && !opener.creds().has(Capability::SysResource) {
        return Err(Errno::EACCES);
    }
    task.group.oom_score_adj.store(value, Ordering::Relaxed);
    Ok(())
}

/// The old scale of -17 to 15.
fn oom_adj(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let score = subject.task()?.group.oom_score_adj.load(Ordering::Relaxed);
    let value = if score == SCORE_MAX { ADJ_MAX } else { score * -ADJ_MIN / SCORE_MAX };
    Ok(format!("{value}\n").into_bytes())
}

fn set_oom_adj(subject: &Subject, opener: &Arc<Task>, bytes: &[u8]) -> Result<(), Errno> {
    let value = number::<i32>(bytes)?;
    if !(ADJ_MIN..=ADJ_MAX).contains(&value) {
        return Err(Errno::EINVAL);
    }
    let score = if value == ADJ_MAX { SCORE_MAX } else { value * SCORE_MAX / -ADJ_MIN };
    store_oom_score(&*subject.task()?, opener, score)
}

/// How likely the process would be picked, from its size and its adjustment (`proc_oom_score`).
pub(super) fn oom_score(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let adj = i64::from(task.group.oom_score_adj.load(Ordering::Relaxed));
    let total = subject.shared.container.memory_bytes(&subject.shared.kernel.machine).max(1);
    let used = super::stat::resident(&super::memory::usage(&task));
    let share = (u128::from(used) * 1000 / u128::from(total)) as i64;
    let score = if adj == -1000 { 0 } else { (1000 + share + adj) * 2 / 3 };
    Ok(format!("{}\n", score.max(0)).into_bytes())
}

fn timerslack(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let slack = subject.task()?.timer_slack_ns.load(Ordering::Relaxed);
    Ok(format!("{slack}\n").into_bytes())
}

/// Another task's is for those who may change its priority.
fn set_timerslack(subject: &Subject, opener: &Arc<Task>, bytes: &[u8]) -> Result<(), Errno> {
    let slack = number::<u64>(bytes)?;
    let task = subject.task()?;
    if task.tid() != opener.tid() && !opener.creds().has(Capability::SysNice) {
        return Err(Errno::EPERM);
    }
    task.timer_slack_ns.store(if slack == 0 { task.default_slack_ns } else { slack }, Ordering::Relaxed);
    Ok(())
}
