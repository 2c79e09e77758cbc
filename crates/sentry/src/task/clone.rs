//! New threads and processes: `clone` and its family (kernel/fork.c).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::new::{NewGroup, NewTask};
use super::pids::Process;
use super::{
    Capability, Creds, Cx, GroupInner, Limit, PidTable, Resource, Shared, SyscallWork, Task, TaskFlags, ThreadGroup, Tid,
};
use crate::Errno;
use crate::cgroup::{Cgroup, settle};
use crate::fs::cgroup2::group_for_child;
use crate::fs::{FdEntry, FdTable, OpenFlags};
use crate::ipc::pidfd::{Named, PidFd};
use crate::ipc::sysv::UndoList;
use crate::ns::{Namespaces, PidNs, UserNs, new_id};
use crate::ptrace::Event;
use crate::signal::{AltStack, SigAction, SigHand, Signal, TaskSignals};
use crate::syscalls::{Fail, Restart};
use crate::wait::{PollEvents, WaitQueue};

bitflags::bitflags! {
    /// `CLONE_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct CloneFlags: u64 {
        const NEWTIME = 0x80;
        const VM = 0x100;
        const FS = 0x200;
        const FILES = 0x400;
        const SIGHAND = 0x800;
        const PIDFD = 0x1000;
        const PTRACE = 0x2000;
        const VFORK = 0x4000;
        const PARENT = 0x8000;
        const THREAD = 0x1_0000;
        const NEWNS = 0x2_0000;
        const SYSVSEM = 0x4_0000;
        const SETTLS = 0x8_0000;
        const PARENT_SETTID = 0x10_0000;
        const CHILD_CLEARTID = 0x20_0000;
        const DETACHED = 0x40_0000;
        const UNTRACED = 0x80_0000;
        const CHILD_SETTID = 0x100_0000;
        const NEWCGROUP = 0x200_0000;
        const NEWUTS = 0x400_0000;
        const NEWIPC = 0x800_0000;
        const NEWUSER = 0x1000_0000;
        const NEWPID = 0x2000_0000;
        const NEWNET = 0x4000_0000;
        const IO = 0x8000_0000;
        const CLEAR_SIGHAND = 0x1_0000_0000;
        const INTO_CGROUP = 0x2_0000_0000;

        /// New namespaces but for users.
        const NAMESPACES = Self::NEWTIME.bits() | Self::NEWNS.bits() | Self::NEWCGROUP.bits() | Self::NEWUTS.bits()
            | Self::NEWIPC.bits() | Self::NEWPID.bits() | Self::NEWNET.bits();
    }
}

/// What is asked for, by whichever call.
#[derive(Debug, Clone, Default)]
pub struct CloneArgs {
    pub flags: CloneFlags,
    pub exit_signal: Option<Signal>,
    /// The new stack pointer; 0: the caller's.
    pub stack: u64,
    pub tls: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    /// Where the pidfd's number goes.
    pub pidfd: u64,
    /// `clone3`'s `set_tid`: the numbers asked for, in the innermost pid namespace first.
    pub set_tid: Vec<Tid>,
    /// With `CLONE_INTO_CGROUP`: the open directory of a control group.
    pub cgroup: i32,
}

/// What a child is born into.
struct Birth {
    creds: Arc<Creds>,
    namespaces: Arc<Namespaces>,
    pid_ns: PidNs,
    /// The one asked for, if it need not be the parent's.
    cgroup: Option<Arc<Cgroup>>,
}

/// The end of a vfork: the parent waits until the child no longer uses its memory.
#[derive(Default)]
pub(crate) struct Vfork {
    done: AtomicBool,
    queue: WaitQueue,
}

impl Task {
    /// The task no longer uses the memory it shares with whoever vforked it.
    pub(super) fn end_vfork(&self) {
        let vfork = self.vfork.lock().take();
        if let Some(vfork) = vfork {
            vfork.done.store(true, Ordering::SeqCst);
            vfork.queue.wake(PollEvents::IN);
        }
    }
}

impl Cx {
    /// Makes a new thread or process, and with `CLONE_VFORK` waits until it lets go. Returns its number.
    ///
    /// # Errors
    /// As clone(2).
    pub async fn clone_task(&mut self, args: CloneArgs) -> Result<Tid, Fail> {
        check_flags(&args, self)?;
        // A signal to the process group must not miss the child: one that was sent before this has set a flag, one after it is noticed in `add_task`.
        let broadcasts = *self.task.container.pids.broadcasts.lock();
        if !args.flags.contains(CloneFlags::THREAD) && self.task.flags().intersects(TaskFlags::SIGNAL | TaskFlags::KILLED) {
            return Err(Fail::Restart(Restart::Always));
        }
        if !args.flags.contains(CloneFlags::THREAD) && self.too_many_processes() {
            return Err(Errno::EAGAIN.into());
        }
        let birth = self.birth(&args)?;
        let state = self.xstate().await?;
        let mm = if args.flags.contains(CloneFlags::VM) {
            self.mm.clone()
        } else {
            let mm = self.mm.fork(self.context.registers().rsp)?;
            mm.membarrier.store(self.mm.membarrier.load(Ordering::SeqCst), Ordering::SeqCst);
            mm
        };
        let mut context = mm.space().new_context().map_err(|_| Errno::EAGAIN)?;
        let mut registers = *self.context.registers();
        registers.rax = 0;
        if args.stack != 0 {
            registers.rsp = args.stack;
        }
        if args.flags.contains(CloneFlags::SETTLS) {
            registers.fs_base = args.tls;
        }
        registers.sanitise();
        *context.registers_mut() = registers;
        context.set_xstate(state);
        let files = if args.flags.contains(CloneFlags::FILES) { self.files.clone() } else { self.files.duplicate() };
        let fs = if args.flags.contains(CloneFlags::FS) { self.fs.clone() } else { self.fs.duplicate() };
        if args.flags.contains(CloneFlags::NEWNS) {
            fs.unshare_mounts(birth.creds.user_ns.clone())?;
        }
        let event = Event::of_clone(&args).filter(|&event| self.task.wants_event(event));
        let pidfd = match args.flags.contains(CloneFlags::PIDFD) {
            true => Some(self.reserve_pidfd(args.pidfd)?),
            false => None,
        };
        let add = || self.add_task(&args, &birth, event, broadcasts);
        let added = match &birth.cgroup {
            Some(group) => settle(group, add).map_err(Fail::from).and_then(|added| added),
            None => add(),
        };
        let task = added.inspect_err(|_| {
            if let Some(fd) = pidfd {
                drop(self.files.remove(fd));
            }
        })?;
        if let Some(fd) = pidfd {
            self.put_pidfd(fd, &task, args.flags);
        }
        let tid = self.local(task.tid());
        if args.flags.contains(CloneFlags::SYSVSEM) {
            let undo = self.task.sem_undo.lock().get_or_insert_with(|| UndoList::new(self.task.tgid())).clone();
            *task.sem_undo.lock() = Some(undo);
        }
        let vfork = args.flags.contains(CloneFlags::VFORK).then(Arc::<Vfork>::default);
        task.vfork.lock().clone_from(&vfork);
        // As in Linux, these stores may fail silently.
        if args.flags.contains(CloneFlags::PARENT_SETTID) {
            let _ = self.mm.write_val(args.parent_tid, &tid);
        }
        if args.flags.contains(CloneFlags::CHILD_SETTID) {
            let _ = mm.write_val(args.child_tid, &task.group.pid_ns.local(task.tid()));
        }
        if args.flags.contains(CloneFlags::CHILD_CLEARTID) {
            task.clear_child_tid.store(args.child_tid, Ordering::Relaxed);
        }
        let shared = Shared { mm, files, fs };
        // Others may look at it before it runs.
        *task.shared.write() = Some(shared.clone());
        Cx::new(task, shared, context).start();
        if let Some(event) = event {
            self.trace_event(event, tid as u64).await;
        }
        if let Some(vfork) = vfork {
            let queues = [(&vfork.queue, PollEvents::IN)];
            let done = || vfork.done.load(Ordering::SeqCst).then_some(());
            // A fatal signal ends the wait; the call then no longer returns.
            if self.task.wait_killable(&queues, done).await.is_ok() {
                self.trace_event(Event::VforkDone, tid as u64).await;
            }
        }
        Ok(tid)
    }

    /// The namespaces and credentials that the child is born into.
    fn birth(&self, args: &CloneArgs) -> Result<Birth, Errno> {
        let mut creds = self.creds();
        if args.flags.contains(CloneFlags::NEWUSER) {
            let ns = UserNs::make(new_id(self.kernel()), &creds)?;
            Arc::make_mut(&mut creds).enter(ns);
        }
        let mut namespaces = self.task.namespaces();
        let active = &self.task.group.pid_ns;
        if args.flags.intersects(CloneFlags::NAMESPACES) {
            let new = namespaces.unshare(self.kernel(), &creds, active, args.flags)?;
            if args.flags.contains(CloneFlags::NEWIPC | CloneFlags::SYSVSEM) {
                return Err(Errno::EINVAL);
            }
            namespaces = Arc::new(new);
        }
        let thread = args.flags.contains(CloneFlags::THREAD);
        let pid_ns = if thread { active.clone() } else { namespaces.pid_for_children.clone() };
        check_set_tid(&pid_ns, &args.set_tid, &self.creds())?;
        let cgroup = match args.flags.contains(CloneFlags::INTO_CGROUP) {
            true => self.cgroup_for(args)?,
            false => None,
        };
        Ok(Birth { creds, namespaces, pid_ns, cgroup })
    }

    /// The control group asked for; None for a thread, which is in its process's.
    fn cgroup_for(&self, args: &CloneArgs) -> Result<Option<Arc<Cgroup>>, Errno> {
        let own = self.task.group.cgroup();
        let group = group_for_child(&*self.file(args.cgroup)?, &own, &self.creds())?;
        match args.flags.contains(CloneFlags::THREAD) {
            false => Ok(Some(group)),
            true if Arc::ptr_eq(&group, &own) => Ok(None),
            // A process is in one group whole: there are no threaded groups.
            true => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Takes a descriptor for a child that is not there yet, and stores its number.
    fn reserve_pidfd(&self, addr: u64) -> Result<i32, Errno> {
        let file = PidFd::file(self, Named::Process(self.task.group.clone()), OpenFlags::empty());
        let fd = crate::syscalls::fds::install(self, file, true)?;
        self.mm.write_val(addr, &fd).inspect_err(|_| drop(self.files.remove(fd)))?;
        Ok(fd)
    }

    fn put_pidfd(&self, fd: i32, task: &Arc<Task>, flags: CloneFlags) {
        let named = if flags.contains(CloneFlags::THREAD) { Named::thread(task) } else { Named::Process(task.group.clone()) };
        let file = PidFd::file(self, named, OpenFlags::empty());
        // The number is taken already, so it is below the limit.
        let _ = self.files.replace(fd, FdEntry { file, close_on_exec: true }, FdTable::MAX);
    }

    /// Numbers the new task and puts it into the tree. There had been that many `broadcasts` when its making began.
    fn add_task(&self, args: &CloneArgs, birth: &Birth, event: Option<Event>, broadcasts: u64) -> Result<Arc<Task>, Fail> {
        let (parent, container) = (&self.task, &self.task.container);
        let sent = container.pids.broadcasts.lock();
        let reached = *sent != broadcasts && parent.flags().intersects(TaskFlags::SIGNAL | TaskFlags::KILLED);
        if reached && !args.flags.contains(CloneFlags::THREAD) {
            return Err(Fail::Restart(Restart::Always));
        }
        let mut pids = container.pids.inner.lock();
        pids.admit(container)?;
        let cgroup = birth.cgroup.clone().unwrap_or_else(|| parent.group.cgroup());
        pids.admit_to_cgroup(&cgroup)?;
        // Under the lock: whoever ends the namespace kills what is in the table.
        if birth.pid_ns.is_dead() {
            return Err(Errno::ENOMEM.into());
        }
        let tid = pids.number(&birth.pid_ns, &args.set_tid)?;
        let group = if args.flags.contains(CloneFlags::THREAD) {
            parent.group.clone()
        } else {
            self.new_group(tid, args, birth, cgroup)
        };
        let task = Task::new(&parent.kernel, container, self.new_task(tid, group.clone(), args, birth));
        {
            let mut inner = group.inner.lock();
            if inner.exiting.is_some() || inner.execing.is_some() {
                drop(inner);
                pids.release(&birth.pid_ns, tid);
                return Err(Fail::Restart(Restart::Always));
            }
            // Under the lock, so that no filter set for all threads is missed.
            task.set_seccomp(parent.seccomp());
            task.add_work(parent.work() & SyscallWork::EXACT);
            inner.threads.push(task.clone());
            if inner.stop.signal.is_some() || container.life.paused() || group.cgroup().is_frozen() {
                task.set_flags(TaskFlags::STOP);
            }
        }
        if !args.flags.contains(CloneFlags::THREAD) {
            pids.processes.insert(tid, Process { group: group.clone(), leader: task.clone(), children: Vec::new() });
            let ppid = if args.flags.contains(CloneFlags::PARENT) { parent.group.ppid() } else { parent.tgid() };
            pids.set_parent(&group, ppid);
        }
        pids.tasks.insert(tid, task.clone());
        if event.is_some() || args.flags.contains(CloneFlags::PTRACE) {
            task.trace_as(parent, &mut super::Tracing(&mut pids));
        }
        drop(pids);
        if !args.flags.contains(CloneFlags::THREAD) {
            group.cgroup().population_changed();
        }
        if !args.flags.contains(CloneFlags::THREAD) && task.rlimit(Resource::Cpu) != Limit::UNLIMITED {
            group.timers.watch_cpu_limit(&group, &task.kernel);
        }
        Ok(task)
    }

    /// `RLIMIT_NPROC`, counted by real user.
    fn too_many_processes(&self) -> bool {
        let Limit { soft, .. } = self.task.rlimit(Resource::Nproc);
        let creds = self.creds();
        if soft == Limit::INFINITY || creds.uid == 0 || creds.has(Capability::SysResource) || creds.has(Capability::SysAdmin) {
            return false;
        }
        let pids = self.task.container.pids.inner.lock();
        pids.tasks.values().filter(|task| task.creds().uid == creds.uid).count() as u64 >= soft
    }

    fn new_group(&self, tid: Tid, args: &CloneArgs, birth: &Birth, cgroup: Arc<Cgroup>) -> Arc<ThreadGroup> {
        let parent = &self.task.group;
        let sighand = match () {
            () if args.flags.contains(CloneFlags::SIGHAND) => parent.sighand(),
            () if args.flags.contains(CloneFlags::CLEAR_SIGHAND) => cleared(&parent.sighand()),
            () => parent.sighand().duplicate(),
        };
        let (exit_signal, parent_thread) = match args.flags.contains(CloneFlags::PARENT) {
            true => {
                let inner = parent.inner.lock();
                (inner.exit_signal, inner.parent_thread.clone())
            }
            false => (args.exit_signal, Arc::downgrade(&self.task)),
        };
        let new = NewGroup {
            tgid: tid,
            cgroup,
            rlimits: parent.rlimits.read().clone(),
            sighand,
            pgid: parent.pgid(),
            session: parent.session(),
            dumpable: parent.dumpable.load(Ordering::Relaxed),
            personality: parent.personality.load(Ordering::Relaxed),
            coredump_filter: parent.coredump_filter.load(Ordering::Relaxed),
            flags: parent.flags.duplicate(),
            oom_score_adj: parent.oom_score_adj.load(Ordering::Relaxed),
            exe: parent.exe.lock().clone(),
            pid_ns: birth.pid_ns.clone(),
            inner: GroupInner { exit_signal, parent_thread, ..GroupInner::default() },
        };
        ThreadGroup::new(&self.task.kernel, &self.task.container, new)
    }

    fn new_task(&self, tid: Tid, group: Arc<ThreadGroup>, args: &CloneArgs, birth: &Birth) -> NewTask {
        let parent = &self.task;
        let (blocked, alt_stack) = {
            let signals = parent.signals.lock();
            (signals.blocked, signals.alt_stack)
        };
        // A thread has no alternate stack; a vfork child keeps it.
        let keeps = !args.flags.contains(CloneFlags::VM) || args.flags.contains(CloneFlags::VFORK);
        let mut scheduling = *parent.scheduling.lock();
        if scheduling.reset_on_fork {
            // Real time ends with the parent, and so does what is better than usual.
            let real_time = scheduling.priority != 0;
            let nice = if real_time { 0 } else { scheduling.nice.max(0) };
            let policy = if real_time { 0 } else { scheduling.policy };
            scheduling = super::Scheduling { policy, nice, priority: 0, reset_on_fork: false, ..scheduling };
        }
        NewTask {
            tid,
            group,
            creds: birth.creds.clone(),
            namespaces: birth.namespaces.clone(),
            name: parent.name.lock().clone(),
            signals: TaskSignals {
                blocked,
                alt_stack: if keeps { alt_stack } else { AltStack::default() },
                ..TaskSignals::default()
            },
            scheduling,
            timer_slack_ns: parent.timer_slack_ns.load(Ordering::Relaxed),
        }
    }
}

/// `CLONE_CLEAR_SIGHAND`: all handlers default, what is ignored stays ignored.
fn cleared(sighand: &SigHand) -> Arc<SigHand> {
    let new = SigHand::new();
    let ignored = sighand.ignored();
    for signal in (1..=Signal::MAX).filter_map(Signal::new).filter(|&signal| ignored.contains(signal)) {
        new.set(signal, SigAction::IGNORE);
    }
    new
}

/// The checks of `copy_process`.
fn check_flags(args: &CloneArgs, cx: &Cx) -> Result<(), Errno> {
    use CloneFlags as F;
    let flags = args.flags;
    let both = |a: F, b: F| flags.contains(a) && flags.contains(b);
    let without = |a: F, b: F| flags.contains(a) && !flags.contains(b);
    if both(F::PIDFD, F::PARENT_SETTID) && args.pidfd == args.parent_tid {
        return Err(Errno::EINVAL);
    }
    if both(F::NEWNS, F::FS) || both(F::NEWUSER, F::FS) || without(F::THREAD, F::SIGHAND) || without(F::SIGHAND, F::VM) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(F::PARENT) && cx.task.group.is_init() {
        return Err(Errno::EINVAL);
    }
    let elsewhere = || cx.task.namespaces().pid_for_children != cx.task.group.pid_ns;
    if flags.contains(F::THREAD) && (flags.intersects(F::NEWPID | F::NEWUSER) || elsewhere()) {
        return Err(Errno::EINVAL);
    }
    if both(F::SIGHAND, F::CLEAR_SIGHAND) || both(F::PIDFD, F::DETACHED) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Whether the numbers asked for may be given (`alloc_pid`): in each namespace from the innermost outwards.
fn check_set_tid(ns: &PidNs, set_tid: &[Tid], creds: &Creds) -> Result<(), Errno> {
    if set_tid.len() > ns.level() as usize + 1 {
        return Err(Errno::EINVAL);
    }
    let mut at = Some(ns.clone());
    for &tid in set_tid {
        let Some(ns) = at else { return Err(Errno::EINVAL) };
        if !(1..PidTable::MAX).contains(&tid) || (tid != 1 && !ns.has_begun()) {
            return Err(Errno::EINVAL);
        }
        if !creds.has_in(&ns.owner(), Capability::SysAdmin) && !creds.has_in(&ns.owner(), Capability::CheckpointRestore) {
            return Err(Errno::EPERM);
        }
        at = ns.parent();
    }
    Ok(())
}
