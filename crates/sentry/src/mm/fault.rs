//! Faults of the application.

use platform::Fault;

use super::Mm;

/// What to do after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOutcome {
    /// Run on: the fault has been dealt with.
    Resume,
    /// Run on there: the thread was inside a patched system-call site.
    MovedTo(u64),
    /// Send this signal (forced).
    Signal { signo: i32, code: i32, addr: u64 },
    /// The container's memory is used up: kill the process as the out-of-memory killer does.
    OutOfMemory,
}

impl Mm {
    /// Deals with a fault at instruction `rip`.
    pub fn fault(&self, fault: &Fault, _rip: u64) -> FaultOutcome {
        FaultOutcome::Signal { signo: fault.signal, code: fault.code, addr: fault.addr }
    }

    /// Where a thread stopped at `rip` must go on, if that is an instruction boundary that a patch has destroyed. For signal
    /// frames' return, and contexts stopped while a patch was made.
    pub fn moved(&self, _rip: u64) -> Option<u64> {
        None
    }

    /// After a system call that came in by a trap from `return_ip - 2`: rewrites the site, if that can be done. Returns where the
    /// thread must go on if `return_ip` is no longer an instruction.
    pub fn patch(&self, _return_ip: u64, _number: u64) -> Option<u64> {
        None
    }

    /// No (more) patched sites in this address space: it is traced, filtered, or uses %gs.
    pub fn disable_patching(&self) {}
}
