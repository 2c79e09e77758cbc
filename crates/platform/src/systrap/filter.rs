//! The seccomp filters of stubs, as classic BPF.
//!
//! The memory filter is the zygote's and every memory thread's; the thread filter is stacked on it in application threads.
//! Both answer `RET_TRAP` to what they do not allow: the strictest verdict of a stack wins, and a guest's calls must trap.

use super::layout::*;

/// One instruction, as `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A call stubs may make, from the blob's addresses.
#[derive(Debug, Clone, Copy)]
pub struct StubCall {
    pub number: i64,
    pub name: &'static str,
    /// An argument and the values its low half may have.
    pub only: Option<(u8, &'static [u32])>,
    /// What it is needed for.
    pub why: &'static str,
}

const PR_SET_SYSCALL_USER_DISPATCH: u32 = 59;
const MAP_SHARED_FIXED: u32 = (libc::MAP_SHARED | libc::MAP_FIXED) as u32;
const FUTEX_OPS: &[u32] = &[libc::FUTEX_WAIT as u32, libc::FUTEX_WAKE as u32];
const SECCOMP_SET_MODE_FILTER: u32 = 1;

/// What the zygote and memory threads may call, from the blob's addresses.
pub const MEMORY_CALLS: [StubCall; 11] = [
    call(libc::SYS_futex, "futex", Some((1, FUTEX_OPS)), "waits for orders, rings for answers"),
    call(libc::SYS_rt_sigreturn, "rt_sigreturn", None, "for application threads, whose own filter comes on top of this one"),
    call(
        libc::SYS_mmap,
        "mmap",
        Some((3, &[MAP_SHARED_FIXED, MAP_SHARED_FIXED | libc::MAP_POPULATE as u32])),
        "orders: guest memory; a new stub's own pages",
    ),
    call(libc::SYS_munmap, "munmap", None, "orders: guest memory; what the zygote inherited"),
    call(libc::SYS_mprotect, "mprotect", None, "orders: guest memory"),
    call(
        libc::SYS_madvise,
        "madvise",
        Some((2, &[0, libc::MADV_HUGEPAGE as u32])),
        "orders: huge pages; nothing, for an answer",
    ),
    call(
        libc::SYS_clone,
        "clone",
        Some((0, &[CLONE_STUB as u32, CLONE_THREAD as u32])),
        "orders: a stub, an application thread",
    ),
    call(
        libc::SYS_prctl,
        "prctl",
        Some((0, &[libc::PR_SET_PDEATHSIG as u32, PR_SET_SYSCALL_USER_DISPATCH])),
        "dies with the sentry; an application thread's calls are signals",
    ),
    call(libc::SYS_seccomp, "seccomp", Some((0, &[SECCOMP_SET_MODE_FILTER])), "an application thread's own filter"),
    call(libc::SYS_sched_yield, "sched_yield", None, "as rt_sigreturn"),
    call(libc::SYS_exit_group, "exit_group", None, "a stub that cannot be set up"),
];

/// What application threads may call, from the blob's addresses. `futex` only to wait and wake on their stub's context
/// blocks, and to wake on the bells.
pub const THREAD_CALLS: [StubCall; 3] = [
    call(libc::SYS_futex, "futex", Some((1, FUTEX_OPS)), "waits on its block; wakes there and on the bells"),
    call(libc::SYS_rt_sigreturn, "rt_sigreturn", None, "back from the signal that a system call or fault is"),
    call(libc::SYS_sched_yield, "sched_yield", None, "gives its CPU to the executor that answers it; the application's own"),
];

const fn call(number: i64, name: &'static str, only: Option<(u8, &'static [u32])>, why: &'static str) -> StubCall {
    StubCall { number, name, only, why }
}

const ARCH_X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const IP: u32 = 8;
const ARG0: u32 = 16;
const ARG1: u32 = 24;
const HIGH: u32 = 4;

fn load(offset: u32) -> Instruction {
    Instruction { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}
fn ret(verdict: u32) -> Instruction {
    Instruction { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: verdict }
}
/// Traps unless the loaded word equals `value`.
fn require(value: u32) -> [Instruction; 2] {
    [jump(libc::BPF_JEQ, value, 1, 0), ret(TRAP)]
}
fn jump(test: u32, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k }
}
const fn low(address: u64) -> u32 {
    address as u32
}
const fn high(address: u64) -> u32 {
    (address >> 32) as u32
}

/// Right architecture, called from the blob; leaves the number loaded.
fn head() -> Vec<Instruction> {
    let mut program = vec![load(ARCH)];
    program.extend(require(ARCH_X86_64));
    program.push(load(IP + HIGH));
    program.extend(require(high(BLOB)));
    program.extend([load(IP), jump(libc::BPF_JGE, low(BLOB), 1, 0), ret(TRAP)]);
    program.extend([jump(libc::BPF_JGE, low(BLOB + BLOB_LEN), 0, 1), ret(TRAP)]);
    program.push(load(NR));
    program
}

/// Offset of an argument's low half.
fn argument(index: u8) -> u32 {
    ARG0 + u32::from(index) * 8
}

/// The filter of the zygote and of memory threads.
pub fn memory_filter() -> Vec<Instruction> {
    let mut program = head();
    for call in MEMORY_CALLS {
        let mut verdict = match call.only {
            None => vec![ret(ALLOW)],
            Some((index, values)) => {
                let mut rule = vec![load(argument(index))];
                rule.extend(values.iter().flat_map(|value| [jump(libc::BPF_JEQ, *value, 0, 1), ret(ALLOW)]));
                rule.push(ret(TRAP));
                rule
            }
        };
        program.push(jump(libc::BPF_JEQ, call.number as u32, 0, verdict.len() as u8));
        program.append(&mut verdict);
    }
    program.push(ret(TRAP));
    program
}

/// The filter of application threads.
pub fn thread_filter() -> Vec<Instruction> {
    const { assert!(high(BLOCKS) == high(BLOB) && high(BLOCKS + BLOCKS_LEN) == high(BLOB) && high(BELLS) == high(BLOB)) };
    let mut program = head();
    for call in [libc::SYS_rt_sigreturn, libc::SYS_sched_yield] {
        program.extend([jump(libc::BPF_JEQ, call as u32, 0, 1), ret(ALLOW)]);
    }
    program.extend(require(libc::SYS_futex as u32));
    program.push(load(ARG0 + HIGH));
    program.extend(require(high(BLOCKS)));
    // In the blocks: FUTEX_WAIT or FUTEX_WAKE, shared.
    program.extend([
        load(ARG0),
        jump(libc::BPF_JGE, low(BLOCKS), 0, 5),
        jump(libc::BPF_JGE, low(BLOCKS + BLOCKS_LEN), 4, 0),
        load(ARG1),
        jump(libc::BPF_JGE, 2, 1, 0),
        ret(ALLOW),
        ret(TRAP),
    ]);
    // In the bells: FUTEX_WAKE only.
    program.extend([
        jump(libc::BPF_JGE, low(BELLS), 1, 0),
        ret(TRAP),
        jump(libc::BPF_JGE, low(BELLS + PAGE), 0, 1),
        ret(TRAP),
        load(ARG1),
    ]);
    program.extend(require(libc::FUTEX_WAKE as u32));
    program.push(ret(ALLOW));
    program
}
