//! /proc/PID/fd and fdinfo.

use std::fmt::Write;
use std::sync::Arc;

use super::Subject;
use crate::Errno;
use crate::fs::pseudo::{Directory, Identity, LinkInode, Listed, TextFile};
use crate::fs::{FdEntry, File, FileKind, Inode, Link, Metadata, OpenFlags, Origin, Path, Timestamp};
use crate::ipc::epoll::Epoll;
use crate::ipc::eventfd::EventFd;
use crate::ipc::inotify::Inotify;
use crate::ipc::pidfd::PidFd;
use crate::ipc::signalfd::SignalFd;
use crate::ipc::timerfd::TimerFd;
use crate::step::Step;

/// Links to what the descriptors refer to.
pub(super) struct FdDir(pub(super) Subject);

/// A file for each descriptor with its position and flags.
pub(super) struct FdInfoDir(pub(super) Subject);

fn fd_number(name: &[u8]) -> Result<i32, Errno> {
    let number = std::str::from_utf8(name).ok().and_then(|text| text.parse().ok()).ok_or(Errno::ENOENT)?;
    // The number as the kernel writes it, and no other way.
    if i32::to_string(&number).as_bytes() == name && number >= 0 { Ok(number) } else { Err(Errno::ENOENT) }
}

impl Subject {
    fn open_file(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let shared = self.task()?.shared.read().clone().ok_or(Errno::ENOENT)?;
        shared.files.get(fd).map_err(|_| Errno::ENOENT)
    }

    fn list_fds(&self, kind: FileKind) -> Vec<Listed> {
        let shared = self.task().ok().and_then(|task| task.shared.read().clone());
        let fds = shared.map(|shared| shared.files.list()).unwrap_or_default();
        fds.iter().map(|(fd, _)| Listed::at(*fd as u64, fd.to_string(), kind)).collect()
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
            subject.may_inspect(&cx.task)?;
            let file = subject.open_file(fd)?;
            match &file.origin {
                Origin::Path(path) => Ok(Link::Magic { text: path.name_from(&cx.fs.root()), place: path.clone() }),
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

    /// Its size is the number of open descriptors (Linux 6.2).
    fn metadata(&self) -> Metadata {
        let metadata = self.identity().metadata(FileKind::Directory, Timestamp::default());
        Metadata { size: self.list().len() as u64, ..metadata }
    }
}

impl Directory for FdInfoDir {
    fn identity(&self) -> Identity {
        self.0.identity(0o555, "fdinfo")
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let fd = fd_number(name)?;
        let subject = self.0.clone();
        subject.open_file(fd)?;
        let (reader, guarded) = (subject.clone(), subject.clone());
        let file = TextFile::for_opener(subject.identity(0o444, ("fdinfo", fd)), move |_| {
            let shared = reader.task()?.shared.read().clone().ok_or(Errno::ENOENT)?;
            let entry = shared.files.entry(fd).map_err(|_| Errno::ENOENT)?;
            let mut text = fd_info(&entry);
            if let Some(pidfd) = entry.file.downcast::<PidFd>() {
                text.push_str(&pidfd.fdinfo(&reader.shared.pid_ns));
            }
            Ok(text.into_bytes())
        });
        Ok(file.guarded(move |cx| guarded.may_inspect(&cx.task).map(drop)).into_inode())
    }

    fn list(&self) -> Vec<Listed> {
        self.0.list_fds(FileKind::Regular)
    }
}

/// `proc_pid_fdinfo(5)`: position, flags and mount, then what is particular to some kinds of files.
fn fd_info(entry: &FdEntry) -> String {
    let file = &entry.file;
    let position = *file.position.lock();
    let mut flags = file.flags();
    flags.set(OpenFlags::CLOEXEC, entry.close_on_exec);
    let mount = match &file.origin {
        Origin::Path(path) => path.mount.id(),
        // Linux's internal mounts have numbers of their own too.
        Origin::Anonymous { .. } => 15,
    };
    let mut text = format!("pos:\t{position}\nflags:\t0{:o}\nmnt_id:\t{mount}\n", flags.bits());
    if let Step::Ready(Ok(metadata)) = file.inode().metadata() {
        let _ = writeln!(text, "ino:\t{}", metadata.ino);
    }
    let ops: &dyn std::any::Any = file.ops.as_any();
    if let Some(event) = ops.downcast_ref::<EventFd>() {
        event.describe(&mut text);
    } else if let Some(signal) = ops.downcast_ref::<SignalFd>() {
        let _ = writeln!(text, "sigmask:\t{:016x}", signal.mask().0);
    } else if let Some(timer) = ops.downcast_ref::<TimerFd>() {
        timer.describe(&mut text);
    } else if let Some(epoll) = ops.downcast_ref::<Epoll>() {
        epoll.describe(&mut text);
    } else if let Some(inotify) = ops.downcast_ref::<Inotify>() {
        inotify.describe(&mut text);
    }
    text
}
