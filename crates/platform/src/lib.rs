//! Platforms: how the sentry runs application code and gets its system calls and faults.
//!
//! A [`Platform`] makes [`AddressSpace`]s, into which ranges of host files are mapped, and [`Context`]s, which run
//! application code in them until the next [`Trap`]. The kernel above does not know which platform it runs on.
//!
//! Two sides meet here. *Contexts* belong to one task each and are driven by its future: [`Context::poll_switch`] enters user
//! mode and is pending until the context traps. *Executors* (one per host thread that polls tasks) look for contexts that
//! have trapped ([`Platform::poll`]), and sleep when there are none ([`Platform::park`]).
//!
//! Everything a context reports was written by hostile code. A platform reads each shared word once, checks it, and hands out
//! checked copies: registers are canonical, flags are masked.
//!
//! Not owned here: what is mapped where (the kernel's `mm`), signals, tasks, the memory files themselves.

mod registers;
pub mod scripted;
pub mod systrap;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task;

pub use registers::{Identity, Registers, XState};

/// One of the host threads that poll tasks: 0, 1, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExecutorId(pub usize);

/// Why a platform could not do something.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    #[error("cannot make an address space: {0}")]
    AddressSpace(hostcall::Errno),
    #[error("cannot start an application thread: {0}")]
    Context(hostcall::Errno),
    #[error("the stub refused a memory order ({what} at {addr:#x}, {len:#x} bytes): {errno}")]
    Order { what: &'static str, addr: u64, len: u64, errno: hostcall::Errno },
    #[error("the stub is gone: {0}")]
    Dead(Death),
    #[error("this host lacks what the platform needs: {0}")]
    Unsupported(String),
    #[error("cannot start the platform: {what}: {errno}")]
    Start { what: &'static str, errno: hostcall::Errno },
}

/// What ended a stub or one of its threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The host ended it with this signal (`SIGKILL`: usually its out-of-memory killer).
    Signal(i32),
    /// It exited by itself, with this status.
    Exited(i32),
    /// It did not answer an interrupt or an order in time and was killed.
    Unresponsive,
    /// It forged an answer of its memory thread or wrote nonsense to its control pages.
    Forged(&'static str),
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Death::Signal(signal) => write!(f, "killed by host signal {signal}"),
            Death::Exited(status) => write!(f, "exited with status {status}"),
            Death::Unresponsive => f.write_str("it did not answer and was killed"),
            Death::Forged(what) => write!(f, "it forged {what}"),
        }
    }
}

/// What a platform can do and how the host sees it.
#[derive(Debug, Clone, Copy)]
pub struct Capabilities {
    /// The host schedules application threads (systrap); otherwise the kernel's run queue does (kvm).
    pub host_schedules: bool,
    /// System-call sites can be patched ([`Platform::plan_patch`]).
    pub patches: bool,
    /// Components of the extended state (XCR0).
    pub xfeatures: u64,
    /// Bytes of the extended state in `XSAVE`'s standard layout.
    pub xstate_size: usize,
}

/// The fixed parts of every address space of this platform.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Lowest and one past the highest address an application may map.
    pub user: std::ops::Range<u64>,
    /// Ranges inside `user` that belong to the platform. The kernel lets nothing be mapped, unmapped or changed there.
    pub reserved: Vec<std::ops::Range<u64>>,
    /// The host's vDSO as it appears in each address space (inside `reserved`), for `AT_SYSINFO_EHDR`.
    pub vdso: Option<std::ops::Range<u64>>,
    /// `[vvar]` beside it, for /proc/PID/maps.
    pub vvar: Option<std::ops::Range<u64>>,
}

bitflags::bitflags! {
    /// Access rights of a mapping, `PROT_*` values.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Prot: u32 {
        const READ = 1;
        const WRITE = 2;
        const EXEC = 4;
    }

    /// How a range is mapped.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct MapFlags: u32 {
        /// Fill the page tables at once (`MAP_POPULATE`): for pages known to be present.
        const POPULATE = 1;
        /// `MADV_HUGEPAGE`.
        const HUGE = 2;
    }
}

/// A source of application code's time on a processor, and of address spaces for it to run in.
pub trait Platform: Send + Sync {
    fn layout(&self) -> &Layout;
    fn capabilities(&self) -> Capabilities;

    /// An empty address space.
    ///
    /// # Errors
    /// [`PlatformError::AddressSpace`] when the host refuses (process limit, memory).
    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, PlatformError>;

    /// How to rewrite a system-call site into a jump, or None to leave it alone. Pure: the kernel's `mm` applies the result.
    fn plan_patch(&self, request: &PatchRequest<'_>) -> Option<Patch>;

    /// Wakes the tasks of contexts that have trapped since the last call. Returns how many. Never sleeps.
    fn poll(&self, executor: ExecutorId) -> usize;

    /// Spins, then sleeps until a context of this executor traps, [`unpark`](Platform::unpark) is called (also if it was
    /// called since the last `park` returned), or `deadline_ns` (on `CLOCK_MONOTONIC`) passes. Wakes tasks as `poll` does.
    fn park(&self, executor: ExecutorId, deadline_ns: Option<u64>);

    /// Ends a `park` of that executor, from any thread.
    fn unpark(&self, executor: ExecutorId);

    /// How an executor has spent its time while it had nothing to do. From any thread; zeros where that is not counted.
    fn idle(&self, _executor: ExecutorId) -> Idle {
        Idle::default()
    }
}

/// What an executor has spent waiting since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Idle {
    /// On its CPU, looking; or dozing: letting others have it between two looks. (Turns that it gives to its own threads while they compute are neither
    /// this nor sleep.)
    pub spin_ns: u64,
    /// Off it, and how often.
    pub sleep_ns: u64,
    pub sleeps: u64,
}

/// The memory of one guest process (or of several that share it).
///
/// Orders are posted and performed in sequence, without waiting. A caller that removes access (`unmap`, `protect` to less)
/// must [`settle`](AddressSpace::settle) before the memory behind it is reused or the removal is reported to the guest.
pub trait AddressSpace: Send + Sync {
    /// Maps `len` bytes of `file` from `offset`, shared, over whatever is there. All page-aligned.
    ///
    /// # Errors
    /// [`PlatformError::Dead`]; other failures surface at `settle`.
    fn map(&self, order: &MapOrder<'_>) -> Result<(), PlatformError>;

    /// Removes everything in the range.
    ///
    /// # Errors
    /// As `map`.
    fn unmap(&self, addr: u64, len: u64) -> Result<(), PlatformError>;

    /// Changes access rights in the range (which must be mapped).
    ///
    /// # Errors
    /// As `map`.
    fn protect(&self, addr: u64, len: u64, prot: Prot) -> Result<(), PlatformError>;

    /// Waits (microseconds; bounded, then the stub is killed) until all orders posted so far are performed.
    ///
    /// # Errors
    /// The first order that failed since the last `settle`, or [`PlatformError::Dead`].
    fn settle(&self) -> Result<(), PlatformError>;

    /// A context for one more guest thread of this address space. It does not run before its first `poll_switch`; set its
    /// registers first.
    ///
    /// # Errors
    /// [`PlatformError::Context`] when the host refuses another thread.
    fn new_context(&self) -> Result<Box<dyn Context>, PlatformError>;
}

/// One mapping to make.
#[derive(Debug, Clone, Copy)]
pub struct MapOrder<'a> {
    pub addr: u64,
    pub len: u64,
    pub prot: Prot,
    pub flags: MapFlags,
    /// Must stay open until the next `settle` returns.
    pub file: BorrowedFd<'a>,
    pub offset: u64,
}

/// A guest thread's processor state, and the way to run it.
///
/// Dropping a context ends its host thread; it is out of user mode and off the address space's memory when `drop` returns.
pub trait Context: Send + Sync {
    /// Runs application code from the current registers; ready at the next trap. The registers then hold the state at the
    /// trap. Must be polled to completion: while pending, the thread is in user mode and registers are stale.
    fn poll_switch(&mut self, cx: &mut task::Context<'_>, executor: ExecutorId) -> task::Poll<Trap>;

    /// All general registers at the last trap, with changes since.
    fn registers(&self) -> &Registers;

    /// To change any register before the next switch. After a system call the handler's result goes into `rax`;
    /// [`set_return`](Context::set_return) is cheaper when that is all.
    fn registers_mut(&mut self) -> &mut Registers;

    /// Sets `rax` only.
    fn set_return(&mut self, value: u64);

    /// The x87, SSE, AVX … state at the last trap, in the layout of `XSAVE` (as in a signal frame). May need a short run of the
    /// stub, so it is polled.
    fn poll_xstate(&mut self, cx: &mut task::Context<'_>, executor: ExecutorId) -> task::Poll<Result<XState, Death>>;

    /// Replaces the extended state before the next switch. Hostile bytes are allowed: the platform sanitises the header and
    /// `mxcsr`.
    fn set_xstate(&mut self, state: XState);

    /// What the stub may answer alone (getpid and the like). Called when it changes.
    fn set_identity(&mut self, identity: &Identity);

    /// A handle that interrupts this context from any thread.
    fn interrupter(&self) -> Arc<dyn Interrupter>;

    /// CPU time the thread has used in user mode, in nanoseconds, without the platform's own spinning.
    fn cpu_time_ns(&self) -> u64;
}

/// Ends a context's stay in user mode.
pub trait Interrupter: Send + Sync {
    /// Makes the running (or next) `poll_switch` return [`Trap::Interrupted`] soon, unless it traps for another reason first.
    /// Sticky until then. A thread that does not answer within some milliseconds is killed ([`Trap::Died`]).
    fn interrupt(&self);

    /// As [`Context::cpu_time_ns`], from any thread; 0 where it is not known.
    fn cpu_time_ns(&self) -> u64 {
        0
    }

    /// Asks the host to run the context's thread so, as far as it lets itself be asked.
    fn prefer(&self, _wish: Wish) {}
}

/// How a guest wants a thread of it to be scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// From 0 to 19, as for `setpriority`, above the sandbox's own. A guest does not get ahead of others on the host.
    pub nice: u8,
    /// A bit for each CPU, by the guest's numbers.
    pub cpus: u64,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { nice: 0, cpus: u64::MAX }
    }
}

/// Why a context came back from user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// A `syscall` instruction, or a patched site. The registers are as Linux has them at entry: `rip` after the
    /// instruction, `rcx` = `rip`, `r11` = flags.
    Syscall(Syscall),
    /// A fault or trap instruction.
    Fault(Fault),
    /// [`Interrupter::interrupt`] was called.
    Interrupted,
    /// The thread is gone, and cannot be switched to again.
    Died(Death),
}

/// A system call of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    /// The number, as in `rax`; may be anything.
    pub number: u64,
    pub args: [u64; 6],
    pub entry: Entry,
}

/// How a system call came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// By a signal from the `syscall` instruction at `rip - 2`: worth patching.
    Trapped,
    /// From a patched site.
    Patched,
    /// By `int 0x80`, `sysenter`, the x32 numbers or the vsyscall page, or from an address inside the stub's own code: not a call the
    /// kernel serves. The kernel answers `ENOSYS` (or `SIGSEGV`, as Linux does without the facility).
    Foreign,
}

/// A hardware exception in application code, as the host reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// `SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE` or `SIGTRAP`.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr` (page faults: the address touched).
    pub addr: u64,
    /// The page-fault error code (bit 1: write, bit 4: instruction fetch).
    pub error: u64,
    /// The exception's number (14: page fault).
    pub trap: u64,
}

/// The text around a system-call site.
#[derive(Debug)]
pub struct PatchRequest<'a> {
    /// Address after the two-byte `syscall` instruction.
    pub return_ip: u64,
    /// The call's number at this trap.
    pub number: u64,
    /// Bytes of the text mapping around the site, from `text_start`. The original bytes, without earlier patches applied
    /// only where those are.
    pub text: &'a [u8],
    pub text_start: u64,
    /// Where slots may be placed: a range within 2 GiB of the site, and which bytes of it are taken (one bit per 16 bytes, bit
    /// i of word i/64).
    pub slots: std::ops::Range<u64>,
    pub taken: &'a [u64],
}

/// A patch: what to write where. `slot` first, then `site` by one aligned 8-byte store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    pub slot_at: u64,
    pub slot: Vec<u8>,
    /// Start of the rewritten instructions. They lie within one aligned 8-byte word.
    pub site_at: u64,
    pub site: Vec<u8>,
    /// Old instruction boundaries inside the rewritten bytes, and where execution continues for a thread that is there (it
    /// gets `SIGILL` or `SIGSEGV` on the patch's bytes, or was stopped there when the patch was made).
    pub moved: Vec<(u64, u64)>,
}

/// Where a patched call returns inside a slot (its site's next instruction has moved there), the slot's call begins so many bytes
/// before: going there makes the call again.
pub const SLOT_CALL_LEN: u64 = 20;
