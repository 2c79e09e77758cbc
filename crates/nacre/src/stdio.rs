//! Standard streams to hand to a sandbox.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use runtime::sandbox::HostStdio;
use rustix::fs::OFlags;

/// This process's streams. Terminals are opened again, so that what the sentry sets on them (O_NONBLOCK) is not set for the user's shell.
#[derive(Debug)]
pub struct Own {
    streams: [Option<OwnedFd>; 3],
}

impl Own {
    pub fn take() -> std::io::Result<Own> {
        Ok(Own {
            streams: [
                stream(std::io::stdin().as_fd(), 0)?,
                stream(std::io::stdout().as_fd(), 1)?,
                stream(std::io::stderr().as_fd(), 2)?,
            ],
        })
    }

    pub fn as_host(&self) -> HostStdio<'_> {
        let [stdin, stdout, stderr] = &self.streams;
        HostStdio {
            stdin: stdin.as_ref().map(AsFd::as_fd),
            stdout: stdout.as_ref().map(AsFd::as_fd),
            stderr: stderr.as_ref().map(AsFd::as_fd),
        }
    }
}

fn stream(fd: BorrowedFd<'_>, number: u32) -> std::io::Result<Option<OwnedFd>> {
    if rustix::termios::isatty(fd) {
        let flags = rustix::fs::fcntl_getfl(fd)?;
        let reopened = OpenOptions::new()
            .read(flags.contains(OFlags::RDWR) || !flags.contains(OFlags::WRONLY))
            .write(flags.intersects(OFlags::RDWR | OFlags::WRONLY))
            .custom_flags((OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32)
            .open(format!("/proc/self/fd/{number}"));
        if let Ok(file) = reopened {
            return Ok(Some(file.into()));
        }
    }
    Ok(Some(fd.try_clone_to_owned()?))
}
