//! Positioned and streaming host I/O straight to and from [`WindowSlice`]s and byte slices.

use std::os::fd::{AsRawFd, BorrowedFd};

use smallvec::SmallVec;

use crate::tally::{self, Counted};
use crate::{Errno, WindowSlice};

/// Whether a host file operation may sleep on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sleep {
    /// `RWF_NOWAIT`: `EAGAIN` instead of sleeping.
    Never,
    Allowed,
}

impl Sleep {
    fn flags(self) -> libc::c_int {
        match self {
            Sleep::Never => libc::RWF_NOWAIT,
            Sleep::Allowed => 0,
        }
    }
}

type Iovecs = SmallVec<[libc::iovec; 8]>;

fn iovecs(slices: &[WindowSlice<'_>]) -> Iovecs {
    slices.iter().take(libc::UIO_MAXIOV as usize).map(WindowSlice::iovec).collect()
}

fn read(n: isize) -> Result<usize, Errno> {
    counted(n, Counted::Preadv, Counted::ReadBytes)
}

fn written(n: isize) -> Result<usize, Errno> {
    counted(n, Counted::Pwritev, Counted::WrittenBytes)
}

fn counted(n: isize, call: Counted, bytes: Counted) -> Result<usize, Errno> {
    let result = usize::try_from(n).map_err(|_| Errno::last_host());
    tally::count(call);
    tally::add(bytes, result.unwrap_or(0) as u64);
    result
}

/// `preadv2` into guest memory. `offset` of -1 reads at the file's own position (pipes, ttys, sockets).
///
/// # Errors
/// The host's; `EAGAIN` when [`Sleep::Never`] and the data is not at hand.
pub fn read_windows(fd: BorrowedFd<'_>, into: &[WindowSlice<'_>], offset: i64, sleep: Sleep) -> Result<usize, Errno> {
    let iov = iovecs(into);
    // SAFETY: each iovec lies inside a live Window for the duration of the call; the kernel handles faults.
    read(unsafe { libc::preadv2(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32, offset, sleep.flags()) })
}

/// `pwritev2` from guest memory; see [`read_windows`].
///
/// # Errors
/// The host's.
pub fn write_windows(fd: BorrowedFd<'_>, from: &[WindowSlice<'_>], offset: i64, sleep: Sleep) -> Result<usize, Errno> {
    let iov = iovecs(from);
    // SAFETY: as in `read_windows`.
    written(unsafe { libc::pwritev2(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32, offset, sleep.flags()) })
}

/// `preadv2` into our own memory; see [`read_windows`].
///
/// # Errors
/// The host's.
pub fn read_at(fd: BorrowedFd<'_>, into: &mut [u8], offset: i64, sleep: Sleep) -> Result<usize, Errno> {
    let iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the iovec is `into`, exclusively borrowed.
    read(unsafe { libc::preadv2(fd.as_raw_fd(), &iov, 1, offset, sleep.flags()) })
}

/// `pwritev2` from our own memory; see [`read_windows`].
///
/// # Errors
/// The host's.
pub fn write_at(fd: BorrowedFd<'_>, from: &[u8], offset: i64, sleep: Sleep) -> Result<usize, Errno> {
    let iov = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    // SAFETY: the iovec is `from`, which the kernel only reads.
    written(unsafe { libc::pwritev2(fd.as_raw_fd(), &iov, 1, offset, sleep.flags()) })
}

/// `pwritev2` at the end of the file, whatever others write there at the same time (`RWF_APPEND`).
///
/// # Errors
/// The host's.
pub fn append(fd: BorrowedFd<'_>, from: &[u8], sleep: Sleep) -> Result<usize, Errno> {
    let iov = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    // SAFETY: the iovec is `from`, which the kernel only reads.
    written(unsafe { libc::pwritev2(fd.as_raw_fd(), &iov, 1, 0, sleep.flags() | libc::RWF_APPEND) })
}

/// `fsync`. Sleeps.
///
/// # Errors
/// The host's.
pub fn sync(fd: impl std::os::fd::AsFd) -> Result<(), Errno> {
    tally::count(Counted::Fsync);
    Ok(rustix::fs::fsync(fd)?)
}

/// `fallocate` with `FALLOC_FL_*` bits. May sleep.
///
/// # Errors
/// The host's.
pub fn allocate(fd: impl std::os::fd::AsFd, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
    tally::count(Counted::Fallocate);
    Ok(rustix::fs::fallocate(fd, rustix::fs::FallocateFlags::from_bits_retain(mode), offset, len)?)
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// The next data or hole at or after `offset` (`SEEK_DATA`, `SEEK_HOLE`). Moves the host's file position. May sleep.
///
/// # Errors
/// `ENXIO` past the end; the host's.
pub fn seek_data(fd: impl std::os::fd::AsFd, offset: u64, what: Seek) -> Result<u64, Errno> {
    let from = match what {
        Seek::Data => rustix::fs::SeekFrom::Data(offset),
        Seek::Hole => rustix::fs::SeekFrom::Hole(offset),
    };
    tally::count(Counted::Lseek);
    Ok(rustix::fs::seek(fd, from)?)
}

/// `ftruncate`.
///
/// # Errors
/// The host's.
pub fn set_len(fd: impl std::os::fd::AsFd, len: u64) -> Result<(), Errno> {
    tally::count(Counted::Ftruncate);
    Ok(rustix::fs::ftruncate(fd, len)?)
}

/// What `fstat` says of a host file.
#[derive(Debug, Clone, Copy)]
pub struct FileStatus {
    /// `st_mode`.
    pub mode: u32,
    pub rdev: u64,
    pub size: u64,
    pub ino: u64,
    pub nlink: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    /// Seconds and nanoseconds since 1970.
    pub accessed: (i64, u32),
    pub modified: (i64, u32),
    pub changed: (i64, u32),
}

/// `fstat`.
///
/// # Errors
/// The host's.
pub fn status(fd: impl std::os::fd::AsFd) -> Result<FileStatus, Errno> {
    tally::count(Counted::Fstat);
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileStatus {
        mode: stat.st_mode,
        rdev: stat.st_rdev,
        size: stat.st_size.max(0) as u64,
        ino: stat.st_ino,
        nlink: stat.st_nlink,
        blocks: stat.st_blocks.max(0) as u64,
        accessed: (stat.st_atime, stat.st_atime_nsec as u32),
        modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
        changed: (stat.st_ctime, stat.st_ctime_nsec as u32),
    })
}

/// A second descriptor of the same open file.
///
/// # Errors
/// The host's, usually `EMFILE`.
pub fn duplicate(fd: impl std::os::fd::AsFd) -> Result<std::os::fd::OwnedFd, Errno> {
    tally::count(Counted::Dup);
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// How a descriptor may be used: the access mode of its open file (`O_RDONLY` 0, `O_WRONLY` 1, `O_RDWR` 2).
///
/// # Errors
/// The host's.
pub fn access_mode(fd: impl std::os::fd::AsFd) -> Result<u32, Errno> {
    Ok((file_flags(fd)? & rustix::fs::OFlags::ACCMODE).bits())
}

/// Whether a descriptor's open file has `O_NONBLOCK`.
///
/// # Errors
/// The host's.
pub fn is_nonblocking(fd: impl std::os::fd::AsFd) -> Result<bool, Errno> {
    Ok(file_flags(fd)?.contains(rustix::fs::OFlags::NONBLOCK))
}

/// Bytes that a pipe can hold.
///
/// # Errors
/// `EBADF` for what is no pipe.
pub fn pipe_capacity(fd: impl std::os::fd::AsFd) -> Result<usize, Errno> {
    tally::count(Counted::Dup);
    Ok(rustix::pipe::fcntl_getpipe_size(fd)?)
}

fn file_flags(fd: impl std::os::fd::AsFd) -> Result<rustix::fs::OFlags, Errno> {
    tally::count(Counted::Dup);
    Ok(rustix::fs::fcntl_getfl(fd)?)
}

/// A new file without a name in a directory (`O_TMPFILE`), to read and write.
///
/// # Errors
/// The host's.
pub fn unnamed_file(directory: std::os::fd::BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    tally::count(Counted::Openat);
    Ok(rustix::fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR)?)
}
