//! A terminal of the container for its process; the other end goes to PID 1.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_api::{Code, Process, Status, WindowSize};
use rustix::fs::{Mode, OFlags, Uid, fchown};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::channel::{self, Kind, Report};
use super::internal;

/// Opens a terminal of /dev/pts, makes it the controlling one, and sends its other end. Returns standard input, output and error.
///
/// # Errors
/// When the container has no /dev/pts.
pub fn open(socket: BorrowedFd<'_>, size: &WindowSize, process: &Process, first: bool) -> Result<Vec<Option<OwnedFd>>, Status> {
    let (master, slave) = pair().map_err(|errno| {
        let errno = hostcall::Errno::from(errno);
        Status::new(Code::FailedPrecondition, format!("cannot open the terminal in /dev/pts: {errno}"))
    })?;
    let about = |errno| internal("set the terminal up", errno);
    tcsetwinsize(&master, window(size)).map_err(about)?;
    fchown(&slave, Some(Uid::from_raw(process.uid)), None).map_err(about)?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(about)?;
    if first {
        bind_console(master.as_fd());
    }
    channel::send(socket, &Report::of(Kind::Terminal), &[master.as_fd()]).map_err(about)?;
    (0..3).map(|_| rustix::io::fcntl_dupfd_cloexec(&slave, super::OUT_OF_THE_WAY).map(Some).map_err(about)).collect()
}

/// The kernel's form; what does not fit its 16 bits is its largest.
pub fn window(size: &WindowSize) -> Winsize {
    let fit = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
    Winsize { ws_row: fit(size.rows), ws_col: fit(size.columns), ws_xpixel: fit(size.x_pixels), ws_ypixel: fit(size.y_pixels) }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let master = rustix::fs::open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

/// /dev/console is the first process's terminal, as runc has it; a container without the place for it does without.
fn bind_console(master: BorrowedFd<'_>) {
    let bind = || -> Result<(), Errno> {
        let name = ptsname(master, Vec::new())?;
        let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
        drop(rustix::fs::open("/dev/console", flags, Mode::from_raw_mode(0o600))?);
        let tree = open_tree(rustix::fs::CWD, name, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", rustix::fs::CWD, "/dev/console", flags)
    };
    let _ = bind();
}
