//! Calls on an `O_PATH` descriptor itself (`AT_EMPTY_PATH`) that rustix lacks.
//!
//! They need no `/proc`: the descriptor names the inode, whatever happens to its name. Their seccomp rules are in
//! [`crate::seccomp::gofer`]. (The `*xattrat` family of Linux 6.13 refuses `O_PATH` descriptors with `EBADF`, so it is of no use here.)

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::Errno;

/// Linux's `asm/unistd_64.h`.
pub const SYS_FCHMODAT2: i64 = 452;

/// `chmod` of the inode behind an `O_PATH` descriptor.
///
/// # Errors
/// The host's; `EOPNOTSUPP` on symbolic links, `ENOSYS` before Linux 6.6.
pub fn chmod_path_fd(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: the path is a constant C string; the call touches no other memory.
    match unsafe { libc::syscall(SYS_FCHMODAT2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH) } {
        0 => Ok(()),
        _ => Err(Errno::last_host()),
    }
}
