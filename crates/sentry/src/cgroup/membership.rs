//! Who is in a group: computed from a container's processes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Cgroup;
use crate::Errno;
use crate::kernel::Container;
use crate::signal::{Origin, SigInfo, Signal};
use crate::task::{TaskFlags, ThreadGroup};

/// The processes of a container, to look for a group's.
pub struct Members<'a>(pub &'a Container);

impl Members<'_> {
    /// Live processes in exactly this group.
    pub fn own(&self, group: &Arc<Cgroup>) -> Vec<Arc<ThreadGroup>> {
        self.matching(|own| Arc::ptr_eq(own, group))
    }

    /// Live processes in this group and below.
    pub fn all(&self, group: &Arc<Cgroup>) -> Vec<Arc<ThreadGroup>> {
        self.matching(|own| group.contains(own))
    }

    fn matching(&self, wanted: impl Fn(&Arc<Cgroup>) -> bool) -> Vec<Arc<ThreadGroup>> {
        let mut processes = self.0.processes();
        processes.retain(|process| wanted(&process.cgroup()) && process.leader().is_some());
        processes
    }

    pub fn has_own(&self, group: &Arc<Cgroup>) -> bool {
        !self.own(group).is_empty()
    }

    pub fn is_populated(&self, group: &Arc<Cgroup>) -> bool {
        !self.all(group).is_empty()
    }

    /// Tasks in this group and below: live threads, and ended processes that nobody has waited for.
    pub fn tasks(&self, group: &Arc<Cgroup>) -> u64 {
        let is_own = |process: &ThreadGroup| std::ptr::eq(&*process.container, self.0) && group.contains(&process.cgroup());
        let n = self.0.pids.charged(is_own) as u64;
        group.pids_peak.fetch_max(n, Ordering::Relaxed);
        n
    }

    /// Bytes of memory: the root's are the container's; below it is what its processes have in memory, each counted by itself.
    pub fn memory(&self, group: &Arc<Cgroup>) -> u64 {
        let bytes = match group.is_root() {
            true => self.0.memory.used_bytes(),
            false => {
                let of = |process: &Arc<ThreadGroup>| {
                    let shared = process.leader()?.shared.read().clone()?;
                    Some(shared.mm.usage().resident_kib().saturating_mul(1024))
                };
                self.all(group).iter().filter_map(of).sum()
            }
        };
        group.memory_peak.fetch_max(bytes, Ordering::Relaxed);
        bytes
    }

    /// Nanoseconds of CPU time, user and system.
    pub fn cpu_ns(&self, group: &Arc<Cgroup>) -> (u64, u64) {
        let past = group.subtree().iter().map(|group| group.past_cpu()).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        let live = self.all(group);
        live.iter()
            .map(|process| process.own_usage())
            .fold(past, |(user, system), usage| (user + usage.user_ns, system + usage.system_ns))
    }

    /// Sets `cgroup.freeze`: tasks stop within a moment, or go on.
    pub fn freeze(&self, group: &Arc<Cgroup>, freezes: Freezing) {
        let now = freezes == Freezing::Stop;
        if group.freezes.swap(now, Ordering::SeqCst) == now {
            return;
        }
        for process in self.all(group) {
            apply_freezing(&process);
        }
        for group in group.subtree() {
            group.tell();
        }
    }

    /// `cgroup.kill`.
    pub fn kill(&self, group: &Arc<Cgroup>) {
        self.0.pids.broadcast(|| {
            for process in self.all(group) {
                let _ = process.send_signal_from(SigInfo::user(Signal::KILL, 0, 0), Origin::Forced);
            }
        });
    }
}

/// What `cgroup.freeze` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezing {
    Stop,
    Go,
}

/// Lets a process notice whether its group is frozen.
fn apply_freezing(process: &ThreadGroup) {
    if process.cgroup().is_frozen() {
        for task in process.threads() {
            task.raise(TaskFlags::STOP);
        }
    } else {
        process.resumed.wake(crate::wait::PollEvents::IN);
    }
}

/// Lets a process come to a group that may have it, while no group is made, removed or given other controllers.
///
/// # Errors
/// `ENODEV` if the group was removed; `EBUSY` if it passes controllers on: processes are only in its leaves.
pub fn settle<R>(to: &Arc<Cgroup>, come: impl FnOnce() -> R) -> Result<R, Errno> {
    let tree = to.hierarchy.clone();
    let _tree = tree.tree.lock();
    if to.is_removed() {
        return Err(Errno::ENODEV);
    }
    if !to.subtree_control().is_empty() {
        return Err(Errno::EBUSY);
    }
    Ok(come())
}

/// Moves a process.
///
/// # Errors
/// Of [`settle`].
pub fn move_process(process: &Arc<ThreadGroup>, to: &Arc<Cgroup>) -> Result<(), Errno> {
    settle(to, || {
        let from = process.set_cgroup(to.clone());
        if !Arc::ptr_eq(&from, to) {
            apply_freezing(process);
            from.population_changed();
            to.population_changed();
        }
    })
}

/// Whether one more task may be made in a group, where `tasks_in` counts those in a group and below.
///
/// # Errors
/// `EAGAIN` at a `pids.max`. (The container's own limit is kept by its process table.)
pub fn admit_task(group: &Arc<Cgroup>, tasks_in: impl Fn(&Arc<Cgroup>) -> u64) -> Result<(), Errno> {
    for group in group.up().filter(|group| !group.is_root()) {
        let Some(most) = group.settings.lock().pids_max else { continue };
        if tasks_in(&group) >= most {
            group.pids_refused.fetch_add(1, Ordering::Relaxed);
            return Err(Errno::EAGAIN);
        }
    }
    Ok(())
}
