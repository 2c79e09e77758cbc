//! What a sentry may ask of the host kernel, once all its threads exist.
//!
//! It moves guest memory and files it was handed by descriptor, waits, talks to its gofers, its stubs and its control socket, and ends. It
//! cannot open a path outside the memory file system (Landlock), make a process, thread or socket, run a program, map code, or signal
//! anyone outside its pid namespace.

use super::{
    AllowList,
    Arg::{Is, Masked, Without},
    Call,
};

const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
const FUTEX_PRIVATE: u32 = libc::FUTEX_PRIVATE_FLAG as u32;
const FUTEX_REALTIME: u32 = libc::FUTEX_CLOCK_REALTIME as u32;
const PRIVATE_ANONYMOUS: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;

/// The sentry's list.
pub fn list() -> AllowList {
    let parts = [conversation(), files(), memory(), waiting(), processes(), the_end()];
    AllowList { process: "sentry", calls: parts.into_iter().flatten().collect() }
}

/// Control socket, gofers, sockets and pipes handed in.
fn conversation() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_recvmsg, "recvmsg"),
        Call::any(libc::SYS_sendmsg, "sendmsg"),
        // The client reads with it, where no descriptors are wanted.
        Call::any(libc::SYS_recvfrom, "recvfrom"),
        Call::any(libc::SYS_accept4, "accept4"),
        Call::any(libc::SYS_shutdown, "shutdown"),
    ]
}

/// Files by descriptor.
fn files() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_read, "read"),
        Call::any(libc::SYS_write, "write"),
        Call::any(libc::SYS_writev, "writev"),
        Call::any(libc::SYS_pread64, "pread64"),
        Call::any(libc::SYS_pwrite64, "pwrite64"),
        Call::any(libc::SYS_preadv2, "preadv2"),
        Call::any(libc::SYS_pwritev2, "pwritev2"),
        Call::any(libc::SYS_close, "close"),
        Call::any(libc::SYS_lseek, "lseek"),
        Call::any(libc::SYS_fstat, "fstat"),
        // Of a descriptor only: no path is looked at.
        Call::only(libc::SYS_statx, "statx", &[&[Masked(2, libc::AT_EMPTY_PATH as u32, libc::AT_EMPTY_PATH as u32)]]),
        Call::any(libc::SYS_fstatfs, "fstatfs"),
        Call::any(libc::SYS_ftruncate, "ftruncate"),
        Call::any(libc::SYS_fallocate, "fallocate"),
        Call::any(libc::SYS_fsync, "fsync"),
        Call::any(libc::SYS_fdatasync, "fdatasync"),
        // New memory files, in their own file system: O_TMPFILE, nothing else.
        Call::only(libc::SYS_openat, "openat", &[&[Masked(2, libc::O_TMPFILE as u32, libc::O_TMPFILE as u32)]]),
        Call::only(
            libc::SYS_fcntl,
            "fcntl",
            &[
                &[Is(1, libc::F_GETFL as u32)],
                &[Is(1, libc::F_SETFL as u32)],
                &[Is(1, libc::F_GETFD as u32)],
                &[Is(1, libc::F_DUPFD_CLOEXEC as u32)],
            ],
        ),
        Call::only(
            libc::SYS_ioctl,
            "ioctl",
            &[
                &[Is(1, libc::FIONREAD as u32)],
                &[Is(1, libc::FIONBIO as u32)],
                &[Is(1, libc::TCGETS as u32)],
                &[Is(1, libc::TIOCGWINSZ as u32)],
            ],
        ),
    ]
}

/// Its own memory and the windows on guests' memory. Never code.
fn memory() -> Vec<Call> {
    vec![
        Call::only(
            libc::SYS_mmap,
            "mmap",
            &[
                &[Without(2, PROT_EXEC), Masked(3, PRIVATE_ANONYMOUS, PRIVATE_ANONYMOUS)],
                &[Without(2, PROT_EXEC), Masked(3, libc::MAP_TYPE as u32, libc::MAP_SHARED as u32)],
            ],
        ),
        Call::any(libc::SYS_munmap, "munmap"),
        Call::any(libc::SYS_mremap, "mremap"),
        Call::only(libc::SYS_mprotect, "mprotect", &[&[Without(2, PROT_EXEC)]]),
        Call::any(libc::SYS_brk, "brk"),
        Call::any(libc::SYS_mincore, "mincore"),
        Call::only(
            libc::SYS_madvise,
            "madvise",
            &[
                &[Is(2, libc::MADV_DONTNEED as u32)],
                &[Is(2, libc::MADV_REMOVE as u32)],
                &[Is(2, libc::MADV_HUGEPAGE as u32)],
                &[Is(2, libc::MADV_NOHUGEPAGE as u32)],
                &[Is(2, libc::MADV_FREE as u32)],
                &[Is(2, libc::MADV_POPULATE_WRITE as u32)],
                &[Is(2, libc::MADV_POPULATE_READ as u32)],
            ],
        ),
    ]
}

fn waiting() -> Vec<Call> {
    let op = |op: i32| op as u32;
    let ways: Vec<Vec<super::Arg>> = [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAKE_BITSET]
        .into_iter()
        // With or without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
        .map(|kind| vec![Masked(1, !(FUTEX_PRIVATE | FUTEX_REALTIME), op(kind))])
        .collect();
    vec![
        Call { number: libc::SYS_futex, name: "futex", ways },
        Call::any(libc::SYS_epoll_create1, "epoll_create1"),
        Call::any(libc::SYS_epoll_ctl, "epoll_ctl"),
        Call::any(libc::SYS_epoll_pwait, "epoll_pwait"),
        Call::any(libc::SYS_epoll_pwait2, "epoll_pwait2"),
        Call::any(libc::SYS_eventfd2, "eventfd2"),
        Call::any(libc::SYS_poll, "poll"),
        Call::any(libc::SYS_ppoll, "ppoll"),
        Call::any(libc::SYS_clock_nanosleep, "clock_nanosleep"),
        Call::any(libc::SYS_sched_yield, "sched_yield"),
        // CPU clocks of stubs; the rest is in the vDSO.
        Call::any(libc::SYS_clock_gettime, "clock_gettime"),
        Call::any(libc::SYS_getrandom, "getrandom"),
    ]
}

/// Stubs, all in its own pid namespace.
fn processes() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_kill, "kill"),
        Call::any(libc::SYS_tgkill, "tgkill"),
        Call::any(libc::SYS_wait4, "wait4"),
        Call::any(libc::SYS_waitid, "waitid"),
        Call::any(libc::SYS_getpid, "getpid"),
        Call::any(libc::SYS_gettid, "gettid"),
        Call::any(libc::SYS_setpriority, "setpriority"),
        // Where the stubs' threads run.
        Call::any(libc::SYS_sched_setaffinity, "sched_setaffinity"),
        Call::any(libc::SYS_sched_getaffinity, "sched_getaffinity"),
        Call::any(libc::SYS_getcpu, "getcpu"),
    ]
}

fn the_end() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_rt_sigreturn, "rt_sigreturn"),
        // A fault of the sentry's own is left to the default action, so that it is reported as what it is.
        Call::only(
            libc::SYS_rt_sigaction,
            "rt_sigaction",
            &[&[Is(0, libc::SIGSEGV as u32)], &[Is(0, libc::SIGBUS as u32)]],
        ),
        Call::any(libc::SYS_rt_sigprocmask, "rt_sigprocmask"),
        Call::any(libc::SYS_sigaltstack, "sigaltstack"),
        Call::any(libc::SYS_restart_syscall, "restart_syscall"),
        Call::any(libc::SYS_exit, "exit"),
        Call::any(libc::SYS_exit_group, "exit_group"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_sixty_calls_and_it_compiles() {
        let list = list();
        assert!(list.calls.len() <= 60, "{} calls", list.calls.len());
        list.compile().expect("a filter");
    }
}
