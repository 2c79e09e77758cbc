//! [`PidTable`]: the process and thread numbers of a container (or of several, of a pod), and its tree of processes.
//!
//! Its lock is this room's outermost (Linux's `tasklist_lock`): parents, children, process groups and sessions change only under it.
//! Outside of it is only the lock of [`PidTable::broadcast`], which signals to several processes and births take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{Task, ThreadGroup, Tid};
use crate::Errno;
use crate::cgroup::Cgroup;
use crate::kernel::Container;
use crate::ns::PidNs;
use crate::wait::PollEvents;

/// Numbers to tasks and processes.
#[derive(Default)]
pub struct PidTable {
    pub(super) inner: Mutex<Pids>,
    /// How many signals have been sent to several processes at once. Locked by whoever sends one, and while a process is born.
    pub(super) broadcasts: Mutex<u64>,
}

/// Under the table's lock.
#[derive(Default)]
pub(super) struct Pids {
    last: Tid,
    /// How many were given out.
    made: u64,
    /// Numbers have been given out once around: the next ones may be in use.
    wrapped: bool,
    /// Live threads.
    pub tasks: BTreeMap<Tid, Arc<Task>>,
    /// Processes, zombies included.
    pub processes: BTreeMap<Tid, Process>,
    /// Processes of several containers are in it.
    shared: bool,
    /// Traced tasks, also ended ones that their tracers have not waited for.
    pub tracees: Vec<Arc<Task>>,
}

/// A process in the tree.
pub(super) struct Process {
    pub group: Arc<ThreadGroup>,
    /// Its first thread, kept after its end for /proc.
    pub leader: Arc<Task>,
    pub children: Vec<Tid>,
}

impl PidTable {
    /// Numbers are below this (`kernel.pid_max`).
    pub const MAX: Tid = 32_768;
    /// After a wrap, numbers start here (`RESERVED_PIDS`).
    pub const RESERVED: Tid = 300;

    /// One more container is to have its processes here.
    pub fn share(&self) {
        self.inner.lock().shared = true;
    }

    /// Live threads of one container at this time.
    pub fn count_of(&self, container: &Container) -> usize {
        self.inner.lock().count_of(container)
    }

    /// How many tasks count for limits, of those processes that `are_meant`.
    pub fn charged(&self, are_meant: impl Fn(&ThreadGroup) -> bool) -> usize {
        self.inner.lock().charged().filter(|process| are_meant(process)).count()
    }

    /// Forgets the processes of a container whose tasks are all gone.
    pub(super) fn clear(&self, container: &Container) {
        let mut pids = self.inner.lock();
        let own = |group: &ThreadGroup| std::ptr::eq(&*group.container, container);
        let (gone, tracees) = match pids.shared {
            false => (std::mem::take(&mut pids.processes).into_values().collect(), std::mem::take(&mut pids.tracees)),
            true => {
                let numbers: Vec<Tid> =
                    pids.processes.iter().filter(|(_, process)| own(&process.group)).map(|(&number, _)| number).collect();
                let gone: Vec<Process> = numbers.into_iter().filter_map(|number| pids.forget(number)).collect();
                let tracees = std::mem::take(&mut pids.tracees);
                let (ended, kept) = tracees.into_iter().partition(|tracee| own(&tracee.group));
                pids.tracees = kept;
                (gone, ended)
            }
        };
        // Outside of the lock: what goes with them may take it.
        drop(pids);
        drop((gone, tracees));
    }

    /// The live thread of a number.
    pub fn task(&self, tid: Tid) -> Option<Arc<Task>> {
        self.inner.lock().tasks.get(&tid).cloned()
    }

    /// The process of a number, also a zombie.
    pub fn process(&self, tgid: Tid) -> Option<Arc<ThreadGroup>> {
        self.inner.lock().process(tgid)
    }

    /// The live thread of a number, or the first thread of a process although it has ended.
    pub fn task_or_zombie(&self, tid: Tid) -> Option<Arc<Task>> {
        let inner = self.inner.lock();
        inner.tasks.get(&tid).or_else(|| inner.processes.get(&tid).map(|process| &process.leader)).cloned()
    }

    /// The process that a thread's or process's number belongs to, also a zombie.
    pub fn process_of(&self, tid: Tid) -> Option<Arc<ThreadGroup>> {
        let inner = self.inner.lock();
        inner.process(tid).or_else(|| inner.tasks.get(&tid).map(|task| task.group.clone()))
    }

    /// All live threads, by number.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.inner.lock().tasks.values().cloned().collect()
    }

    /// All processes, by number.
    pub fn processes(&self) -> Vec<Arc<ThreadGroup>> {
        self.inner.lock().processes.values().map(|process| process.group.clone()).collect()
    }

    /// The processes of a process group, zombies included.
    pub fn process_group(&self, pgid: Tid) -> Vec<Arc<ThreadGroup>> {
        self.inner.lock().members(pgid).cloned().collect()
    }

    /// The numbers of a process's children, zombies included.
    pub fn children(&self, tgid: Tid) -> Vec<Tid> {
        self.inner.lock().processes.get(&tgid).map(|process| process.children.clone()).unwrap_or_default()
    }

    /// The first process.
    pub fn init(&self) -> Option<Arc<ThreadGroup>> {
        self.process(1)
    }

    /// Sends a signal to several processes, as `send` does: none is born meanwhile, and one whose parent was reached while it was
    /// being made is not born at all (its parent forks again when it has handled the signal). So no child escapes.
    pub fn broadcast<R>(&self, send: impl FnOnce() -> R) -> R {
        let mut broadcasts = self.broadcasts.lock();
        *broadcasts += 1;
        send()
    }

    /// Live threads at this time.
    pub fn count(&self) -> usize {
        self.inner.lock().tasks.len()
    }

    /// How many tasks were made (/proc/stat's `processes`).
    pub fn made(&self) -> u64 {
        self.inner.lock().made
    }

    /// The number given out last (/proc/loadavg).
    pub fn last(&self) -> Tid {
        self.inner.lock().last
    }

    /// Whether no process of the group has a parent in another group of the same session: nobody could continue it.
    pub fn is_orphaned(&self, pgid: Tid) -> bool {
        self.inner.lock().is_orphaned(pgid)
    }
}

/// Who traces whom, under the table's lock.
pub(crate) struct Tracing<'a>(pub(super) &'a mut Pids);

impl Tracing<'_> {
    pub fn add(&mut self, tracee: Arc<Task>) {
        self.0.tracees.push(tracee);
    }

    /// Takes a tracee off the list.
    pub fn remove(&mut self, tracee: &Arc<Task>) {
        self.0.tracees.retain(|other| !Arc::ptr_eq(other, tracee));
    }

    /// Takes all tracees of a task off the list.
    pub fn take_of(&mut self, tracer: &Arc<Task>) -> Vec<Arc<Task>> {
        let is_theirs = |tracee: &Arc<Task>| std::ptr::eq(tracee.ptrace.lock().tracer.as_ptr(), Arc::as_ptr(tracer));
        let (taken, kept) = std::mem::take(&mut self.0.tracees).into_iter().partition(is_theirs);
        self.0.tracees = kept;
        taken
    }

    /// The first thread of a process, if it lives.
    pub fn leader(&self, tgid: Tid) -> Option<Arc<Task>> {
        self.0.tasks.get(&tgid).cloned()
    }

    /// Whether a task is still in the table.
    pub fn alive(&self, task: &Arc<Task>) -> bool {
        self.0.tasks.get(&task.tid()).is_some_and(|other| Arc::ptr_eq(other, task))
    }
}

impl PidTable {
    /// Calls `act` with the table locked, to change who traces whom.
    pub(crate) fn with_tracing<T>(&self, act: impl FnOnce(&mut Tracing<'_>) -> T) -> T {
        act(&mut Tracing(&mut self.inner.lock()))
    }
}

impl Pids {
    /// Whether one more task of a container may be made.
    ///
    /// # Errors
    /// `EAGAIN` at the container's limit of tasks, `ENOMEM` when the container is ending (as in a dying pid namespace).
    pub fn admit(&self, container: &Container) -> Result<(), Errno> {
        if container.life.ending() {
            return Err(Errno::ENOMEM);
        }
        let Some(most) = container.limits.tasks() else { return Ok(()) };
        // Counting takes a walk: not where there is room in any case.
        if self.tasks.len() + self.processes.len() < most {
            return Ok(());
        }
        let own = |group: &&Arc<ThreadGroup>| std::ptr::eq(&*group.container, container);
        if self.charged().filter(own).count() >= most { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// The process of each task that counts for limits: of live threads, and of ended processes that nobody has waited for (as Linux's pids controller does).
    fn charged(&self) -> impl Iterator<Item = &Arc<ThreadGroup>> {
        let live = self.tasks.values().map(|task| &task.group);
        let ended = self.processes.iter().filter(|(number, _)| !self.tasks.contains_key(number));
        live.chain(ended.map(|(_, process)| &process.group))
    }

    /// Live threads of one container.
    fn count_of(&self, container: &Container) -> usize {
        if !self.shared {
            return self.tasks.len();
        }
        self.tasks.values().filter(|task| std::ptr::eq(&*task.container, container)).count()
    }

    /// The first thread of a process if it has a tracer, and that.
    pub fn traced_leader(&self, tgid: Tid) -> Option<(Arc<Task>, Arc<Task>)> {
        let leader = self.tracees.iter().find(|tracee| tracee.tid() == tgid)?;
        Some((leader.clone(), leader.tracer()?))
    }

    pub fn process(&self, tgid: Tid) -> Option<Arc<ThreadGroup>> {
        self.processes.get(&tgid).map(|process| process.group.clone())
    }

    pub fn members(&self, pgid: Tid) -> impl Iterator<Item = &Arc<ThreadGroup>> {
        self.processes.values().map(|process| &process.group).filter(move |group| group.pgid() == pgid)
    }

    /// Whether one more task may be made in a control group.
    ///
    /// # Errors
    /// `EAGAIN` at a `pids.max`.
    pub fn admit_to_cgroup(&self, group: &Arc<Cgroup>) -> Result<(), Errno> {
        crate::cgroup::admit_task(group, |group| {
            self.charged().filter(|process| group.contains(&process.cgroup())).count() as u64
        })
    }

    /// The next free number.
    ///
    /// # Errors
    /// `EAGAIN` when all are in use.
    pub fn allocate(&mut self) -> Result<Tid, Errno> {
        for _ in 0..PidTable::MAX {
            self.last += 1;
            if self.last >= PidTable::MAX {
                self.last = PidTable::RESERVED;
                self.wrapped = true;
            }
            if !self.wrapped || !self.in_use(self.last) {
                self.made += 1;
                return Ok(self.last);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Gives a new task its numbers: in the container, and in each pid namespace that it is seen in. `wanted` from the innermost outwards.
    ///
    /// # Errors
    /// `EAGAIN` when all are in use, `EEXIST` for a wanted one.
    pub fn number(&mut self, ns: &PidNs, wanted: &[Tid]) -> Result<Tid, Errno> {
        let number = match wanted.get(ns.level() as usize) {
            None => self.allocate()?,
            Some(&number) if self.in_use(number) => return Err(Errno::EEXIST),
            Some(&number) => number,
        };
        for (n, level) in ns.chain().enumerate() {
            level
                .add(number, wanted.get(n).copied())
                .inspect_err(|_| ns.chain().take(n).for_each(|level| level.remove(number)))?;
        }
        Ok(number)
    }

    /// A number is no longer a thread's or a process's. It stays a group's or session's.
    pub fn release(&self, ns: &PidNs, number: Tid) {
        if !ns.is_root() && !self.in_use(number) {
            ns.chain().for_each(|level| level.remove(number));
        }
    }

    fn in_use(&self, number: Tid) -> bool {
        let names = |group: &ThreadGroup| group.pgid() == number || group.session.read().sid == number;
        self.tasks.contains_key(&number)
            || self.processes.contains_key(&number)
            || self.processes.values().any(|process| names(&process.group))
            || self.tracees.iter().any(|tracee| tracee.tid() == number)
    }

    /// As [`PidTable::is_orphaned`] (`will_become_orphaned_pgrp`).
    pub fn is_orphaned(&self, pgid: Tid) -> bool {
        !self.members(pgid).any(|member| {
            if member.ended().is_some() {
                return false;
            }
            let parent = self.processes.get(&member.ppid());
            parent.is_some_and(|parent| {
                parent.group.pgid() != pgid && parent.group.session.read().sid == member.session.read().sid
            })
        })
    }

    /// Makes `child` a child of `parent` (0: of nobody in the container).
    pub fn set_parent(&mut self, child: &ThreadGroup, parent: Tid) {
        child.ppid.store(parent, Ordering::Relaxed);
        if let Some(parent) = self.processes.get_mut(&parent) {
            parent.children.push(child.tgid);
        }
    }

    /// Removes a process that has been waited for.
    pub fn forget(&mut self, tgid: Tid) -> Option<Process> {
        let process = self.processes.remove(&tgid)?;
        process.group.reaped.store(true, Ordering::SeqCst);
        process.group.exit_queue.wake(PollEvents::HUP);
        if let Some(parent) = self.processes.get_mut(&process.group.ppid()) {
            parent.children.retain(|&child| child != tgid);
        }
        let ns = &process.group.pid_ns;
        for number in [tgid, process.group.pgid(), process.group.session.read().sid] {
            self.release(ns, number);
        }
        Some(process)
    }
}
