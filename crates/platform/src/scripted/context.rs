//! Scripted contexts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{self, Poll, Waker};

use parking_lot::Mutex;

use super::space::{ScriptedSpace, Touch};
use super::user::{Reply, Request, Slot};
use super::{Role, Script, Shared, User};
use crate::{Context, Death, Entry, ExecutorId, Fault, Identity, Interrupter, Registers, Syscall, Trap, XState};

const EXIT: u64 = 60;
const EXIT_GROUP: u64 = 231;
const RT_SIGRETURN: u64 = 15;

pub(super) struct ScriptedContext {
    shared: Arc<Shared>,
    space: Arc<ScriptedSpace>,
    registers: Registers,
    xstate: XState,
    identity: Identity,
    frames: Vec<Frame>,
    signal: Arc<Signal>,
    /// The next site, when a script has chosen it.
    chosen_site: Option<u64>,
}

/// A script that runs, or is interrupted by one above it.
struct Frame {
    role: Role,
    /// Behind a lock only to be `Sync`; never contended.
    script: Mutex<Script>,
    user: User,
    /// Where it waits: the address after its system call, or of its memory access.
    site: u64,
    waiting: Waiting,
    entry_rsp: u64,
}

enum Waiting {
    Start,
    Syscall,
    Memory { addr: u64, bytes: Vec<u8>, touch: Touch },
    Fault,
    Compute { until: u64, id: u64 },
}

/// Interrupts and CPU time, seen from other threads.
#[derive(Default)]
struct Signal {
    interrupt: AtomicBool,
    waker: Mutex<Option<Waker>>,
    cpu_ns: AtomicU64,
}

impl Interrupter for Signal {
    fn interrupt(&self) {
        self.interrupt.store(true, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    fn cpu_time_ns(&self) -> u64 {
        self.cpu_ns.load(Ordering::Relaxed)
    }
}

impl ScriptedContext {
    pub fn new(shared: Arc<Shared>, space: Arc<ScriptedSpace>) -> ScriptedContext {
        shared.contexts.fetch_add(1, Ordering::SeqCst);
        ScriptedContext {
            shared,
            space,
            registers: Registers::default(),
            xstate: XState::Initial,
            identity: Identity::default(),
            frames: Vec::new(),
            signal: Arc::default(),
            chosen_site: None,
        }
    }

    /// Finds the script that `rip` belongs to. None: it is nowhere.
    fn enter(&mut self) -> Option<()> {
        let rip = self.registers.rip;
        if let Some(at) = self.frames.iter().rposition(|frame| rip == frame.site || rip.wrapping_add(2) == frame.site) {
            self.frames.truncate(at + 1);
            return Some(());
        }
        let (role, factory) = self.shared.scripts.lock().get(&rip)?.clone();
        let slot = Slot { registers: self.registers, ..Slot::default() };
        let user = User { slot: Arc::new(Mutex::new(slot)), shared: self.shared.clone() };
        if role != Role::Handler {
            self.frames.clear();
        }
        let entry_rsp = self.registers.rsp;
        let script = Mutex::new(factory(user.clone()));
        self.frames.push(Frame { role, script, user, site: rip, waiting: Waiting::Start, entry_rsp });
        Some(())
    }

    fn call_again(&mut self, site: u64) -> Trap {
        let r = &mut self.registers;
        r.rip = site;
        r.rcx = site;
        Trap::Syscall(Syscall { number: r.rax, args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], entry: Entry::Trapped })
    }

    /// Answers what the top script waits for. A trap, when that cannot be.
    fn answer(&mut self, cx: &task::Context<'_>) -> Poll<Result<(), Trap>> {
        let rip = self.registers.rip;
        let Some(frame) = self.frames.last_mut() else { return Poll::Ready(Ok(())) };
        let reply = match &mut frame.waiting {
            Waiting::Start => return Poll::Ready(Ok(())),
            Waiting::Syscall if rip == frame.site => Reply::Result(self.registers.rax),
            Waiting::Syscall => {
                let site = frame.site;
                return Poll::Ready(Err(self.call_again(site)));
            }
            Waiting::Memory { addr, bytes, touch } => {
                if let Err(fault) = self.space.touch(*addr, bytes, *touch) {
                    return Poll::Ready(Err(Trap::Fault(fault)));
                }
                Reply::Bytes(std::mem::take(bytes))
            }
            Waiting::Fault => Reply::Done,
            Waiting::Compute { until, id } => {
                if self.shared.now() < *until {
                    self.shared.computing.lock().insert((*until, *id), cx.waker().clone());
                    *self.signal.waker.lock() = Some(cx.waker().clone());
                    if self.signal.interrupt.load(Ordering::SeqCst) {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                Reply::Done
            }
        };
        frame.waiting = Waiting::Start;
        let mut slot = frame.user.slot.lock();
        slot.reply = Some(reply);
        slot.registers = self.registers;
        Poll::Ready(Ok(()))
    }

    /// Runs the top script to its next request, and takes that up. A trap, if it is one.
    fn advance(&mut self) -> Option<Trap> {
        let frame = self.frames.last_mut()?;
        let mut noop = task::Context::from_waker(Waker::noop());
        let ended = frame.script.get_mut().as_mut().poll(&mut noop).is_ready();
        let mut slot = frame.user.slot.lock();
        if let Some(mut registers) = slot.set_registers.take() {
            if registers.rip != self.registers.rip {
                self.chosen_site = Some(registers.rip);
            }
            registers.rip = self.registers.rip;
            self.registers = registers;
        }
        let request = slot.request.take();
        drop(slot);
        let (number, args) = match request {
            None => {
                debug_assert!(ended, "scripts may only await their User");
                if frame.role == Role::Handler {
                    self.registers.rsp = frame.entry_rsp.wrapping_add(8);
                }
                match frame.role {
                    Role::Program => (EXIT_GROUP, [0; 6]),
                    Role::Thread => (EXIT, [0; 6]),
                    Role::Handler => (RT_SIGRETURN, [0; 6]),
                }
            }
            Some(Request::Syscall { number, args }) => (number, args),
            Some(other) => return self.other_request(other),
        };
        frame.waiting = Waiting::Syscall;
        frame.site = self.chosen_site.take().unwrap_or_else(|| self.shared.new_address());
        let r = &mut self.registers;
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args;
        r.rax = number;
        r.rip = frame.site;
        r.rcx = frame.site;
        r.r11 = r.eflags;
        Some(Trap::Syscall(Syscall { number, args, entry: Entry::Trapped }))
    }

    fn other_request(&mut self, request: Request) -> Option<Trap> {
        let site = self.shared.new_address();
        let frame = self.frames.last_mut()?;
        frame.site = site;
        self.registers.rip = site;
        frame.waiting = match request {
            Request::Load { addr, len } => Waiting::Memory { addr, bytes: vec![0; len], touch: Touch::Load },
            Request::Store { addr, bytes } => Waiting::Memory { addr, bytes, touch: Touch::Store },
            Request::Compute { ns } => {
                self.signal.cpu_ns.fetch_add(ns, Ordering::Relaxed);
                let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed) + 1;
                Waiting::Compute { until: self.shared.now().saturating_add(ns), id }
            }
            Request::Fault(fault) => {
                frame.waiting = Waiting::Fault;
                return Some(Trap::Fault(fault));
            }
            Request::Die(death) => return Some(Trap::Died(death)),
            Request::Syscall { .. } => return None,
        };
        None
    }
}

impl Context for ScriptedContext {
    fn poll_switch(&mut self, cx: &mut task::Context<'_>, _executor: ExecutorId) -> Poll<Trap> {
        if self.signal.interrupt.swap(false, Ordering::SeqCst) {
            return Poll::Ready(Trap::Interrupted);
        }
        loop {
            if self.enter().is_none() {
                let addr = self.registers.rip;
                return Poll::Ready(Trap::Fault(Fault { signal: libc::SIGSEGV, code: 1, addr, error: 0x14, trap: 14 }));
            }
            match self.answer(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(trap)) => return Poll::Ready(trap),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(trap) = self.advance() {
                return Poll::Ready(trap);
            }
        }
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
        Poll::Ready(Ok(self.xstate.clone()))
    }

    fn set_xstate(&mut self, state: XState) {
        self.xstate = state;
    }

    fn set_identity(&mut self, identity: &Identity) {
        self.identity = *identity;
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        self.signal.clone()
    }

    fn cpu_time_ns(&self) -> u64 {
        self.signal.cpu_time_ns()
    }
}

impl Drop for ScriptedContext {
    fn drop(&mut self) {
        for frame in &self.frames {
            if let Waiting::Compute { until, id } = frame.waiting {
                self.shared.computing.lock().remove(&(until, id));
            }
        }
        self.shared.contexts.fetch_sub(1, Ordering::SeqCst);
    }
}
