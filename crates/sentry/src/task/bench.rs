//! How long the kernel's own part of a system call takes: `cargo test --release -p sentry -- --ignored --nocapture bench`.

use std::sync::Arc;
use std::task::{self, Poll};

use platform::{Context, Death, Entry, ExecutorId, Identity, Interrupter, Platform, Registers, Syscall, Trap, XState};

use super::{Creds, NewProcess, Rlimits, Shared, new_process};
use crate::fs::{FdTable, FsContext};
use crate::mm::Mm;
use crate::testing::{Machine, nr};

const CALLS: u32 = 100_000;
const ROUNDS: usize = 15;

/// Makes the same call over and over, at once.
struct Caller {
    registers: Registers,
    number: u64,
    left: u32,
}

struct Deaf;

impl Interrupter for Deaf {
    fn interrupt(&self) {}
}

impl Context for Caller {
    fn poll_switch(&mut self, _cx: &mut task::Context<'_>, _executor: ExecutorId) -> Poll<Trap> {
        let number = if self.left == 0 { nr::EXIT_GROUP } else { self.number };
        self.left = self.left.saturating_sub(1);
        Poll::Ready(Trap::Syscall(Syscall { number, args: [0; 6], entry: Entry::Patched }))
    }

    fn registers(&self) -> &Registers {
        &self.registers
    }

    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    fn set_return(&mut self, value: u64) {
        self.registers.rax = value;
    }

    fn poll_xstate(&mut self, _cx: &mut task::Context<'_>, _executor: ExecutorId) -> Poll<Result<XState, Death>> {
        Poll::Ready(Ok(XState::Initial))
    }

    fn set_xstate(&mut self, _state: XState) {}

    fn set_identity(&mut self, _identity: &Identity) {}

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        Arc::new(Deaf)
    }

    fn cpu_time_ns(&self) -> u64 {
        0
    }
}

fn measure(name: &str, number: u64) {
    let fastest = (0..ROUNDS).map(|_| round(number)).fold(f64::INFINITY, f64::min);
    println!("{name}: {fastest:.1} ns");
}

/// Nanoseconds for each call.
fn round(number: u64) -> f64 {
    let machine = Machine::new();
    let mm = Mm::new(machine.platform.clone() as Arc<dyn Platform>, machine.container.memory.clone()).unwrap();
    let root = machine.root();
    let shared = Shared { mm, files: FdTable::new(), fs: FsContext::new(root.clone(), root, 0) };
    let new = NewProcess { creds: Creds::root(), rlimits: Rlimits::default(), shared };
    let context = Caller { registers: Registers::default(), number, left: CALLS };
    let cx = new_process(&machine.kernel, &machine.container, new, Box::new(context)).unwrap();
    let process = cx.task.group.clone();
    cx.start();
    let start = hostcall::time::monotonic_ns();
    machine.finish(&process);
    (hostcall::time::monotonic_ns() - start) as f64 / f64::from(CALLS)
}

#[test]
#[ignore = "a measurement"]
fn bench_system_calls() {
    measure("getppid", nr::GETPPID);
    measure("sigaltstack of nothing", nr::SIGALTSTACK);
    measure("bad number", 1 << 40);
}
