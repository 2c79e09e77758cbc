//! Programs of the host that are run and waited for, but not for ever: hooks, and the shim's `nacre create`.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::process::{Child, ExitStatus};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Waits for a child's end. None: it had not ended by then, and was killed, with its process group if it leads one.
///
/// # Errors
/// The host's. The child has been killed as well.
pub fn wait_until(child: &mut Child, end: Instant) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let ends = ends_by(pid, end);
    if !matches!(ends, Ok(true)) {
        let _ = kill_process_group(pid, Signal::KILL);
        // It has not been waited for, so the pid is still its own.
        let _ = child.kill();
    }
    let status = child.wait()?;
    ends.map(|ended| ended.then_some(status))
}

/// Whether it has ended by then.
fn ends_by(pid: Pid, end: Instant) -> io::Result<bool> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
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
