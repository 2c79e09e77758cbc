//! Where things lie: addresses inside every stub, offsets inside the control file and its pages.
//!
//! All stubs have the same layout, since all descend from one zygote. The blob and the sentry both take these numbers from here.

use std::ops::Range;

/// A page.
pub const PAGE: u64 = 4096;

// ---- addresses in a stub --------------------------------------------------------------------------------------------

/// The blob: code, `r-x`, a sealed memfd.
pub const BLOB: u64 = 0x7e00_0000_0000;
/// Room for the blob.
pub const BLOB_LEN: u64 = 0x2000;
/// Constants and filter programs, `r--`.
pub const GLOBAL: u64 = BLOB + 0x2000;
/// One cache line per executor, `r--`: two `u32`s, "it sleeps" and the CPU it is on.
pub const SLEEPING: u64 = BLOB + 0x3000;
/// One cache line per executor, `rw-`: the futex it sleeps on.
pub const BELLS: u64 = BLOB + 0x4000;
/// This stub's ring of orders, `r--`.
pub const ORDERS: u64 = BLOB + 0x5000;
/// This stub's ring of answers, `rw-`.
pub const ANSWERS: u64 = BLOB + 0x6000;
/// This stub's context blocks, `rw-`.
pub const BLOCKS: u64 = BLOB + 0x10_0000;
/// One context block: control words, extended state, signal stack.
pub const BLOCK_LEN: u64 = 0x4000;
/// Application threads per stub.
pub const BLOCK_COUNT: u64 = 4096;
/// All context blocks.
pub const BLOCKS_LEN: u64 = BLOCK_LEN * BLOCK_COUNT;
/// Everything of ours but vDSO and vvar.
pub const REGION: Range<u64> = BLOB..BLOCKS + BLOCKS_LEN;
/// What an application may map, `REGION` and the vDSO apart.
pub const USER: Range<u64> = 0x1_0000..0x7fff_ffff_f000;

// ---- offsets in the control file ------------------------------------------------------------------------------------

/// [`GLOBAL`], [`SLEEPING`] and [`BELLS`] in the control file.
pub const FILE_GLOBAL: u64 = 0;
pub const FILE_SLEEPING: u64 = 0x1000;
pub const FILE_BELLS: u64 = 0x2000;
/// The first stub's area.
pub const FILE_AREAS: u64 = 0x1_0000;
/// One stub's area: order page, answer page, blocks.
pub const AREA_LEN: u64 = AREA_BLOCKS + BLOCKS_LEN;
pub const AREA_ORDERS: u64 = 0;
pub const AREA_ANSWERS: u64 = 0x1000;
pub const AREA_BLOCKS: u64 = 0x1_0000;

/// Executors there may be: one cache line each in a page.
pub const MAX_EXECUTORS: usize = 64;
pub const LINE: u64 = 64;

// ---- the global page ------------------------------------------------------------------------------------------------

/// `u32`: the number of the control file's descriptor.
pub const GLOBAL_CONTROL_FD: u64 = 0x00;
/// `u32`: how many holes the zygote unmaps.
pub const GLOBAL_HOLES: u64 = 0x04;
/// `u64`: mask of the extended-state components to save.
pub const GLOBAL_XFEATURES: u64 = 0x08;
/// `sock_fprog` of the memory thread's and of the application threads' filter.
pub const GLOBAL_MEMORY_FPROG: u64 = 0x10;
pub const GLOBAL_THREAD_FPROG: u64 = 0x20;
/// (address, length) of the holes.
pub const GLOBAL_HOLE_LIST: u64 = 0x40;
/// The filters' instructions.
pub const GLOBAL_MEMORY_FILTER: u64 = 0x200;
pub const GLOBAL_THREAD_FILTER: u64 = 0x800;

// ---- the order and answer pages -------------------------------------------------------------------------------------

/// Entries of the ring, 64 bytes each. An order: sequence, number, six arguments. An answer: sequence, result, tag (16 bytes).
pub const RING: u64 = 32;
/// In the order page, `u32`: the number (its lower half) of the order whose answer the sentry sleeps for; 0: none.
pub const ORDER_SENTRY_WAITS: u64 = 0x800;
/// In the order page, `u32`: how often the memory thread looks again before it sleeps.
pub const ORDER_SPIN: u64 = 0x840;
/// In the order page: the round keys, until the memory thread has read them.
pub const ORDER_KEYS: u64 = 0x900;
/// In the answer page, `u32`: the memory thread sleeps.
pub const ANSWER_STUB_WAITS: u64 = 0x800;

// ---- a context block ------------------------------------------------------------------------------------------------

/// `u32`: whose turn it is; the `TURN_*` values. Number and arguments of a call share its cache line.
pub const TURN: u64 = 0x40;
/// `u32`: what the stub does with its turn; the `COMMAND_*` values.
pub const COMMAND: u64 = 0x44;
pub const RAX: u64 = 0x48;
/// Six arguments: rdi rsi rdx r10 r8 r9.
pub const ARGS: u64 = 0x50;
/// Written by the trampoline, read by the sentry on demand.
pub const RIP: u64 = 0x80;
/// From `lahf` and `seto`: AH the low flags, AL overflow.
pub const FLAGS: u64 = 0x88;
/// rbx rbp rsp r12 r13 r14 r15.
pub const SAVED: u64 = 0x90;
/// `%fs` base at a patched call.
pub const PATCHED_FS: u64 = 0xc8;
/// `u64`: turns of the stub's spin loop so far.
pub const SPUN: u64 = 0xd0;
/// `u32`: index of the executor's bell.
pub const BELL: u64 = 0x100;
/// `u32`: how often the stub looks again before it sleeps.
pub const SPIN: u64 = 0x104;
/// `%fs` and `%gs` bases to load.
pub const FS_IN: u64 = 0x108;
pub const GS_IN: u64 = 0x110;
/// Address (in the stub) of the `ucontext` to return from.
pub const FRAME: u64 = 0x118;
/// `u32`: how often the stub gives its CPU to the executor before it sleeps.
pub const YIELD: u64 = 0x120;
/// `u32`: the stub sleeps.
pub const STUB_WAITS: u64 = 0x140;
/// `u32`: the CPU it was on when it last gave the turn away.
pub const STUB_CPU: u64 = 0x144;
/// At a signal: addresses of `ucontext` and `siginfo`, `%fs` and `%gs` bases, number.
pub const SIGNAL_UCONTEXT: u64 = 0x180;
pub const SIGNAL_INFO: u64 = 0x188;
pub const SIGNAL_FS: u64 = 0x190;
pub const SIGNAL_GS: u64 = 0x198;
pub const SIGNAL_NUMBER: u64 = 0x1a0;
/// What the stub may answer alone: `u32`s enabled, pid, tid, ppid, uid, euid, gid, egid.
pub const IDENTITY: u64 = 0x1c0;
/// The `ucontext` the sentry builds.
pub const BUILT_FRAME: u64 = 0x400;
/// The extended state the trampoline saves to and the sentry gives.
pub const XSTATE: u64 = 0x1000;
pub const XSTATE_LEN: u64 = 0x1000;
/// The signal stack.
pub const STACK: u64 = 0x2000;

/// The stub has the turn.
pub const TURN_STUB: u32 = 0;
/// The sentry has it: a signal arrived.
pub const TURN_SIGNAL: u32 = 1;
/// A patched call.
pub const TURN_PATCHED: u32 = 2;
/// The extended state was saved on request.
pub const TURN_SAVED: u32 = 3;
/// The thread is new.
pub const TURN_NEW: u32 = 4;

/// Go on: from a signal by `rt_sigreturn`, from a patched call by a jump.
pub const COMMAND_RESUME: u32 = 0;
/// (Patched call) save the extended state, hand the turn back.
pub const COMMAND_SAVE: u32 = 1;
/// (Patched call) `rt_sigreturn` from the built frame.
pub const COMMAND_RETURN: u32 = 2;
/// (Patched call) save the extended state, then `rt_sigreturn` from the built frame, which points to it.
pub const COMMAND_SAVE_RETURN: u32 = 3;
/// (While the sentry has the turn) sleep rather than spin: the answer will take a while.
pub const COMMAND_SLEEP: u32 = 4;

/// The segment whose limit is the CPU's number (`__CPUNODE_SEG`, as the vDSO's `getcpu` reads it), and the number's bits in it.
pub const CPU_SEGMENT: u32 = 0x7b;
pub const CPU_MASK: u32 = 0xfff;

/// The signal that interrupts an application thread.
pub const INTERRUPT: i32 = libc::SIGURG;
/// The signals an application thread takes. All others stay blocked.
pub const SIGNALS: [i32; 7] = [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, INTERRUPT];

/// Flags of the clone that makes a stub, and of the one that makes an application thread. Each application thread is a thread
/// group of its own: CPU time, SIGKILL and exit status by thread.
pub const CLONE_STUB: u64 = (libc::CLONE_FILES | libc::CLONE_PARENT) as u64;
pub const CLONE_THREAD: u64 =
    (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_SYSVSEM | libc::CLONE_PARENT)
        as u64;
