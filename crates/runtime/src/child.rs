//! Programs of the host that are run and waited for, but not for ever: hooks, CNI plugins, and the shim's `nacre create`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How a child's time has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Own(ExitStatus),
    /// It was killed: its time was over.
    Late,
    /// It was killed: it was not to go on.
    Stopped,
}

/// Waits for a child's end. None: it had not ended by then, and was killed, with its process group if it leads one.
///
/// # Errors
/// The host's. The child has been killed too.
pub fn wait_until(child: &mut Child, end: Instant) -> io::Result<Option<ExitStatus>> {
    Ok(match wait_unless(child, end, None)? {
        End::Own(status) => Some(status),
        End::Late | End::Stopped => None,
    })
}

/// Likewise; it is also killed once `stop` can be read.
///
/// # Errors
/// The host's. The child has been killed too.
pub fn wait_unless(child: &mut Child, end: Instant, stop: Option<BorrowedFd<'_>>) -> io::Result<End> {
    let waited = wait_in_time(child, end, stop);
    if !matches!(waited, Ok(End::Own(_))) {
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        // It has not been waited for, so the pid is still its own.
        let _ = child.kill();
        child.wait()?;
    }
    waited
}

fn wait_in_time(child: &mut Child, end: Instant, stop: Option<BorrowedFd<'_>>) -> io::Result<End> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let both = [PollFd::new(&pidfd, PollFlags::IN), PollFd::from_borrowed_fd(stop.unwrap_or(pidfd.as_fd()), PollFlags::IN)];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut looked = both.clone();
        match poll(&mut looked, Some(&left)) {
            Ok(0) => return Ok(End::Late),
            Ok(_) if looked.first().is_some_and(|ended| !ended.revents().is_empty()) => return child.wait().map(End::Own),
            Ok(_) => return Ok(End::Stopped),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file in memory with this content, to be a child's standard stream: unlike a pipe it is never full, and nobody waits for its end.
///
/// # Errors
/// The host's.
pub fn file_of(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("nacre-stream", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// What a child has written to such a file, from its beginning, `most` bytes at most: the position is shared with the child.
///
/// # Errors
/// The host's.
pub fn content(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_that_do_not_end_are_killed_with_their_children() {
        let out = file_of(b"").expect("a file");
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 1000 & echo $!; wait"]).process_group(0).stdout(out.try_clone().expect("again"));
        let mut child = shell.spawn().expect("sh");
        let said = || {
            let mut text = [0; 16];
            let len = rustix::io::pread(&out, &mut text, 0).expect("read");
            String::from_utf8_lossy(&text[..len]).trim().to_string()
        };
        while said().is_empty() {
            std::thread::yield_now();
        }
        assert!(wait_until(&mut child, Instant::now()).expect("waits").is_none());
        let stat = format!("/proc/{}/stat", said());
        // Whoever adopts it may take a moment to look.
        while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z") && !text.contains(") X")) {
            std::thread::yield_now();
        }
        let mut child = Command::new("sh").args(["-c", "exit 3"]).process_group(0).spawn().expect("sh");
        let ended = wait_until(&mut child, Instant::now() + Duration::from_secs(60)).expect("waits").expect("ends");
        assert_eq!(ended.code(), Some(3));
    }
}
