//! Becoming a tracer, and ceasing to be one.

use std::sync::{Arc, Weak};

use super::{Mode, Options};
use crate::Errno;
use crate::signal::{Charge, Origin, SigInfo, Signal};
use crate::task::{ExitStatus, SyscallWork, Task, TaskFlags, Tracing};

/// How a tracer gets hold of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// TRACEME, ATTACH: stops are signals.
    Classic,
    Seized(Options),
}

impl Task {
    /// Links a tracee to its tracer. The caller holds the table's lock.
    fn link(self: &Arc<Task>, tracer: &Arc<Task>, kind: Kind, tracing: &mut Tracing<'_>) {
        {
            let mut state = self.ptrace.lock();
            state.tracer = Arc::downgrade(tracer);
            (state.seized, state.options) = match kind {
                Kind::Classic => (false, Options::empty()),
                Kind::Seized(options) => (true, options),
            };
        }
        self.add_work(SyscallWork::TRACED | SyscallWork::EXACT);
        tracing.add(self.clone());
    }

    /// Calls of a traced task come as traps of their own; what is patched already goes back.
    fn exact_from_now_on(&self) {
        let mm = self.shared.read().as_ref().map(|shared| shared.mm.clone());
        if let Some(mm) = mm {
            mm.disable_patching();
        }
        self.raise(TaskFlags::IDENTITY);
    }

    /// `PTRACE_TRACEME`: the parent becomes the tracer.
    ///
    /// # Errors
    /// `EPERM` when there is one already, or there is no parent (in the container).
    pub(crate) fn trace_me(self: &Arc<Task>) -> Result<(), Errno> {
        if self.traced() {
            return Err(Errno::EPERM);
        }
        let pids = &self.container.pids;
        pids.with_tracing(|tracing| {
            let thread = self.group.inner.lock().parent_thread.upgrade();
            let parent =
                thread.filter(|thread| thread.tgid() == self.group.ppid()).filter(|thread| thread.shared.read().is_some());
            let parent = parent.or_else(|| tracing.leader(self.group.ppid())).ok_or(Errno::EPERM)?;
            if self.creds().permitted & !parent.creds().permitted != 0
                && !parent.creds().has(crate::task::Capability::SysPtrace)
            {
                return Err(Errno::EPERM);
            }
            self.link(&parent, Kind::Classic, tracing);
            Ok(())
        })?;
        self.exact_from_now_on();
        Ok(())
    }

    /// `PTRACE_ATTACH`.
    ///
    /// # Errors
    /// `EPERM`.
    pub(crate) fn attach_to(self: &Arc<Task>, target: &Arc<Task>) -> Result<(), Errno> {
        self.become_tracer(target, Kind::Classic)?;
        let stop = SigInfo::kernel(Signal::STOP);
        let _ = target.send_signal_from(stop, Origin::Forced);
        Ok(())
    }

    /// `PTRACE_SEIZE`.
    ///
    /// # Errors
    /// `EPERM`.
    pub(crate) fn seize(self: &Arc<Task>, target: &Arc<Task>, options: Options) -> Result<(), Errno> {
        self.become_tracer(target, Kind::Seized(options))
    }

    fn become_tracer(self: &Arc<Task>, target: &Arc<Task>, kind: Kind) -> Result<(), Errno> {
        if Arc::ptr_eq(&self.group, &target.group) || !self.may_access(target, Mode::Real) {
            return Err(Errno::EPERM);
        }
        self.container.pids.with_tracing(|tracing| {
            if target.traced() || !tracing.alive(target) {
                return Err(Errno::EPERM);
            }
            target.link(self, kind, tracing);
            // One that is stopped already shows that to its tracer.
            let stopped = target.group.inner.lock().stop.signal.is_some();
            if stopped {
                target.ptrace.lock().trap = true;
            }
            Ok(())
        })?;
        target.exact_from_now_on();
        target.raise(TaskFlags::STOP);
        Ok(())
    }

    /// A new task of a traced one is traced as well (`ptrace_init_task`); before it runs. The caller holds the table's lock.
    pub(crate) fn trace_as(self: &Arc<Task>, parent: &Task, tracing: &mut Tracing<'_>) {
        let (tracer, seized, options) = {
            let state = parent.ptrace.lock();
            (state.tracer.upgrade(), state.seized, state.options)
        };
        let Some(tracer) = tracer else { return };
        let kind = if seized { Kind::Seized(options) } else { Kind::Classic };
        self.link(&tracer, kind, tracing);
        let mut state = self.ptrace.lock();
        state.options = options;
        state.trap = seized;
        drop(state);
        if seized {
            self.set_flags(TaskFlags::STOP);
        } else {
            let counter = self.container.queued_signals.of(self.creds().uid);
            self.signals.lock().pending.push(SigInfo::kernel(Signal::STOP), Charge::new(&counter));
            self.set_flags(TaskFlags::SIGNAL);
        }
    }

    /// Lets go of a tracee, which goes on with `signal` if it is stopped (None: with what it had). The caller holds the table's lock and has
    /// taken it off the list.
    pub(crate) fn let_go(&self, signal: Option<i32>) {
        {
            let mut state = self.ptrace.lock();
            state.tracer = Weak::new();
            state.seized = false;
            state.options = Options::empty();
            (state.trap, state.notify, state.listening) = (false, false, false);
            if let (Some(stop), Some(signal)) = (&mut state.stop, signal) {
                stop.resume = Some(signal);
            }
        }
        let tracing = SyscallWork::TRACED | SyscallWork::SYSCALL_TRACE | SyscallWork::SYSCALL_EMU | SyscallWork::STEP;
        self.remove_work(tracing);
        self.ptrace.wake();
        // A group stop that is in effect holds it now.
        self.raise(TaskFlags::STOP);
    }
}

/// What became of a tracee whose tracer has ended; to be settled without locks.
pub(crate) struct Detached {
    pub task: Arc<Task>,
    /// `PTRACE_O_EXITKILL`.
    pub kill: bool,
    /// It had ended: its parent is to be told.
    pub ended: Option<ExitStatus>,
}

/// The tracer has ended: its tracees run free (`exit_ptrace`). The caller holds the table's lock.
pub(crate) fn detach_all_of(tracer: &Arc<Task>, tracing: &mut Tracing<'_>) -> Vec<Detached> {
    let tracees = tracing.take_of(tracer);
    tracees
        .into_iter()
        .map(|task| {
            let kill = task.ptrace.lock().options.contains(Options::EXITKILL);
            task.let_go(None);
            let ended = if task.is_leader() { task.group.ended() } else { None };
            Detached { task, kill, ended }
        })
        .collect()
}

impl Detached {
    /// Does what is left to do. A zombie is settled by the caller.
    pub fn kill(&self) {
        if self.kill {
            let _ = self.task.group.send_signal_from(SigInfo::kernel(Signal::KILL), Origin::Forced);
        }
    }
}
