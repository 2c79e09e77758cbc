//! What others have changed in the host's trees, done once more, so that the guest's kernel tells those who watch (inotify), and knows the names at once.
//!
//! The device answers as if it were being done, to the thread that has announced the change (`virtiofs`'s `replay`); the host is not touched.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use agent_api::{Code, Empty, FileChange, FilesChangedRequest, Happening, Status};
use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    XattrFlags, chmodat, fsetxattr, mkdirat, mknodat, open, openat, openat2, renameat_with, statx, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use crate::boot::TREES;
use crate::log;

/// For how long the kernel believes in a name of a shared tree, and a little more.
const BELIEF: Duration = Duration::from_millis(1050);

/// Does all of them; what does not succeed nobody is told of.
///
/// # Errors
/// There are no trees; those before hang.
pub fn all(request: &FilesChangedRequest) -> Result<Empty, Status> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.try_lock().ok_or_else(|| {
        Status::new(Code::ResourceExhausted, "those of the request before are not done yet: the host's files hang")
    })?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(TREES, flags, Mode::empty())
        .map_err(|errno| Status::new(Code::Internal, format!("cannot open the host's trees: {errno}")))?;
    for change in &request.changes {
        if let Err(errno) = one(&root, change) {
            let name = String::from_utf8_lossy(&change.name);
            log::debug(format_args!("nobody is told of what has happened to {name} ({:?}): {errno}", change.happening()));
        }
    }
    // So this thread's requests are like any other's again.
    let _ = announce(&root, &[]);
    Ok(Empty {})
}

fn announce(root: &OwnedFd, token: &[u8]) -> Result<(), Errno> {
    fsetxattr(root, FileChange::ATTRIBUTE, token, XattrFlags::empty())
}

fn one(root: &OwnedFd, change: &FileChange) -> Result<(), Errno> {
    let directory = walk(root, &change.directory)?;
    let name = change.name.as_slice();
    announce(root, &change.token)?;
    match change.happening() {
        Happening::Created => match create(&directory, name, change.kind) {
            // Somebody has looked it up meanwhile.
            Err(Errno::EXIST) => {
                sleep(BELIEF);
                create(&directory, name, change.kind)
            }
            done => done,
        },
        Happening::Deleted => {
            let is_directory = FileType::from_raw_mode(change.kind) == FileType::Directory;
            unlinkat(&directory, name, if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() })
        }
        Happening::Moved => {
            let target = walk(root, &change.target_directory)?;
            rename(&directory, name, &target, change.target_name.as_slice())
        }
        Happening::Written => {
            stat(&directory, name)?;
            let time = |nanoseconds| Timespec { tv_sec: 0, tv_nsec: nanoseconds };
            let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
            utimensat(&directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        }
        Happening::AttributesChanged => {
            let mode = stat(&directory, name)?;
            // There is no way to set a link's.
            if FileType::from_raw_mode(mode) == FileType::Symlink {
                return Ok(());
            }
            chmodat(&directory, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
        }
        Happening::Closed => {
            if FileType::from_raw_mode(stat(&directory, name)?) != FileType::RegularFile {
                return Ok(());
            }
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(&directory, name, flags, Mode::empty()).map(drop)
        }
    }
}

/// A directory of the trees.
fn walk(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV)
}

fn create(directory: &OwnedFd, name: &[u8], kind: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o600);
    match FileType::from_raw_mode(kind) {
        FileType::Directory => mkdirat(directory, name, mode),
        FileType::Symlink => symlinkat("-", directory, name),
        kind => mknodat(directory, name, kind, mode, 0),
    }
}

fn rename(from: &OwnedFd, name: &[u8], to: &OwnedFd, new_name: &[u8]) -> Result<(), Errno> {
    // Somebody may have looked the new name up meanwhile: the kernel takes both for one file then, and does nothing.
    let number = |directory: &OwnedFd, name: &[u8]| {
        statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO).map(|stat| stat.stx_ino)
    };
    if number(to, new_name).is_ok_and(|there| number(from, name) == Ok(there)) {
        sleep(BELIEF);
    }
    renameat_with(from, name, to, new_name, RenameFlags::empty())
}

/// The mode of a file. What the kernel has of its content is dropped, if that is another by now.
fn stat(directory: &OwnedFd, name: &[u8]) -> Result<u32, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    statx(directory.as_fd(), name, flags, StatxFlags::BASIC_STATS).map(|stat| stat.stx_mode.into())
}
