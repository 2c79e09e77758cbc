//! The end of threads and processes (kernel/exit.c).
//!
//! Order for a thread: robust futexes, the tid word and its wake-up, off the processor, release of a vforking parent, descriptors,
//! memory, numbers. The last thread ends the process: children get a new parent, orphaned groups are continued, the terminal is
//! hung up, the parent is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::jobs::Told;
use super::pids::Pids;
use super::{Cx, ExitStatus, Task, TaskFlags, ThreadGroup, Tid, Tracing, ticks};
use crate::ipc::futex;
use crate::kernel::Container;
use crate::ptrace::detach_all_of;
use crate::signal::{Handling, Origin, SigFlags, SigInfo, Signal, cld};
use crate::wait::PollEvents;

impl Task {
    /// Ends the whole process with `status`, unless it is ending already. The caller's own end follows in the run loop.
    pub fn exit_group(&self, status: ExitStatus) {
        self.group.inner.lock().begin_exit(status);
    }
}

impl ThreadGroup {
    /// Kills the process for lack of memory.
    pub fn kill_out_of_memory(&self) {
        let mut inner = self.inner.lock();
        if !std::mem::replace(&mut inner.oom_killed, true) {
            self.container.oom_kills.fetch_add(1, Ordering::Relaxed);
        }
        inner.begin_exit(ExitStatus::killed(Signal::KILL));
        inner.end_trace_stops();
    }
}

/// Ends a process that was made from outside and never ran.
pub async fn abandon(cx: Cx) {
    let status = ExitStatus::killed(Signal::KILL);
    cx.task.exit_group(status);
    exit(cx, status).await;
}

/// Ends the calling task. `status` is its own; the process's counts, if that is ending.
pub(super) async fn exit(mut cx: Cx, status: ExitStatus) {
    // Others wait for the memory of one that is killed for lack of it.
    if !cx.task.group.oom_killed() {
        cx.join_core().await;
        cx.trace_exit(status).await;
    }
    cx.release_futexes().await;
    let Cx { task, mm, files, fs, context, .. } = cx;
    // Its CPU time stays readable; the context leaves user memory here.
    let usage = {
        task.past_cpu_ns.fetch_add(context.cpu_time_ns(), Ordering::Relaxed);
        *task.interrupter.lock() = None;
        task.usage()
    };
    drop(context);
    task.end_vfork();
    let undo = task.sem_undo.lock().take();
    drop(undo);
    *task.shared.write() = None;
    drop(files);
    drop(fs);
    drop(mm);
    end_namespace(&task).await;
    leave(&task, status, usage);
}

/// The last thread of a nested pid namespace's first process: everything in the namespace ends before it (`zap_pid_ns_processes`).
async fn end_namespace(task: &Arc<Task>) {
    let group = &task.group;
    let Some(ns) = group.pid_ns.nested().filter(|_| group.is_init()) else { return };
    {
        let mut inner = group.inner.lock();
        inner.leaving += 1;
        if inner.leaving < inner.threads.len() {
            return;
        }
    }
    {
        let _pids = task.container.pids.inner.lock();
        ns.kill();
    }
    let inside = |other: &ThreadGroup| other.tgid != group.tgid && other.pid_ns.is_within(&group.pid_ns);
    for process in task.container.pids.processes().iter().filter(|other| inside(other)) {
        let _ = process.send_signal_from(SigInfo::kernel(Signal::KILL), Origin::Forced);
    }
    let alone = || (!task.container.pids.tasks().iter().any(|other| inside(&other.group))).then_some(());
    crate::wait::wait_always(&ns.thread_gone, alone).await;
}

impl Cx {
    /// Says in the memory that others may still use that this thread is gone: robust futexes, and `CLONE_CHILD_CLEARTID`, which stores 0 and wakes one waiter
    /// (`pthread_join`). If there is no memory for that, it waits until there is: those who wait would do so for ever.
    pub(super) async fn release_futexes(&mut self) {
        loop {
            self.forget_shortages();
            futex::walk_robust_list(&self.task, &self.mm);
            self.clear_tid();
            if !self.was_short() || !self.found_memory().await {
                break;
            }
        }
        self.task.clear_child_tid.store(0, Ordering::Relaxed);
        futex::end_robust_list(&self.task);
    }

    fn clear_tid(&self) {
        let addr = self.task.clear_child_tid.load(Ordering::Relaxed);
        if addr != 0 && self.mm.write_val(addr, &0u32).is_ok() {
            self.task.clear_child_tid.store(0, Ordering::Relaxed);
            futex::wake_address(&self.task.kernel, &self.mm, addr, 1);
        }
    }
}

/// Takes a thread out of its process.
fn leave(task: &Arc<Task>, status: ExitStatus, usage: super::Usage) {
    let group = &task.group;
    let container = &task.container;
    let mut pids = container.pids.inner.lock();
    container.life.leaving.fetch_add(1, Ordering::SeqCst);
    let signalled = parent_death_signals(&pids, task);
    let detached = detach_all_of(task, &mut Tracing(&mut pids));
    let mut inner = group.inner.lock();
    if task.is_leader() {
        inner.leader_status = Some(status);
    }
    inner.threads.retain(|thread| !Arc::ptr_eq(thread, task));
    inner.leaving = inner.leaving.saturating_sub(1);
    pids.tasks.remove(&task.tid());
    if !task.is_leader() {
        pids.release(&group.pid_ns, task.tid());
    }
    task.gone.store(true, Ordering::SeqCst);
    task.kernel.barriers.wake(PollEvents::IN);
    group.usage.lock().ended_threads.add(&usage);
    {
        let mut ended = container.ended.lock();
        ended.usage.add(&usage);
        ended.counts.add(&task.activity.counts());
    }
    group.last_uid.store(task.creds().uid, Ordering::Relaxed);
    let last = inner.threads.is_empty();
    let end = last.then(|| {
        let status = inner.exiting.or(inner.leader_status).unwrap_or(status);
        inner.ended = Some(status);
        status
    });
    let replaced = inner.execing.is_some() && task.is_leader();
    drop(inner);
    let tracer = leave_tracer(&mut pids, task, status, replaced);
    let news = end.map(|status| end_process(&mut pids, group, status));
    let tracer = tracer.map(|(tracer, info)| Told::of(&pids, tracer.group.clone(), Some(info)));
    drop(pids);
    if end.is_none() {
        // The others may all have stopped.
        group.complete_stop(group.inner.lock());
    }
    for (child, signal) in signalled {
        let _ = child.send_signal(SigInfo::user(
            signal,
            child.group.pid_ns.local(task.tgid()),
            child.group.show_uid(task.creds().uid),
        ));
    }
    group.thread_gone.wake(PollEvents::IN);
    if let Some(tracer) = tracer {
        tracer.finish();
    }
    for tracee in detached {
        tracee.kill();
        if tracee.ended.is_some() && tracee.task.group.ppid() != task.tgid() {
            settle_zombie(container, &tracee.task.group);
        }
    }
    for ns in group.pid_ns.chain() {
        ns.thread_gone.wake(PollEvents::IN);
    }
    // pidfds of threads.
    group.exit_queue.wake(PollEvents::IN | PollEvents::HUP);
    if let (Some(status), Some(news)) = (end, news) {
        tell(group, status, news);
    }
    // The last to have told everybody reports the end of the container, so that comes after the ends of its processes.
    let others = container.life.leaving.fetch_sub(1, Ordering::SeqCst) - 1;
    if others == 0 && container.life.ending() && container.pids.count_of(container) == 0 {
        container.pids.clear(container);
        container.life.emptied();
    }
}

/// A traced thread has ended. One that is not the first stays until its tracer has waited for it, and the tracer is told. The first one is
/// waited for with its process; when a sibling's exec has taken its place, it just vanishes.
fn leave_tracer(pids: &mut Pids, task: &Arc<Task>, status: ExitStatus, replaced: bool) -> Option<(Arc<Task>, SigInfo)> {
    let tracer = task.tracer()?;
    if replaced {
        Tracing(pids).remove(task);
        return None;
    }
    if task.is_leader() {
        return None;
    }
    task.ptrace.lock().ended = Some(status);
    let (code, value) = child_code(status);
    Some((tracer, SigInfo::child(code, task.tid(), task.creds().uid, value, 0, 0)))
}

/// `si_code` and `si_status` of an end.
fn child_code(status: ExitStatus) -> (i32, i32) {
    match status {
        ExitStatus::Exited(code) => (cld::EXITED, i32::from(code)),
        ExitStatus::Signaled { signal, core: false } => (cld::KILLED, signal.number()),
        ExitStatus::Signaled { signal, core: true } => (cld::DUMPED, signal.number()),
    }
}

/// Threads whose parent thread is `task`, with the signal they asked for (`PR_SET_PDEATHSIG`).
fn parent_death_signals(pids: &Pids, task: &Arc<Task>) -> Vec<(Arc<Task>, Signal)> {
    let mut found = Vec::new();
    let Some(process) = pids.processes.get(&task.tgid()) else { return found };
    for child in process.children.iter().filter_map(|&child| pids.process(child)) {
        let inner = child.inner.lock();
        if inner.parent_thread.as_ptr() == Arc::as_ptr(task) {
            let asks =
                |thread: &Arc<Task>| Some((thread.clone(), Signal::new(thread.parent_death_signal.load(Ordering::Relaxed))?));
            found.extend(inner.threads.iter().filter_map(asks));
        }
    }
    found
}

/// What is to be done after the end of a process, without locks.
struct News {
    parent: Option<Told>,
    /// Processes of groups that nobody can continue any more: `SIGHUP` and `SIGCONT`.
    orphaned: Vec<Arc<ThreadGroup>>,
    /// Zombies that have moved to a new parent.
    moved_zombies: Vec<Arc<ThreadGroup>>,
    kill_all: Vec<Arc<ThreadGroup>>,
    leads_session: bool,
}

/// The last thread is gone: changes the tree.
fn end_process(pids: &mut Pids, group: &Arc<ThreadGroup>, status: ExitStatus) -> News {
    let mut news = News {
        parent: None,
        orphaned: Vec::new(),
        moved_zombies: Vec::new(),
        kill_all: Vec::new(),
        leads_session: group.session.read().sid == group.tgid,
    };
    let is_first = group.tgid == group.container.life.first();
    let heir = if group.is_init() { 0 } else { find_heir(pids, group) };
    let children = pids.processes.get_mut(&group.tgid).map(|process| std::mem::take(&mut process.children)).unwrap_or_default();
    for child in children {
        let Some(child) = pids.process(child) else { continue };
        let connected = connects(group, &child);
        pids.set_parent(&child, heir);
        let inner = child.inner.lock();
        if inner.ended.is_some() {
            news.moved_zombies.push(child.clone());
        }
        for thread in &inner.threads {
            thread.raise(TaskFlags::IDENTITY);
        }
        drop(inner);
        if connected {
            continue_orphans(pids, child.pgid(), &mut news.orphaned);
        }
    }
    if pids.process(group.ppid()).is_some_and(|parent| connects(&parent, group)) {
        continue_orphans(pids, group.pgid(), &mut news.orphaned);
    }
    if is_first {
        group.container.life.init_ended(status);
        // All in its pid namespace, if it began that; where it has joined another's, its container.
        let ends = |other: &ThreadGroup| group.is_init() || Arc::ptr_eq(&other.container, &group.container);
        let others = pids.processes.values().map(|process| &process.group);
        news.kill_all = others.filter(|other| !Arc::ptr_eq(other, group) && ends(other)).cloned().collect();
    }
    if let Some((leader, tracer)) = pids.traced_leader(group.tgid) {
        // The tracer waits for it first; then a parent that is somebody else is told.
        let (code, value) = child_code(status);
        let exit_signal = group.inner.lock().exit_signal.filter(|_| tracer.tgid() == group.ppid()).unwrap_or(Signal::CHLD);
        let info = SigInfo::child(code, group.tgid, leader.creds().uid, value, 0, 0).with_signal(exit_signal);
        news.parent = Some(Told::of(pids, tracer.group.clone(), Some(info)));
        return news;
    }
    let parent = pids.process(group.ppid()).filter(|parent| parent.ended().is_none());
    news.parent = leave_zombie(pids, group, parent, status);
    news
}

/// A process has ended that nobody traces: its parent is told, and it is reaped where there is none or it does not care.
fn leave_zombie(
    pids: &mut Pids,
    group: &Arc<ThreadGroup>,
    parent: Option<Arc<ThreadGroup>>,
    status: ExitStatus,
) -> Option<Told> {
    let Some(parent) = parent else {
        pids.forget(group.tgid);
        return None;
    };
    let (info, reaped) = exit_notice(group, &parent, status);
    if reaped {
        pids.forget(group.tgid);
    }
    Some(Told::of(pids, parent, info))
}

/// The `SIGCHLD` for a parent, and whether the child is reaped at once because the parent does not care.
fn exit_notice(group: &ThreadGroup, parent: &ThreadGroup, status: ExitStatus) -> (Option<SigInfo>, bool) {
    let Some(signal) = group.inner.lock().exit_signal else { return (None, false) };
    let action = parent.sighand().get(Signal::CHLD);
    let ignored = action.handling() == Handling::Ignore;
    let reaped = signal == Signal::CHLD && (ignored || action.flags().contains(SigFlags::NOCLDWAIT));
    let (code, value) = child_code(status);
    let usage = group.own_usage();
    let (user, system) = (ticks(usage.user_ns), ticks(usage.system_ns));
    let info = SigInfo::child(code, parent.pid_ns.local(group.tgid), parent.show_uid(group.uid()), value, user, system)
        .with_signal(signal);
    (Some(info).filter(|_| !(ignored && signal == Signal::CHLD)), reaped)
}

/// Who gets the children of a process that ends: the nearest living subreaper above it, or the first process.
fn find_heir(pids: &Pids, group: &ThreadGroup) -> Tid {
    let mut at = group.ppid();
    while let Some(ancestor) = pids.process(at).filter(|ancestor| ancestor.pid_ns == group.pid_ns) {
        if ancestor.subreaper.load(Ordering::Relaxed) && ancestor.ended().is_none() {
            return at;
        }
        at = ancestor.ppid();
    }
    let init = group.pid_ns.global(1).unwrap_or(0);
    if pids.process(init).is_some_and(|init| init.ended().is_none()) { init } else { 0 }
}

/// Whether `parent` keeps `child`'s process group from being orphaned.
fn connects(parent: &ThreadGroup, child: &ThreadGroup) -> bool {
    parent.pgid() != child.pgid() && parent.session.read().sid == child.session.read().sid
}

/// If a group is orphaned now and has stopped members, all of it is to be continued (`kill_orphaned_pgrp`).
fn continue_orphans(pids: &Pids, pgid: Tid, into: &mut Vec<Arc<ThreadGroup>>) {
    if pids.is_orphaned(pgid) && pids.members(pgid).any(|member| member.stopped()) {
        into.extend(pids.members(pgid).cloned());
    }
}

fn tell(group: &Arc<ThreadGroup>, status: ExitStatus, news: News) {
    group.timers.clear();
    let (usage, cgroup) = (group.own_usage(), group.cgroup());
    cgroup.add_past_cpu(usage.user_ns, usage.system_ns);
    cgroup.population_changed();
    for process in news.kill_all {
        let _ = process.send_signal_from(SigInfo::kernel(Signal::KILL), Origin::Forced);
    }
    for process in news.orphaned {
        let _ = process.send_signal(SigInfo::kernel(Signal::HUP));
        let _ = process.send_signal(SigInfo::kernel(Signal::CONT));
    }
    if news.leads_session
        && let Some(terminal) = group.session().set_terminal(None)
    {
        terminal.leader_exited();
    }
    for zombie in news.moved_zombies {
        settle_zombie(&group.container, &zombie);
    }
    if let Some(parent) = news.parent {
        parent.finish();
    }
    group.exit_queue.wake(PollEvents::IN);
    let waiting = std::mem::take(&mut group.inner.lock().on_exit);
    for then in waiting {
        then(status);
    }
}

/// A zombie has a new parent: tells it, or reaps it where there is none or it does not care.
pub(super) fn settle_zombie(container: &Container, zombie: &Arc<ThreadGroup>) {
    let mut pids = container.pids.inner.lock();
    let Some(status) = zombie.ended() else { return };
    if pids.traced_leader(zombie.tgid).is_some() {
        return;
    }
    let parent = pids.process(zombie.ppid());
    let told = leave_zombie(&mut pids, zombie, parent, status);
    drop(pids);
    if let Some(told) = told {
        told.finish();
    }
}
