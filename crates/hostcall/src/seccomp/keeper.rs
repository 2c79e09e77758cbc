//! What a VM's keeper may ask of the host kernel: sockets it holds and pairs of them, the guest's memory, threads that copy and wait.
//!
//! It makes threads while it serves, one for a call or a stream. The C library would use `clone3`, whose flags a filter cannot see: so that is
//! [refused](confine) as if the host did not know it, and `clone` is allowed with a thread's flags only. It cannot open files, make
//! processes or name spaces, connect to anything, run programs, or signal anyone.

use std::collections::BTreeMap;

use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

use super::{
    AllowList,
    Arg::{Is, Without},
    Call, SeccompError, thread_steps,
};

const PROCESS: &str = "keeper";
const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
const PRIVATE: i32 = libc::FUTEX_PRIVATE_FLAG;
/// linux/fs.h.
const BLKSSZGET: u32 = 0x1268;
/// What `pthread_create` asks for.
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// Confines the process, which has one thread yet, and all threads it makes.
///
/// # Errors
/// See [`AllowList::install`].
pub fn confine() -> Result<(), SeccompError> {
    let compile = |e: &dyn std::fmt::Display| SeccompError::Compile { process: PROCESS, reason: e.to_string() };
    let refusal = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        TargetArch::x86_64,
    );
    let refusal: seccompiler::BpfProgram = refusal.map_err(|e| compile(&e))?.try_into().map_err(|e| compile(&e))?;
    seccompiler::apply_filter(&refusal).map_err(|e| SeccompError::Install { process: PROCESS, reason: e.to_string() })?;
    list().install()
}

/// The list.
pub fn list() -> AllowList {
    AllowList { process: PROCESS, calls: [streams(), memory(), threads(), thread_steps()].concat() }
}

fn streams() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_read, "read", "streams; the console"),
        Call::any(libc::SYS_write, "write", "streams; events; the log; last words"),
        Call::any(libc::SYS_readv, "readv", "streams, into guest memory"),
        Call::any(libc::SYS_writev, "writev", "streams, out of guest memory"),
        Call::any(libc::SYS_recvmsg, "recvmsg", "the Agent protocol, the VMM"),
        Call::any(libc::SYS_recvfrom, "recvfrom", "the guest's agent, the VMM"),
        Call::any(libc::SYS_sendmsg, "sendmsg", "the Agent protocol, the VMM"),
        Call::any(libc::SYS_sendto, "sendto", "the guest's agent, the VMM"),
        Call::only(libc::SYS_socketpair, "socketpair", &[&[Is(0, libc::AF_UNIX as u32)]], "the guest's connections"),
        Call::any(libc::SYS_accept4, "accept4", "clients"),
        Call::any(libc::SYS_getsockname, "getsockname", "clients"),
        Call::any(libc::SYS_shutdown, "shutdown", "streams' ends"),
        Call::only(libc::SYS_setsockopt, "setsockopt", &[&[Is(1, libc::SOL_SOCKET as u32)]], "time limits"),
        Call::only(libc::SYS_getsockopt, "getsockopt", &[&[Is(1, libc::SOL_SOCKET as u32)]], "errors of connections"),
        Call::any(libc::SYS_poll, "poll", "waiting for streams"),
        Call::any(libc::SYS_ppoll, "ppoll", "waiting for streams"),
        Call::any(libc::SYS_epoll_create1, "epoll_create1", "the guest's connections"),
        Call::any(libc::SYS_epoll_ctl, "epoll_ctl", "the guest's connections"),
        Call::any(libc::SYS_epoll_wait, "epoll_wait", "the guest's connections"),
        Call::any(libc::SYS_epoll_pwait, "epoll_pwait", "the guest's connections"),
        Call::any(libc::SYS_epoll_pwait2, "epoll_pwait2", "the guest's connections"),
        Call::any(libc::SYS_eventfd2, "eventfd2", "waking the thread of the guest's connections"),
        Call::any(libc::SYS_close, "close", "what has ended"),
        Call::only(
            libc::SYS_fcntl,
            "fcntl",
            &[
                &[Is(1, libc::F_GETFL as u32)],
                &[Is(1, libc::F_SETFL as u32)],
                &[Is(1, libc::F_GETFD as u32)],
                &[Is(1, libc::F_SETFD as u32)],
                &[Is(1, libc::F_DUPFD_CLOEXEC as u32)],
                &[Is(1, libc::F_GET_SEALS as u32)],
            ],
            "waiting or not; copies of clients' sockets; memory that cannot shrink",
        ),
        Call::only(
            libc::SYS_ioctl,
            "ioctl",
            &[&[Is(1, libc::FIONBIO as u32)], &[Is(1, libc::FIONREAD as u32)], &[Is(1, BLKSSZGET)]],
            "waiting or not; what is on its way; sectors of a disk",
        ),
        Call::any(libc::SYS_fstat, "fstat", "the size of guest memory"),
        Call::any(libc::SYS_newfstatat, "newfstatat", "the size of guest memory"),
        Call::any(libc::SYS_lseek, "lseek", "the size of guest memory"),
    ]
}

fn memory() -> Vec<Call> {
    vec![
        Call::only(libc::SYS_mmap, "mmap", &[&[Without(2, PROT_EXEC)]], "guest memory; stacks; the heap"),
        Call::only(libc::SYS_mprotect, "mprotect", &[&[Without(2, PROT_EXEC)]], "stacks; the heap"),
        Call::any(libc::SYS_munmap, "munmap", "guest memory; stacks; the heap"),
        Call::any(libc::SYS_mremap, "mremap", "the heap"),
        Call::any(libc::SYS_madvise, "madvise", "stacks of threads that have ended"),
        Call::any(libc::SYS_brk, "brk", "the heap"),
    ]
}

fn threads() -> Vec<Call> {
    vec![
        Call::only(libc::SYS_clone, "clone", &[&[Is(0, THREAD as u32)]], "a thread for a call or a stream"),
        Call::any(libc::SYS_clone3, "clone3", "answered ENOSYS by a filter before this one"),
        Call::only(
            libc::SYS_futex,
            "futex",
            &[
                &[Is(1, (libc::FUTEX_WAKE | PRIVATE) as u32)],
                &[Is(1, (libc::FUTEX_WAIT | PRIVATE) as u32)],
                &[Is(1, (libc::FUTEX_WAIT_BITSET | PRIVATE) as u32)],
                &[Is(1, (libc::FUTEX_WAIT_BITSET | PRIVATE | libc::FUTEX_CLOCK_REALTIME) as u32)],
                &[Is(1, (libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME) as u32)],
            ],
            "threads that wait for each other, or for one to end",
        ),
        Call::any(libc::SYS_sigaltstack, "sigaltstack", "a thread's first and last steps"),
        Call::any(libc::SYS_rt_sigprocmask, "rt_sigprocmask", "a thread's first and last steps"),
        Call::any(libc::SYS_rt_sigaction, "rt_sigaction", "the first thread's first steps"),
        Call::any(libc::SYS_rt_sigreturn, "rt_sigreturn", "the end of a signal"),
        Call::any(libc::SYS_clock_nanosleep, "clock_nanosleep", "a client that has to wait"),
        Call::any(libc::SYS_clock_gettime, "clock_gettime", "time limits, where the vDSO cannot read the clock"),
        Call::any(libc::SYS_restart_syscall, "restart_syscall", "waits that were interrupted"),
        Call::any(libc::SYS_sched_yield, "sched_yield", "locks that are soon free"),
        Call::any(libc::SYS_getrandom, "getrandom", "numbers of streams; the guest's entropy"),
        Call::any(libc::SYS_exit, "exit", "a thread's end"),
        Call::any(libc::SYS_exit_group, "exit_group", "the end"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_can_be_made_and_processes_cannot() {
        let list = list();
        list.compile().unwrap();
        assert!(list.calls.len() <= 60, "{} calls", list.calls.len());
        assert!(list.allows(libc::SYS_clone, &[THREAD as u64, 0, 0, 0, 0, 0]));
        for flags in [libc::SIGCHLD, THREAD | libc::CLONE_NEWUSER, THREAD & !libc::CLONE_THREAD] {
            assert!(!list.allows(libc::SYS_clone, &[flags as u64, 0, 0, 0, 0, 0]));
        }
        for denied in [libc::SYS_socket, libc::SYS_connect, libc::SYS_openat, libc::SYS_execve, libc::SYS_kill, libc::SYS_fork]
        {
            assert!(!list.allows(denied, &[0; 6]));
        }
    }
}
