//! Guest seccomp: filters that a process puts on its own system calls (kernel/seccomp.c).
//!
//! A filter is a classic BPF program ([`Program`](crate::bpf::Program)), checked when it is installed and interpreted at each call. Filters form a chain: a new
//! one is asked before those it was put on, and the most restrictive answer counts. A [`Filter`] knows which numbers its whole chain
//! always allows; those cost a look at a bitmap.
//!
//! Files: `filter` (the chain), `enforce` (what an answer does to a task), `state` (a task's mode,
//! installing, `TSYNC`), `profile` (OCI's `linux.seccomp`, compiled to the same programs). The task loop asks by way of
//! [`SyscallWork::SECCOMP`](crate::task::SyscallWork), for patched calls too. A process that made a filter itself has patched call sites turned off, since the
//! filter and its handlers look at addresses; answers in the stub are off unless all filters allow them.
//!
//! Not there: user notification. `SECCOMP_FILTER_FLAG_NEW_LISTENER` is `EINVAL`, as on Linux before 5.0.

mod enforce;
mod filter;
pub mod profile;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use enforce::{Asked, Verdict};
pub use filter::{Data, Filter};
pub use state::{FilterFlags, Mode, Seccomp};

/// `AUDIT_ARCH_X86_64`.
pub const ARCH: u32 = 0xc000_003e;

/// `SECCOMP_RET_*`: what a filter says, without its 16 bits of data.
pub mod ret {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    /// The bits that are the action.
    pub const ACTION: u32 = 0xffff_0000;
    /// The bits that are data.
    pub const DATA: u32 = 0x0000_ffff;
}
