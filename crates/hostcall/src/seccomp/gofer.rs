//! What a gofer may ask of the host kernel.
//!
//! It receives requests, opens and changes files by descriptor, answers, and manages its memory. It cannot make threads, processes or
//! sockets, connect, run programs, map files, or signal anyone but itself.

use super::{
    AllowList,
    Arg::{Is, Masked, Without},
    Call,
};
use crate::at;

/// Which of its lists a gofer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoferCalls {
    /// All attaches are read-only.
    ReadOnly,
    ReadWrite,
}

const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
const ANONYMOUS: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;

/// The gofer's list.
pub fn list(calls: GoferCalls) -> AllowList {
    let mut list = reading();
    if calls == GoferCalls::ReadWrite {
        list.extend(writing());
    }
    AllowList { process: "gofer", calls: list }
}

fn reading() -> Vec<Call> {
    vec![
        // The conversation.
        Call::any(libc::SYS_recvmsg, "recvmsg"),
        Call::any(libc::SYS_sendmsg, "sendmsg"),
        // Files. `openat` is not here: all paths go through openat2's RESOLVE flags.
        Call::any(libc::SYS_openat2, "openat2"),
        Call::any(libc::SYS_close, "close"),
        // The standard library asks it of each descriptor it closes, where debug assertions are on.
        Call::only(libc::SYS_fcntl, "fcntl", &[&[Is(1, libc::F_GETFD as u32)]]),
        Call::any(libc::SYS_statx, "statx"),
        Call::any(libc::SYS_readlinkat, "readlinkat"),
        Call::any(libc::SYS_getdents64, "getdents64"),
        Call::any(libc::SYS_lseek, "lseek"),
        Call::any(libc::SYS_fstatfs, "fstatfs"),
        Call::any(libc::SYS_fsync, "fsync"),
        Call::any(libc::SYS_fdatasync, "fdatasync"),
        Call::any(libc::SYS_fgetxattr, "fgetxattr"),
        Call::any(libc::SYS_flistxattr, "flistxattr"),
        // Memory and the end. Large buffers and thread-safe locks of the allocator.
        Call::only(libc::SYS_mmap, "mmap", &[&[Is(3, ANONYMOUS), Without(2, PROT_EXEC)]]),
        Call::any(libc::SYS_munmap, "munmap"),
        Call::any(libc::SYS_mremap, "mremap"),
        Call::any(libc::SYS_brk, "brk"),
        Call::only(libc::SYS_madvise, "madvise", &[&[Is(2, libc::MADV_DONTNEED as u32)]]),
        Call::only(
            libc::SYS_futex,
            "futex",
            &[
                &[Is(1, (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32)],
                &[Is(1, (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u32)],
            ],
        ),
        Call::any(libc::SYS_restart_syscall, "restart_syscall"),
        Call::any(libc::SYS_rt_sigreturn, "rt_sigreturn"),
        Call::any(libc::SYS_sigaltstack, "sigaltstack"),
        Call::any(libc::SYS_exit_group, "exit_group"),
        // Where the vDSO cannot read the clock.
        Call::only(libc::SYS_clock_gettime, "clock_gettime", &[&[Is(0, libc::CLOCK_MONOTONIC as u32)]]),
        // Last words: to standard error only.
        Call::only(libc::SYS_write, "write", &[&[Is(0, 2)]]),
        Call::any(libc::SYS_geteuid, "geteuid"),
    ]
}

fn writing() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_ftruncate, "ftruncate"),
        Call::any(libc::SYS_mkdirat, "mkdirat"),
        Call::only(
            libc::SYS_mknodat,
            "mknodat",
            // No devices.
            &[
                &[Masked(2, libc::S_IFMT, libc::S_IFREG)],
                &[Masked(2, libc::S_IFMT, libc::S_IFIFO)],
                &[Masked(2, libc::S_IFMT, libc::S_IFSOCK)],
            ],
        ),
        Call::any(libc::SYS_symlinkat, "symlinkat"),
        Call::only(libc::SYS_linkat, "linkat", &[&[Is(4, 0)]]),
        Call::any(libc::SYS_unlinkat, "unlinkat"),
        Call::any(libc::SYS_renameat2, "renameat2"),
        Call::any(libc::SYS_fchownat, "fchownat"),
        Call::any(at::SYS_FCHMODAT2, "fchmodat2"),
        Call::any(libc::SYS_fchmod, "fchmod"),
        Call::any(libc::SYS_utimensat, "utimensat"),
        Call::any(libc::SYS_fsetxattr, "fsetxattr"),
        Call::any(libc::SYS_fremovexattr, "fremovexattr"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_compile_and_stay_short() {
        for (calls, most) in [(GoferCalls::ReadOnly, 27), (GoferCalls::ReadWrite, 40)] {
            let list = list(calls);
            // docs/gofer.md says so.
            assert_eq!(list.calls.len(), most, "{calls:?}");
            list.compile().unwrap();
        }
    }
}
