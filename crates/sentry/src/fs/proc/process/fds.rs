//! /proc/PID/fd and fdinfo.

use std::sync::Arc;

use super::Subject;
use crate::Errno;
use crate::fs::pseudo::{Directory, Identity, LinkInode, Listed, TextFile};
use crate::ipc::pidfd::PidFd;
use crate::fs::{File, FileKind, Inode, Link, Origin, Path};

/// Links to what the descriptors refer to.
pub(super) struct FdDir(pub(super) Subject);

/// A file for each descriptor with its position and flags.
pub(super) struct FdInfoDir(pub(super) Subject);

fn fd_number(name: &[u8]) -> Result<i32, Errno> {
    std::str::from_utf8(name).ok().and_then(|text| text.parse().ok()).ok_or(Errno::ENOENT)
}

impl Subject {
    fn open_file(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let shared = self.task()?.shared.read().clone().ok_or(Errno::ENOENT)?;
        shared.files.get(fd).map_err(|_| Errno::ENOENT)
    }

    fn list_fds(&self, kind: FileKind) -> Vec<Listed> {
        let shared = self.task().ok().and_then(|task| task.shared.read().clone());
        let fds = shared.map(|shared| shared.files.list()).unwrap_or_default();
        fds.iter().map(|(fd, _)| Listed::new(fd.to_string(), kind)).collect()
    }
}

impl Directory for FdDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o500, "fd")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let fd = fd_number(name)?;
        let subject = self.0.clone();
        let flags = subject.open_file(fd)?.flags();
        let permissions = 0o100 | if flags.readable() { 0o400 } else { 0 } | if flags.writable() { 0o200 } else { 0 };
        Ok(LinkInode::make(subject.identity(permissions, ("fd", fd)), move |cx| {
            subject.may_inspect(cx)?;
            let file = subject.open_file(fd)?;
            match &file.origin {
                Origin::Path(path) => {
                    Ok(Link::Magic { text: path.name_from(&cx.fs.root()), place: path.clone() })
                }
                Origin::Anonymous { inode, name } => {
                    let place = Path::disconnected(inode.clone(), name.as_bytes());
                    Ok(Link::Magic { text: name.clone().into_bytes(), place })
                }
            }
        }))
    }

    fn list(&self) -> Vec<Listed> {
        self.0.list_fds(FileKind::Symlink)
    }
}

impl Directory for FdInfoDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o500, "fdinfo")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let fd = fd_number(name)?;
        let subject = self.0.clone();
        subject.open_file(fd)?;
        Ok(TextFile::make(subject.identity(0o400, ("fdinfo", fd)), move || {
            let file = subject.open_file(fd)?;
            let position = *file.position.lock();
            let more = file.downcast::<PidFd>().map(|pidfd| pidfd.fdinfo(&subject.shared.pid_ns)).unwrap_or_default();
            Ok(format!("pos:\t{position}\nflags:\t0{:o}\nmnt_id:\t1\n{more}", file.flags().bits()).into_bytes())
        }))
    }

    fn list(&self) -> Vec<Listed> {
        self.0.list_fds(FileKind::Regular)
    }
}
