//! [`Signal`]: a checked signal number, and [`SigSet`].

use std::fmt;

/// A signal number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident $number:literal,)*) => {
        impl Signal {
            $(pub const $name: Signal = Signal($number);)*

            /// The name with its prefix (`"SIGHUP"`), of the standard ones.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(concat!("SIG", stringify!($name))),)* _ => None }
            }
        }
    };
}

signals! {
    HUP 1, INT 2, QUIT 3, ILL 4, TRAP 5, ABRT 6, BUS 7, FPE 8, KILL 9, USR1 10, SEGV 11, USR2 12, PIPE 13, ALRM 14, TERM 15,
    STKFLT 16, CHLD 17, CONT 18, STOP 19, TSTP 20, TTIN 21, TTOU 22, URG 23, XCPU 24, XFSZ 25, VTALRM 26, PROF 27, WINCH 28,
    IO 29, PWR 30, SYS 31,
}

impl Signal {
    /// The first realtime signal.
    pub const RTMIN: Signal = Signal(32);
    /// The largest signal number.
    pub const MAX: i32 = 64;

    /// A number from outside.
    pub fn new(number: i32) -> Option<Signal> {
        u8::try_from(number).ok().filter(|n| (1..=64).contains(n)).map(Signal)
    }

    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// Its bit in a set.
    pub const fn bit(self) -> u64 {
        1 << (self.0 - 1)
    }

    pub fn is_realtime(self) -> bool {
        self.0 >= Self::RTMIN.0
    }

    /// 0 to 63, for arrays.
    pub(super) fn index(self) -> usize {
        usize::from(self.0 - 1)
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "SIGRT_{}", self.0 - Self::RTMIN.0),
        }
    }
}

/// A set of signals, as in `sigset_t` (8 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SigSet(pub u64);

impl SigSet {
    pub const EMPTY: SigSet = SigSet(0);
    /// What cannot be blocked, caught or ignored.
    pub const UNBLOCKABLE: SigSet = SigSet(Signal::KILL.bit() | Signal::STOP.bit());
    /// Job control's stop signals.
    pub const STOPS: SigSet = SigSet(Signal::STOP.bit() | Signal::TSTP.bit() | Signal::TTIN.bit() | Signal::TTOU.bit());
    /// Signals that come from the instruction just run; delivered before others (`SYNCHRONOUS_MASK` of kernel/signal.c).
    pub const SYNCHRONOUS: SigSet = SigSet(
        Signal::SEGV.bit() | Signal::BUS.bit() | Signal::ILL.bit() | Signal::TRAP.bit() | Signal::FPE.bit() | Signal::SYS.bit(),
    );

    pub fn contains(self, signal: Signal) -> bool {
        self.0 & signal.bit() != 0
    }

    pub fn with(self, signal: Signal) -> SigSet {
        SigSet(self.0 | signal.bit())
    }

    /// Both sets' signals.
    pub fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    /// This set's signals that are not in `other`.
    pub fn minus(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    /// A mask as it may be blocked: without `SIGKILL` and `SIGSTOP`.
    pub fn blockable(self) -> SigSet {
        self.minus(Self::UNBLOCKABLE)
    }

    /// The lowest signal.
    pub fn first(self) -> Option<Signal> {
        if self.0 == 0 { None } else { Some(Signal(self.0.trailing_zeros() as u8 + 1)) }
    }
}

impl fmt::Debug for SigSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((1..=64).filter_map(Signal::new).filter(|&s| self.contains(s))).finish()
    }
}
