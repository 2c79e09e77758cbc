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
use crate::net;

const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
const FUTEX_PRIVATE: u32 = libc::FUTEX_PRIVATE_FLAG as u32;
const FUTEX_REALTIME: u32 = libc::FUTEX_CLOCK_REALTIME as u32;
const PRIVATE_ANONYMOUS: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;

/// The sentry's list.
pub fn list() -> AllowList {
    let parts = [conversation(), files(), memory(), waiting(), processes(), the_end()];
    AllowList { process: "sentry", calls: parts.into_iter().flatten().collect() }
}

/// The list of a sentry that shares the host's network: the same, and internet sockets.
pub fn list_with_host_network() -> AllowList {
    let mut list = list();
    list.process = "sentry with the host's network";
    list.calls.extend(host_network());
    list
}

/// The list of a sentry on a pod's network: the same, and frames from packet sockets (`sendmsg` sends them).
pub fn list_with_packets() -> AllowList {
    let mut list = list();
    list.process = "sentry on a pod's network";
    list.calls.push(Call::any(libc::SYS_recvmmsg, "recvmmsg", "frames of the pod's network, a batch at a time"));
    list
}

/// Stream and datagram sockets of the internet families, with the options in [`crate::net::OPTIONS`].
fn host_network() -> Vec<Call> {
    let kinds = net::FAMILIES.iter().flat_map(|family| net::TYPES.iter().map(move |kind| (*family, *kind)));
    let sockets = kinds.map(|(family, kind)| {
        let kind = (kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32;
        vec![Is(0, family as u32), Is(1, kind)]
    });
    let options: Vec<Vec<super::Arg>> =
        net::OPTIONS.iter().map(|(level, name)| vec![Is(1, *level as u32), Is(2, *name as u32)]).collect();
    vec![
        Call { number: libc::SYS_socket, name: "socket", ways: sockets.collect(), why: "a guest's internet socket" },
        Call { number: libc::SYS_setsockopt, name: "setsockopt", ways: options.clone(), why: "its options" },
        Call { number: libc::SYS_getsockopt, name: "getsockopt", ways: options, why: "its options" },
        Call::any(libc::SYS_bind, "bind", "its address"),
        Call::any(libc::SYS_connect, "connect", "its connection"),
        Call::any(libc::SYS_listen, "listen", "connections to it"),
        Call::any(libc::SYS_getsockname, "getsockname", "its address"),
        Call::any(libc::SYS_getpeername, "getpeername", "its peer's address"),
        Call::any(libc::SYS_shutdown, "shutdown", "the end of one direction"),
        Call::only(libc::SYS_ioctl, "ioctl", &[&[Is(1, libc::FIONREAD as u32)]], "bytes that can be read"),
    ]
}

/// Control socket, gofers, sockets and pipes handed in.
fn conversation() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_recvmsg, "recvmsg", "requests of the runtime and answers of gofers, with descriptors"),
        Call::any(libc::SYS_sendmsg, "sendmsg", "answers to the runtime, requests to gofers"),
        Call::any(libc::SYS_accept4, "accept4", "the runtime connects to the control socket"),
    ]
}

/// Files by descriptor.
fn files() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_read, "read", "the control thread's bell (an eventfd)"),
        Call::any(libc::SYS_write, "write", "the bell, logs, traces, the report of the end"),
        Call::only(libc::SYS_writev, "writev", &[&[Is(0, 2)]], "the C library's last words, on standard error"),
        Call::any(libc::SYS_preadv2, "preadv2", "file data and host pipes, without sleeping where that matters"),
        Call::any(libc::SYS_pwritev2, "pwritev2", "the same, writing"),
        Call::any(libc::SYS_close, "close", "descriptors donated by gofers"),
        Call::any(libc::SYS_lseek, "lseek", "SEEK_DATA and SEEK_HOLE of a host file"),
        Call::any(libc::SYS_fstat, "fstat", "size and kind of a donated file, memory in use"),
        Call::any(libc::SYS_ftruncate, "ftruncate", "files that grow and shrink, memory files"),
        Call::any(libc::SYS_fallocate, "fallocate", "giving memory back (punching holes), fallocate of a guest"),
        Call::any(libc::SYS_fsync, "fsync", "fsync of a guest"),
        Call::only(
            libc::SYS_openat,
            "openat",
            &[&[Masked(2, libc::O_TMPFILE as u32, libc::O_TMPFILE as u32)]],
            "a memory file for a container or a memfd: nameless, in the private tmpfs (Landlock)",
        ),
        Call::only(
            libc::SYS_fcntl,
            "fcntl",
            &[
                &[Is(1, libc::F_GETFL as u32)],
                &[Is(1, libc::F_GETFD as u32)],
                &[Is(1, libc::F_DUPFD_CLOEXEC as u32)],
                &[Is(1, libc::F_GETPIPE_SZ as u32)],
            ],
            "access mode of donated files; how much a host pipe holds; a second descriptor of one; (debug builds) the standard library's check before it closes",
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
            "large allocations; windows on memory files and host files",
        ),
        Call::any(libc::SYS_munmap, "munmap", "the same, given back"),
        Call::any(libc::SYS_mremap, "mremap", "large allocations that grow"),
        Call::any(libc::SYS_brk, "brk", "the heap"),
        Call::any(libc::SYS_mincore, "mincore", "which pages of a guest exist (fork copies no others)"),
    ]
}

fn waiting() -> Vec<Call> {
    let op = |op: i32| op as u32;
    let ways: Vec<Vec<super::Arg>> = [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET]
        .into_iter()
        // With or without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
        .map(|kind| vec![Masked(1, !(FUTEX_PRIVATE | FUTEX_REALTIME), op(kind))])
        .collect();
    vec![
        Call { number: libc::SYS_futex, name: "futex", ways, why: "locks; waiting for stubs and waking them" },
        Call::any(libc::SYS_epoll_ctl, "epoll_ctl", "host descriptors the reactor watches come and go"),
        Call::any(libc::SYS_epoll_pwait, "epoll_pwait", "the reactor waits"),
        Call::any(libc::SYS_ppoll, "ppoll", "the control thread waits; is a host descriptor ready; a gofer's answer"),
        Call::any(libc::SYS_clock_nanosleep, "clock_nanosleep", "the reactor's pause when the host refuses it"),
        Call::any(libc::SYS_sched_yield, "sched_yield", "contended locks"),
        Call::any(libc::SYS_clock_gettime, "clock_gettime", "CPU clocks of stubs (and all clocks where the vDSO cannot)"),
        Call::any(libc::SYS_getrandom, "getrandom", "a stub's key, a guest's getrandom and AT_RANDOM"),
    ]
}

/// Stubs, all in its own pid namespace.
fn processes() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_kill, "kill", "interrupts stub threads and ends them"),
        Call::any(libc::SYS_wait4, "wait4", "reaps them"),
        Call::any(
            libc::SYS_sched_setaffinity,
            "sched_setaffinity",
            "the memory thread runs on its poster's CPU; executors move apart from stubs; a guest's choice of CPUs",
        ),
        Call::only(libc::SYS_setpriority, "setpriority", &[&[Is(0, libc::PRIO_PROCESS)]], "a guest's nice values"),
    ]
}

fn the_end() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_rt_sigreturn, "rt_sigreturn", "back from the SIGBUS and SIGSEGV handler of copies of guest memory"),
        // A fault of the sentry's own is left to the default action, so that it is reported as what it is.
        Call::only(
            libc::SYS_rt_sigaction,
            "rt_sigaction",
            &[&[Is(0, libc::SIGSEGV as u32)], &[Is(0, libc::SIGBUS as u32)], &[Is(0, libc::SIGABRT as u32)]],
            "a fault of its own, or abort, ends the process by that signal",
        ),
        Call::any(libc::SYS_rt_sigprocmask, "rt_sigprocmask", "abort"),
        Call::any(libc::SYS_getpid, "getpid", "abort"),
        Call::any(libc::SYS_gettid, "gettid", "abort"),
        Call::only(libc::SYS_tgkill, "tgkill", &[&[Is(2, libc::SIGABRT as u32)]], "abort"),
        Call::any(libc::SYS_restart_syscall, "restart_syscall", "the host resumes a wait after SIGSTOP and SIGCONT"),
        Call::any(libc::SYS_sigaltstack, "sigaltstack", "the standard library's farewell in `process::exit`"),
        Call::any(libc::SYS_exit_group, "exit_group", "the end"),
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
        let wider = list_with_host_network();
        assert_eq!(wider.calls.len(), list.calls.len() + 10);
        wider.compile().expect("a filter");
        let packets = list_with_packets();
        assert!(packets.calls.len() <= 60, "{} calls", packets.calls.len());
        packets.compile().expect("a filter");
    }
}
