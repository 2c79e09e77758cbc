//! /proc/PID and /proc/PID/task/TID.
//!
//! Every file looks its task up anew when it is read, so a directory that outlives its process gives `ESRCH`.

mod fds;
mod ids;
mod links;
mod mem;
mod memory;
mod mounts;
mod status;

use std::sync::Arc;

use super::Shared;
use crate::Errno;
use crate::fs::pseudo::{DirInode, Directory, Identity, Listed, TextFile};
use crate::fs::{FileKind, Inode};
use crate::ptrace::Mode;
use crate::task::{Cx, Task, Tid};

/// Which task a file is about.
#[derive(Clone)]
struct Subject {
    shared: Arc<Shared>,
    tid: Tid,
    scope: Scope,
}

/// A whole process, or one thread of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    Process,
    Thread,
}

impl Subject {
    /// # Errors
    /// `ESRCH` when it is gone.
    fn task(&self) -> Result<Arc<Task>, Errno> {
        self.shared.container.pids.task(self.tid).ok_or(Errno::ESRCH)
    }

    /// Whether `cx` may look into the task as a debugger may (ptrace(2), "Ptrace access mode checking").
    ///
    /// # Errors
    /// `EACCES`; `ESRCH` when it is gone.
    fn may_inspect(&self, cx: &Cx) -> Result<Arc<Task>, Errno> {
        let task = self.task()?;
        if cx.task.may_access(&task, Mode::FileSystem) { Ok(task) } else { Err(Errno::EACCES) }
    }

    /// A number of the container as this procfs shows it.
    fn local(&self, number: Tid) -> Tid {
        self.shared.pid_ns.local(number)
    }

    fn identity(&self, permissions: u32, name: impl std::hash::Hash) -> Identity {
        let identity = self.shared.identity(permissions, (self.tid, self.scope, name));
        match self.task() {
            Ok(task) => {
                let creds = task.creds();
                identity.owned_by(creds.euid, creds.egid)
            }
            Err(_) => identity,
        }
    }

    fn text(&self, name: &str, permissions: u32, make: fn(&Subject) -> Result<Vec<u8>, Errno>) -> Arc<dyn Inode> {
        let subject = self.clone();
        TextFile::make(self.identity(permissions, name), move || make(&subject))
    }
}

type Text = (&'static str, u32, fn(&Subject) -> Result<Vec<u8>, Errno>);

const TEXTS: [Text; 15] = [
    ("auxv", 0o400, memory::auxv),
    ("cgroup", 0o444, |_| Ok(b"0::/\n".to_vec())),
    ("cmdline", 0o444, memory::cmdline),
    ("environ", 0o400, memory::environ),
    ("io", 0o400, status::io),
    ("limits", 0o444, status::limits),
    ("loginuid", 0o444, |_| Ok(b"4294967295".to_vec())),
    ("maps", 0o444, memory::maps),
    ("oom_score", 0o444, |_| Ok(b"0\n".to_vec())),
    ("smaps", 0o444, memory::smaps),
    ("stat", 0o444, status::stat),
    ("statm", 0o444, memory::statm),
    ("status", 0o444, status::status),
    ("syscall", 0o400, status::syscall),
    ("wchan", 0o444, |_| Ok(b"0".to_vec())),
];

/// The directory of a process or (by its number, though it is not listed) a thread.
///
/// # Errors
/// `ENOENT`.
pub(super) fn directory(shared: &Arc<Shared>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
    let tid = shared.pid_ns.global(parse_tid(name)?).ok_or(Errno::ENOENT)?;
    shared.container.pids.task(tid).ok_or(Errno::ENOENT)?;
    Ok(DirInode::make(TaskDir(Subject { shared: shared.clone(), tid, scope: Scope::Process })))
}

/// The processes.
pub(super) fn list(shared: &Shared) -> Vec<Listed> {
    let tasks = shared.container.pids.tasks();
    let leaders = tasks.iter().filter(|task| task.is_leader());
    let numbers = leaders.map(|task| shared.pid_ns.local(task.tid())).filter(|&number| number != 0);
    numbers.map(|number| Listed::new(number.to_string(), FileKind::Directory)).collect()
}

fn parse_tid(name: &[u8]) -> Result<Tid, Errno> {
    if name.first().is_none_or(|first| !(b'1'..=b'9').contains(first)) {
        return Err(Errno::ENOENT);
    }
    std::str::from_utf8(name).ok().and_then(|text| text.parse().ok()).ok_or(Errno::ENOENT)
}

struct TaskDir(Subject);

impl Directory for TaskDir {
    fn identity(&self) -> Identity {
        let options = &self.0.shared.options;
        let identity = self.0.identity(if options.hide_pid == 0 { 0o555 } else { 0o550 }, "/");
        if options.hide_pid == 0 { identity } else { Identity { gid: options.gid, ..identity } }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let subject = &self.0;
        if let Some((name, permissions, make)) = TEXTS.iter().find(|(text, ..)| text.as_bytes() == name) {
            return Ok(subject.text(name, *permissions, *make));
        }
        if let Some(table) = mounts::table(subject, name) {
            return Ok(table);
        }
        if let Some(file) = ids::file(subject, name) {
            return Ok(file);
        }
        match name {
            b"comm" => Ok(status::comm(subject)),
            b"oom_score_adj" => Ok(status::oom_score_adj(subject)),
            b"cwd" | b"root" | b"exe" => Ok(links::place(subject, name)),
            b"coredump_filter" => Ok(status::coredump_filter(subject)),
            b"mem" => Ok(mem::file(subject)),
            b"fd" => Ok(DirInode::make(fds::FdDir(subject.clone()))),
            b"fdinfo" => Ok(DirInode::make(fds::FdInfoDir(subject.clone()))),
            b"ns" => Ok(DirInode::make(links::NsDir(subject.clone()))),
            b"net" => Ok(DirInode::make(links::NetDir(subject.clone()))),
            b"task" if subject.scope == Scope::Process => Ok(DirInode::make(ThreadsDir(subject.clone()))),
            _ => Err(Errno::ENOENT),
        }
    }

    fn list(&self) -> Vec<Listed> {
        let texts = TEXTS.iter().map(|(name, ..)| *name).chain(["comm", "coredump_filter", "mem", "oom_score_adj"]);
        let texts = texts.chain(mounts::TABLES.iter().map(|(name, ..)| *name)).chain(ids::NAMES);
        let mut list: Vec<Listed> = texts.map(|name| Listed::new(name, FileKind::Regular)).collect();
        list.extend(["cwd", "root", "exe"].map(|name| Listed::new(name, FileKind::Symlink)));
        list.extend(["fd", "fdinfo", "ns", "net"].map(|name| Listed::new(name, FileKind::Directory)));
        if self.0.scope == Scope::Process {
            list.push(Listed::new("task", FileKind::Directory));
        }
        list
    }
}

struct ThreadsDir(Subject);

impl Directory for ThreadsDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o555, "task")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let tid = self.0.shared.pid_ns.global(parse_tid(name)?).ok_or(Errno::ENOENT)?;
        let thread = self.0.shared.container.pids.task(tid).ok_or(Errno::ENOENT)?;
        if thread.group.tgid != self.0.task()?.group.tgid {
            return Err(Errno::ENOENT);
        }
        Ok(DirInode::make(TaskDir(Subject { tid, scope: Scope::Thread, ..self.0.clone() })))
    }

    fn list(&self) -> Vec<Listed> {
        let Ok(task) = self.0.task() else { return Vec::new() };
        let number = |thread: &Arc<Task>| self.0.local(thread.tid()).to_string();
        task.group.threads().iter().map(|thread| Listed::new(number(thread), FileKind::Directory)).collect()
    }
}
