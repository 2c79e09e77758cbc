//! Copies and atomics on memory that may vanish under us: a `SIGBUS` (a file cut short, a full tmpfs) or `SIGSEGV` in one
//! of these few instructions becomes a returned error.
//!
//! Invariant: [`install`] has run before any of them is called on memory that can fault. The functions take raw pointers
//! and are private to the crate; [`crate::Window`] is their safe face.

use std::arch::global_asm;
use std::mem::MaybeUninit;

// Between `nacre_copy_start` and `nacre_copy_end` a fault resumes at `nacre_copy_fault`, which returns 1.
// No stack is used in between, so the return address is on top.
global_asm!(
    ".pushsection .text.nacre_copy,\"ax\",@progbits",
    ".balign 16",
    ".globl nacre_copy_start",
    "nacre_copy_start:",
    // nacre_copy(dst: rdi, src: rsi, len: rdx) -> eax
    ".globl nacre_copy",
    "nacre_copy:",
    "cmp rdx, 128",
    "ja 3f",
    "2: cmp rdx, 8",
    "jb 4f",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "sub rdx, 8",
    "jmp 2b",
    "4: test rdx, rdx",
    "jz 5f",
    "mov al, [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rdx",
    "jmp 4b",
    "3: mov rcx, rdx",
    "rep movsb",
    "5: xor eax, eax",
    "ret",
    // nacre_zero(dst: rdi, len: rsi) -> eax
    ".globl nacre_zero",
    "nacre_zero:",
    "mov rcx, rsi",
    "xor eax, eax",
    "rep stosb",
    "ret",
    // nacre_load32(src: rdi, out: rsi) -> eax
    ".globl nacre_load32",
    "nacre_load32:",
    "mov ecx, [rdi]",
    "mov [rsi], ecx",
    "xor eax, eax",
    "ret",
    // nacre_cmpxchg32(ptr: rdi, expected: esi, new: edx, seen: rcx) -> eax
    ".globl nacre_cmpxchg32",
    "nacre_cmpxchg32:",
    "mov eax, esi",
    "lock cmpxchg [rdi], edx",
    "mov [rcx], eax",
    "xor eax, eax",
    "ret",
    // nacre_store64(ptr: rdi, value: rsi) -> eax; one store, for text that runs meanwhile
    ".globl nacre_store64",
    "nacre_store64:",
    "mov [rdi], rsi",
    "xor eax, eax",
    "ret",
    ".globl nacre_copy_end",
    "nacre_copy_end:",
    ".globl nacre_copy_fault",
    "nacre_copy_fault:",
    "cld",
    "mov eax, 1",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    pub(crate) fn nacre_copy(dst: *mut u8, src: *const u8, len: usize) -> u32;
    pub(crate) fn nacre_zero(dst: *mut u8, len: usize) -> u32;
    pub(crate) fn nacre_load32(src: *const u32, out: *mut u32) -> u32;
    pub(crate) fn nacre_cmpxchg32(ptr: *mut u32, expected: u32, new: u32, seen: *mut u32) -> u32;
    pub(crate) fn nacre_store64(ptr: *mut u64, value: u64) -> u32;
    static nacre_copy_start: u8;
    static nacre_copy_end: u8;
    static nacre_copy_fault: u8;
}

/// Installs the handler of `SIGBUS` and `SIGSEGV` that turns a fault inside this module's code into an error and lets any
/// other fault end the process as it would without a handler. Idempotent; call it once, before the first guest.
pub fn install() {
    for signal in [libc::SIGBUS, libc::SIGSEGV] {
        // SAFETY: `action` is a fully initialised sigaction whose handler has the SA_SIGINFO signature.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

extern "C" fn on_fault(signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid ucontext to a SA_SIGINFO handler; only the addresses of the labels are taken.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        let start = &raw const nacre_copy_start as i64;
        let end = &raw const nacre_copy_end as i64;
        if (start..end).contains(&*rip) {
            *rip = &raw const nacre_copy_fault as i64;
            return;
        }
        // A real crash: take the default action by faulting again.
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}
