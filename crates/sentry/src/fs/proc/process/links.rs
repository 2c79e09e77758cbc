//! cwd, root, exe, and the directories ns and net.

use std::sync::Arc;

use super::Subject;
use crate::Errno;
use crate::fs::pseudo::{Directory, Identity, LinkInode, Listed, TextFile};
use crate::fs::{FileKind, Inode, Link, Origin};
use crate::net::report::TABLES;
use crate::ns::{Held, Kind};

/// The link to one of a task's directories or its program.
pub(super) fn place(subject: &Subject, name: &[u8]) -> Arc<dyn Inode> {
    let (subject, name) = (subject.clone(), name.to_vec());
    LinkInode::make(subject.identity(0o777, &name), move |cx| {
        let task = subject.may_inspect(&cx.task)?;
        let shared = task.shared.read().clone().ok_or(Errno::ENOENT)?;
        let place = match name.as_slice() {
            b"cwd" => shared.fs.cwd(),
            b"root" => shared.fs.root(),
            _ => match task.group.exe.lock().as_ref().map(|file| &file.origin) {
                Some(Origin::Path(path)) => path.clone(),
                _ => return Err(Errno::ENOENT),
            },
        };
        Ok(Link::Magic { text: place.name_from(&cx.fs.root()), place })
    })
}

/// The namespaces.
pub(super) struct NsDir(pub(super) Subject);

/// The pid namespace that children are born in, beside the task's own.
const FOR_CHILDREN: &str = "pid_for_children";

impl Directory for NsDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o511, "ns")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name().as_bytes() == name);
        if kind.is_none() && name != FOR_CHILDREN.as_bytes() {
            return Err(Errno::ENOENT);
        }
        let subject = self.0.clone();
        Ok(LinkInode::make(subject.identity(0o777, ("ns", name)), move |cx| {
            let task = subject.may_inspect(&cx.task)?;
            let held = match kind {
                Some(kind) => Held::of(&task, kind)?,
                None => Held::Pid(task.namespaces().pid_for_children.clone()),
            };
            Ok(Link::Magic { text: held.name().into_bytes(), place: held.place() })
        }))
    }

    fn list(&self) -> Vec<Listed> {
        let names = Kind::ALL.into_iter().map(Kind::name).chain([FOR_CHILDREN]);
        names.map(|name| Listed::new(name, FileKind::Symlink)).collect()
    }
}

/// /proc/PID/attr: of security modules, of which there is none. As in Linux without one, reading and writing give `EINVAL`.
pub(super) struct AttrDir(pub(super) Subject);

const ATTRS: [&str; 6] = ["current", "prev", "exec", "fscreate", "keycreate", "sockcreate"];

impl Directory for AttrDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o555, "attr")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let name = ATTRS.iter().find(|attr| attr.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let permissions = if *name == "prev" { 0o444 } else { 0o666 };
        let identity = self.0.identity(permissions, ("attr", name));
        Ok(TextFile::writable(identity, || Err(Errno::EINVAL), |_| Err(Errno::EINVAL)))
    }

    fn list(&self) -> Vec<Listed> {
        ATTRS.iter().map(|name| Listed::new(*name, FileKind::Regular)).collect()
    }
}

/// /proc/PID/net.
pub(super) struct NetDir(pub(super) Subject);

impl Directory for NetDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o555, "net")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let (name, make) = TABLES.iter().find(|(file, _)| file.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let subject = self.0.clone();
        let text = move || Ok(make(&subject.task()?.namespaces().net).into_bytes());
        Ok(TextFile::make(self.0.identity(0o444, ("net", name)), text))
    }

    fn list(&self) -> Vec<Listed> {
        TABLES.iter().map(|(name, _)| Listed::new(*name, FileKind::Regular)).collect()
    }
}
