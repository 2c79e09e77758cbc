//! What the virtio-fs process may ask of the host kernel: what a gofer may, and a vhost-user device's work: file data between files and guest memory, the
//! memory itself, queues' events, threads that wait for each other.
//!
//! It cannot make threads (they exist before the list holds), processes or sockets, connect, run programs, or signal anyone.

use super::{
    AllowList,
    Arg::{Is, Without},
    Call,
    gofer::{self, GoferCalls},
    thread_steps,
};

const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
const PRIVATE: i32 = libc::FUTEX_PRIVATE_FLAG;

/// The list. With `ReadOnly` no tree may be writable, later ones included.
pub fn list(calls: GoferCalls) -> AllowList {
    let replaced = [libc::SYS_mmap, libc::SYS_futex, libc::SYS_write, libc::SYS_fcntl];
    let mut list: Vec<Call> = gofer::files(calls).into_iter().filter(|call| !replaced.contains(&call.number)).collect();
    list.extend(device());
    list.extend(gofer::watching());
    // The device's threads may be at their first steps when the list comes to hold.
    list.extend(thread_steps());
    if calls == GoferCalls::ReadWrite {
        list.extend(writing());
    }
    AllowList { process: "virtio-fs device", calls: list }
}

fn device() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_preadv2, "preadv2", "file data, into guest memory"),
        Call::any(libc::SYS_read, "read", "queues' events"),
        Call::any(libc::SYS_write, "write", "queues' events; last words"),
        Call::any(libc::SYS_epoll_pwait, "epoll_pwait", "queues' events"),
        Call::any(libc::SYS_epoll_ctl, "epoll_ctl", "queues that start and stop"),
        Call::any(libc::SYS_accept4, "accept4", "the runtime, with trees of further containers of a pod"),
        Call::any(libc::SYS_recvfrom, "recvfrom", "what they are"),
        Call::only(libc::SYS_mmap, "mmap", &[&[Without(2, PROT_EXEC)]], "guest memory; large buffers"),
        Call::only(libc::SYS_mprotect, "mprotect", &[&[Without(2, PROT_EXEC)]], "the heap, growing"),
        Call::only(
            libc::SYS_futex,
            "futex",
            &[
                &[Is(1, (libc::FUTEX_WAKE | PRIVATE) as u32)],
                &[Is(1, (libc::FUTEX_WAIT | PRIVATE) as u32)],
                &[Is(1, (libc::FUTEX_WAIT_BITSET | PRIVATE) as u32)],
                &[Is(1, (libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME) as u32)],
            ],
            "threads that wait for each other, or for one to end",
        ),
        Call::only(
            libc::SYS_fcntl,
            "fcntl",
            &[&[Is(1, libc::F_GETFD as u32)], &[Is(1, libc::F_GET_SEALS as u32)]],
            "guest memory that cannot shrink; (debug builds) the standard library's check before it closes",
        ),
        Call::any(libc::SYS_fstat, "fstat", "the size of guest memory"),
        Call::any(libc::SYS_sched_yield, "sched_yield", "locks that are soon free"),
        Call::any(libc::SYS_getrandom, "getrandom", "keys of hash tables"),
        Call::any(libc::SYS_exit, "exit", "a thread's end"),
        Call::any(libc::SYS_rt_sigprocmask, "rt_sigprocmask", "a thread's end"),
    ]
}

fn writing() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_pwritev2, "pwritev2", "file data, out of guest memory"),
        Call::any(libc::SYS_fallocate, "fallocate", "fallocate of a guest"),
        Call::any(libc::SYS_copy_file_range, "copy_file_range", "copy_file_range of a guest"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_compile_and_stay_short() {
        for calls in [GoferCalls::ReadOnly, GoferCalls::ReadWrite] {
            let list = list(calls);
            assert!(list.calls.len() <= 64, "{} calls", list.calls.len());
            list.compile().unwrap();
            let (map, wx) = (libc::SYS_mmap, u64::from(PROT_EXEC) | libc::PROT_WRITE as u64);
            assert!(!list.allows(map, &[0, 4096, wx, libc::MAP_SHARED as u64, 3, 0]));
            assert!(list.allows(map, &[0, 4096, libc::PROT_WRITE as u64, libc::MAP_SHARED as u64, 3, 0]));
            for denied in
                [libc::SYS_clone, libc::SYS_clone3, libc::SYS_socket, libc::SYS_openat, libc::SYS_execve, libc::SYS_ioctl]
            {
                assert!(!list.allows(denied, &[0; 6]));
            }
        }
    }
}
