//! Dispositions: what a process does on each signal.

use std::sync::Arc;

use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{SigSet, Signal};

bitflags::bitflags! {
    /// `SA_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct SigFlags: u64 {
        const NOCLDSTOP = 1;
        const NOCLDWAIT = 2;
        const SIGINFO = 4;
        const UNSUPPORTED = 0x400;
        const EXPOSE_TAGBITS = 0x800;
        const RESTORER = 0x0400_0000;
        const ONSTACK = 0x0800_0000;
        const RESTART = 0x1000_0000;
        const NODEFER = 0x4000_0000;
        const RESETHAND = 0x8000_0000;
    }
}

/// `struct sigaction` as `rt_sigaction` has it on x86-64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    /// `SIG_DFL` (0), `SIG_IGN` (1) or an address.
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

/// What an action's handler field means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    Default,
    Ignore,
    Call(u64),
}

/// What happens by default (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultAction {
    Terminate,
    Core,
    Ignore,
    Stop,
    Continue,
}

impl SigAction {
    pub const IGNORE: SigAction = SigAction { handler: 1, flags: 0, restorer: 0, mask: 0 };

    pub fn handling(&self) -> Handling {
        match self.handler {
            0 => Handling::Default,
            1 => Handling::Ignore,
            address => Handling::Call(address),
        }
    }

    pub fn flags(&self) -> SigFlags {
        SigFlags::from_bits_truncate(self.flags)
    }

    /// Whether `signal` with this action does nothing at all.
    pub fn ignores(&self, signal: Signal) -> bool {
        match self.handling() {
            Handling::Ignore => true,
            Handling::Default => signal.default_action() == DefaultAction::Ignore,
            Handling::Call(_) => false,
        }
    }
}

impl Signal {
    /// What the signal does to a process that has no handler.
    pub fn default_action(self) -> DefaultAction {
        match self {
            Signal::CHLD | Signal::URG | Signal::WINCH => DefaultAction::Ignore,
            Signal::CONT => DefaultAction::Continue,
            Signal::STOP | Signal::TSTP | Signal::TTIN | Signal::TTOU => DefaultAction::Stop,
            Signal::QUIT | Signal::ILL | Signal::TRAP | Signal::ABRT | Signal::BUS | Signal::FPE | Signal::SEGV => {
                DefaultAction::Core
            }
            Signal::XCPU | Signal::XFSZ | Signal::SYS => DefaultAction::Core,
            _ => DefaultAction::Terminate,
        }
    }
}

/// The dispositions that `CLONE_SIGHAND` shares.
pub struct SigHand {
    actions: Mutex<[SigAction; 64]>,
}

impl SigHand {
    /// All default.
    pub fn new() -> Arc<SigHand> {
        Arc::new(SigHand { actions: Mutex::new([SigAction::default(); 64]) })
    }

    /// The action of a signal.
    pub fn get(&self, signal: Signal) -> SigAction {
        self.actions.lock().get(signal.index()).copied().unwrap_or_default()
    }

    /// Sets the action of a signal. Returns the old one.
    pub fn set(&self, signal: Signal, action: SigAction) -> SigAction {
        let mut actions = self.actions.lock();
        actions.get_mut(signal.index()).map_or(SigAction::default(), |slot| std::mem::replace(slot, action))
    }

    /// A copy (fork).
    pub fn duplicate(&self) -> Arc<SigHand> {
        Arc::new(SigHand { actions: Mutex::new(*self.actions.lock()) })
    }

    /// A copy as exec makes it: handlers become default, ignored signals stay ignored; flags, masks and restorers are forgotten.
    pub fn for_exec(&self) -> Arc<SigHand> {
        let mut actions = *self.actions.lock();
        for action in &mut actions {
            *action = if action.handling() == Handling::Ignore { SigAction::IGNORE } else { SigAction::default() };
        }
        Arc::new(SigHand { actions: Mutex::new(actions) })
    }

    /// Ignored signals (/proc/PID/status `SigIgn`).
    pub fn ignored(&self) -> SigSet {
        self.select(|action| action.handling() == Handling::Ignore)
    }

    /// Signals with a handler function (/proc/PID/status `SigCgt`).
    pub fn caught(&self) -> SigSet {
        self.select(|action| matches!(action.handling(), Handling::Call(_)))
    }

    fn select(&self, which: impl Fn(&SigAction) -> bool) -> SigSet {
        let actions = self.actions.lock();
        let numbers = (1..=Signal::MAX).filter_map(Signal::new);
        numbers.zip(actions.iter()).filter(|(_, action)| which(action)).fold(SigSet::EMPTY, |set, (signal, _)| set.with(signal))
    }
}
