//! Attributes: reading and changing them, and what the file system says of itself.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use hostcall::at;
use rustix::{
    fs::{AtFlags, Gid, StatxFlags, StatxTimestamp, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid},
    io::Errno as HostErrno,
};

use super::{Node, PathFd, open::flags};
use crate::{
    Errno,
    protocol::{Attr, FileKind, FsStat, Name, OpenHow, SetAttr, SetTime, Timestamp},
};

pub(super) fn of(fd: &PathFd) -> Result<Attr, Errno> {
    of_fd(fd.as_fd())
}

/// The attributes of what a descriptor leads to, whether or not it still has a name.
///
/// # Errors
/// The host's.
pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Attr, Errno> {
    statx(fd, c"", AtFlags::EMPTY_PATH)
}

/// The attributes of a directory's entry, symbolic links not followed.
pub(super) fn of_entry(dir: BorrowedFd<'_>, name: &Name) -> Result<Attr, Errno> {
    of_checked(dir, name.as_c_str())
}

/// As [`of_entry`], of a name that [`Name::check`] has passed.
pub(super) fn of_checked(dir: BorrowedFd<'_>, name: &CStr) -> Result<Attr, Errno> {
    statx(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn statx(dir: BorrowedFd<'_>, path: &CStr, at: AtFlags) -> Result<Attr, Errno> {
    let x = rustix::fs::statx(
        dir,
        path,
        at | AtFlags::STATX_SYNC_AS_STAT | AtFlags::NO_AUTOMOUNT,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    )?;
    let time = |t: StatxTimestamp| Timestamp { seconds: t.tv_sec, nanoseconds: t.tv_nsec };
    Ok(Attr {
        ino: x.stx_ino,
        dev_major: x.stx_dev_major,
        dev_minor: x.stx_dev_minor,
        kind: kind_of(rustix::fs::FileType::from_raw_mode(x.stx_mode.into())).ok_or(Errno::EIO)?,
        mode: u32::from(x.stx_mode) & 0o7777,
        nlink: x.stx_nlink,
        uid: x.stx_uid,
        gid: x.stx_gid,
        rdev_major: x.stx_rdev_major,
        rdev_minor: x.stx_rdev_minor,
        size: x.stx_size,
        blocks: x.stx_blocks,
        blksize: x.stx_blksize,
        atime: time(x.stx_atime),
        mtime: time(x.stx_mtime),
        ctime: time(x.stx_ctime),
        btime: (x.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(x.stx_btime)),
    })
}

pub(super) fn kind_of(kind: rustix::fs::FileType) -> Option<FileKind> {
    use rustix::fs::FileType;
    Some(match kind {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// `chown` of the inode behind a descriptor; set-id bits are cleared as the host does.
pub(super) fn chown(fd: &PathFd, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    // -1 means "leave" to the system call; as a wanted id it is invalid.
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::EINVAL);
    }
    rustix::fs::chownat(fd, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)?;
    Ok(())
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(t)) => Timespec { tv_sec: t.seconds, tv_nsec: t.nanoseconds.into() },
    }
}

impl Node {
    /// # Errors
    /// The host's.
    pub fn attr(&self) -> Result<Attr, Errno> {
        of(&self.fd)
    }

    /// # Errors
    /// The host's; `EINVAL` on what is no symbolic link.
    pub fn read_link(&self) -> Result<Vec<u8>, Errno> {
        if self.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        Ok(rustix::fs::readlinkat(&self.fd, c"", Vec::new())?.into_bytes())
    }

    /// Changes owner, mode, size and times, in this order, and stops at the first failure.
    ///
    /// # Errors
    /// The host's; `EROFS`; `ESTALE` for a size if the node's name means another file by now.
    pub fn set_attr(&self, set: &SetAttr) -> Result<Attr, Errno> {
        self.writable()?;
        if set.uid.is_some() || set.gid.is_some() {
            chown(&self.fd, set.uid, set.gid)?;
        }
        if let Some(mode) = set.mode {
            self.chmod(mode & 0o7777)?;
        }
        if let Some(size) = set.size {
            self.truncate(size)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times = Timestamps { last_access: timespec(set.atime), last_modification: timespec(set.mtime) };
            rustix::fs::utimensat(&self.fd, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        self.attr()
    }

    /// `fchmodat2` on the descriptor itself; before Linux 6.6 by opening the node.
    pub(super) fn chmod(&self, mode: u32) -> Result<(), Errno> {
        match at::chmod_path_fd(self.fd.as_fd(), mode) {
            Err(Errno::ENOSYS) => match self.kind {
                FileKind::Regular | FileKind::Directory => {
                    let fd = self.reopen(flags(OpenHow::Read))?;
                    Ok(rustix::fs::fchmod(&fd, rustix::fs::Mode::from_raw_mode(mode))?)
                }
                _ => Err(Errno::EOPNOTSUPP),
            },
            other => other,
        }
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        match self.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        if i64::try_from(size).is_err() {
            return Err(Errno::EINVAL);
        }
        Ok(rustix::fs::ftruncate(self.reopen(flags(OpenHow::Write))?, size)?)
    }

    /// # Errors
    /// The host's.
    pub fn statfs(&self) -> Result<FsStat, Errno> {
        let s = rustix::fs::fstatfs(&self.fd).map_err(|e: HostErrno| Errno::from(e))?;
        Ok(FsStat {
            kind: s.f_type as u64,
            block_size: s.f_bsize as u64,
            blocks: s.f_blocks,
            blocks_free: s.f_bfree,
            blocks_available: s.f_bavail,
            files: s.f_files,
            files_free: s.f_ffree,
            name_max: s.f_namelen as u64,
            fragment_size: s.f_frsize as u64,
        })
    }
}
