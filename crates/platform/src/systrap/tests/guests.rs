//! Guest programs, in one position-independent block.

use super::harness::{CODE, DATA};

core::arch::global_asm!(
    r#"
.pushsection .text.nacre_guests,"ax",@progbits
.balign 64
.globl nacre_guests_start
nacre_guests_start:

/* Calls 39 with six arguments for ever. */
.globl nacre_guest_calls
nacre_guest_calls:
        mov     $1, %edi
        mov     $2, %esi
        mov     $3, %edx
        mov     $4, %r10d
        mov     $5, %r8d
        mov     $6, %r9d
        mov     $7, %ebx
        mov     $8, %ebp
        mov     $9, %r12d
        mov     $10, %r13d
        mov     $11, %r14d
        mov     $12, %r15d
        mov     $0x1234, %eax
        movq    %rax, %xmm7
1:      mov     $39, %eax
        syscall
        jmp     1b

/* Calls 40 with xmm7. */
.globl nacre_guest_xmm
nacre_guest_xmm:
        movq    %xmm7, %rdi
        mov     $40, %eax
        syscall
        jmp     nacre_guest_xmm

/* Adds one to DATA for ever. */
.globl nacre_guest_spin
nacre_guest_spin:
        movabs  ${DATA}, %rdi
1:      lock incq (%rdi)
        jmp     1b

/* Reads address 8, writes read-only code, executes data. */
.globl nacre_guest_fault
nacre_guest_fault:
        mov     8, %rax
        movabs  ${CODE}, %rdi
        movl    $1, (%rdi)
        ud2
        int3
        xor     %ecx, %ecx
        div     %ecx
        hlt

.globl nacre_guest_int80
nacre_guest_int80:
        mov     $20, %eax
        int     $0x80
        jmp     nacre_guest_int80

.globl nacre_guest_x32
nacre_guest_x32:
        mov     $0x40000027, %eax
        syscall
        jmp     nacre_guest_x32

/* The vsyscall page's time(). */
.globl nacre_guest_vsyscall
nacre_guest_vsyscall:
        xor     %edi, %edi
        mov     $0xffffffffff600400, %rax
        call    *%rax
        mov     $41, %eax
        syscall

/* Patched by hand: rcx = where to go on, rbx = the trampoline. */
.globl nacre_guest_patched
nacre_guest_patched:
        mov     $1, %edi
        mov     $2, %esi
        mov     $3, %edx
        mov     $4, %r10d
        mov     $5, %r8d
        mov     $6, %r9d
        mov     $8, %ebp
        mov     $9, %r12d
        mov     $10, %r13d
        mov     $11, %r14d
        mov     $12, %r15d
        mov     $0x1234, %eax
        movq    %rax, %xmm7
        xor     %eax, %eax
2:      mov     $39, %eax
        cmp     $39, %eax
        lea     1f(%rip), %rcx
        jmp     *%rbx
1:      jne     9f
        jmp     2b
9:      ud2

/* Makes DATA+8 calls by the trampoline in rbx and checks that each comes back as number + 1 with its registers; then call 60. */
.globl nacre_guest_stress
nacre_guest_stress:
        movabs  ${DATA}, %r15
        xor     %r14d, %r14d
2:      mov     %r14, %rax
        lea     1(%r14), %rdi
        lea     2(%r14), %rsi
        lea     3(%r14), %rdx
        lea     4(%r14), %r10
        lea     5(%r14), %r8
        lea     6(%r14), %r9
        lea     7(%r14), %r12
        lea     8(%r14), %r13
        lea     9(%r14), %rbp
        lea     1f(%rip), %rcx
        jmp     *%rbx
1:      sub     $1, %rax
        cmp     %r14, %rax
        jne     9f
        .irp r, di, si, dx, 10, 8, 9, 12, 13, bp
        inc     %rax
        cmp     %rax, %r\r
        jne     9f
        .endr
        inc     %r14
        cmp     8(%r15), %r14
        jb      2b
        mov     $60, %eax
        syscall
9:      ud2

/* Returns from the frame at rdi by the blob's rt_sigreturn at rsi: what a hostile guest can do to its signal mask. */
.globl nacre_guest_sigreturn
nacre_guest_sigreturn:
        mov     %rdi, %rsp
        mov     $15, %eax
        jmp     *%rsi

/* Writes rdi to rsi, then calls 42. */
.globl nacre_guest_store
nacre_guest_store:
        mov     %rdi, (%rsi)
        mov     $42, %eax
        syscall
        jmp     nacre_guest_store

/* Scribbles over the answer page (rdi): plausible sequence numbers for ever. */
.globl nacre_guest_forge
nacre_guest_forge:
        xor     %eax, %eax
1:      mov     %rax, %rcx
        and     $31, %ecx
        shl     $6, %ecx
        mov     %rax, (%rdi,%rcx)
        inc     %rax
        and     $127, %eax
        jmp     1b
/* Writes pseudo-random words all over rsi (a power of two) bytes from rdi, for ever. */
.globl nacre_guest_scribble
nacre_guest_scribble:
        mov     $88172645463325252, %rax
        dec     %rsi
        and     $-8, %rsi
1:      mov     %rax, %rcx
        shl     $13, %rcx
        xor     %rcx, %rax
        mov     %rax, %rcx
        shr     $7, %rcx
        xor     %rcx, %rax
        mov     %rax, %rcx
        shl     $17, %rcx
        xor     %rcx, %rax
        mov     %rax, %rdx
        shr     $20, %rdx
        and     %rsi, %rdx
        mov     %rax, %rcx
        test    $0x100, %eax
        jz      2f
        and     $7, %ecx
2:      mov     %rcx, (%rdi,%rdx)
        jmp     1b

/* Form A (getppid), aligned to a word; flags and registers checked after the call. */
.balign 8
.globl nacre_guest_form_a
nacre_guest_form_a:
        mov     $110, %eax
        syscall
        mov     %rax, %rdi
        mov     $43, %eax
        jmp     1f
1:      syscall
        jmp     nacre_guest_form_a

/* Form B: the wrapper loads its number from rdi; its comparison's result goes to the next call. */
.balign 8
        nop
.globl nacre_guest_form_b
nacre_guest_form_b:
        syscall
        cmp     $-4095, %rax
        jae     2f
        mov     %r12, %rax
        jmp     nacre_guest_form_b
2:      mov     $44, %eax
        jmp     3f
3:      syscall
        mov     %r12, %rax
        jmp     nacre_guest_form_b
.globl nacre_guests_end
nacre_guests_end:
.popsection
"#,
    CODE = const CODE,
    DATA = const DATA,
    options(att_syntax)
);

unsafe extern "C" {
    static nacre_guests_start: u8;
    static nacre_guests_end: u8;
}

pub fn code() -> &'static [u8] {
    let start = &raw const nacre_guests_start;
    // SAFETY: the two symbols bound a block of this program's text.
    unsafe { std::slice::from_raw_parts(start, &raw const nacre_guests_end as usize - start as usize) }
}

macro_rules! programs {
    ($($name:ident $symbol:ident,)*) => {
        unsafe extern "C" { $(static $symbol: u8;)* }
        $(pub fn $name() -> u64 { CODE + (&raw const $symbol as u64 - &raw const nacre_guests_start as u64) })*
    };
}

programs! {
    calls nacre_guest_calls,
    xmm nacre_guest_xmm,
    spin nacre_guest_spin,
    fault nacre_guest_fault,
    int80 nacre_guest_int80,
    x32 nacre_guest_x32,
    vsyscall nacre_guest_vsyscall,
    patched nacre_guest_patched,
    stress nacre_guest_stress,
    sigreturn nacre_guest_sigreturn,
    store nacre_guest_store,
    forge nacre_guest_forge,
    scribble nacre_guest_scribble,
    form_a nacre_guest_form_a,
    form_b nacre_guest_form_b,
}
