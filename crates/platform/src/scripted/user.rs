//! [`User`]: what a script can do.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;

use super::{Role, Shared};
use crate::{Death, Fault, Registers};

/// What a script asks its context for.
pub(super) enum Request {
    Syscall {
        number: u64,
        args: [u64; 6],
    },
    Load {
        addr: u64,
        len: usize,
    },
    Store {
        addr: u64,
        bytes: Vec<u8>,
    },
    /// A fault for its own sake.
    Fault(Fault),
    /// Use CPU time.
    Compute {
        ns: u64,
    },
    Die(Death),
}

/// The context's answer.
pub(super) enum Reply {
    Result(u64),
    Bytes(Vec<u8>),
    Done,
}

#[derive(Default)]
pub(super) struct Slot {
    pub request: Option<Request>,
    pub reply: Option<Reply>,
    pub registers: Registers,
    /// Registers that the script wants changed before its next request.
    pub set_registers: Option<Registers>,
}

/// A script's hands. Clones are the same context.
#[derive(Clone)]
pub struct User {
    pub(super) slot: Arc<Mutex<Slot>>,
    pub(super) shared: Arc<Shared>,
}

impl User {
    async fn ask(&self, request: Request) -> Reply {
        self.slot.lock().request = Some(request);
        poll_fn(|_| match self.slot.lock().reply.take() {
            Some(reply) => Poll::Ready(reply),
            None => Poll::Pending,
        })
        .await
    }

    /// A system call: its raw result (errors are negative). Missing arguments are 0.
    pub async fn syscall<const N: usize>(&self, number: u64, args: [u64; N]) -> i64 {
        let mut six = [0; 6];
        for (to, from) in six.iter_mut().zip(args) {
            *to = from;
        }
        match self.ask(Request::Syscall { number, args: six }).await {
            Reply::Result(value) => value as i64,
            _ => i64::MIN,
        }
    }

    /// Reads memory; faults go to the kernel.
    pub async fn load(&self, addr: u64, len: usize) -> Vec<u8> {
        match self.ask(Request::Load { addr, len }).await {
            Reply::Bytes(bytes) => bytes,
            _ => Vec::new(),
        }
    }

    /// Writes memory; faults go to the kernel.
    pub async fn store(&self, addr: u64, bytes: &[u8]) {
        self.ask(Request::Store { addr, bytes: bytes.to_vec() }).await;
    }

    pub async fn load_u32(&self, addr: u64) -> u32 {
        self.load(addr, 4).await.iter().rev().fold(0, |n, &byte| n << 8 | u32::from(byte))
    }

    pub async fn load_u64(&self, addr: u64) -> u64 {
        self.load(addr, 8).await.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
    }

    /// Raises a fault once.
    pub async fn fault(&self, fault: Fault) {
        self.ask(Request::Fault(fault)).await;
    }

    /// Runs in user mode for this long, unless interrupted for good.
    pub async fn compute(&self, ns: u64) {
        self.ask(Request::Compute { ns }).await;
    }

    /// The thread dies under the kernel.
    pub async fn die(&self, death: Death) {
        self.ask(Request::Die(death)).await;
    }

    /// The registers at the last return to user mode.
    pub fn registers(&self) -> Registers {
        self.slot.lock().registers
    }

    /// Changes registers from now on (all but `rip`).
    pub fn set_registers(&self, registers: Registers) {
        self.slot.lock().set_registers = Some(registers);
    }

    /// Puts a script at a new code address.
    pub fn script<F, Fut>(&self, role: Role, script: F) -> u64
    where
        F: Fn(User) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.shared.script(role, script)
    }

    /// A call like `fork` or `clone`: a new task that begins where this call returns runs `child`.
    pub async fn spawn<const N: usize, F, Fut>(&self, number: u64, args: [u64; N], role: Role, child: F) -> i64
    where
        F: Fn(User) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let site = self.shared.script(role, child);
        {
            let mut slot = self.slot.lock();
            let mut registers = slot.set_registers.unwrap_or(slot.registers);
            registers.rip = site;
            slot.set_registers = Some(registers);
        }
        self.syscall(number, args).await
    }

    /// Virtual time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.shared.now()
    }
}
