//! [`Seccomp`]: a task's mode and filters, and how they are set.

use std::sync::Arc;

use super::Filter;
use crate::Errno;
use crate::bpf::Program;
use crate::task::{Capability, Cx, SyscallWork, Task, TaskFlags, Tid};

/// `SECCOMP_MODE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Disabled = 0,
    /// read, write, exit and `rt_sigreturn` only.
    Strict = 1,
    Filter = 2,
}

/// Under the task's own lock; set under its group's too.
#[derive(Debug, Clone, Default)]
pub struct Seccomp {
    pub mode: Mode,
    pub filter: Option<Arc<Filter>>,
}

bitflags::bitflags! {
    /// `SECCOMP_FILTER_FLAG_*` that are there. Speculation is the host's matter.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct FilterFlags: u64 {
        const TSYNC = 1;
        const LOG = 2;
        const SPEC_ALLOW = 4;
        const TSYNC_ESRCH = 16;
    }
}

impl Seccomp {
    /// How many filters there are.
    pub fn filters(&self) -> usize {
        self.filter.as_ref().map_or(0, |filter| filter.depth())
    }

    /// Whether the mode may become `mode`: it never goes back.
    fn may_become(&self, mode: Mode) -> Result<(), Errno> {
        if self.mode == Mode::Disabled || self.mode == mode { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

impl Task {
    /// Its mode and filters now.
    pub fn seccomp(&self) -> Seccomp {
        self.seccomp.lock().clone()
    }

    /// Sets mode and filters. Calls are filtered from the next one on.
    pub(crate) fn set_seccomp(&self, new: Seccomp) {
        let on = new.mode != Mode::Disabled;
        *self.seccomp.lock() = new;
        if on {
            self.add_work(SyscallWork::SECCOMP);
        }
    }

    /// As [`set_seccomp`](Task::set_seccomp), for a filter that the guest made itself.
    fn filter_exactly(&self, new: Seccomp) {
        self.add_work(SyscallWork::EXACT);
        self.set_seccomp(new);
    }
}

impl Cx {
    /// Strict mode.
    ///
    /// # Errors
    /// `EINVAL` with a filter.
    pub fn seccomp_strict(&mut self) -> Result<(), Errno> {
        let group = self.task.group.clone();
        let inner = group.inner.lock();
        let mut new = self.task.seccomp();
        new.may_become(Mode::Strict)?;
        new.mode = Mode::Strict;
        self.task.filter_exactly(new);
        drop(inner);
        self.work_changed();
        Ok(())
    }

    /// Whether filters may be installed at all.
    ///
    /// # Errors
    /// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`.
    pub fn may_filter(&self) -> Result<(), Errno> {
        let creds = self.creds();
        if creds.no_new_privs || creds.has_own(Capability::SysAdmin) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Puts a filter on this thread, with `TSYNC` on all threads of the process. A thread that cannot take it is returned, and nothing
    /// has changed.
    ///
    /// # Errors
    /// `EINVAL` in strict mode, `ENOMEM` when the chain becomes too long, `ESRCH` instead of a thread with `TSYNC_ESRCH`.
    pub fn seccomp_filter(&mut self, program: Program, flags: FilterFlags) -> Result<Option<Tid>, Errno> {
        let group = self.task.group.clone();
        let inner = group.inner.lock();
        let old = self.task.seccomp();
        old.may_become(Mode::Filter)?;
        let others =
            inner.threads.iter().filter(|thread| flags.contains(FilterFlags::TSYNC) && !Arc::ptr_eq(thread, &self.task));
        let stranger = others.clone().find(|thread| {
            let theirs = thread.seccomp();
            theirs.mode == Mode::Strict || !Filter::is_ancestor(theirs.filter.as_ref(), old.filter.as_ref())
        });
        if let Some(stranger) = stranger {
            return if flags.contains(FilterFlags::TSYNC_ESRCH) { Err(Errno::ESRCH) } else { Ok(Some(stranger.tid())) };
        }
        let filter = Filter::new(program, flags.contains(FilterFlags::LOG), old.filter)?;
        let new = Seccomp { mode: Mode::Filter, filter: Some(filter) };
        let no_new_privs = self.creds().no_new_privs;
        for thread in others {
            if no_new_privs && !thread.creds().no_new_privs {
                let mut creds = (*thread.creds()).clone();
                creds.no_new_privs = true;
                *thread.creds.write() = Arc::new(creds);
            }
            thread.filter_exactly(new.clone());
            thread.raise(TaskFlags::IDENTITY);
        }
        self.task.filter_exactly(new);
        drop(inner);
        self.work_changed();
        Ok(None)
    }
}
