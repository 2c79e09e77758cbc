//! Making one host call in a forked child and seeing what became of it.

use std::arch::asm;

/// All numbers that are tried: Linux's (some 470 today), some beyond, the ends.
pub fn numbers() -> Vec<i64> {
    (0..600)
        .filter(|number| !(UNFILTERED.contains(number) && fails(*number)))
        .chain([1023, 4095, 0x3fff_ffff, 0x7fff_ffff, -1, -2])
        .collect()
}

/// Calls that the host kernel lets past every filter (`__secure_computing` in kernel/seccomp.c): uretprobe and uprobe, which do nothing but
/// fail (SIGILL, ENXIO) outside of a trampoline that only the kernel makes.
pub const UNFILTERED: [i64; 2] = [335, 336];

/// The bit of an x32 call.
pub const X32: i64 = 0x4000_0000;

/// Arguments that no call takes: nothing they reach does harm.
pub const NONSENSE: [u64; 6] = [u64::MAX; 6];

/// What the kernel does with a call that fails by itself.
pub fn fails(number: i64) -> bool {
    // SAFETY: this process has one thread; `status` outlives the call.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            let failed = (-4095..0).contains(&(call(number, NONSENSE) as i64));
            libc::_exit(i32::from(!failed));
        }
        let mut status = 0;
        libc::waitpid(pid, &raw mut status, 0);
        status == 0 || (libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGILL)
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The filter ended the process.
    Refused,
    /// It went past the filter (whatever came of it).
    Passed,
}

/// Children must leave no cores, and need no permission to die.
pub fn prepare() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a plain structure that outlives the call.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}

/// Runs `attempt` in a child that `confine` has confined. `attempt` must not return to be [`Fate::Passed`]: any end of the child other than by
/// SIGSYS is.
pub fn in_child(confine: impl FnOnce() -> bool, attempt: impl FnOnce()) -> Fate {
    // SAFETY: this process has one thread, so the child may do anything.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        // SAFETY: calls without memory. What blocks is a call that passed.
        unsafe {
            libc::alarm(2);
            if !confine() {
                libc::abort();
            }
            attempt();
            exit()
        }
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {}
    assert!(!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT), "the filter cannot be installed");
    match libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
        true => Fate::Refused,
        false => Fate::Passed,
    }
}

/// Ends the child without the C library's farewell, which makes calls of its own.
pub fn exit() -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    loop {
        std::hint::spin_loop();
    }
}

/// By the `syscall` instruction.
pub fn call(number: i64, args: [u64; 6]) -> u64 {
    let result: u64;
    // SAFETY: made in a child, which may come to any harm.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3],
             in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// By `int 0x80`: another architecture's numbers.
pub fn int80(number: i64) {
    // SAFETY: as `call`.
    unsafe {
        asm!("push rbx", "mov rbx, -1", "int 0x80", "pop rbx", inlateout("rax") number => _, in("rcx") u64::MAX, in("rdx") u64::MAX,
             in("rsi") u64::MAX, in("rdi") u64::MAX, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
}

/// The three entries of the vsyscall page: gettimeofday, time, getcpu.
pub const VSYSCALLS: [u64; 3] = [0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_0400, 0xffff_ffff_ff60_0800];

/// A call into the vsyscall page.
pub fn vsyscall(entry: u64) {
    // SAFETY: as `call`; null pointers are allowed by all three.
    unsafe {
        let entry: extern "C" fn(usize, usize, usize) -> i64 = std::mem::transmute(entry as usize);
        entry(0, 0, 0);
    }
}

/// Whether the host has that page: a call comes back.
pub fn has_vsyscalls() -> bool {
    // SAFETY: this process has one thread; `status` outlives the call.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            VSYSCALLS.iter().for_each(|entry| vsyscall(*entry));
            exit();
        }
        let mut status = 0;
        libc::waitpid(pid, &raw mut status, 0);
        libc::WIFEXITED(status)
    }
}
