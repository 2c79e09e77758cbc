//! The spike: what process and memory operations cost on the bare platform, beside native Linux.
//!
//!     cargo run --release -p platform --example spike            (two CPUs)
//!     taskset -c 0 cargo run --release -p platform --example spike
//!
//! No kernel is above the platform here: the loop below does what `mm` would have to do for fork, exec and a copy-on-write
//! fault, and nothing else. Each figure is the best of several rounds, in nanoseconds. Results and what they decide: docs/spike.md.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Instant;

use platform::systrap::{Config, Spin, Systrap};
use platform::*;

const CODE: u64 = 0x40_0000;
const SLOTS: u64 = 0x41_0000;
const DATA: u64 = 0x50_0000;
/// A small process: 16 pages of data and stack.
const DATA_LEN: u64 = 0x1_0000;
const HEAP: u64 = 0x100_0000;
const EXECUTOR: ExecutorId = ExecutorId(0);
const RW: Prot = Prot::READ.union(Prot::WRITE);

core::arch::global_asm!(
    r#"
.pushsection .text.nacre_spike,"ax",@progbits
.balign 64
.globl spike_start
spike_start:
/* getppid for ever */
.globl spike_calls
spike_calls:
        mov     $110, %eax
        syscall
        jmp     spike_calls
/* rbx times getppid, then call 60 */
.balign 8
.globl spike_loop
spike_loop:
        mov     $110, %eax
        syscall
        dec     %rbx
        jnz     spike_loop
        mov     $60, %eax
1:      syscall
        jmp     1b
/* call 57 (fork); then both write to the stack and call 60 */
.globl spike_fork
spike_fork:
        mov     $57, %eax
        syscall
        push    %rax
        mov     $60, %eax
        syscall
        jmp     spike_fork
/* write to rsi pages from rdi on, then call 61 */
.globl spike_touch
spike_touch:
        movl    $1, (%rdi)
        add     $4096, %rdi
        dec     %rsi
        jnz     spike_touch
        mov     $61, %eax
        syscall
.globl spike_end
spike_end:
.popsection
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static spike_start: u8;
    static spike_calls: u8;
    static spike_loop: u8;
    static spike_fork: u8;
    static spike_touch: u8;
    static spike_end: u8;
}

fn entry(symbol: *const u8) -> u64 {
    CODE + (symbol as u64 - &raw const spike_start as u64)
}

fn code() -> &'static [u8] {
    let start = &raw const spike_start;
    // SAFETY: the symbols bound a block of this program's text.
    unsafe { std::slice::from_raw_parts(start, &raw const spike_end as usize - start as usize) }
}

/// A memory file, mapped here too.
struct Memory {
    file: OwnedFd,
    base: *mut u8,
}

const CODE_OFFSET: u64 = 0;
const SLOTS_OFFSET: u64 = 0x1_0000;
const DATA_OFFSET: u64 = 0x10_0000;
const COPY_OFFSET: u64 = 0x20_0000;
const HEAP_OFFSET: u64 = 0x100_0000;
const MEMORY_LEN: usize = 64 << 20;

impl Memory {
    fn new() -> Memory {
        // SAFETY: a new descriptor and a new mapping of it.
        unsafe {
            let fd = libc::memfd_create(c"spike".as_ptr(), 0);
            assert_eq!(libc::ftruncate(fd, MEMORY_LEN as i64), 0);
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let base = libc::mmap(std::ptr::null_mut(), MEMORY_LEN, prot, libc::MAP_SHARED, fd, 0).cast();
            let memory = Memory { file: OwnedFd::from_raw_fd(fd), base };
            memory.write(CODE_OFFSET, code());
            memory.write(DATA_OFFSET, &[1; DATA_LEN as usize]);
            memory
        }
    }
    fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= MEMORY_LEN);
        // SAFETY: in bounds.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset as usize), bytes.len()) };
    }
    fn copy_page(&self, from: u64, to: u64) {
        assert!(from.max(to) as usize + 4096 <= MEMORY_LEN);
        // SAFETY: in bounds, and different pages.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(from as usize), self.base.add(to as usize), 4096) };
    }
    fn punch(&self, offset: u64, len: u64) {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: no memory of ours is involved.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, len as i64) };
    }
    fn order(&self, addr: u64, len: u64, prot: Prot, offset: u64) -> MapOrder<'_> {
        MapOrder { addr, len, prot, flags: MapFlags::empty(), file: self.file.as_fd(), offset }
    }
}

struct Bench {
    platform: Arc<Systrap>,
    memory: Memory,
}

/// A guest process with one thread.
struct Guest {
    space: Arc<dyn AddressSpace>,
    context: Box<dyn Context>,
}

impl Bench {
    fn run(&self, context: &mut dyn Context) -> Trap {
        let mut cx = task::Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(trap) = context.poll_switch(&mut cx, EXECUTOR) {
                return trap;
            }
            self.platform.park(EXECUTOR, None);
        }
    }

    /// The next call's number; faults go to `fault`.
    fn call(&self, guest: &mut Guest, mut fault: impl FnMut(&Guest, u64)) -> u64 {
        loop {
            match self.run(&mut *guest.context) {
                Trap::Syscall(call) => return call.number,
                Trap::Fault(trap) if trap.signal == libc::SIGSEGV => fault(guest, trap.addr),
                other => panic!("{other:?} {:x?}", guest.context.registers()),
            }
        }
    }

    fn exec(&self, at: u64) -> Guest {
        let space = self.platform.new_address_space().expect("an address space");
        space.map(&self.memory.order(CODE, 0x1_0000, Prot::READ | Prot::EXEC, CODE_OFFSET)).expect("code");
        space.map(&self.memory.order(SLOTS, 0x1_0000, Prot::READ | Prot::EXEC, SLOTS_OFFSET)).expect("slots");
        space.map(&self.memory.order(DATA, DATA_LEN, RW, DATA_OFFSET)).expect("data");
        let mut context = space.new_context().expect("a context");
        *context.registers_mut() = Registers::at_entry(at, DATA + DATA_LEN);
        Guest { space, context }
    }

    /// fork: what was writable becomes read-only on both sides; writers copy. Returns after child and parent have called 60.
    fn fork(&self, parent: &mut Guest) {
        *parent.context.registers_mut() = Registers::at_entry(entry(&raw const spike_fork), DATA + DATA_LEN);
        assert_eq!(self.call(parent, |_, _| ()), 57);
        let space = self.platform.new_address_space().expect("an address space");
        parent.space.protect(DATA, DATA_LEN, Prot::READ).expect("protect");
        space.map(&self.memory.order(CODE, 0x1_0000, Prot::READ | Prot::EXEC, CODE_OFFSET)).expect("code");
        space.map(&self.memory.order(DATA, DATA_LEN, Prot::READ, DATA_OFFSET)).expect("data");
        let mut context = space.new_context().expect("a context");
        *context.registers_mut() = Registers { rax: 0, ..*parent.context.registers() };
        parent.space.settle().expect("settle");
        parent.context.set_return(1);
        let mut child = Guest { space, context };
        assert_eq!(self.call(&mut child, |child, addr| self.break_page(child, addr)), 60);
        drop(child);
        // The parent owns everything again: one mprotect, no copy.
        let mut restore = |parent: &Guest, _| parent.space.protect(DATA, DATA_LEN, RW).expect("protect");
        assert_eq!(self.call(parent, &mut restore), 60);
    }

    fn break_page(&self, guest: &Guest, addr: u64) {
        let page = (addr & !4095) - DATA;
        self.memory.copy_page(DATA_OFFSET + page, COPY_OFFSET + page);
        guest.space.map(&self.memory.order(DATA + page, 4096, RW, COPY_OFFSET + page)).expect("map");
        guest.space.settle().expect("settle");
    }

    fn patch(&self, guest: &Guest) {
        let registers = guest.context.registers();
        let request = PatchRequest {
            return_ip: registers.rip,
            number: registers.orig_rax,
            text: code(),
            text_start: CODE,
            slots: SLOTS..SLOTS + 0x1_0000,
            taken: &[0; 64],
        };
        let patch = self.platform.plan_patch(&request).expect("a site to patch");
        self.memory.write(patch.slot_at - SLOTS + SLOTS_OFFSET, &patch.slot);
        self.memory.write(patch.site_at - CODE + CODE_OFFSET, &patch.site);
    }

    fn unpatch(&self) {
        self.memory.write(CODE_OFFSET, code());
    }
}

/// Best of `rounds`, each of `count` operations, in nanoseconds.
fn best(rounds: usize, count: usize, mut operation: impl FnMut()) -> f64 {
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(|_| operation());
            start.elapsed().as_nanos() as f64 / count as f64
        })
        .fold(f64::MAX, f64::min)
}

fn row(what: &str, ours: f64, native: f64) {
    println!("| {what} | {ours:.0} | {native:.0} | {:.2} |", ours / native);
}

/// A static program that calls `exit(0)` at once, in a memory file.
fn tiny_program() -> i32 {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x3e, 0, 1, 0, 0, 0];
    elf.extend(0x40_0078u64.to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0u64, 0x40_0000, 0x40_0000, 0x80, 0x80, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
    // SAFETY: a new descriptor, and bytes that outlive the call.
    unsafe {
        let fd = libc::memfd_create(c"tiny".as_ptr(), 0);
        libc::write(fd, elf.as_ptr().cast(), elf.len());
        fd
    }
}

mod native {
    use super::*;

    pub fn fork() -> f64 {
        // SAFETY: the child exits at once.
        best(20, 20, || unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::_exit(0);
            }
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        })
    }

    pub fn exec() -> f64 {
        let path = std::ffi::CString::new(format!("/proc/self/fd/{}", tiny_program())).expect("a path");
        let nothing: [*mut libc::c_char; 1] = [std::ptr::null_mut()];
        // SAFETY: the arguments outlive the calls. posix_spawn is vfork and exec.
        best(20, 20, || unsafe {
            let (mut pid, mut status) = (0, 0);
            let (none, args) = (std::ptr::null(), nothing.as_ptr());
            assert_eq!(libc::posix_spawn(&raw mut pid, path.as_ptr(), none, std::ptr::null(), args, args), 0);
            libc::waitpid(pid, &raw mut status, 0);
            assert_eq!(status, 0, "the tiny program runs");
        })
    }

    pub fn map(memory: &Memory, touch: bool) -> f64 {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping of our own, made and removed here.
        let once = || unsafe {
            let at = libc::mmap(std::ptr::null_mut(), 0x1_0000, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            if touch {
                (0..16).for_each(|page| at.cast::<u8>().add(page * 4096).write_volatile(1));
            }
            libc::munmap(at, 0x1_0000);
        };
        let _ = memory;
        best(20, 200, once)
    }

    /// One write to a page shared with a forked child: copy and fault. The child sleeps meanwhile.
    pub fn copy_on_write() -> f64 {
        const PAGES: usize = 256;
        let len = PAGES * 4096;
        let mut least = f64::MAX;
        for _ in 0..10 {
            // SAFETY: our own anonymous mapping; the child only waits.
            unsafe {
                let prot = libc::PROT_READ | libc::PROT_WRITE;
                let at =
                    libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0).cast::<u8>();
                (0..PAGES).for_each(|page| at.add(page * 4096).write_volatile(1));
                let pid = libc::fork();
                if pid == 0 {
                    libc::pause();
                    libc::_exit(0);
                }
                let start = Instant::now();
                (0..PAGES).for_each(|page| at.add(page * 4096).write_volatile(2));
                least = least.min(start.elapsed().as_nanos() as f64 / PAGES as f64);
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
                libc::munmap(at.cast(), len);
            }
        }
        least
    }

    pub fn call() -> f64 {
        // SAFETY: no memory is involved.
        best(20, 10_000, || unsafe {
            libc::syscall(libc::SYS_getppid);
        })
    }
}

fn calls(bench: &Bench, spin: &str, native: f64) {
    let mut guest = bench.exec(entry(&raw const spike_calls));
    let one = |guest: &mut Guest| {
        assert_eq!(bench.call(guest, |_, _| ()), 110);
        guest.context.set_return(4242);
    };
    one(&mut guest);
    row(&format!("getppid unpatched, {spin}"), best(20, 500, || one(&mut guest)), native);
    bench.patch(&guest);
    one(&mut guest);
    row(&format!("getppid patched, {spin}"), best(30, 2_000, || one(&mut guest)), native);
    bench.unpatch();
}

fn in_stub(bench: &Bench, native: f64) {
    let mut guest = bench.exec(entry(&raw const spike_loop));
    assert_eq!(bench.call(&mut guest, |_, _| ()), 110);
    bench.patch(&guest);
    let identity = Identity { ppid: 7, enabled: true, ..Identity::default() };
    guest.context.set_identity(&identity);
    const COUNT: u64 = 1_000_000;
    let per_loop = best(10, 1, || {
        let registers = guest.context.registers_mut();
        registers.rip = entry(&raw const spike_loop);
        registers.rbx = COUNT;
        assert_eq!(bench.call(&mut guest, |_, _| ()), 60);
    });
    row("getppid answered in the stub", per_loop / COUNT as f64, native);
    bench.unpatch();
}

fn processes(bench: &Bench, spin: &str, fork: f64, exec: f64) {
    let mut held = Vec::new();
    let cold = best(1, 20, || held.push(bench.platform.new_address_space().expect("an address space")));
    let settle = best(1, 1, || held.iter().for_each(|space| space.settle().expect("settle"))) / held.len() as f64;
    println!("| create a stub ({spin}) | {cold:.0} | | |");
    println!("| its first order | {settle:.0} | | |");
    let drop_them = best(1, 1, || held.clear()) / 20.0;
    println!("| give an empty one back | {drop_them:.0} | | |");
    let recycled = best(20, 20, || drop(bench.platform.new_address_space().expect("an address space")));
    println!("| take and give back, from the pool | {recycled:.0} | | |");
    let mut parent = bench.exec(entry(&raw const spike_fork));
    bench.fork(&mut parent);
    row(&format!("fork+exit+wait, {spin}"), best(20, 20, || bench.fork(&mut parent)), fork);
    let run = best(20, 20, || {
        let mut guest = bench.exec(entry(&raw const spike_calls));
        assert_eq!(bench.call(&mut guest, |_, _| ()), 110);
    });
    row(&format!("(vfork+)exec+exit+wait, {spin}"), run, exec);
    let thread = best(20, 20, || {
        let mut context = parent.space.new_context().expect("a context");
        *context.registers_mut() = Registers::at_entry(entry(&raw const spike_calls), DATA + DATA_LEN);
        assert!(matches!(bench.run(&mut *context), Trap::Syscall(_)));
    });
    println!("| thread: make, first call, end ({spin}) | {thread:.0} | | |");
}

fn memory(bench: &Bench, spin: &str) {
    let guest = bench.exec(entry(&raw const spike_touch));
    let space = &guest.space;
    let map = || space.map(&bench.memory.order(HEAP, 0x1_0000, RW, HEAP_OFFSET)).expect("map");
    let ours = best(20, 200, || {
        map();
        space.unmap(HEAP, 0x1_0000).expect("unmap");
        space.settle().expect("settle");
    });
    row(&format!("mmap+munmap 64K (orders only), {spin}"), ours, native::map(&bench.memory, false));
    let mut guest = guest;
    let mut touch = |pages: u64| {
        let registers = guest.context.registers_mut();
        (registers.rip, registers.rdi, registers.rsi) = (entry(&raw const spike_touch), HEAP, pages);
        guest.space.map(&bench.memory.order(HEAP, 0x1_0000, RW, HEAP_OFFSET)).expect("map");
        // A touch that comes too early faults and waits.
        assert_eq!(bench.call(&mut guest, |guest, _| guest.space.settle().expect("settle")), 61);
        guest.space.unmap(HEAP, 0x1_0000).expect("unmap");
        guest.space.settle().expect("settle");
        bench.memory.punch(HEAP_OFFSET, 0x1_0000);
    };
    row(&format!("mmap+touch 16+munmap+punch, {spin}"), best(20, 50, || touch(16)), native::map(&bench.memory, true));
    // Copy-on-write, page by page: 16 faults.
    let mut cow = || {
        guest.space.map(&bench.memory.order(DATA, DATA_LEN, Prot::READ, DATA_OFFSET)).expect("map");
        guest.space.settle().expect("settle");
        let registers = guest.context.registers_mut();
        (registers.rip, registers.rdi, registers.rsi) = (entry(&raw const spike_touch), DATA, 16);
        let start = Instant::now();
        assert_eq!(bench.call(&mut guest, |guest, addr| bench.break_page(guest, addr)), 61);
        start.elapsed().as_nanos() as f64 / 16.0
    };
    let ours = (0..50).map(|_| cow()).fold(f64::MAX, f64::min);
    row(&format!("a copy-on-write fault, {spin}"), ours, native::copy_on_write());
}

fn main() {
    // Native first, while this process is small.
    let (fork, exec, call) = (native::fork(), native::exec(), native::call());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cpus} CPU(s)\n\n| operation | ours | native | ratio |\n|---|---|---|---|");
    let spins = if cpus > 1 {
        vec![(Spin::Adaptive, "adaptive"), (Spin::Never, "sleeping")]
    } else {
        vec![(Spin::Adaptive, "one CPU")]
    };
    for (spin, name) in spins {
        let config = Config { executors: 1, max_address_spaces: 100, cpus, spin };
        let bench = Bench { platform: Systrap::start(config).expect("the platform"), memory: Memory::new() };
        calls(&bench, name, call);
        in_stub(&bench, call);
        processes(&bench, name, fork, exec);
        memory(&bench, name);
    }
}
