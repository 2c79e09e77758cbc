//! Calls on an `O_PATH` descriptor itself (`AT_EMPTY_PATH`) that rustix lacks: `fchmodat2` and the `*xattrat` family.
//!
//! They need no `/proc`: the descriptor names the inode, whatever happens to its name. `fchmodat2` came with Linux 6.6, the
//! others with 6.13; on older kernels they answer `ENOSYS` and the caller must open the file. Their seccomp rules are in
//! [`crate::seccomp::gofer`].

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::Errno;

/// System call numbers from Linux's `asm/unistd_64.h`; newer than some libcs.
pub const SYS_FCHMODAT2: i64 = 452;
pub const SYS_SETXATTRAT: i64 = 463;
pub const SYS_GETXATTRAT: i64 = 464;
pub const SYS_LISTXATTRAT: i64 = 465;
pub const SYS_REMOVEXATTRAT: i64 = 466;

/// `struct xattr_args` of `linux/xattr.h`.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

fn result(n: i64) -> Result<usize, Errno> {
    usize::try_from(n).map_err(|_| Errno::last_host())
}

/// A buffer's length as the kernel's 32-bit size field.
fn size(len: usize) -> Result<u32, Errno> {
    u32::try_from(len).map_err(|_| Errno::E2BIG)
}

/// `chmod` of the inode behind an `O_PATH` descriptor.
///
/// # Errors
/// The host's; `EOPNOTSUPP` on symbolic links, `ENOSYS` before Linux 6.6.
pub fn chmod_path_fd(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: the path is a constant C string; the call touches no other memory.
    let n = unsafe { libc::syscall(SYS_FCHMODAT2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH) };
    result(n).map(drop)
}

/// Reads an extended attribute; an empty `into` asks for its size only.
///
/// # Errors
/// The host's; `ENOSYS` before Linux 6.13.
pub fn getxattr_path_fd(fd: BorrowedFd<'_>, name: &CStr, into: &mut [u8]) -> Result<usize, Errno> {
    let value = if into.is_empty() { 0 } else { into.as_mut_ptr().expose_provenance() as u64 };
    let mut args = XattrArgs { value, size: size(into.len())?, flags: 0 };
    // SAFETY: `args` points at `into`, exclusively borrowed, with its length; both strings end in NUL.
    let n = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            name.as_ptr(),
            &raw mut args,
            size_of::<XattrArgs>(),
        )
    };
    result(n)
}

/// Sets an extended attribute; `flags` are 0, `XATTR_CREATE` or `XATTR_REPLACE`.
///
/// # Errors
/// The host's; `ENOSYS` before Linux 6.13.
pub fn setxattr_path_fd(fd: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: u32) -> Result<(), Errno> {
    let args = XattrArgs { value: value.as_ptr().expose_provenance() as u64, size: size(value.len())?, flags };
    // SAFETY: `args` points at `value`, which the kernel only reads, with its length; both strings end in NUL.
    let n = unsafe {
        libc::syscall(
            SYS_SETXATTRAT,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            name.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    };
    result(n).map(drop)
}

/// Lists extended attribute names, each ended by NUL; an empty `into` asks for the size only.
///
/// # Errors
/// The host's; `ENOSYS` before Linux 6.13.
pub fn listxattr_path_fd(fd: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno> {
    let list = if into.is_empty() { std::ptr::null_mut() } else { into.as_mut_ptr() };
    // SAFETY: `list` and its length are `into`, exclusively borrowed (or null and 0); the path ends in NUL.
    let n = unsafe {
        libc::syscall(SYS_LISTXATTRAT, fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, list, into.len())
    };
    result(n)
}

/// Removes an extended attribute.
///
/// # Errors
/// The host's; `ENOSYS` before Linux 6.13.
pub fn removexattr_path_fd(fd: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both strings end in NUL; the call touches no other memory.
    let n =
        unsafe { libc::syscall(SYS_REMOVEXATTRAT, fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, name.as_ptr()) };
    result(n).map(drop)
}
