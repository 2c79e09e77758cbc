//! How often this process has asked what of the host: counted beside the wrappers, for the sentry's metrics.
//!
//! Each thread counts in a line of its own, so that counting costs no traffic between processors. A thread that ends leaves its line, counts and all,
//! to one that comes. Not counted: what the allocator, locks and the start of the process ask for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

macro_rules! counted {
    ($($name:ident => $text:literal,)*) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counted { $($name,)* }

        const NAMES: &[&str] = &[$($text,)*];
    };
}

counted! {
    // Bytes between the process and host files and pipes.
    ReadBytes => "",
    WrittenBytes => "",
    // Host calls, by Linux's names.
    Accept => "accept4",
    Affinity => "sched_setaffinity",
    Dup => "fcntl",
    EpollCtl => "epoll_ctl",
    EpollWait => "epoll_wait",
    Eventfd => "eventfd2",
    Fallocate => "fallocate",
    Fstat => "fstat",
    Fsync => "fsync",
    Ftruncate => "ftruncate",
    Futex => "futex",
    Getrandom => "getrandom",
    Kill => "kill",
    Lseek => "lseek",
    Mincore => "mincore",
    Mmap => "mmap",
    Munmap => "munmap",
    Priority => "setpriority",
    Openat => "openat",
    Poll => "poll",
    Preadv => "preadv2",
    Pwritev => "pwritev2",
    Read => "read",
    Recvmmsg => "recvmmsg",
    Recvmsg => "recvmsg",
    Sendmsg => "sendmsg",
    Socket => "socket",
    SocketOption => "getsockopt, setsockopt",
    SocketState => "bind, connect, listen, shutdown",
    SocketName => "getsockname, getpeername",
    Wait => "wait4",
    Write => "write",
    Yield => "sched_yield",
    // Host calls that stubs are ordered to make.
    OrderMap => "mmap",
    OrderUnmap => "munmap",
    OrderProtect => "mprotect",
    OrderAdvise => "madvise",
    OrderClone => "clone",
    OrderOther => "other",
}

/// The first that is a call, and the first that is an order.
const FIRST_CALL: usize = Counted::Accept as usize;
const FIRST_ORDER: usize = Counted::OrderMap as usize;

#[repr(align(64))]
struct Line([AtomicU64; NAMES.len()]);

struct Owned {
    line: &'static Line,
    taken: bool,
}

static LINES: Mutex<Vec<Owned>> = Mutex::new(Vec::new());

/// A thread's line, until the thread ends.
struct Own(&'static Line);

impl Own {
    fn take() -> Own {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = lines.iter_mut().find(|owned| !owned.taken) {
            free.taken = true;
            return Own(free.line);
        }
        let line: &'static Line = Box::leak(Box::new(Line([const { AtomicU64::new(0) }; NAMES.len()])));
        lines.push(Owned { line, taken: true });
        Own(line)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = lines.iter_mut().find(|owned| std::ptr::eq(owned.line, self.0)) {
            own.taken = false;
        }
    }
}

thread_local! {
    static OWN: Own = Own::take();
}

/// Counts a call.
pub fn count(what: Counted) {
    add(what, 1);
}

/// Counts bytes.
pub fn add(what: Counted, n: u64) {
    // A thread that is just ending has no line any more.
    let _ = OWN.try_with(|own| {
        if let Some(counter) = own.0.0.get(what as usize) {
            // Only this thread writes there.
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    });
}

fn total(index: usize) -> u64 {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = lines.iter().filter_map(|owned| owned.line.0.get(index));
    counts.fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Relaxed)))
}

/// Bytes read from and written to host files and pipes so far.
pub fn bytes() -> (u64, u64) {
    (total(Counted::ReadBytes as usize), total(Counted::WrittenBytes as usize))
}

/// The host calls that were made so far, by name.
pub fn calls() -> impl Iterator<Item = (&'static str, u64)> {
    named(FIRST_CALL, FIRST_ORDER)
}

/// The host calls that stubs were ordered to make.
pub fn orders() -> impl Iterator<Item = (&'static str, u64)> {
    named(FIRST_ORDER, NAMES.len())
}

fn named(from: usize, to: usize) -> impl Iterator<Item = (&'static str, u64)> {
    let all = NAMES.iter().enumerate().take(to).skip(from).map(|(index, name)| (*name, total(index)));
    all.filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_apart_and_leave_their_counts() {
        let before = total(Counted::Mincore as usize);
        for _ in 0..3 {
            let count = || (0..100).for_each(|_| count(Counted::Mincore));
            let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(count)).collect();
            threads.into_iter().for_each(|thread| thread.join().expect("counts"));
        }
        assert_eq!(total(Counted::Mincore as usize) - before, 1200);
        assert!(calls().any(|(name, count)| name == "mincore" && count >= 1200));
        assert!(NAMES.iter().skip(FIRST_CALL).all(|name| !name.is_empty()), "calls have names");
    }
}
