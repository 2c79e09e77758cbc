//! Who may look into whom (`__ptrace_may_access`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::task::{Capability, Creds, Task};

/// By which of the caller's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Real ids and permitted capabilities: ptrace, `process_vm_*`.
    Real,
    /// File-system ids and effective capabilities: /proc.
    FileSystem,
}

impl Task {
    /// Whether this task may look into `other` and change it.
    pub(crate) fn may_access(&self, other: &Task, mode: Mode) -> bool {
        if Arc::ptr_eq(&self.group, &other.group) {
            return true;
        }
        let (ours, theirs) = (self.creds(), other.creds());
        if ours.has_in(&theirs.user_ns, Capability::SysPtrace) {
            return true;
        }
        let dumpable = other.group.dumpable.load(Ordering::Relaxed) == 1;
        dumpable && same_ids(&ours, &theirs, mode)
    }
}

fn same_ids(ours: &Creds, theirs: &Creds, mode: Mode) -> bool {
    let (uid, gid, capabilities) = match mode {
        Mode::Real => (ours.uid, ours.gid, ours.permitted),
        Mode::FileSystem => (ours.fsuid, ours.fsgid, ours.effective),
    };
    [theirs.uid, theirs.euid, theirs.suid].iter().all(|&other| other == uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|&other| other == gid)
        && (ours.user_ns != theirs.user_ns || theirs.permitted & !capabilities == 0)
}
