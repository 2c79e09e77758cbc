//! A platform for all tests, a memory file, and a loop that runs a context to its next trap.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{self, Poll, Waker};

use hostcall::time::monotonic_ns;

use super::guests;
use crate::systrap::context::SystrapContext;
use crate::systrap::layout;
use crate::systrap::space::Space;
use crate::systrap::{Config, Spin, Systrap};
use crate::*;

/// Where the guests' code and data are.
pub const CODE: u64 = 0x40_0000;
pub const DATA: u64 = 0x50_0000;
pub const STACK_TOP: u64 = DATA + 0x1_0000;

const EXECUTORS: usize = 64;

/// The platform all tests share; its zygote's parent is a thread that never ends.
pub fn platform() -> Arc<Systrap> {
    static PLATFORM: OnceLock<Arc<Systrap>> = OnceLock::new();
    PLATFORM.get_or_init(|| start(Spin::Adaptive)).clone()
}

/// A platform of its own.
pub fn start(spin: Spin) -> Arc<Systrap> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let config = Config { executors: EXECUTORS, max_address_spaces: 64, cpus: 2, spin };
        send.send(Systrap::start(config)).unwrap();
        loop {
            std::thread::park();
        }
    });
    receive.recv().unwrap().unwrap()
}

/// A memory file with the guests' code at 0.
pub fn memory() -> OwnedFd {
    let code = guests::code();
    // SAFETY: a new descriptor, and bytes that outlive the calls.
    unsafe {
        let fd = libc::memfd_create(c"guest".as_ptr(), 0);
        assert!(fd >= 0);
        assert_eq!(libc::ftruncate(fd, 16 << 20), 0);
        assert_eq!(libc::pwrite(fd, code.as_ptr().cast(), code.len(), 0), code.len() as isize);
        OwnedFd::from_raw_fd(fd)
    }
}

/// Reads a word of a memory file.
pub fn peek(file: &OwnedFd, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the buffer outlives the call.
    let got = unsafe { libc::pread(file.as_raw_fd(), bytes.as_mut_ptr().cast(), 8, offset as i64) };
    assert_eq!(got, 8);
    u64::from_ne_bytes(bytes)
}

pub fn poke(file: &OwnedFd, offset: u64, value: u64) {
    // SAFETY: the buffer outlives the call.
    let put = unsafe { libc::pwrite(file.as_raw_fd(), value.to_ne_bytes().as_ptr().cast(), 8, offset as i64) };
    assert_eq!(put, 8);
}

/// Offset of [`DATA`] in the memory file.
pub const DATA_OFFSET: u64 = 0x10_0000;

pub fn map(
    space: &dyn AddressSpace,
    file: &OwnedFd,
    addr: u64,
    len: u64,
    prot: Prot,
    offset: u64,
) -> Result<(), PlatformError> {
    space.map(&MapOrder { addr, len, prot, flags: MapFlags::empty(), file: file.as_fd(), offset })
}

/// An address space with code at [`CODE`], data and stack at [`DATA`].
pub fn space(platform: &Systrap, file: &OwnedFd) -> Arc<Space> {
    let space = platform.new_space().unwrap();
    map(&*space, file, CODE, 0x1_0000, Prot::READ | Prot::EXEC, 0).unwrap();
    map(&*space, file, DATA, 0x1_0000, Prot::READ | Prot::WRITE, DATA_OFFSET).unwrap();
    space.settle().unwrap();
    space
}

/// One guest thread and the executor that runs it.
pub struct Guest {
    pub platform: Arc<Systrap>,
    pub context: SystrapContext,
    pub executor: ExecutorId,
}

pub fn executor() -> ExecutorId {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    ExecutorId(NEXT.fetch_add(1, Ordering::Relaxed) % EXECUTORS)
}

impl Guest {
    /// A context of `space` that will run the guest program `entry`.
    pub fn new(platform: &Arc<Systrap>, space: &Arc<Space>, entry: u64) -> Guest {
        let mut context = space.context().unwrap();
        *context.registers_mut() = Registers::at_entry(entry, STACK_TOP);
        Guest { platform: platform.clone(), context, executor: executor() }
    }

    /// Runs to the next trap.
    pub fn run(&mut self) -> Trap {
        self.run_for(20_000_000_000).expect("a trap within twenty seconds")
    }

    pub fn run_for(&mut self, ns: u64) -> Option<Trap> {
        let end = monotonic_ns() + ns;
        let mut cx = task::Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(trap) = self.context.poll_switch(&mut cx, self.executor) {
                return Some(trap);
            }
            if monotonic_ns() > end {
                return None;
            }
            self.platform.park(self.executor, Some(end));
        }
    }

    /// Runs to the next system call, which must come by the given way.
    pub fn call(&mut self) -> Syscall {
        match self.run() {
            Trap::Syscall(call) => call,
            other => panic!("not a call: {other:?} at {:#x}", self.context.registers().rip),
        }
    }

    pub fn xstate(&mut self) -> XState {
        let mut cx = task::Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(state) = self.context.poll_xstate(&mut cx, self.executor) {
                return state.unwrap();
            }
            self.platform.park(self.executor, Some(monotonic_ns() + 1_000_000_000));
        }
    }

    pub fn tid(&self) -> i32 {
        self.context.thread.tid
    }

    /// The stub's memory thread.
    pub fn stub(&self) -> i32 {
        self.context.thread.stub.pid
    }

    pub fn order_page_keys(&self) -> [u8; 176] {
        let mut bytes = [0; 176];
        self.platform.control().read(self.context.thread.stub.area + layout::AREA_ORDERS + layout::ORDER_KEYS, &mut bytes);
        bytes
    }
}
