//! An application thread: a host thread in a stub, and its context block.
//!
//! Shared between the context that drives it, the executor that waits for it, and whoever interrupts it. All fields are atomics
//! or behind small locks that are never held while waiting.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};
use std::task::Waker;

use hostcall::time::monotonic_ns;
use parking_lot::Mutex;

use super::control::Block;
use super::executor::Executor;
use super::layout::*;
use super::stub::Stub;
use super::sys::{self, Fate, Wait};
use crate::{Death, Interrupter, Wish};

/// The sentry has it.
pub const IDLE: u8 = 0;
/// It is in user mode; its executor looks for its turn word.
pub const RUNNING: u8 = 1;
/// Its turn has been seen and its task woken.
pub const NOTIFIED: u8 = 2;

/// An interrupted thread that has used this much CPU time since and has not trapped is killed.
const INTERRUPT_CPU_NS: u64 = 10_000_000;
/// So is one that has not trapped for this long in any way (it may wait for a slow disk).
const INTERRUPT_LIMIT_NS: u64 = 2_000_000_000;

/// See the module.
pub struct Thread {
    pub block: Block,
    pub index: u64,
    /// Its thread-group id: each application thread is a group of its own.
    pub tid: i32,
    pub stub: Arc<Stub>,
    pub executors: Arc<[Executor]>,
    /// `IDLE`, `RUNNING` or `NOTIFIED`.
    pub state: AtomicU8,
    /// The executor in whose list it is, plus one; 0: in none.
    pub home: AtomicUsize,
    /// The CPU it is bound to, plus one; 0: to none. A new one is where its memory thread was made to run.
    pub bound: AtomicU32,
    /// Its nice value above the sandbox's, as the host has it, and a bit for each CPU that the guest wishes.
    pub nice: AtomicU8,
    pub cpus: AtomicU64,
    pub waker: Mutex<Option<Waker>>,
    interrupted: AtomicBool,
    /// It was told to sleep: its call blocks.
    pub told: AtomicBool,
    /// When it was interrupted in user mode, and its CPU time then.
    pressed: Mutex<Option<Pressed>>,
    death: OnceLock<Death>,
    /// Set once its host thread is known to be reaped.
    reaped: AtomicBool,
}

/// An interrupt that waits for its effect.
#[derive(Debug, Clone, Copy)]
struct Pressed {
    since_ns: u64,
    cpu_ns: u64,
}

impl Thread {
    pub fn new(block: Block, index: u64, tid: i32, stub: Arc<Stub>, executors: Arc<[Executor]>) -> Thread {
        Thread {
            block,
            index,
            tid,
            stub,
            executors,
            state: AtomicU8::new(IDLE),
            home: AtomicUsize::new(0),
            bound: AtomicU32::new(u32::MAX),
            nice: AtomicU8::new(Wish::default().nice),
            cpus: AtomicU64::new(Wish::default().cpus),
            waker: Mutex::new(None),
            interrupted: AtomicBool::new(false),
            told: AtomicBool::new(false),
            pressed: Mutex::new(None),
            death: OnceLock::new(),
            reaped: AtomicBool::new(false),
        }
    }

    /// Why it is gone, if it is.
    pub fn death(&self) -> Option<Death> {
        self.death.get().copied()
    }

    /// Takes a wanted interrupt, whether or not its signal has been sent: after a trap of any kind nothing is pending any more.
    pub fn take_interrupt(&self) -> bool {
        if !self.interrupted.load(SeqCst) {
            return false;
        }
        let mut pressed = self.pressed.lock();
        *pressed = None;
        self.interrupted.swap(false, SeqCst)
    }

    /// Puts an interrupt back that was taken too early.
    pub fn interrupt_again(&self) {
        self.interrupted.store(true, SeqCst);
    }

    /// After the turn was given away: an interrupt that came just before found the stub waiting in the trampoline, which ignores
    /// it. Sends it again.
    pub fn press(&self) {
        if self.interrupted.load(SeqCst) {
            let mut pressed = self.pressed.lock();
            if self.interrupted.load(SeqCst) {
                self.send(&mut pressed);
            }
        }
    }

    fn send(&self, pressed: &mut Option<Pressed>) {
        *pressed = Some(Pressed { since_ns: monotonic_ns(), cpu_ns: sys::cpu_time_ns(self.tid) });
        sys::kill(self.tid, INTERRUPT);
        // Its executor must look at it in a few milliseconds.
        if let Some(executor) = self.home.load(SeqCst).checked_sub(1).and_then(|home| self.executors.get(home)) {
            executor.expect_answer();
        }
    }

    /// Tells the stub, while the sentry has the turn, not to spin for the answer.
    pub fn tell_to_sleep(&self) {
        self.told.store(true, SeqCst);
        self.block.set32(COMMAND, COMMAND_SLEEP);
    }

    /// Notices that the host, or an unanswered interrupt, has ended it; called now and then while it is in user mode.
    pub fn look(&self) {
        if self.death().is_some() {
            return;
        }
        self.stub.look();
        if let Some(death) = self.stub.death() {
            self.kill(death);
            return;
        }
        if !self.reaped.load(SeqCst)
            && let Fate::Dead(death) = sys::reap(self.tid, Wait::No)
        {
            self.reaped.store(true, SeqCst);
            let _ = self.death.set(death);
            return;
        }
        let pressed = *self.pressed.lock();
        if let Some(pressed) = pressed {
            let used = sys::cpu_time_ns(self.tid).saturating_sub(pressed.cpu_ns);
            if used > INTERRUPT_CPU_NS || monotonic_ns().saturating_sub(pressed.since_ns) > INTERRUPT_LIMIT_NS {
                self.kill(Death::Unresponsive);
            }
        }
    }

    /// Sends it SIGKILL; [`kill`](Thread::kill) must follow, and waits until it is gone.
    pub fn begin_to_die(&self) {
        if self.death.set(Death::Signal(libc::SIGKILL)).is_ok() {
            sys::kill(self.tid, libc::SIGKILL);
        }
    }

    /// Ends its host thread, and returns when it is gone.
    pub fn kill(&self, why: Death) {
        let _ = self.death.set(why);
        if !self.reaped.swap(true, SeqCst) {
            sys::kill(self.tid, libc::SIGKILL);
            sys::reap(self.tid, Wait::Block);
        }
    }

    /// CPU time in user mode.
    pub fn cpu_time_ns(&self) -> u64 {
        sys::cpu_time_ns(self.tid)
    }
}

impl Interrupter for Thread {
    fn interrupt(&self) {
        let mut pressed = self.pressed.lock();
        self.interrupted.store(true, SeqCst);
        if pressed.is_none() && self.state.load(SeqCst) == RUNNING {
            self.send(&mut pressed);
        }
    }

    fn prefer(&self, wish: Wish) {
        // All of them know the host as well.
        let Some(executor) = self.executors.first() else { return };
        if self.nice.load(SeqCst) != wish.nice && executor.set_nice(self, wish.nice) {
            self.nice.store(wish.nice, SeqCst);
        }
        if self.cpus.swap(wish.cpus, SeqCst) != wish.cpus {
            // Its executor looks again where it should be when it comes back.
            self.bound.store(u32::MAX, SeqCst);
            executor.release(self);
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.kill(Death::Signal(libc::SIGKILL));
    }
}

/// Whether its turn has come back, by a checked read of the turn word.
pub fn turn(thread: &Thread) -> u32 {
    thread.block.word32(TURN).load(std::sync::atomic::Ordering::Acquire)
}
