//! The blob: the only code of ours in a stub.
//!
//! Position-independent machine code without data, in a linker section of its own. It is copied into a sealed memory file and
//! mapped at [`layout::BLOB`] in every stub. It has five parts: the signal handler, the trampoline of patched calls, the
//! zygote's last steps, the memory thread, and an application thread's first steps.
//!
//! One `global_asm!` rather than a naked function for each part: the parts jump to each other's labels and their order
//! matters for the zones below.
//!
//! **Rules.** A memory thread uses registers and read-only pages only: no stack, nothing an application thread could write
//! decides what it does. A new application thread likewise, until its last filter is in. No reference leaves the section
//! (a test disassembles it).
//!
//! **Zones.** An interrupt may arrive while a thread runs the trampoline. The handler and the sentry tell by `rip`:
//! - before `published`: the call has not been handed over. The sentry serves it from the signal frame ([`Zone::Before`]). (That goes
//!   for a `sched_yield` too which was just made here: two are as good as one.)
//! - after, and the sentry has the turn: the handler goes back quietly.
//! - after, and the stub has the turn: what follows only loads what the sentry gave, so the sentry, which knows
//!   it, takes it for done ([`Zone::After`]).

use super::layout::*;

/// Where in the trampoline a thread was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Not in the blob.
    Outside,
    /// In the blob, but not in the trampoline.
    Elsewhere,
    /// The call is not published yet. Is `rax`, is `rcx` in the block already?
    Before { rax_saved: bool, rcx_saved: bool },
    /// The sentry's answer is being loaded.
    After,
}

core::arch::global_asm!(
    r#"
.pushsection nacre_blob,"ax",@progbits
.balign 64
.hidden nacre_blob_start
.globl nacre_blob_start
nacre_blob_start:

/* Wait until the turn is ours; the block is in \c. Wake the executor if it says (in a page we cannot write) that it sleeps.
   Spin if it is on another CPU than we; else, if there is only one, give it to it a few times; both until it asks us to sleep.
   Clobbers rax rcx rdx, and rdi rsi r10 r11 when it makes a host call, after which \reload finds the block again. */
.macro AWAIT_TURN c, reload
        mov     {BELL}(\c), %eax
        and     $63, %eax
        shl     $6, %eax
        movabs  ${SLEEPING}, %rcx
        cmpl    $0, (%rcx,%rax)
        jne     90f
80:     mov     4(%rcx,%rax), %eax              /* the executor's CPU */
        mov     ${CPU_SEGMENT}, %ecx
        lsl     %ecx, %ecx
        and     ${CPU_MASK}, %ecx
        cmp     %ecx, {STUB_CPU}(\c)
        je      81f
        mov     %ecx, {STUB_CPU}(\c)
81:     cmp     %ecx, %eax
        je      88f
        mov     {SPIN}(\c), %ecx
82:     mov     {TURN}(\c), %rax                /* turn and command */
        test    %eax, %eax
        je      87f
        shr     $32, %rax
        cmp     ${COMMAND_SLEEP}, %eax
        je      83f
        pause
        dec     %ecx
        jg      82b
83:     mov     {SPIN}(\c), %eax                /* for the CPU time: how long we spun */
        sub     %ecx, %eax
        add     %rax, {SPUN}(\c)
84:     mov     $1, %eax                        /* say that we sleep, look again, sleep */
        xchg    %eax, {STUB_WAITS}(\c)
        mov     {TURN}(\c), %edx
        test    %edx, %edx
        je      85f
        lea     {TURN}(\c), %rdi
        xor     %esi, %esi                      /* FUTEX_WAIT, shared */
        xor     %r10d, %r10d
        mov     ${NR_FUTEX}, %eax
        syscall
        \reload
        jmp     84b
85:     movl    $0, {STUB_WAITS}(\c)
        jmp     99f
87:     mov     {SPIN}(\c), %eax
        sub     %ecx, %eax
        add     %rax, {SPUN}(\c)
        jmp     99f
88:     mov     {YIELD}(\c), %edx
89:     dec     %edx
        jl      84b
        mov     {TURN}(\c), %rax
        test    %eax, %eax
        je      99f
        shr     $32, %rax
        cmp     ${COMMAND_SLEEP}, %eax
        je      84b
        mov     ${NR_SCHED_YIELD}, %eax
        syscall
        \reload
        jmp     89b
90:     movabs  ${BELLS}, %rdi
        add     %rax, %rdi
        lock incl (%rdi)
        mov     $1, %esi                        /* FUTEX_WAKE, all */
        mov     $0x7fffffff, %edx
        mov     ${NR_FUTEX}, %eax
        syscall
        \reload
        mov     {BELL}(\c), %eax
        and     $63, %eax
        shl     $6, %eax
        movabs  ${SLEEPING}, %rcx
        jmp     80b
99:
.endm

/* Load the bases, return from the frame the sentry named. */
.macro RETURN_FROM_FRAME c
        mov     {FS_IN}(\c), %rax
        wrfsbase %rax
        mov     {FRAME}(\c), %rsp               /* rt_sigreturn finds the frame at rsp - 8 */
        mov     {GS_IN}(\c), %rax
        wrgsbase %rax
        mov     ${NR_SIGRETURN}, %eax
        syscall
        hlt
.endm

/* ---- the signal handler. It runs on the alternate stack, which lies inside the block: so %gs may be the guest's. */
.balign 64
.hidden nacre_blob_handler
.globl nacre_blob_handler
nacre_blob_handler:
        mov     %rsp, %rbx
        and     $-{BLOCK_LEN}, %rbx
        mov     168(%rdx), %rax                 /* the interrupted rip */
        lea     nacre_blob_published(%rip), %rcx
        cmp     %rcx, %rax
        jb      1f
        lea     nacre_blob_tramp_end(%rip), %rcx
        cmp     %rcx, %rax
        jae     1f
        cmpl    $0, {TURN}(%rbx)
        jne     2f
1:      mov     %rdx, {SIGNAL_UCONTEXT}(%rbx)
        mov     %rsi, {SIGNAL_INFO}(%rbx)
        mov     %edi, {SIGNAL_NUMBER}(%rbx)
        rdfsbase %rax
        mov     %rax, {SIGNAL_FS}(%rbx)
        rdgsbase %rax
        mov     %rax, {SIGNAL_GS}(%rbx)
        mov     ${TURN_SIGNAL}, %eax
        xchg    %eax, {TURN}(%rbx)
        AWAIT_TURN %rbx, ""
        RETURN_FROM_FRAME %rbx
2:      mov     %rdx, %rsp
        mov     ${NR_SIGRETURN}, %eax
        syscall
        hlt

/* ---- a patched call: rax = number, rcx = where to go on, r11 free. No stack, no vector registers, flags kept. */
.balign 64
.hidden nacre_blob_tramp
.globl nacre_blob_tramp
nacre_blob_tramp:
        rdgsbase %r11
        mov     %rax, {RAX}(%r11)
.hidden nacre_blob_rax_saved
.globl nacre_blob_rax_saved
nacre_blob_rax_saved:
        mov     %rdi, {ARGS}(%r11)
        mov     %rsi, {ARGS}+8(%r11)
        mov     %rdx, {ARGS}+16(%r11)
        mov     %r10, {ARGS}+24(%r11)
        mov     %r8, {ARGS}+32(%r11)
        mov     %r9, {ARGS}+40(%r11)
        mov     %rbx, {SAVED}(%r11)
        mov     %rbp, {SAVED}+8(%r11)
        mov     %rsp, {SAVED}+16(%r11)
        mov     %r12, {SAVED}+24(%r11)
        mov     %r13, {SAVED}+32(%r11)
        mov     %r14, {SAVED}+40(%r11)
        mov     %r15, {SAVED}+48(%r11)
        mov     %rcx, {RIP}(%r11)
.hidden nacre_blob_rcx_saved
.globl nacre_blob_rcx_saved
nacre_blob_rcx_saved:
        rdfsbase %rcx
        mov     %rcx, {PATCHED_FS}(%r11)
        lahf
        seto    %al
        mov     %rax, {FLAGS}(%r11)
        mov     {RAX}(%r11), %rcx               /* sched_yield is the host's, if the stub may answer; the flags stay as they are */
        lea     -{NR_SCHED_YIELD}(%rcx), %rcx
        jrcxz   6f
        jmp     7f
6:      mov     {IDENTITY}(%r11), %ecx
        jrcxz   7f
        mov     ${NR_SCHED_YIELD}, %eax
        syscall
        rdgsbase %r11
        mov     {RIP}(%r11), %rcx
        mov     $0, %eax
        jmp     *%rcx
7:      mov     ${TURN_PATCHED}, %eax
        xchg    %eax, {TURN}(%r11)
.hidden nacre_blob_published
.globl nacre_blob_published
nacre_blob_published:
        AWAIT_TURN %r11, "rdgsbase %r11"
        cmpl    $0, {COMMAND}(%r11)
        jne     3f
        mov     {ARGS}(%r11), %rdi
        mov     {ARGS}+8(%r11), %rsi
        mov     {ARGS}+16(%r11), %rdx
        mov     {ARGS}+24(%r11), %r10
        mov     {RIP}(%r11), %rcx
        mov     {FLAGS}(%r11), %rax
        add     $0x7f, %al
        sahf
        mov     {RAX}(%r11), %rax
        jmp     *%rcx
3:      cmpl    ${COMMAND_RETURN}, {COMMAND}(%r11)
        je      5f
        movabs  ${GLOBAL_XFEATURES}, %rcx
        mov     (%rcx), %eax
        mov     4(%rcx), %edx
        xsave64 {XSTATE}(%r11)
        cmpl    ${COMMAND_SAVE}, {COMMAND}(%r11)
        jne     5f
        mov     ${TURN_SAVED}, %eax
        xchg    %eax, {TURN}(%r11)
        jmp     nacre_blob_published
5:      RETURN_FROM_FRAME %r11
.hidden nacre_blob_tramp_end
.globl nacre_blob_tramp_end
nacre_blob_tramp_end:

/* ---- the zygote: unmap everything but our pages and the vDSO, lock down, then serve orders like any memory thread. */
.balign 64
.hidden nacre_blob_zygote
.globl nacre_blob_zygote
nacre_blob_zygote:
        movabs  ${GLOBAL}, %r15
        mov     {GLOBAL_HOLES}(%r15), %r12d
        lea     {GLOBAL_HOLE_LIST}(%r15), %r13
1:      test    %r12d, %r12d
        je      2f
        mov     (%r13), %rdi
        mov     8(%r13), %rsi
        mov     ${NR_MUNMAP}, %eax
        syscall
        test    %rax, %rax
        jne     9f
        add     $16, %r13
        dec     %r12d
        jmp     1b
2:      mov     ${NR_SECCOMP}, %eax
        mov     $1, %edi
        xor     %esi, %esi
        lea     {GLOBAL_MEMORY_FPROG}(%r15), %rdx
        syscall
        test    %rax, %rax
        jne     9f
        jmp     nacre_blob_memory
9:      mov     ${NR_EXIT_GROUP}, %eax
        mov     $99, %edi
        syscall
        hlt

/* ---- the memory thread. rbx orders, rbp answers, r12 next sequence number; xmm4..14 the keys answers are signed with. */
nacre_blob_memory:
        movabs  ${ORDERS}, %rbx
        movabs  ${ANSWERS}, %rbp
        movdqa  {ORDER_KEYS}(%rbx), %xmm4
        movdqa  {ORDER_KEYS}+0x10(%rbx), %xmm5
        movdqa  {ORDER_KEYS}+0x20(%rbx), %xmm6
        movdqa  {ORDER_KEYS}+0x30(%rbx), %xmm7
        movdqa  {ORDER_KEYS}+0x40(%rbx), %xmm8
        movdqa  {ORDER_KEYS}+0x50(%rbx), %xmm9
        movdqa  {ORDER_KEYS}+0x60(%rbx), %xmm10
        movdqa  {ORDER_KEYS}+0x70(%rbx), %xmm11
        movdqa  {ORDER_KEYS}+0x80(%rbx), %xmm12
        movdqa  {ORDER_KEYS}+0x90(%rbx), %xmm13
        movdqa  {ORDER_KEYS}+0xa0(%rbx), %xmm14
        mov     $1, %r12d
nacre_blob_next_order:
        mov     %r12, %r14
        and     ${RING}-1, %r14
        shl     $6, %r14
        lea     (%rbp,%r14), %r13               /* the answer: sequence, result, tag */
        add     %rbx, %r14                      /* the order: sequence, number, arguments */
        mov     {ORDER_SPIN}(%rbx), %ecx
1:      mov     (%r14), %rdx
        cmp     %r12, %rdx
        je      5f
        pause
        dec     %ecx
        jg      1b
        mov     $1, %eax
        xchg    %eax, {ANSWER_STUB_WAITS}(%rbp) /* only a hint: the page is the guest's too */
        mov     (%r14), %rdx
        cmp     %r12, %rdx
        je      4f
        mov     %r14, %rdi                      /* FUTEX_WAIT on the read-only page */
        xor     %esi, %esi
        xor     %r10d, %r10d
        mov     ${NR_FUTEX}, %eax
        syscall
4:      movl    $0, {ANSWER_STUB_WAITS}(%rbp)
        mov     {ORDER_SPIN}(%rbx), %ecx
        jmp     1b
5:      mov     8(%r14), %rax
        mov     16(%r14), %rdi
        mov     24(%r14), %rsi
        mov     32(%r14), %rdx
        mov     40(%r14), %r10
        mov     48(%r14), %r8
        mov     56(%r14), %r9
        cmp     ${NR_CLONE}, %eax
        je      7f
        syscall
6:      mov     %rax, 8(%r13)
        movq    %rax, %xmm0
        movq    %r12, %xmm1
        punpcklqdq %xmm1, %xmm0
        pxor    %xmm4, %xmm0
        .irp k,5,6,7,8,9,10,11,12,13
        aesenc  %xmm\k, %xmm0
        .endr
        aesenclast %xmm14, %xmm0
        movdqa  %xmm0, 16(%r13)
        mov     %r12, %rax
        xchg    %rax, (%r13)
        cmp     %r12d, {ORDER_SENTRY_WAITS}(%rbx)       /* does the sentry sleep for this one? */
        lea     1(%r12), %r12
        jne     nacre_blob_next_order
        mov     %r13, %rdi
        mov     $1, %esi
        mov     $0x7fffffff, %edx
        mov     ${NR_FUTEX}, %eax
        syscall
        jmp     nacre_blob_next_order
7:      mov     %r8, %r15                       /* clone: r8 (tls, unused) carries the new stub's area */
        xor     %edx, %edx
        xor     %r10d, %r10d
        syscall
        test    %rax, %rax
        jne     6b
        test    ${CLONE_VM}, %edi
        jne     nacre_blob_thread
        movabs  ${ORDERS}, %rdi                 /* a new stub: put its own pages in place of its parent's */
        mov     $0x1000, %esi
        mov     $1, %edx
        mov     $0x11, %r10d
        movabs  ${GLOBAL}, %r8
        mov     {GLOBAL_CONTROL_FD}(%r8), %r8d
        mov     %r15, %r9
        mov     ${NR_MMAP}, %eax
        syscall
        cmp     %rdi, %rax
        jne     9f
        movabs  ${ANSWERS}, %rdi
        mov     $0x1000, %esi
        mov     $3, %edx
        lea     {AREA_ANSWERS}(%r15), %r9
        mov     ${NR_MMAP}, %eax
        syscall
        cmp     %rdi, %rax
        jne     9f
        movabs  ${BLOCKS}, %rdi
        mov     ${BLOCKS_LEN}, %esi
        mov     $3, %edx
        lea     {AREA_BLOCKS}(%r15), %r9
        mov     ${NR_MMAP}, %eax
        syscall
        cmp     %rdi, %rax
        jne     9f
        jmp     nacre_blob_memory
9:      mov     ${NR_EXIT_GROUP}, %eax
        mov     $98, %edi
        syscall
        hlt

/* ---- a new application thread; rsp = its block. Other threads of the guest may already run and write to all writable
   memory: registers and read-only pages only, until the last filter is in. */
nacre_blob_thread:
        mov     %rsp, %rbx
        wrgsbase %rbx
        mov     ${NR_PRCTL}, %eax
        mov     ${PR_SET_PDEATHSIG}, %edi
        mov     $9, %esi
        syscall
        mov     ${NR_PRCTL}, %eax
        mov     ${PR_SYSCALL_USER_DISPATCH}, %edi
        mov     $1, %esi
        movabs  ${BLOB}, %rdx
        mov     ${BLOB_LEN}, %r10d
        xor     %r8d, %r8d                      /* no selector: always on */
        syscall
        test    %rax, %rax
        jne     9f
        mov     ${NR_SECCOMP}, %eax
        mov     $1, %edi
        xor     %esi, %esi
        movabs  ${GLOBAL_THREAD_FPROG_AT}, %rdx
        syscall
        test    %rax, %rax
        jne     9f
        mov     ${TURN_NEW}, %eax
        xchg    %eax, {TURN}(%rbx)
        AWAIT_TURN %rbx, ""
        RETURN_FROM_FRAME %rbx                  /* the first entry is a return from a frame the sentry built */
9:      hlt
.hidden nacre_blob_end
.globl nacre_blob_end
nacre_blob_end:
.popsection
"#,
    NR_FUTEX = const libc::SYS_futex,
    NR_SIGRETURN = const libc::SYS_rt_sigreturn,
    NR_SCHED_YIELD = const libc::SYS_sched_yield,
    YIELD = const YIELD,
    IDENTITY = const IDENTITY,
    NR_MUNMAP = const libc::SYS_munmap,
    NR_MMAP = const libc::SYS_mmap,
    NR_SECCOMP = const libc::SYS_seccomp,
    NR_EXIT_GROUP = const libc::SYS_exit_group,
    NR_CLONE = const libc::SYS_clone,
    NR_PRCTL = const libc::SYS_prctl,
    PR_SET_PDEATHSIG = const libc::PR_SET_PDEATHSIG,
    PR_SYSCALL_USER_DISPATCH = const 59,
    CLONE_VM = const libc::CLONE_VM,
    BLOB = const BLOB,
    BLOB_LEN = const BLOB_LEN,
    GLOBAL = const GLOBAL,
    GLOBAL_XFEATURES = const GLOBAL + GLOBAL_XFEATURES,
    GLOBAL_HOLES = const GLOBAL_HOLES,
    GLOBAL_HOLE_LIST = const GLOBAL_HOLE_LIST,
    GLOBAL_CONTROL_FD = const GLOBAL_CONTROL_FD,
    GLOBAL_MEMORY_FPROG = const GLOBAL_MEMORY_FPROG,
    GLOBAL_THREAD_FPROG_AT = const GLOBAL + GLOBAL_THREAD_FPROG,
    SLEEPING = const SLEEPING,
    BELLS = const BELLS,
    ORDERS = const ORDERS,
    ANSWERS = const ANSWERS,
    BLOCKS = const BLOCKS,
    BLOCKS_LEN = const BLOCKS_LEN,
    BLOCK_LEN = const BLOCK_LEN,
    AREA_ANSWERS = const AREA_ANSWERS,
    AREA_BLOCKS = const AREA_BLOCKS,
    RING = const RING,
    ORDER_SENTRY_WAITS = const ORDER_SENTRY_WAITS,
    ORDER_SPIN = const ORDER_SPIN,
    ORDER_KEYS = const ORDER_KEYS,
    ANSWER_STUB_WAITS = const ANSWER_STUB_WAITS,
    TURN = const TURN,
    COMMAND = const COMMAND,
    RAX = const RAX,
    ARGS = const ARGS,
    RIP = const RIP,
    FLAGS = const FLAGS,
    SAVED = const SAVED,
    PATCHED_FS = const PATCHED_FS,
    SPUN = const SPUN,
    BELL = const BELL,
    SPIN = const SPIN,
    FS_IN = const FS_IN,
    GS_IN = const GS_IN,
    FRAME = const FRAME,
    STUB_WAITS = const STUB_WAITS,
    STUB_CPU = const STUB_CPU,
    CPU_SEGMENT = const CPU_SEGMENT,
    CPU_MASK = const CPU_MASK,
    COMMAND_SLEEP = const COMMAND_SLEEP,
    SIGNAL_UCONTEXT = const SIGNAL_UCONTEXT,
    SIGNAL_INFO = const SIGNAL_INFO,
    SIGNAL_FS = const SIGNAL_FS,
    SIGNAL_GS = const SIGNAL_GS,
    SIGNAL_NUMBER = const SIGNAL_NUMBER,
    XSTATE = const XSTATE,
    TURN_SIGNAL = const TURN_SIGNAL,
    TURN_PATCHED = const TURN_PATCHED,
    TURN_SAVED = const TURN_SAVED,
    TURN_NEW = const TURN_NEW,
    COMMAND_SAVE = const COMMAND_SAVE,
    COMMAND_RETURN = const COMMAND_RETURN,
    options(att_syntax)
);

unsafe extern "C" {
    static nacre_blob_start: u8;
    static nacre_blob_handler: u8;
    static nacre_blob_tramp: u8;
    static nacre_blob_rax_saved: u8;
    static nacre_blob_rcx_saved: u8;
    static nacre_blob_published: u8;
    static nacre_blob_tramp_end: u8;
    static nacre_blob_zygote: u8;
    static nacre_blob_end: u8;
}

fn in_stub(symbol: *const u8) -> u64 {
    BLOB + (symbol as u64 - &raw const nacre_blob_start as u64)
}

/// The code to copy.
pub fn code() -> &'static [u8] {
    let start = &raw const nacre_blob_start;
    let len = &raw const nacre_blob_end as usize - start as usize;
    // SAFETY: the two symbols bound one section of immutable code that the linker put into this program.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Where the signal handler, the trampoline and the zygote's entry are in a stub.
pub fn handler() -> u64 {
    in_stub(&raw const nacre_blob_handler)
}
pub fn trampoline() -> u64 {
    in_stub(&raw const nacre_blob_tramp)
}
pub fn zygote() -> u64 {
    in_stub(&raw const nacre_blob_zygote)
}

/// Which zone an interrupted `rip` is in.
pub fn zone(rip: u64) -> Zone {
    if !(BLOB..BLOB + BLOB_LEN).contains(&rip) {
        Zone::Outside
    } else if (trampoline()..in_stub(&raw const nacre_blob_published)).contains(&rip) {
        Zone::Before {
            rax_saved: rip >= in_stub(&raw const nacre_blob_rax_saved),
            rcx_saved: rip >= in_stub(&raw const nacre_blob_rcx_saved),
        }
    } else if (in_stub(&raw const nacre_blob_published)..in_stub(&raw const nacre_blob_tramp_end)).contains(&rip) {
        Zone::After
    } else {
        Zone::Elsewhere
    }
}
