//! A request's pieces of guest memory, and files read and written in place.
//!
//! The guest may change its memory at any time, so nothing here makes a reference to it: bytes are copied out or in with volatile accesses,
//! or the host kernel copies them (`preadv2`, `pwritev2`). It is shared memory of a file that cannot shrink: no end is moved under us.

use std::os::fd::{AsFd, AsRawFd};

use gofer::Errno;
use vm_memory::VolatileSlice;

/// `UIO_MAXIOV`.
const MAX_IOVECS: usize = 1024;

/// Pieces of memory in the order of a descriptor chain, seen as one row of bytes.
#[derive(Debug, Default)]
pub struct Pieces<'a>(Vec<VolatileSlice<'a>>);

/// What `write_from_pieces` adds to a `pwrite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    At(u64),
    /// At the file's end as the host knows it (`RWF_APPEND`).
    End,
}

impl<'a> FromIterator<VolatileSlice<'a>> for Pieces<'a> {
    fn from_iter<I: IntoIterator<Item = VolatileSlice<'a>>>(pieces: I) -> Pieces<'a> {
        Pieces(pieces.into_iter().collect())
    }
}

impl<'a> Pieces<'a> {
    pub fn push(&mut self, piece: VolatileSlice<'a>) {
        self.0.push(piece);
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(VolatileSlice::len).fold(0, usize::saturating_add)
    }

    /// The pieces of the `len` bytes from `from` on, as far as they go.
    fn range(&self, from: usize, len: usize) -> impl Iterator<Item = VolatileSlice<'a>> + '_ {
        let (mut skip, mut left) = (from, len);
        self.0.iter().filter_map(move |piece| {
            if skip >= piece.len() {
                skip -= piece.len();
                return None;
            }
            let n = (piece.len() - skip).min(left);
            let part = piece.subslice(skip, n).ok()?;
            (skip, left) = (0, left - n);
            (n > 0).then_some(part)
        })
    }

    /// Copies out bytes from `from` on; returns how many there were.
    pub fn copy_out(&self, from: usize, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in self.range(from, bytes.len()) {
            done += piece.copy_to(bytes.get_mut(done..).unwrap_or_default());
        }
        done
    }

    /// Copies in bytes from `from` on; returns how many had room.
    pub fn copy_in(&self, from: usize, bytes: &[u8]) -> usize {
        let mut done = 0;
        for piece in self.range(from, bytes.len()) {
            let part = bytes.get(done..).unwrap_or_default();
            let n = part.len().min(piece.len());
            piece.copy_from(part.get(..n).unwrap_or_default());
            done += n;
        }
        done
    }

    /// Reads from a file into the `len` bytes from `from` on. May read less, as `pread(2)`.
    ///
    /// # Errors
    /// The host's.
    pub fn read_from(&self, from: usize, len: usize, file: impl AsFd, offset: u64) -> Result<usize, Errno> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        self.transfer(from, len, |iovecs, count| {
            // SAFETY: the vectors describe guest memory that stays mapped for 'a, and only the kernel writes there: no reference exists.
            unsafe { libc::preadv2(file.as_fd().as_raw_fd(), iovecs, count, offset, 0) }
        })
    }

    /// Writes the `len` bytes from `from` on to a file. May write less, as `pwrite(2)`.
    ///
    /// # Errors
    /// The host's.
    pub fn write_to(&self, from: usize, len: usize, file: impl AsFd, place: Placement) -> Result<usize, Errno> {
        let (offset, flags) = match place {
            Placement::At(offset) => (i64::try_from(offset).map_err(|_| Errno::EINVAL)?, 0),
            Placement::End => (0, libc::RWF_APPEND),
        };
        self.transfer(from, len, |iovecs, count| {
            // SAFETY: the vectors describe guest memory that stays mapped for 'a, which the kernel only reads.
            unsafe { libc::pwritev2(file.as_fd().as_raw_fd(), iovecs, count, offset, flags) }
        })
    }

    fn transfer(
        &self,
        from: usize,
        len: usize,
        call: impl Fn(*const libc::iovec, libc::c_int) -> isize,
    ) -> Result<usize, Errno> {
        let (guards, iovecs): (Vec<_>, Vec<_>) = self
            .range(from, len)
            .take(MAX_IOVECS)
            .map(|piece| {
                let guard = piece.ptr_guard_mut();
                let iovec = libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() };
                (guard, iovec)
            })
            .unzip();
        if iovecs.is_empty() {
            return Ok(0);
        }
        loop {
            let n = call(iovecs.as_ptr(), iovecs.len() as libc::c_int);
            if let Ok(n) = usize::try_from(n) {
                drop(guards);
                return Ok(n);
            }
            match std::io::Error::last_os_error() {
                e if e.kind() == std::io::ErrorKind::Interrupted => {}
                e => return Err(e.into()),
            }
        }
    }
}
