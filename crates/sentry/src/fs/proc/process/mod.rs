//! /proc/PID and /proc/PID/task/TID.
//!
//! Every file looks its task up anew when it is read, so a directory that outlives its process gives `ESRCH`. A zombie is still there, without
//! memory and descriptors. `stat`, `status`, `limits` and `counters` make numbers, `memory` and `smaps` mappings, `settings` files that take
//! writes, `fds` and `links` what leads elsewhere.

mod counters;
mod fds;
mod ids;
mod limits;
mod links;
mod mem;
mod memory;
mod mounts;
mod settings;
mod smaps;
mod stat;
mod status;

use std::sync::Arc;

use super::Shared;
use crate::Errno;
use crate::fs::pseudo::{DirInode, Directory, Identity, Listed, TextFile};
use crate::fs::{File, FileKind, Inode};
use crate::ptrace::Mode;
use crate::task::{Task, ThreadGroup, Tid};

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
    /// The thread; for a process its first one, also as a zombie.
    ///
    /// # Errors
    /// `ESRCH` when it is gone.
    fn task(&self) -> Result<Arc<Task>, Errno> {
        self.shared.container.pids.task_or_zombie(self.tid).ok_or(Errno::ESRCH)
    }

    /// Whether `viewer` may look into the task as a debugger may (ptrace(2), "Ptrace access mode checking").
    ///
    /// # Errors
    /// `EACCES`; `ESRCH` when it is gone.
    fn may_inspect(&self, viewer: &Task) -> Result<Arc<Task>, Errno> {
        let task = self.task()?;
        if viewer.may_access(&task, Mode::FileSystem) { Ok(task) } else { Err(Errno::EACCES) }
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

    fn text(&self, text: &Text) -> Arc<dyn Inode> {
        let (subject, make) = (self.clone(), text.make);
        let file = TextFile::for_opener(self.identity(text.permissions, text.name), move |opener| make(&subject, opener));
        let file = match text.who {
            Who::Everybody => file,
            Who::Tracers => {
                let subject = self.clone();
                file.guarded(move |cx| subject.may_inspect(&cx.task).map(drop))
            }
            Who::Nobody(errno) => file.guarded(move |_| Err(errno)),
        };
        file.into_inode()
    }
}

/// Who may open a file, beside what its permissions say.
#[derive(Clone, Copy)]
enum Who {
    Everybody,
    /// Those who may trace the process.
    Tracers,
    Nobody(Errno),
}

struct Text {
    name: &'static str,
    permissions: u32,
    who: Who,
    make: fn(&Subject, &Arc<Task>) -> Result<Vec<u8>, Errno>,
}

const fn open(name: &'static str, make: fn(&Subject, &Arc<Task>) -> Result<Vec<u8>, Errno>) -> Text {
    Text { name, permissions: 0o444, who: Who::Everybody, make }
}

const fn traced(name: &'static str, permissions: u32, make: fn(&Subject, &Arc<Task>) -> Result<Vec<u8>, Errno>) -> Text {
    Text { name, permissions, who: Who::Tracers, make }
}

const ID_MAP: &[u8] = b"         0          0 4294967295\n";

const TEXTS: [Text; 28] = [
    traced("auxv", 0o400, |subject, _| memory::auxv(subject)),
    open("cgroup", |subject, _| {
        let task = subject.task()?;
        let path = task.group.cgroup().path_from(&task.container.cgroup);
        Ok([b"0::", path.as_slice(), b"\n"].concat())
    }),
    open("cmdline", |subject, _| memory::cmdline(subject)),
    open("cpuset", |_, _| Ok(b"/\n".to_vec())),
    traced("environ", 0o400, |subject, _| memory::environ(subject)),
    traced("io", 0o400, |subject, _| counters::io(subject)),
    open("limits", |subject, _| limits::limits(subject)),
    traced("maps", 0o444, |subject, _| memory::maps(subject)),
    traced("numa_maps", 0o444, |subject, _| memory::numa_maps(subject)),
    open("oom_score", |subject, _| settings::oom_score(subject)),
    // Page frames are the host's.
    Text { name: "pagemap", permissions: 0o400, who: Who::Nobody(Errno::EPERM), make: |_, _| Err(Errno::EPERM) },
    traced("personality", 0o400, |subject, _| {
        let personality = subject.task()?.group.personality.load(std::sync::atomic::Ordering::Relaxed);
        Ok(format!("{personality:08x}\n").into_bytes())
    }),
    open("projid_map", |_, _| Ok(ID_MAP.to_vec())),
    open("sched", |subject, _| counters::sched(subject)),
    open("schedstat", |subject, _| counters::schedstat(subject)),
    open("sessionid", |subject, _| settings::sessionid(subject)),
    traced("smaps", 0o444, |subject, _| smaps::smaps(subject)),
    traced("smaps_rollup", 0o444, |subject, _| smaps::smaps_rollup(subject)),
    // Only for those with CAP_SYS_ADMIN over the machine, which nobody in a container has.
    Text { name: "stack", permissions: 0o400, who: Who::Everybody, make: |_, _| Err(Errno::EACCES) },
    open("stat", stat::stat),
    open("statm", |subject, _| stat::statm(subject)),
    traced("syscall", 0o400, |subject, _| stat::syscall(subject)),
    open("status", |subject, _| status::status(subject)),
    open("timens_offsets", |_, _| Ok(b"monotonic           0         0\nboottime            0         0\n".to_vec())),
    traced("timers", 0o444, |subject, _| counters::timers(subject)),
    open("wchan", |_, _| Ok(b"0".to_vec())),
    open("arch_status", |_, _| Ok(Vec::new())),
    // Only in task/TID.
    open("children", |subject, _| {
        let task = subject.task()?;
        let children = if task.is_leader() { task.container.pids.children(task.tgid()) } else { Vec::new() };
        Ok(children.iter().map(|&pid| format!("{} ", subject.local(pid))).collect::<String>().into_bytes())
    }),
];

/// Whether a file stands in this kind of directory.
fn belongs(text: &Text, scope: Scope) -> bool {
    match text.name {
        "children" => scope == Scope::Thread,
        "timers" | "timens_offsets" => scope == Scope::Process,
        _ => true,
    }
}

/// The directory of a process or (by its number, though it is not listed) a thread.
///
/// # Errors
/// `ENOENT`.
pub(super) fn directory(shared: &Arc<Shared>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
    let tid = shared.pid_ns.global(parse_tid(name)?).ok_or(Errno::ENOENT)?;
    shared.container.pids.task_or_zombie(tid).ok_or(Errno::ENOENT)?;
    Ok(DirInode::make(TaskDir(Subject { shared: shared.clone(), tid, scope: Scope::Process })))
}

/// Which process an open /proc/PID names, by its number in the container.
///
/// # Errors
/// `EBADF` for another file, `ESRCH` when the process is gone.
pub fn named_by(file: &File) -> Result<Arc<ThreadGroup>, Errno> {
    let directory = file.inode().as_any().downcast_ref::<DirInode<TaskDir>>().map(|directory| &directory.0.0);
    let subject = directory.filter(|subject| subject.scope == Scope::Process).ok_or(Errno::EBADF)?;
    subject.shared.container.pids.process(subject.tid).ok_or(Errno::ESRCH)
}

/// Places of processes in /proc come after those of its files.
const FIRST_PLACE: u64 = 256;

/// The processes, zombies included.
pub(super) fn list(shared: &Shared) -> Vec<Listed> {
    let mut numbers: Vec<Tid> = shared.container.pids.processes().iter().map(|group| shared.pid_ns.local(group.tgid)).collect();
    numbers.retain(|&number| number != 0);
    numbers.sort_unstable();
    numbers.into_iter().map(|number| Listed::at(FIRST_PLACE + number as u64, number.to_string(), FileKind::Directory)).collect()
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
        subject.task()?;
        if let Some(text) = TEXTS.iter().find(|text| text.name.as_bytes() == name && belongs(text, subject.scope)) {
            return Ok(subject.text(text));
        }
        if let Some(file) = settings::file(subject, name) {
            return Ok(file);
        }
        if let Some(table) = mounts::table(subject, name) {
            return Ok(table);
        }
        if let Some(file) = ids::file(subject, name) {
            return Ok(file);
        }
        match name {
            b"cwd" | b"root" | b"exe" => Ok(links::place(subject, name)),
            b"mem" => Ok(mem::file(subject)),
            b"attr" => Ok(DirInode::make(links::AttrDir(subject.clone()))),
            b"fd" => Ok(DirInode::make(fds::FdDir(subject.clone()))),
            b"fdinfo" => Ok(DirInode::make(fds::FdInfoDir(subject.clone()))),
            b"ns" => Ok(DirInode::make(links::NsDir(subject.clone()))),
            b"net" => Ok(DirInode::make(links::NetDir(subject.clone()))),
            b"task" if subject.scope == Scope::Process => Ok(DirInode::make(ThreadsDir(subject.clone()))),
            _ => Err(Errno::ENOENT),
        }
    }

    fn list(&self) -> Vec<Listed> {
        let texts = TEXTS.iter().filter(|text| belongs(text, self.0.scope)).map(|text| text.name);
        let files = texts.chain(settings::FILES.iter().map(|(name, ..)| *name));
        let files = files.chain(mounts::TABLES.iter().map(|(name, ..)| *name)).chain(ids::NAMES).chain(["mem"]);
        let mut list: Vec<Listed> = files.map(|name| Listed::new(name, FileKind::Regular)).collect();
        list.extend(["cwd", "root", "exe"].map(|name| Listed::new(name, FileKind::Symlink)));
        list.extend(["attr", "fd", "fdinfo", "ns", "net"].map(|name| Listed::new(name, FileKind::Directory)));
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
        let thread = self.0.shared.container.pids.task_or_zombie(tid).ok_or(Errno::ENOENT)?;
        if thread.group.tgid != self.0.task()?.group.tgid {
            return Err(Errno::ENOENT);
        }
        Ok(DirInode::make(TaskDir(Subject { tid, scope: Scope::Thread, ..self.0.clone() })))
    }

    /// The first thread stays until the process goes.
    fn list(&self) -> Vec<Listed> {
        let Ok(task) = self.0.task() else { return Vec::new() };
        let mut tids: Vec<Tid> = task.group.threads().iter().map(|thread| self.0.local(thread.tid())).collect();
        tids.push(self.0.local(task.tgid()));
        tids.sort_unstable();
        tids.dedup();
        tids.into_iter().map(|tid| Listed::at(tid as u64, tid.to_string(), FileKind::Directory)).collect()
    }
}
