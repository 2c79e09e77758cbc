//! A guest thread's processor state, and how it travels to the stub and back.
//!
//! A context is stopped in one of three ways ([`Stop`]): it is new; it waits in the signal handler, with its state in the signal
//! frame; it waits in the trampoline of a patched call, with its general registers in the block and its extended state
//! still in the processor. What was changed decides how it resumes: `rax` alone goes through the block; anything else becomes a
//! signal frame built here, from which the stub returns.
//!
//! Everything read from the block is copied once and sanitised; nothing is read twice.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{self, Poll, Waker};

use super::Systrap;
use super::blob::{self, Zone};
use super::executor::Executor;
use super::frame::{FRAME_LEN, Frame};
use super::layout::*;
use super::space::{Space, Spare};
use super::thread::{IDLE, RUNNING, Thread, turn};
use crate::{Context, Death, Entry, ExecutorId, Fault, Identity, Interrupter, Registers, Syscall, Trap, Wish, XState};

/// After so many traps that came at once the executor does what else there is to do.
pub const INLINE_TRAPS: u32 = 16;

/// How a context is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It has not run yet.
    New,
    /// In the signal handler; the offset in the block of the extended state, if the frame has one.
    Signal(Option<u64>),
    /// In the trampoline.
    Patched,
}

/// Which registers the kernel has changed since the trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    Nothing,
    Return,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// With the kernel.
    Idle,
    /// In user mode.
    Running,
    /// The stub saves the extended state.
    Saving,
}

/// How it was last sent to user mode.
#[derive(Debug)]
enum Sent {
    /// From the trampoline with this `rax`.
    Quick(u64),
    /// From a built frame, with this extended state (None: what it had).
    Frame(Option<XState>),
}

/// See the module.
pub struct SystrapContext {
    pub space: Arc<Space>,
    pub thread: Arc<Thread>,
    stop: Stop,
    phase: Phase,
    /// The registers at the stop. In a patched call they are read when asked for.
    registers: OnceLock<Registers>,
    /// The call that came by the trampoline.
    call: Syscall,
    returned: u64,
    changed: Changed,
    xstate: Option<XState>,
    sent: Sent,
    /// Traps that were waited for without giving the executor a chance to do something else.
    inline: u32,
    /// What `thread.waker` holds.
    waker: Option<Waker>,
    /// CPU time and spinning of the host thread before this context had it.
    cpu_base_ns: u64,
    spun_base: u64,
    /// The most CPU time that was told of: what is subtracted for spinning is a hint, and CPU time does not go back.
    told_ns: Arc<AtomicU64>,
}

impl SystrapContext {
    pub fn new(space: Arc<Space>, spare: Spare) -> SystrapContext {
        let Spare { thread, stop } = spare;
        thread.take_interrupt();
        thread.prefer(Wish::default());
        let spun_base = thread.block.get(SPUN);
        let cpu_base_ns = if stop == Stop::New { 0 } else { thread.cpu_time_ns() };
        let context = SystrapContext {
            space,
            thread,
            stop,
            phase: Phase::Idle,
            registers: OnceLock::from(Registers::at_entry(0, 0)),
            call: Syscall { number: 0, args: [0; 6], entry: Entry::Patched },
            returned: 0,
            changed: Changed::Any,
            xstate: Some(XState::Initial),
            sent: Sent::Quick(0),
            inline: 0,
            waker: None,
            cpu_base_ns,
            spun_base,
            told_ns: Arc::default(),
        };
        context.write_identity(&Identity::default());
        context
    }

    fn write_identity(&self, identity: &Identity) {
        let Identity { pid, tid, ppid, uid, euid, gid, egid, enabled } = *identity;
        for (i, value) in [u32::from(enabled), pid, tid, ppid, uid, euid, gid, egid].into_iter().enumerate() {
            self.thread.block.set32(IDENTITY + i as u64 * 4, value);
        }
    }

    /// The registers of a patched call, from the block.
    fn read_patched(&self) -> Registers {
        let block = &self.thread.block;
        let [rbx, rbp, rsp, r12, r13, r14, r15] = std::array::from_fn(|i| block.get(SAVED + i as u64 * 8));
        let [rdi, rsi, rdx, r10, r8, r9] = self.call.args;
        let rip = block.get(RIP);
        let flags = block.get(FLAGS);
        // AH has SF ZF AF PF CF where eflags has them; AL overflow.
        let eflags = (flags >> 8 & 0xd5) | (flags & 1) << 11 | 0x202;
        let mut registers = Registers {
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11: eflags,
            r10,
            r9,
            r8,
            rax: self.returned,
            rcx: rip,
            rdx,
            rsi,
            rdi,
            orig_rax: self.call.number,
            rip,
            cs: 0,
            eflags,
            rsp,
            ss: 0,
            fs_base: block.get(PATCHED_FS),
            gs_base: 0,
        };
        registers.sanitise();
        registers
    }

    fn frame_stack(&self) -> std::ops::Range<u64> {
        self.thread.block.address + STACK..self.thread.block.address + BLOCK_LEN
    }

    /// Writes what the stub needs to go on.
    fn write_answer(&mut self) {
        if self.stop == Stop::Patched && self.changed != Changed::Any && self.xstate.is_none() {
            let block = &self.thread.block;
            block.set(RAX, self.returned);
            block.set32(COMMAND, COMMAND_RESUME);
            self.sent = Sent::Quick(self.returned);
            return;
        }
        let block = self.thread.block.clone();
        let mut registers = *self.registers();
        registers.sanitise();
        let format = self.space.platform().xformat();
        let given = self.xstate.take();
        let xstate_at = block.address + XSTATE;
        let (fpstate, command) = match (&given, self.stop) {
            (Some(XState::Initial), _) | (None, Stop::New | Stop::Signal(None)) => (0, COMMAND_RETURN),
            (Some(XState::Saved(state)), _) => {
                block.write(XSTATE, &format.frame(state));
                (xstate_at, COMMAND_RETURN)
            }
            (None, Stop::Signal(Some(offset))) => (block.address + offset, COMMAND_RETURN),
            (None, Stop::Patched) => {
                block.write(XSTATE, &format.empty_frame());
                (xstate_at, COMMAND_SAVE_RETURN)
            }
        };
        let frame = Frame::build(&registers, fpstate, self.frame_stack(), &SIGNALS);
        block.write(BUILT_FRAME, &frame.to_bytes());
        block.set(FRAME, block.address + BUILT_FRAME);
        block.set(FS_IN, registers.fs_base);
        block.set(GS_IN, if registers.gs_base == 0 { block.address } else { registers.gs_base });
        block.set32(COMMAND, command);
        self.sent = Sent::Frame(given);
    }

    /// Hands the turn over.
    fn give_turn(&self) {
        // What it will touch should be there.
        self.thread.stub.flush();
        let word = self.thread.block.word32(TURN);
        word.swap(TURN_STUB, SeqCst);
        if self.thread.block.word32(STUB_WAITS).load(SeqCst) != 0 {
            super::sys::futex_wake(word);
            if let Some(home) = self.home() {
                home.woke(&self.thread);
            }
        }
        self.thread.press();
    }

    /// The executor in whose list the thread is.
    fn home(&self) -> Option<&Executor> {
        self.thread.executors.get(self.thread.home.load(Acquire).checked_sub(1)?)
    }

    /// Enrols the thread with the executor, to be woken when it comes back.
    fn enrol(&mut self, cx: &task::Context<'_>, executor: ExecutorId) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.thread.waker.lock().clone_from(&self.waker);
        }
        // Ordered before the turn word's exchange, and before `press`.
        self.thread.state.store(RUNNING, Release);
        if self.thread.home.load(Acquire) == 0
            && let Some(executor) = self.thread.executors.get(executor.0)
        {
            executor.adopt(&self.thread);
        }
    }

    fn died(&mut self, death: Death) -> Trap {
        self.thread.kill(death);
        self.thread.state.store(IDLE, Release);
        self.phase = Phase::Idle;
        // Sanitised nonsense is still complete: the registers of the last stop.
        let _ = self.registers.set(Registers::at_entry(0, 0));
        Trap::Died(self.thread.death().unwrap_or(death))
    }

    /// Reads the trap the stub has published; None if it was a stray signal, or the thread is only now ready to start.
    fn collect(&mut self, turn: u32) -> Result<Option<Trap>, Death> {
        match turn {
            TURN_PATCHED => {
                let block = &self.thread.block;
                let number = block.get(RAX);
                let args = std::array::from_fn(|i| block.get(ARGS + i as u64 * 8));
                self.call = Syscall { number, args, entry: Entry::Patched };
                self.returned = number;
                self.registers.take();
                self.stop = Stop::Patched;
                self.changed = Changed::Nothing;
                self.xstate = None;
                self.thread.take_interrupt();
                Ok(Some(Trap::Syscall(self.call)))
            }
            TURN_SIGNAL => self.collect_signal(),
            TURN_NEW if self.stop == Stop::New => Ok(None),
            _ => Err(Death::Forged("its turn word")),
        }
    }

    fn collect_signal(&mut self) -> Result<Option<Trap>, Death> {
        let block = self.thread.block.clone();
        let forged = Death::Forged("its signal frame");
        let at = block.on_stack(block.get(SIGNAL_UCONTEXT), FRAME_LEN).ok_or(forged)?;
        let info_at = block.on_stack(block.get(SIGNAL_INFO), 48).ok_or(forged)?;
        let signal = block.get32(SIGNAL_NUMBER) as i32;
        let mut bytes = [0; FRAME_LEN as usize];
        block.read(at, &mut bytes);
        let frame = Frame::from_bytes(&bytes);
        let mut info = [0; 48];
        block.read(info_at, &mut info);
        let info = SignalInfo::from_bytes(&info);
        let size = self.space.platform().xformat().framed() as u64;
        let fpstate = block.on_stack(frame.fpstate(), size);

        let mut registers = frame.registers();
        registers.fs_base = block.get(SIGNAL_FS);
        let gs = block.get(SIGNAL_GS);
        registers.gs_base = if gs == block.address { 0 } else { gs };
        registers.sanitise();

        let zone = blob::zone(frame.raw_rip());
        if zone == Zone::After {
            self.finish_loading(&mut registers);
        } else {
            self.xstate = None;
        }
        self.stop = Stop::Signal(fpstate);
        self.changed = Changed::Nothing;

        let trap = match (signal, zone) {
            (_, Zone::Before { rax_saved, rcx_saved }) if signal != libc::SIGSYS => {
                let number = if rax_saved { block.get(RAX) } else { registers.rax };
                let next = if rcx_saved { block.get(RIP) } else { registers.rcx };
                registers.rip = next;
                Trap::Syscall(enter_call(&mut registers, number, Entry::Patched))
            }
            (libc::SIGSYS, _) => {
                let genuine = info.code == SYS_USER_DISPATCH
                    && info.arch == ARCH_X86_64
                    && info.number & X32_BIT == 0
                    && zone == Zone::Outside;
                let entry = if genuine { Entry::Trapped } else { Entry::Foreign };
                let number = registers.rax;
                Trap::Syscall(enter_call(&mut registers, number, entry))
            }
            (INTERRUPT, _) => Trap::Interrupted,
            (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP, _) => {
                Trap::Fault(Fault { signal, code: info.code, addr: info.addr, error: frame.error(), trap: frame.trap() })
            }
            _ => return Err(forged),
        };
        self.returned = registers.rax;
        self.registers = OnceLock::from(registers);
        let wanted = self.thread.take_interrupt();
        Ok((trap != Trap::Interrupted || wanted).then_some(trap))
    }

    /// The thread was stopped while it loaded the sentry's last answer: take that for done.
    fn finish_loading(&mut self, registers: &mut Registers) {
        match std::mem::replace(&mut self.sent, Sent::Quick(0)) {
            Sent::Quick(rax) => {
                let patched = self.read_patched();
                let [rdi, rsi, rdx, r10, r8, r9] = self.call.args;
                *registers = Registers {
                    rax,
                    rdi,
                    rsi,
                    rdx,
                    r10,
                    r8,
                    r9,
                    rip: patched.rip,
                    rcx: patched.rcx,
                    r11: patched.r11,
                    eflags: patched.eflags,
                    orig_rax: u64::MAX,
                    ..*registers
                };
                self.xstate = None;
            }
            Sent::Frame(given) => {
                if let Some(last) = self.registers.get() {
                    *registers = Registers { orig_rax: u64::MAX, ..*last };
                }
                self.xstate = given;
            }
        }
    }

    /// One step of waiting for the stub: its turn word if it has come back.
    fn returned_turn(&mut self) -> Result<Option<u32>, Death> {
        match turn(&self.thread) {
            TURN_STUB => self.thread.death().map_or(Ok(None), Err),
            turn => Ok(Some(turn)),
        }
    }

    fn saved_state(&self, at: u64) -> XState {
        let format = self.space.platform().xformat();
        let mut bytes = vec![0; format.framed()];
        self.thread.block.read(at, &mut bytes);
        format.state(&bytes)
    }
}

/// `si_code` of Syscall User Dispatch, `AUDIT_ARCH_X86_64`, and the bit of x32 calls.
const SYS_USER_DISPATCH: i32 = 2;
const ARCH_X86_64: u32 = 0xc000_003e;
const X32_BIT: u32 = 0x4000_0000;

/// What is needed of `siginfo`.
struct SignalInfo {
    code: i32,
    addr: u64,
    number: u32,
    arch: u32,
}

impl SignalInfo {
    fn from_bytes(bytes: &[u8; 48]) -> SignalInfo {
        let word = |i: usize| u64::from_ne_bytes(bytes[i..i + 8].try_into().expect("eight bytes"));
        SignalInfo { code: word(8) as i32, addr: word(16), number: word(24) as u32, arch: (word(24) >> 32) as u32 }
    }
}

/// Registers as Linux has them at the entry of a call.
fn enter_call(registers: &mut Registers, number: u64, entry: Entry) -> Syscall {
    registers.rax = number;
    registers.orig_rax = number;
    registers.rcx = registers.rip;
    registers.r11 = registers.eflags;
    registers.sanitise();
    let r = registers;
    Syscall { number, args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], entry }
}

impl Context for SystrapContext {
    fn poll_switch(&mut self, cx: &mut task::Context<'_>, executor: ExecutorId) -> Poll<Trap> {
        if self.phase == Phase::Idle {
            if let Some(death) = self.thread.death() {
                return Poll::Ready(Trap::Died(death));
            }
            if self.thread.take_interrupt() {
                return Poll::Ready(Trap::Interrupted);
            }
            self.enrol(cx, executor);
            self.phase = Phase::Running;
            if self.stop != Stop::New || turn(&self.thread) == TURN_NEW {
                self.write_answer();
                self.give_turn();
            }
            if self.inline >= INLINE_TRAPS || !self.home().is_some_and(|home| home.look(&self.thread)) {
                self.inline = 0;
                return Poll::Pending;
            }
            self.inline += 1;
        }
        loop {
            let turn = match self.returned_turn() {
                Ok(Some(turn)) => turn,
                Ok(None) => {
                    self.enrol(cx, executor);
                    // It may have come back, or been given up, before it was enrolled.
                    match self.returned_turn() {
                        Ok(None) => {
                            self.thread.press();
                            return Poll::Pending;
                        }
                        _ => continue,
                    }
                }
                Err(death) => return Poll::Ready(self.died(death)),
            };
            match self.collect(turn) {
                Ok(Some(trap)) => {
                    self.thread.state.store(IDLE, Release);
                    self.phase = Phase::Idle;
                    return Poll::Ready(trap);
                }
                Ok(None) => {
                    self.write_answer();
                    self.give_turn();
                }
                Err(death) => return Poll::Ready(self.died(death)),
            }
        }
    }

    fn registers(&self) -> &Registers {
        self.registers.get_or_init(|| self.read_patched())
    }

    fn registers_mut(&mut self) -> &mut Registers {
        self.registers();
        self.changed = Changed::Any;
        self.registers.get_mut().expect("just read")
    }

    fn set_return(&mut self, value: u64) {
        self.returned = value;
        if let Some(registers) = self.registers.get_mut() {
            registers.rax = value;
        }
        if self.changed == Changed::Nothing {
            self.changed = Changed::Return;
        }
    }

    fn poll_xstate(&mut self, cx: &mut task::Context<'_>, executor: ExecutorId) -> Poll<Result<XState, Death>> {
        if let Some(death) = self.thread.death() {
            return Poll::Ready(Err(death));
        }
        if let Some(given) = &self.xstate {
            return Poll::Ready(Ok(given.clone()));
        }
        if self.phase == Phase::Idle {
            match self.stop {
                Stop::New | Stop::Signal(None) => return Poll::Ready(Ok(XState::Initial)),
                Stop::Signal(Some(at)) => return Poll::Ready(Ok(self.saved_state(at))),
                Stop::Patched => {}
            }
            // All registers, before the stub gets the turn.
            self.registers();
            let block = &self.thread.block;
            block.write(XSTATE, &self.space.platform().xformat().empty_frame());
            block.set32(COMMAND, COMMAND_SAVE);
            self.enrol(cx, executor);
            self.phase = Phase::Saving;
            self.give_turn();
            return Poll::Pending;
        }
        let state = match self.returned_turn() {
            Ok(None) => {
                self.enrol(cx, executor);
                return Poll::Pending;
            }
            Ok(Some(TURN_SAVED)) => Ok(self.saved_state(XSTATE)),
            // An interrupt came between: the frame has the state, and its registers are those we have.
            Ok(Some(TURN_SIGNAL)) => {
                let last = *self.registers();
                let changed = self.changed;
                let wanted = self.collect_signal();
                if matches!(wanted, Ok(Some(Trap::Interrupted))) {
                    self.thread.interrupt_again();
                }
                self.registers = OnceLock::from(last);
                self.changed = if changed == Changed::Nothing { Changed::Return } else { changed };
                match self.stop {
                    Stop::Signal(Some(at)) => Ok(self.saved_state(at)),
                    _ => Err(Death::Forged("its extended state")),
                }
            }
            Ok(Some(_)) => Err(Death::Forged("its turn word")),
            Err(death) => Err(death),
        };
        self.thread.state.store(IDLE, Release);
        self.phase = Phase::Idle;
        Poll::Ready(state.inspect_err(|death| self.thread.kill(*death)))
    }

    fn set_xstate(&mut self, state: XState) {
        self.xstate = Some(state);
    }

    fn set_identity(&mut self, identity: &Identity) {
        self.write_identity(identity);
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        Arc::new(Remote {
            thread: self.thread.clone(),
            platform: self.space.platform().clone(),
            cpu_base_ns: self.cpu_base_ns,
            spun_base: self.spun_base,
            told_ns: self.told_ns.clone(),
        })
    }

    fn cpu_time_ns(&self) -> u64 {
        cpu_time_ns(&self.thread, self.space.platform(), self.cpu_base_ns, self.spun_base, &self.told_ns)
    }
}

/// CPU time since a context got its thread, without spinning.
fn cpu_time_ns(thread: &Thread, platform: &Systrap, cpu_base_ns: u64, spun_base: u64, told_ns: &AtomicU64) -> u64 {
    let spun = thread.block.get(SPUN).wrapping_sub(spun_base);
    let now = thread.cpu_time_ns().saturating_sub(cpu_base_ns).saturating_sub(platform.spun_ns(spun));
    told_ns.fetch_max(now, Relaxed).max(now)
}

/// A context seen from other threads.
struct Remote {
    thread: Arc<Thread>,
    platform: Arc<Systrap>,
    cpu_base_ns: u64,
    spun_base: u64,
    /// The most CPU time that was told of: what is subtracted for spinning is a hint, and CPU time does not go back.
    told_ns: Arc<AtomicU64>,
}

impl Interrupter for Remote {
    fn interrupt(&self) {
        self.thread.interrupt();
    }

    fn cpu_time_ns(&self) -> u64 {
        cpu_time_ns(&self.thread, &self.platform, self.cpu_base_ns, self.spun_base, &self.told_ns)
    }

    fn prefer(&self, wish: Wish) {
        self.thread.prefer(wish);
    }
}

impl Drop for SystrapContext {
    fn drop(&mut self) {
        let thread = self.thread.clone();
        self.thread.state.store(IDLE, Release);
        *self.thread.waker.lock() = None;
        if let Some(executor) = self.thread.home.load(SeqCst).checked_sub(1).and_then(|home| self.thread.executors.get(home)) {
            executor.forget(&thread);
        }
        if self.phase == Phase::Idle && thread.death().is_none() {
            self.space.give_back(Spare { thread, stop: self.stop });
        } else {
            self.space.bury(&thread);
        }
    }
}
