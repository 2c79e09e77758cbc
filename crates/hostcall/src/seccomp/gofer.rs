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
    let mut list = files(calls);
    list.extend(watching());
    AllowList { process: "gofer", calls: list }
}

/// What whoever serves files needs.
pub(super) fn files(calls: GoferCalls) -> Vec<Call> {
    let mut list = reading();
    if calls == GoferCalls::ReadWrite {
        list.extend(writing());
    }
    list
}

fn reading() -> Vec<Call> {
    vec![
        // The conversation.
        Call::any(libc::SYS_recvmsg, "recvmsg", "requests"),
        Call::any(libc::SYS_sendmsg, "sendmsg", "answers, with descriptors"),
        // Files. `openat` is not here: all paths go through openat2's RESOLVE flags.
        Call::any(libc::SYS_openat2, "openat2", "every path: RESOLVE_BENEATH, no magic links"),
        Call::any(libc::SYS_close, "close", "handles that are forgotten"),
        Call::only(
            libc::SYS_fcntl,
            "fcntl",
            &[&[Is(1, libc::F_GETFD as u32)]],
            "(debug builds) the standard library's check before it closes",
        ),
        Call::any(libc::SYS_statx, "statx", "attributes"),
        Call::any(libc::SYS_readlinkat, "readlinkat", "links"),
        Call::any(libc::SYS_getdents64, "getdents64", "directories"),
        Call::any(libc::SYS_lseek, "lseek", "a directory from its start"),
        Call::any(libc::SYS_fstatfs, "fstatfs", "statfs of a guest"),
        Call::any(libc::SYS_fsync, "fsync", "fsync of a directory"),
        Call::any(libc::SYS_fdatasync, "fdatasync", "fdatasync of a directory"),
        Call::any(libc::SYS_fgetxattr, "fgetxattr", "extended attributes"),
        Call::any(libc::SYS_flistxattr, "flistxattr", "extended attributes"),
        // Memory and the end. Large buffers and thread-safe locks of the allocator.
        Call::only(libc::SYS_mmap, "mmap", &[&[Is(3, ANONYMOUS), Without(2, PROT_EXEC)]], "large buffers"),
        Call::any(libc::SYS_munmap, "munmap", "large buffers, given back"),
        Call::any(libc::SYS_mremap, "mremap", "large buffers that grow"),
        Call::any(libc::SYS_brk, "brk", "the heap"),
        Call::only(libc::SYS_madvise, "madvise", &[&[Is(2, libc::MADV_DONTNEED as u32)]], "the heap, given back"),
        Call::only(
            libc::SYS_futex,
            "futex",
            &[
                &[Is(1, (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32)],
                &[Is(1, (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u32)],
            ],
            "locks of the standard library",
        ),
        Call::any(libc::SYS_restart_syscall, "restart_syscall", "the host resumes a wait after SIGSTOP and SIGCONT"),
        Call::any(libc::SYS_sigaltstack, "sigaltstack", "the standard library's farewell in `process::exit`"),
        Call::any(libc::SYS_exit_group, "exit_group", "the end"),
        Call::only(
            libc::SYS_clock_gettime,
            "clock_gettime",
            &[&[Is(0, libc::CLOCK_MONOTONIC as u32)]],
            "how long it spins, where the vDSO cannot read the clock",
        ),
        Call::only(libc::SYS_write, "write", &[&[Is(0, 2)]], "last words, on standard error"),
        Call::any(libc::SYS_geteuid, "geteuid", "whether a new file is its own already"),
    ]
}

pub(super) fn watching() -> Vec<Call> {
    const NEW: u32 = (libc::IN_NONBLOCK | libc::IN_CLOEXEC) as u32;
    vec![
        Call::only(libc::SYS_inotify_init1, "inotify_init1", &[&[Is(0, NEW)]], "changes others make, where a guest watches"),
        Call::only(
            libc::SYS_inotify_add_watch,
            "inotify_add_watch",
            &[&[Masked(2, libc::IN_DONT_FOLLOW, libc::IN_DONT_FOLLOW)]],
            "a file or directory to watch, never through a link",
        ),
        Call::any(libc::SYS_inotify_rm_watch, "inotify_rm_watch", "the end of a watch"),
        Call::any(libc::SYS_fchdir, "fchdir", "the directory to watch in, as inotify knows paths only"),
    ]
}

fn writing() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_ftruncate, "ftruncate", "truncate of a guest"),
        Call::any(libc::SYS_mkdirat, "mkdirat", "mkdir"),
        Call::only(
            libc::SYS_mknodat,
            "mknodat",
            // No devices, but for 0/0.
            &[
                &[Masked(2, libc::S_IFMT, libc::S_IFREG)],
                &[Masked(2, libc::S_IFMT, libc::S_IFIFO)],
                &[Masked(2, libc::S_IFMT, libc::S_IFSOCK)],
                &[Masked(2, libc::S_IFMT, libc::S_IFCHR), Is(3, 0)],
            ],
            "files, FIFOs, sockets, and whiteouts of an overlay in a VM",
        ),
        Call::any(libc::SYS_symlinkat, "symlinkat", "symlink"),
        Call::only(libc::SYS_linkat, "linkat", &[&[Is(4, 0)]], "hard links; never through a symbolic link or an empty path"),
        Call::any(libc::SYS_unlinkat, "unlinkat", "unlink and rmdir"),
        Call::any(libc::SYS_renameat2, "renameat2", "rename"),
        Call::any(libc::SYS_fchownat, "fchownat", "chown"),
        Call::any(at::SYS_FCHMODAT2, "fchmodat2", "chmod by O_PATH handle"),
        Call::any(libc::SYS_fchmod, "fchmod", "chmod where the host has no fchmodat2"),
        Call::any(libc::SYS_utimensat, "utimensat", "times"),
        Call::any(libc::SYS_fsetxattr, "fsetxattr", "extended attributes"),
        Call::any(libc::SYS_fremovexattr, "fremovexattr", "extended attributes"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_compile_and_stay_short() {
        for calls in [GoferCalls::ReadOnly, GoferCalls::ReadWrite] {
            let list = list(calls);
            assert!(list.calls.len() <= 45, "{} calls", list.calls.len());
            list.compile().unwrap();
        }
    }
}
