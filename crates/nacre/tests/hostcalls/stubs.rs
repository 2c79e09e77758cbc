//! The two filters of stubs. They answer `RET_TRAP`, so one child makes all attempts and its SIGSYS handler takes notes; a call that goes
//! through may end the child, and the next begins where it stopped. Calls are made from the blob's addresses, and from elsewhere.

use std::arch::global_asm;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize};
use std::time::{Duration, Instant};

use platform::systrap::layout::{ANSWERS, BELLS, BLOB, BLOB_LEN, BLOCKS, BLOCKS_LEN, GLOBAL, ORDERS, PAGE};
use platform::systrap::{Instruction, MEMORY_CALLS, StubCall, THREAD_CALLS, memory_filter, thread_filter};

use crate::probe::{self, NONSENSE, X32};

// What stands in for the blob: a call with the number in %rdi and its arguments at %rsi; int 0x80; the return from a signal.
global_asm!(
    r#"
.pushsection .text.hostcalls, "ax"
.globl hostcalls_start, hostcalls_int80, hostcalls_return, hostcalls_end
hostcalls_start:
        mov     %rdi, %rax
        mov     %rsi, %r11
        mov     (%r11), %rdi
        mov     8(%r11), %rsi
        mov     16(%r11), %rdx
        mov     24(%r11), %r10
        mov     32(%r11), %r8
        mov     40(%r11), %r9
        cmp     $15, %rax                       /* rt_sigreturn: no frame there, or it might return from an old one */
        jne     1f
        mov     $16, %esp
1:      syscall
        ret
hostcalls_int80:
        push    %rbx
        mov     %rdi, %rax
        mov     $-1, %ebx
        mov     $-1, %ecx
        mov     $-1, %edx
        mov     $-1, %esi
        mov     $-1, %edi
        int     $0x80
        pop     %rbx
        ret
hostcalls_return:
        mov     $15, %eax
        syscall
        hlt
hostcalls_end:
.popsection
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static hostcalls_start: u8;
    static hostcalls_int80: u8;
    static hostcalls_return: u8;
    static hostcalls_end: u8;
}

#[derive(Debug, Clone, Copy)]
enum From {
    Blob,
    Elsewhere,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Call(From, i64, [u64; 6]),
    Int80(From, i64),
    Vsyscall(u64),
}

struct Attempt {
    how: How,
    allowed: bool,
}

/// What the child tells, in memory shared with it.
#[repr(C)]
struct Notes {
    at: AtomicUsize,
    done: AtomicU32,
    trapped: [AtomicU32; MOST],
    passed: [AtomicU32; MOST],
}

const MOST: usize = 16384;
/// How long one child may take.
const LIMIT: Duration = Duration::from_secs(10);

pub fn check(failures: &mut Vec<String>) {
    let memory = vec![memory_filter()];
    // In this order, as a stub does.
    let thread = vec![memory_filter(), thread_filter()];
    for (name, filters, allows) in [
        ("memory thread", &memory, memory_allows as fn(i64, &[u64; 6]) -> bool),
        ("application thread", &thread, thread_allows),
    ] {
        let attempts = attempts(allows);
        let found = run(filters, &attempts);
        failures.extend(found.iter().map(|what| format!("stub's {name}: {what}")));
        println!("stub's {name}: {} attempts made", attempts.len());
    }
    // The probe's own test: each list against the other's filter.
    if run(&memory, &attempts(thread_allows)).is_empty() || run(&thread, &attempts(memory_allows)).is_empty() {
        failures.push("stubs: the probe does not notice another filter".into());
    }
}

fn listed(calls: &[StubCall], number: i64, args: &[u64; 6]) -> bool {
    let rule = |call: &StubCall| call.only.is_none_or(|(index, values)| values.contains(&(args[usize::from(index)] as u32)));
    calls.iter().any(|call| call.number == number && rule(call))
}

fn memory_allows(number: i64, args: &[u64; 6]) -> bool {
    listed(&MEMORY_CALLS, number, args)
}

fn thread_allows(number: i64, args: &[u64; 6]) -> bool {
    let on = |at: u64, len: u64| (at..at + len).contains(&args[0]);
    let place = match args[1] as u32 {
        0 => on(BLOCKS, BLOCKS_LEN),
        1 => on(BLOCKS, BLOCKS_LEN) || on(BELLS, PAGE),
        _ => false,
    };
    listed(&THREAD_CALLS, number, args) && (number != libc::SYS_futex || place)
}

fn attempts(allows: fn(i64, &[u64; 6]) -> bool) -> Vec<Attempt> {
    let mut all = Vec::new();
    let mut add = |how, allowed| all.push(Attempt { how, allowed });
    for number in probe::numbers() {
        add(How::Call(From::Blob, number, NONSENSE), allows(number, &NONSENSE));
        add(How::Call(From::Elsewhere, number, NONSENSE), false);
        if number & X32 == 0 {
            add(How::Call(From::Blob, number | X32, NONSENSE), false);
        }
    }
    for number in 0..480 {
        add(How::Int80(From::Blob, number), false);
        add(How::Int80(From::Elsewhere, number), false);
    }
    if probe::has_vsyscalls() {
        probe::VSYSCALLS.into_iter().for_each(|entry| add(How::Vsyscall(entry), false));
    }
    let interesting = (0..128u64).chain((0..32).map(|bit| 1 << bit)).chain([0x8011, 0x11, u64::from(u32::MAX)]);
    let interesting: Vec<u64> = interesting.collect();
    for call in MEMORY_CALLS {
        let Some((index, values)) = call.only else { continue };
        let beside = values.iter().flat_map(|value| (0..32).map(move |bit| u64::from(value ^ (1 << bit))));
        for value in interesting.iter().copied().chain(values.iter().map(|value| u64::from(*value))).chain(beside) {
            let mut args = NONSENSE;
            args[usize::from(index)] = value;
            add(How::Call(From::Blob, call.number, args), allows(call.number, &args));
        }
    }
    let ends = |at: u64, len: u64| [at - 4, at, at + len / 2, at + len - 4, at + len];
    let places = [
        ends(BLOCKS, BLOCKS_LEN),
        ends(BELLS, PAGE),
        ends(ORDERS, PAGE),
        ends(ANSWERS, PAGE),
        ends(GLOBAL, PAGE),
        ends(BLOB, BLOB_LEN),
    ];
    for place in places.into_iter().flatten() {
        for place in [place, place ^ (1 << 32), place ^ (1 << 40), place ^ (1 << 63)] {
            for op in (0..16).chain([128, 129, 256, 257, 384, 1 << 31]) {
                let args = [place, op, u64::MAX, u64::MAX, u64::MAX, u64::MAX];
                add(How::Call(From::Blob, libc::SYS_futex, args), allows(libc::SYS_futex, &args));
                add(How::Call(From::Elsewhere, libc::SYS_futex, args), false);
            }
        }
    }
    assert!(all.len() < MOST);
    all
}

/// Makes all attempts under the filters, and says which had another outcome.
fn run(filters: &[Vec<Instruction>], attempts: &[Attempt]) -> Vec<String> {
    // SAFETY: new memory, shared with children; all of it is atomics.
    let notes = unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let at = libc::mmap(std::ptr::null_mut(), size_of::<Notes>(), libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        &*at.cast::<Notes>()
    };
    while notes.done.load(SeqCst) == 0 {
        let from = notes.at.load(SeqCst);
        // SAFETY: this process has one thread, so the child may do anything.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid == 0 {
            child(filters, attempts, notes, from);
        }
        let (mut status, start) = (0, Instant::now());
        // The child cannot end itself when it is done; one that hangs is as good as ended.
        // SAFETY: `status` outlives the calls, which are about our own child.
        unsafe {
            while libc::waitpid(pid, &raw mut status, libc::WNOHANG) == 0 {
                if notes.done.load(SeqCst) != 0 || start.elapsed() > LIMIT {
                    libc::kill(pid, libc::SIGKILL);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let at = notes.at.load(SeqCst);
        if notes.done.load(SeqCst) == 0 {
            assert!(at > from || from == 0, "the child cannot begin");
            // What it was about when it ended (or hung) went through, unless its trap was noted.
            notes.passed[at - 1].store(1, SeqCst);
        }
    }
    let mut found = Vec::new();
    for (i, attempt) in attempts.iter().enumerate() {
        let trapped = notes.trapped[i].load(SeqCst) != 0;
        if !trapped && notes.passed[i].load(SeqCst) == 0 {
            found.push(format!("{:x?} was not tried", attempt.how));
        } else if trapped == attempt.allowed {
            found.push(format!(
                "{:x?} {}",
                attempt.how,
                if trapped { "is on the list and traps" } else { "is not on the list and goes through" }
            ));
        }
    }
    // SAFETY: nobody uses it any more.
    unsafe { libc::munmap(std::ptr::from_ref(notes).cast_mut().cast(), size_of::<Notes>()) };
    found
}

static NOTES: AtomicPtr<Notes> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_sigsys(_signal: i32) {
    // SAFETY: set before the handler was.
    let notes = unsafe { &*NOTES.load(SeqCst) };
    notes.trapped[notes.at.load(SeqCst) - 1].store(1, SeqCst);
}

/// Confines itself as a stub does, and makes the attempts from `from` on.
fn child(filters: &[Vec<Instruction>], attempts: &[Attempt], notes: &Notes, from: usize) -> ! {
    NOTES.store(std::ptr::from_ref(notes).cast_mut(), SeqCst);
    // SAFETY: this process is ours alone and may come to any harm. The code copied is position-independent.
    unsafe {
        let start = &raw const hostcalls_start;
        let place = |symbol: *const u8| BLOB as usize + symbol as usize - start as usize;
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let at = libc::mmap(BLOB as *mut _, BLOB_LEN as usize, all, flags, -1, 0);
        assert_eq!(at as u64, BLOB);
        std::ptr::copy_nonoverlapping(start, at.cast(), &raw const hostcalls_end as usize - start as usize);
        let call: extern "C" fn(i64, *const [u64; 6]) -> i64 = std::mem::transmute(place(start));
        let int80: extern "C" fn(i64) = std::mem::transmute(place(&raw const hostcalls_int80));
        // struct kernel_sigaction: handler, flags, restorer, mask.
        const SA_RESTORER: u64 = 0x0400_0000;
        let action = [
            on_sigsys as *const () as u64,
            libc::SA_NODEFER as u64 | SA_RESTORER,
            place(&raw const hostcalls_return) as u64,
            0,
        ];
        assert_eq!(libc::syscall(libc::SYS_rt_sigaction, libc::SIGSYS, action.as_ptr(), 0, 8), 0);
        // The standard library's handlers make calls of their own.
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        for filter in filters {
            let program = (filter.len() as u16, filter.as_ptr());
            // struct sock_fprog: a length, padding, a pointer.
            let program = [u64::from(program.0), program.1 as u64];
            let installed = call(libc::SYS_seccomp, &[1, 0, program.as_ptr() as u64, 0, 0, 0]);
            if installed != 0 {
                std::arch::asm!("ud2");
            }
        }
        for (i, attempt) in attempts.iter().enumerate().skip(from) {
            notes.at.store(i + 1, SeqCst);
            match attempt.how {
                How::Call(From::Blob, number, args) => drop(call(number, &args)),
                How::Call(From::Elsewhere, number, args) => drop(probe::call(number, args)),
                How::Int80(From::Blob, number) => int80(number),
                How::Int80(From::Elsewhere, number) => probe::int80(number),
                How::Vsyscall(entry) => probe::vsyscall(entry),
            }
            if notes.trapped[i].load(SeqCst) == 0 {
                notes.passed[i].store(1, SeqCst);
            }
        }
    }
    notes.done.store(1, SeqCst);
    loop {
        std::hint::spin_loop();
    }
}
