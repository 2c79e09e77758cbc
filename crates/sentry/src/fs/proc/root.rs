//! The top of /proc.

use std::sync::Arc;

use super::{Shared, machine, process, sys};
use crate::ns::PidNs;
use crate::task::Tid;
use crate::Errno;
use crate::fs::pseudo::{Directory, Identity, LinkInode, Listed, TextFile};
use crate::fs::{FileKind, Inode, Link};

pub(super) struct Root(pub(super) Arc<Shared>);

/// A file's name and how its text is made.
type Text = (&'static str, fn(&Shared) -> String);

const TEXTS: [Text; 13] = [
    ("cmdline", |_| "nacre\n".into()),
    ("cpuinfo", machine::cpuinfo),
    ("devices", |_| "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n".into()),
    ("diskstats", |_| String::new()),
    ("filesystems", |_| crate::fs::types::TYPES.map(|(name, _)| format!("nodev\t{name}\n")).concat()),
    ("loadavg", machine::loadavg),
    ("meminfo", machine::meminfo),
    ("partitions", |_| "major minor  #blocks  name\n\n".into()),
    ("stat", machine::stat),
    ("swaps", |_| "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".into()),
    ("uptime", machine::uptime),
    ("version", machine::version),
    ("vmstat", machine::vmstat),
];

/// A number of the container as a procfs shows it.
fn number(ns: &PidNs, number: Tid) -> Result<Tid, Errno> {
    Some(ns.local(number)).filter(|&number| number != 0).ok_or(Errno::ENOENT)
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
        if let Some((name, make)) = TEXTS.iter().find(|(text, _)| text.as_bytes() == name) {
            let (shared, make) = (shared.clone(), *make);
            return Ok(TextFile::make(shared.identity(0o444, name), move || Ok(make(&shared).into_bytes())));
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
        let sys = Listed::new("sys", FileKind::Directory);
        texts.chain(links).chain([sys]).chain(process::list(&self.0)).collect()
    }
}
