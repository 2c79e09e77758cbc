//! I/O on a watched host file that never waits, for code that is no guest task.

use std::os::fd::{AsFd, OwnedFd};

use hostcall::io::{Sleep, read_at, write_at};
use hostcall::{Errno, event};

use crate::wait::PollEvents;

/// Bytes written at a time to a host file that can only be asked for readiness: a terminal that says it is ready takes as many.
pub const CAREFUL: usize = 256;

/// One read that does not wait.
///
/// # Errors
/// `EAGAIN`; the host's.
pub fn read_now(file: &OwnedFd, into: &mut [u8]) -> Result<usize, Errno> {
    match read_at(file.as_fd(), into, -1, Sleep::Never) {
        Err(Errno::EOPNOTSUPP) if event::poll_now(file, PollEvents::IN.bits() as u16)? == 0 => Err(Errno::EAGAIN),
        Err(Errno::EOPNOTSUPP) => read_at(file.as_fd(), into, -1, Sleep::Allowed),
        result => result,
    }
}

/// One write that does not wait.
///
/// # Errors
/// `EAGAIN`; the host's.
pub fn write_now(file: &OwnedFd, from: &[u8]) -> Result<usize, Errno> {
    match write_at(file.as_fd(), from, -1, Sleep::Never) {
        Err(Errno::EOPNOTSUPP) if event::poll_now(file, PollEvents::OUT.bits() as u16)? == 0 => Err(Errno::EAGAIN),
        Err(Errno::EOPNOTSUPP) => write_at(file.as_fd(), from.get(..CAREFUL).unwrap_or(from), -1, Sleep::Allowed),
        result => result,
    }
}
