//! [`ProcessRef`]: a host process that cannot be mistaken for a later one with its pid.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A pid and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: i32,
    /// Clock ticks after boot (field 22 of /proc/PID/stat).
    pub start_time: u64,
}

impl ProcessRef {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<ProcessRef> {
        let (_, start_time) = stat(pid)?;
        Some(ProcessRef { pid, start_time })
    }

    /// Whether it still runs. A zombie does not: its parent just has not looked yet.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, start_time)| start_time == self.start_time && !matches!(state, 'Z' | 'X'))
    }

    /// Kills it, if it is still that process. Returns whether it was.
    pub fn kill(&self) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        // The descriptor pins the process; then the check is no race.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        self.is_alive() && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
    }

    /// Waits until it is gone (or a zombie of somebody else's). False if `tries` milliseconds were not enough.
    pub fn wait_gone(&self, milliseconds: u32) -> bool {
        for _ in 0..milliseconds {
            if !self.is_alive() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        !self.is_alive()
    }
}

/// State and start time. The name in parentheses may contain anything, so fields count from its end.
fn stat(pid: i32) -> Option<(char, u64)> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 12345 1000 200";
        assert_eq!(parse(text), Some(('S', 12345)));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn this_process_lives() {
        let me = ProcessRef::of(std::process::id() as i32).expect("me");
        assert!(me.is_alive());
        assert!(!ProcessRef { start_time: me.start_time + 1, ..me }.is_alive());
    }
}
