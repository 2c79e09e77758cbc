//! [`SyscallWork`]: what stands between a system call and its handler.

use std::sync::atomic::Ordering;

use super::{Cx, Task};
use crate::seccomp::Mode;

/// getpid gettid getppid getuid geteuid getgid getegid sched_yield: what a stub may answer.
const ANSWERED: [u64; 8] = [39, 186, 110, 102, 107, 104, 108, 24];

bitflags::bitflags! {
    /// Zero in the usual case, so that a call costs one load more.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct SyscallWork: u32 {
        /// A seccomp mode is set.
        const SECCOMP = 1;
        /// The task (or a tracer) looks at addresses and registers of calls: every call comes as a trap of its own, with no patched sites.
        /// Never taken back. A container's own profile does without: patched calls are filtered just so.
        const EXACT = 2;
        /// It has a tracer.
        const TRACED = 4;
        /// The tracer wants to see both ends of each call.
        const SYSCALL_TRACE = 8;
        /// The tracer makes the calls itself (`PTRACE_SYSEMU`).
        const SYSCALL_EMU = 16;
        /// It runs one instruction at a time.
        const STEP = 32;
        /// What needs the long way through a call.
        const SLOW = Self::SYSCALL_TRACE.bits() | Self::SYSCALL_EMU.bits() | Self::STEP.bits();
    }
}

impl Task {
    pub(crate) fn work(&self) -> SyscallWork {
        SyscallWork::from_bits_retain(self.work.load(Ordering::Relaxed))
    }

    pub(crate) fn add_work(&self, work: SyscallWork) {
        self.work.fetch_or(work.bits(), Ordering::SeqCst);
    }

    pub(crate) fn remove_work(&self, work: SyscallWork) {
        self.work.fetch_and(!work.bits(), Ordering::SeqCst);
    }
}

impl Cx {
    /// There is work now.
    pub(crate) fn work_changed(&mut self) {
        if self.task.work().contains(SyscallWork::EXACT) {
            self.mm.disable_patching();
        }
        self.set_identity();
    }

    /// Whether the stub may answer calls by itself: nobody would see them otherwise.
    pub(super) fn may_answer_in_stub(&self) -> bool {
        let work = self.task.work();
        if work.contains(SyscallWork::EXACT) || self.task.container.life.strace.load(Ordering::Relaxed) {
            return false;
        }
        let seccomp = self.task.seccomp.lock();
        match (seccomp.mode, &seccomp.filter) {
            (Mode::Disabled, _) => true,
            (Mode::Filter, Some(filter)) => ANSWERED.iter().all(|&number| filter.always_allows(number)),
            _ => false,
        }
    }
}
