//! cwd, root, exe, and the directories ns and net.

use std::sync::Arc;

use super::Subject;
use crate::Errno;
use crate::fs::pseudo::{Directory, Identity, LinkInode, Listed, TextFile};
use crate::fs::{FileKind, Inode, Link, Origin};

/// The link to one of a task's directories or its program.
pub(super) fn place(subject: &Subject, name: &[u8]) -> Arc<dyn Inode> {
    let (subject, name) = (subject.clone(), name.to_vec());
    LinkInode::make(subject.identity(0o777, &name), move |cx| {
        let task = subject.may_inspect(cx)?;
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

/// The namespaces by name and number; a container has one of each.
pub(super) struct NsDir(pub(super) Subject);

const NAMESPACES: [(&str, u64); 8] = [
    ("cgroup", 4_026_531_835),
    ("ipc", 4_026_531_839),
    ("mnt", 4_026_531_841),
    ("net", 4_026_531_840),
    ("pid", 4_026_531_836),
    ("time", 4_026_531_834),
    ("user", 4_026_531_837),
    ("uts", 4_026_531_838),
];

impl Directory for NsDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o511, "ns")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let (name, number) = NAMESPACES.iter().find(|(ns, _)| ns.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let text = format!("{name}:[{number}]").into_bytes();
        Ok(LinkInode::make(self.0.identity(0o777, ("ns", name)), move |_| Ok(Link::Text(text.clone()))))
    }

    fn list(&self) -> Vec<Listed> {
        NAMESPACES.iter().map(|(name, _)| Listed::new(*name, FileKind::Symlink)).collect()
    }
}

/// /proc/PID/net: headings of empty tables, as a kernel without sockets of those kinds has them.
pub(super) struct NetDir(pub(super) Subject);

const NET: [(&str, &str); 5] = [
    (
        "dev",
        "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    ),
    ("route", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"),
    (
        "tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
    ),
    (
        "udp",
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
    ),
    ("unix", "Num       RefCount Protocol Flags    Type St Inode Path\n"),
];

impl Directory for NetDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o555, "net")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let (name, text) = NET.iter().find(|(file, _)| file.as_bytes() == name).ok_or(Errno::ENOENT)?;
        Ok(TextFile::make(self.0.identity(0o444, ("net", name)), || Ok(text.as_bytes().to_vec())))
    }

    fn list(&self) -> Vec<Listed> {
        NET.iter().map(|(name, _)| Listed::new(*name, FileKind::Regular)).collect()
    }
}
