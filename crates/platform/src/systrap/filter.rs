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

/// What the zygote and memory threads may call, from the blob's addresses.
pub const MEMORY_CALLS: [i64; 11] = [
    libc::SYS_futex,
    libc::SYS_rt_sigreturn,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_clone,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_sched_yield,
    libc::SYS_exit_group,
];

/// What application threads may call, from the blob's addresses. `futex` only to wait and wake on their stub's context
/// blocks, and to wake on the bells.
pub const THREAD_CALLS: [i64; 3] = [libc::SYS_futex, libc::SYS_rt_sigreturn, libc::SYS_sched_yield];

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

/// The filter of the zygote and of memory threads.
pub fn memory_filter() -> Vec<Instruction> {
    let mut program = head();
    for call in MEMORY_CALLS {
        program.extend([jump(libc::BPF_JEQ, call as u32, 0, 1), ret(ALLOW)]);
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

