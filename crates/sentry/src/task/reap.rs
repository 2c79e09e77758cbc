//! Waiting for children: what `wait4` and `waitid` look for.

use std::sync::Arc;

use super::{Cx, ExitStatus, Task, ThreadGroup, Tid, Tracing, Usage};
use crate::Errno;
use crate::signal::Signal;
use crate::syscalls::{Fail, Restart};
use crate::time::MonoTime;
use crate::wait::PollEvents;

/// Which children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Any,
    /// A number that names no process.
    Nobody,
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
    /// A tracee has stopped for its tracer: a signal, and in the upper bytes what for.
    Trapped(i32),
    Continued,
}

/// A child that was found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// As its parent sees it.
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
        let (task, group) = (self.task.clone(), self.task.group.clone());
        let nohang = options.contains(WaitOptions::NOHANG);
        let attempt = || match look(&task, which, options) {
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

/// Looks at the children and the tracees once.
fn look(task: &Arc<Task>, which: Which, options: WaitOptions) -> Result<Option<Found>, Errno> {
    let group = &task.group;
    let mut pids = group.container.pids.inner.lock();
    let children = pids.processes.get(&group.tgid).map(|process| process.children.as_slice()).unwrap_or_default();
    let mut any = false;
    let mut found = None;
    for child in children.iter().filter_map(|&child| pids.process(child)) {
        // With __WNOTHREAD only the thread's own.
        let own = || child.inner.lock().parent_thread.as_ptr() == Arc::as_ptr(task);
        let excluded = options.contains(WaitOptions::NOTHREAD) && !own();
        if !fits(which, child.tgid, &child) || !eligible(&child, options) || excluded {
            continue;
        }
        any = true;
        let tracer = pids.traced_leader(child.tgid).map(|(_, tracer)| tracer.tgid());
        // One that this process traces is looked at below; a zombie that another one traces is that one's first.
        if tracer == Some(group.tgid) || tracer.is_some() && child.ended().is_some() {
            continue;
        }
        if let Some(change) = change(&child, options) {
            found = Some((child, change));
            break;
        }
    }
    if let Some((child, change)) = found {
        let found = describe(&child, group.pid_ns.local(child.tgid), change);
        if matches!(change, Change::Ended(_)) && !options.contains(WaitOptions::NOWAIT) {
            group.usage.lock().children.add(&found.usage);
            pids.forget(child.tgid);
        }
        return Ok(Some(found));
    }
    let mut traced = None;
    for tracee in &pids.tracees {
        let Some(tracer) = tracee.tracer() else { continue };
        let ours =
            if options.contains(WaitOptions::NOTHREAD) { Arc::ptr_eq(&tracer, task) } else { tracer.tgid() == group.tgid };
        if !ours || !fits(which, tracee.tid(), &tracee.group) {
            continue;
        }
        any = true;
        if let Some(change) = traced_change(tracee, options) {
            traced = Some((tracee.clone(), change));
            break;
        }
    }
    let Some((tracee, change)) = traced else { return if any { Ok(None) } else { Err(Errno::ECHILD) } };
    let found = describe(&tracee.group, group.pid_ns.local(tracee.tid()), change);
    if matches!(change, Change::Ended(_)) && !options.contains(WaitOptions::NOWAIT) {
        Tracing(&mut pids).remove(&tracee);
        if tracee.is_leader() {
            let own_child = tracee.group.ppid() == group.tgid;
            if own_child {
                group.usage.lock().children.add(&found.usage);
                pids.forget(tracee.tgid());
            }
            drop(pids);
            tracee.let_go(None);
            if !own_child {
                super::exit::settle_zombie(&group.container, &tracee.group);
            }
        }
    }
    Ok(Some(found))
}

fn fits(which: Which, tid: Tid, group: &ThreadGroup) -> bool {
    match which {
        Which::Any => true,
        Which::Nobody => false,
        Which::Process(pid) => tid == pid,
        Which::ProcessGroup(pgid) => group.pgid() == pgid,
    }
}

fn describe(group: &ThreadGroup, pid: Tid, change: Change) -> Found {
    let usage = {
        let usage = group.usage.lock();
        let mut total = usage.ended_threads;
        total.add(&usage.children);
        total
    };
    Found { pid, uid: group.uid(), change, usage }
}

/// What a tracee has to report to its tracer, taken away unless `NOWAIT`. Its stops need no option.
fn traced_change(tracee: &Task, options: WaitOptions) -> Option<Change> {
    let ended = if tracee.is_leader() { tracee.group.ended() } else { tracee.ptrace.lock().ended };
    if let Some(status) = ended {
        return options.contains(WaitOptions::EXITED).then_some(Change::Ended(status));
    }
    let keep = options.contains(WaitOptions::NOWAIT);
    if let Some(stop) = tracee.ptrace.lock().stopped_mut()
        && !stop.reported
    {
        stop.reported = !keep;
        return Some(Change::Trapped(stop.code));
    }
    let mut inner = tracee.group.inner.lock();
    if inner.stop.report_continued && options.contains(WaitOptions::CONTINUED) {
        inner.stop.report_continued = keep;
        return Some(Change::Continued);
    }
    None
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
