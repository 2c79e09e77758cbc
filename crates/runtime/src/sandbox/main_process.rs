//! A sandbox's main process, as its parent sees it: the sentry, or a VM's keeper.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions};

use super::Ended;
use crate::process::Confined;
use crate::process::report::{self, Report};

/// The process whose end is the sandbox's, and the file with its last words.
#[derive(Debug)]
pub struct MainProcess {
    pub confined: Confined,
    pub report: File,
    /// As it is called in messages.
    pub name: &'static str,
}

impl MainProcess {
    /// Waits until it has ended; None if `timeout` passed first.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Ended> {
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
        loop {
            let mut wait = [PollFd::new(&self.confined.pidfd, PollFlags::IN)];
            match poll(&mut wait, timeout.as_ref()) {
                Ok(0) => return None,
                Ok(_) => break,
                Err(_) => {}
            }
        }
        let status =
            rustix::process::waitid(WaitId::PidFd(self.confined.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let report = self.report.try_clone().ok().and_then(|mut file| {
            file.seek(SeekFrom::Start(0)).ok()?;
            report::read(file)
        });
        if let Some(Report::Broke(reason)) = report {
            return Some(Ended::Broke(reason));
        }
        let status = status.ok().flatten();
        if let Some(signal) = status.as_ref().and_then(|s| s.terminating_signal()) {
            let name = self.name;
            return Some(Ended::Broke(match signal {
                libc::SIGSYS => format!("the {name} made a host system call that its filter forbids (SIGSYS)"),
                libc::SIGKILL => format!("the {name} was killed (SIGKILL), perhaps by the host's out-of-memory killer"),
                _ => format!("the {name} was killed by signal {signal}"),
            }));
        }
        match (status.and_then(|s| s.exit_status()), report) {
            (Some(status), _) => Some(Ended::Exited(status as u8)),
            (None, Some(Report::Exited(status))) => Some(Ended::Exited(status)),
            (None, _) => Some(Ended::Unknown),
        }
    }
}

/// Whether a process has ended, or does within a moment.
pub fn has_ended(confined: &Confined) -> bool {
    let mut wait = [PollFd::new(&confined.pidfd, PollFlags::IN)];
    let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    matches!(poll(&mut wait, Some(&patience)), Ok(1))
}

/// Kills the process unless it is kept.
pub struct Guard(Option<Confined>);

impl Guard {
    pub fn new(confined: Confined) -> Guard {
        Guard(Some(confined))
    }

    pub fn keep(mut self) -> Confined {
        self.0.take().expect("kept once: `keep` takes the guard")
    }
}

impl std::ops::Deref for Guard {
    type Target = Confined;
    fn deref(&self) -> &Confined {
        self.0.as_ref().expect("only `keep` empties it, and takes the guard")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(confined) = self.0.take() {
            confined.kill();
        }
    }
}
