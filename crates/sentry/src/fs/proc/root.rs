//! The top of /proc.

use std::sync::Arc;

use super::{Shared, locks, machine, process, sys, sysvipc};
use crate::Errno;
use crate::fs::pseudo::{DirInode, Directory, Identity, LinkInode, Listed, TakesWrites, TextFile};
use crate::fs::{FileKind, Inode, Link};
use crate::ns::PidNs;
use crate::task::Tid;

pub(super) struct Root(pub(super) Arc<Shared>);

/// A file's name and how its text is made.
type Text = (&'static str, fn(&Shared) -> String);

const TEXTS: [Text; 25] = [
    ("buddyinfo", machine::buddyinfo),
    ("cgroups", cgroups),
    ("cmdline", |_| "nacre\n".into()),
    ("consoles", |_| String::new()),
    ("cpuinfo", machine::cpuinfo),
    ("crypto", |_| String::new()),
    ("devices", |_| {
        "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n 10 misc\n128 ptm\n136 pts\n\nBlock devices:\n".into()
    }),
    ("diskstats", |_| String::new()),
    ("filesystems", |_| crate::fs::types::TYPES.map(|(name, _)| format!("nodev\t{name}\n")).concat()),
    ("execdomains", |_| "0-0\tLinux           \t[kernel]\n".into()),
    ("interrupts", machine::interrupts),
    ("loadavg", machine::loadavg),
    ("locks", locks::text),
    ("meminfo", machine::meminfo),
    ("misc", |_| String::new()),
    ("modules", |_| String::new()),
    ("partitions", |_| "major minor  #blocks  name\n\n".into()),
    ("softirqs", machine::softirqs),
    ("stat", machine::stat),
    ("swaps", |_| "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".into()),
    ("uptime", machine::uptime),
    ("version", machine::version),
    ("vmstat", machine::vmstat),
    ("zoneinfo", machine::zoneinfo),
    ("key-users", |_| String::new()),
];

/// A number of the container as a procfs shows it.
fn number(ns: &PidNs, number: Tid) -> Result<Tid, Errno> {
    Some(ns.local(number)).filter(|&number| number != 0).ok_or(Errno::ENOENT)
}

/// Controllers; all are on version 2's hierarchy, which is number 0.
fn cgroups(shared: &Shared) -> String {
    let groups = shared.container.cgroup.subtree().len();
    let mut text = String::from("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    for (name, _) in crate::cgroup::Controllers::NAMES {
        // As version 1 called it.
        let name = if name == "io" { "blkio" } else { name };
        text.push_str(&format!("{name}\t0\t{groups}\t1\n"));
    }
    text
}

impl Directory for Root {
    fn identity(&self) -> Identity {
        Identity { ino: 1, ..self.0.identity(0o555, "/") }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let shared = &self.0;
        if shared.options.subset_pid && !matches!(name, b"self" | b"thread-self") {
            return process::directory(shared, name);
        }
        if let Some(text) = TEXTS.iter().find(|(text, _)| text.as_bytes() == name) {
            return Ok(file(shared, text));
        }
        let ns = shared.pid_ns.clone();
        match name {
            b"self" => Ok(LinkInode::make(shared.identity(0o777, "self"), move |cx| {
                let pid = number(&ns, cx.task.group.tgid)?;
                Ok(Link::Text(pid.to_string().into_bytes()))
            })),
            b"thread-self" => Ok(LinkInode::make(shared.identity(0o777, "thread-self"), move |cx| {
                let (pid, tid) = (number(&ns, cx.task.group.tgid)?, number(&ns, cx.task.tid())?);
                Ok(Link::Text(format!("{pid}/task/{tid}").into_bytes()))
            })),
            b"mounts" => Ok(LinkInode::text(shared.identity(0o777, "mounts"), "self/mounts")),
            b"net" => Ok(LinkInode::text(shared.identity(0o777, "net"), "self/net")),
            b"sys" => Ok(sys::directory(shared)),
            b"tty" => Ok(DirInode::make(Tty(shared.clone()))),
            b"sysvipc" => Ok(sysvipc::directory(shared)),
            _ => process::directory(shared, name),
        }
    }

    fn list(&self) -> Vec<Listed> {
        if self.0.options.subset_pid {
            let links = ["self", "thread-self"].map(|name| Listed::new(name, FileKind::Symlink));
            return links.into_iter().chain(process::list(&self.0)).collect();
        }
        let texts = TEXTS.iter().map(|(name, _)| Listed::new(*name, FileKind::Regular));
        let links = ["self", "thread-self", "mounts", "net"].map(|name| Listed::new(name, FileKind::Symlink));
        let directories = ["sys", "sysvipc", "tty"].map(|name| Listed::new(name, FileKind::Directory));
        texts.chain(links).chain(directories).chain(process::list(&self.0)).collect()
    }
}

/// As in Linux, root may open such a file for writing, and then cannot write.
fn file(shared: &Arc<Shared>, &(name, make): &Text) -> Arc<dyn Inode> {
    let made = shared.clone();
    let file = TextFile::for_opener(shared.identity(0o444, name), move |_| Ok(make(&made).into_bytes()));
    file.writes(TakesWrites::Refused(Errno::EIO)).into_inode()
}

/// /proc/tty: what `ps` finds the names of terminals by.
struct Tty(Arc<Shared>);

const TTY: [Text; 2] = [
    ("drivers", |_| {
        let lines = [
            "/dev/tty             /dev/tty        5       0 system:/dev/tty\n",
            "/dev/console         /dev/console    5       1 system:console\n",
            "/dev/ptmx            /dev/ptmx       5       2 system\n",
            "pty_slave            /dev/pts      136 0-1048575 pty:slave\n",
            "pty_master           /dev/ptm      128 0-1048575 pty:master\n",
        ];
        lines.concat()
    }),
    ("ldiscs", |_| "n_tty       0\n".into()),
];

impl Directory for Tty {
    fn identity(&self) -> Identity {
        self.0.identity(0o555, "tty")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        TTY.iter().find(|(text, _)| text.as_bytes() == name).map(|text| file(&self.0, text)).ok_or(Errno::ENOENT)
    }

    fn list(&self) -> Vec<Listed> {
        TTY.iter().map(|(name, _)| Listed::new(*name, FileKind::Regular)).collect()
    }
}
