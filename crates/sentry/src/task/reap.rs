//! Waiting for children: what `wait4` and `waitid` look for.

use std::sync::Arc;

use super::{Cx, ExitStatus, ThreadGroup, Tid, Usage};
use crate::Errno;
use crate::signal::Signal;
use crate::syscalls::{Fail, Restart};
use crate::time::MonoTime;
use crate::wait::PollEvents;

/// Which children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Any,
    Process(Tid),
    ProcessGroup(Tid),
}

bitflags::bitflags! {
    /// `W*` options.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct WaitOptions: u32 {
        const NOHANG = 1;
        const STOPPED = 2;
        const EXITED = 4;
        const CONTINUED = 8;
        const NOWAIT = 0x0100_0000;
        const NOTHREAD = 0x2000_0000;
        const ALL = 0x4000_0000;
        const CLONE = 0x8000_0000;
    }
}

/// What a child did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ended(ExitStatus),
    Stopped(Signal),
    Continued,
}

/// A child that was found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub pid: Tid,
    pub uid: u32,
    pub change: Change,
    pub usage: Usage,
}

impl Cx {
    /// Waits for a child. None with `NOHANG` when none has changed.
    ///
    /// # Errors
    /// `ECHILD`; a restart when interrupted.
    pub async fn wait_child(&mut self, which: Which, options: WaitOptions) -> Result<Option<Found>, Fail> {
        let group = self.task.group.clone();
        let nohang = options.contains(WaitOptions::NOHANG);
        let attempt = || match look(&group, which, options) {
            Ok(None) if !nohang => None,
            result => Some(result),
        };
        if let Some(result) = attempt() {
            return result.map_err(Fail::Errno);
        }
        let queues = [(&group.child_changed, PollEvents::IN)];
        let waited = self.wait(&queues, MonoTime::NEVER, attempt).await;
        waited.map_err(|error| Fail::from_wait(error, Errno::ETIMEDOUT, Restart::Sys))?.map_err(Fail::Errno)
    }
}

/// Looks at the children once.
fn look(group: &Arc<ThreadGroup>, which: Which, options: WaitOptions) -> Result<Option<Found>, Errno> {
    let mut pids = group.container.pids.inner.lock();
    let children = pids.processes.get(&group.tgid).map(|process| process.children.as_slice()).unwrap_or_default();
    let mut any = false;
    let mut found = None;
    for child in children.iter().filter_map(|&child| pids.process(child)) {
        let fits = match which {
            Which::Any => true,
            Which::Process(pid) => child.tgid == pid,
            Which::ProcessGroup(pgid) => child.pgid() == pgid,
        };
        if !fits || !eligible(&child, options) {
            continue;
        }
        any = true;
        if let Some(change) = change(&child, options) {
            found = Some((child, change));
            break;
        }
    }
    let Some((child, change)) = found else { return if any { Ok(None) } else { Err(Errno::ECHILD) } };
    let usage = {
        let usage = child.usage.lock();
        let mut total = usage.ended_threads;
        total.add(&usage.children);
        total
    };
    let found = Found { pid: child.tgid, uid: child.uid(), change, usage };
    if matches!(change, Change::Ended(_)) && !options.contains(WaitOptions::NOWAIT) {
        group.usage.lock().children.add(&usage);
        pids.forget(child.tgid);
    }
    Ok(Some(found))
}

/// `eligible_child`: children with another exit signal than `SIGCHLD` are for `__WCLONE` or `__WALL`.
fn eligible(child: &ThreadGroup, options: WaitOptions) -> bool {
    let is_clone = child.inner.lock().exit_signal != Some(Signal::CHLD);
    options.contains(WaitOptions::ALL) || is_clone == options.contains(WaitOptions::CLONE)
}

/// What a child has to report, taken away unless `NOWAIT`.
fn change(child: &ThreadGroup, options: WaitOptions) -> Option<Change> {
    let mut inner = child.inner.lock();
    if let Some(status) = inner.ended {
        return options.contains(WaitOptions::EXITED).then_some(Change::Ended(status));
    }
    let keep = options.contains(WaitOptions::NOWAIT);
    if let Some(signal) = inner.stop.signal
        && inner.stop.report_stopped
        && options.contains(WaitOptions::STOPPED)
    {
        inner.stop.report_stopped = keep;
        return Some(Change::Stopped(signal));
    }
    if inner.stop.report_continued && options.contains(WaitOptions::CONTINUED) {
        inner.stop.report_continued = keep;
        return Some(Change::Continued);
    }
    None
}
