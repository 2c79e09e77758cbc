//! The few host calls the platform makes, by number. Each answers with the host's errno.

use std::sync::atomic::AtomicU32;

use hostcall::Errno;
use hostcall::tally::{self, Counted};

use crate::Death;

use super::layout::{CPU_MASK, CPU_SEGMENT};

/// A raw host call.
///
/// # Safety
/// As the call itself demands.
pub unsafe fn call(number: i64, args: [u64; 6]) -> Result<u64, Errno> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: forwarded to the caller.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(Errno::last_host()) } else { Ok(result as u64) }
}

/// Waits while `word` holds `expected`, until woken or until `deadline_ns` on `CLOCK_MONOTONIC`. May return early.
pub fn futex_wait(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) {
    let deadline =
        deadline_ns.map(|ns| libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 });
    let timeout = deadline.as_ref().map_or(std::ptr::null(), |time| time as *const libc::timespec);
    tally::count(Counted::Futex);
    // SAFETY: the word and the timeout outlive the call.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT_BITSET, expected, timeout, 0usize, u32::MAX);
    }
}

/// Wakes all who wait on `word`.
pub fn futex_wake(word: &AtomicU32) -> Woken {
    tally::count(Counted::Futex);
    // SAFETY: the word outlives the call.
    let count = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    if count > 0 { Woken::Some } else { Woken::Nobody }
}

/// Whether anybody slept there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    Nobody,
    Some,
}

/// Sends a signal to a child of ours: its number cannot be reused before we wait for it.
pub fn kill(pid: i32, signal: i32) {
    tally::count(Counted::Kill);
    // SAFETY: no memory is involved.
    unsafe {
        libc::kill(pid, signal);
    }
}

/// What became of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Alive,
    /// Gone, and reaped.
    Dead(Death),
}

/// Whether a waiting call may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    No,
    Block,
}

/// Reaps a child (stubs and their threads send no signal at their end: `__WALL`).
pub fn reap(pid: i32, wait: Wait) -> Fate {
    let mut status = 0;
    let flags = libc::__WALL | if wait == Wait::No { libc::WNOHANG } else { 0 };
    loop {
        tally::count(Counted::Wait);
        // SAFETY: `status` outlives the call.
        let result = unsafe { libc::waitpid(pid, &raw mut status, flags) };
        if result == 0 {
            return Fate::Alive;
        }
        if result == pid {
            let exited = || Death::Exited(libc::WEXITSTATUS(status));
            return Fate::Dead(if libc::WIFSIGNALED(status) { Death::Signal(libc::WTERMSIG(status)) } else { exited() });
        }
        if Errno::last_host() != Errno::EINTR {
            // Somebody else has reaped it.
            return Fate::Dead(Death::Signal(0));
        }
    }
}

/// CPU time of a thread group, in nanoseconds; 0 when it is gone.
pub fn cpu_time_ns(pid: i32) -> u64 {
    // CPUCLOCK_SCHED of a process (include/linux/posix-timers_types.h).
    let clock = (!pid << 3) | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return 0;
    }
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// The CPU this thread is on, as the vDSO's `getcpu` and the blob find it: no host call.
pub fn cpu() -> u32 {
    let mut number = CPU_SEGMENT;
    // SAFETY: reads the limit of a segment that Linux sets up for this.
    unsafe { std::arch::asm!("lsl {0:e}, {0:e}", inout(reg) number, options(nomem, nostack)) };
    number & CPU_MASK
}

/// Lets a thread run on one CPU only.
pub fn pin(tid: i32, cpu: u32) {
    bind(tid, &set_of(std::iter::once(cpu)));
}

/// CPUs as the host takes them.
pub fn set_of(cpus: impl Iterator<Item = u32>) -> libc::cpu_set_t {
    // SAFETY: plain numbers in a plain structure.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.for_each(|cpu| libc::CPU_SET(cpu as usize % libc::CPU_SETSIZE as usize, &mut set));
        set
    }
}

/// This process's own nice value. Not for the time after the filter.
pub fn own_nice() -> i32 {
    // SAFETY: no memory is passed. It cannot fail for oneself.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Sets a thread's nice value. False: it stays, as the host may refuse to lower one (`RLIMIT_NICE`).
pub fn set_nice(tid: i32, nice: i32) -> bool {
    tally::count(Counted::Priority);
    // SAFETY: no memory is passed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as libc::id_t, nice) == 0 }
}

/// Lets a thread (0: this one) run on some CPUs. False: it is gone, or may not.
pub fn bind(tid: i32, cpus: &libc::cpu_set_t) -> bool {
    tally::count(Counted::Affinity);
    // SAFETY: a plain structure that outlives the call.
    unsafe { libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), std::ptr::from_ref(cpus)) == 0 }
}
