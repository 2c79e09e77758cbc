//! [`Termios`]: a terminal's settings (termios(3)), in the kernel's layout.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::uapi;

/// Number of control characters (`NCCS` of the kernel).
pub const NCCS: usize = 19;

/// `struct termios2`; its first 36 bytes are `struct termios`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
    pub ispeed: u32,
    pub ospeed: u32,
}

/// Size of the old `struct termios`.
pub const TERMIOS_SIZE: usize = 36;

const fn control(letter: u8) -> u8 {
    letter & 0x1f
}

/// A control character by its index (`VINTR` …).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Cc {
    Intr = 0,
    Quit = 1,
    Erase = 2,
    Kill = 3,
    Eof = 4,
    Time = 5,
    Min = 6,
    Start = 8,
    Stop = 9,
    Susp = 10,
    Eol = 11,
    Reprint = 12,
    Werase = 14,
    Lnext = 15,
    Eol2 = 16,
}

/// `INIT_C_CC`.
const DEFAULT_CC: [u8; NCCS] = [
    control(b'C'),
    0x1c,
    0x7f,
    control(b'U'),
    control(b'D'),
    0,
    1,
    0,
    control(b'Q'),
    control(b'S'),
    control(b'Z'),
    0,
    control(b'R'),
    control(b'O'),
    control(b'W'),
    control(b'V'),
    0,
    0,
    0,
];

impl Default for Termios {
    /// `tty_std_termios`.
    fn default() -> Termios {
        Termios {
            iflag: uapi::ICRNL | uapi::IXON,
            oflag: uapi::OPOST | uapi::ONLCR,
            cflag: uapi::B38400 | uapi::CS8 | uapi::CREAD | uapi::HUPCL,
            lflag: uapi::ISIG
                | uapi::ICANON
                | uapi::ECHO
                | uapi::ECHOE
                | uapi::ECHOK
                | uapi::ECHOCTL
                | uapi::ECHOKE
                | uapi::IEXTEN,
            line: 0,
            cc: DEFAULT_CC,
            ispeed: 38400,
            ospeed: 38400,
        }
    }
}

impl Termios {
    pub fn input(&self, flag: u32) -> bool {
        self.iflag & flag != 0
    }

    pub fn output(&self, flag: u32) -> bool {
        self.oflag & flag != 0
    }

    pub fn local(&self, flag: u32) -> bool {
        self.lflag & flag != 0
    }

    /// A control character's value.
    pub fn cc(&self, which: Cc) -> u8 {
        self.cc.get(which as usize).copied().unwrap_or(0)
    }

    /// Whether `byte` is that control character (0 disables one).
    pub fn is(&self, which: Cc, byte: u8) -> bool {
        byte != 0 && self.cc(which) == byte
    }

    /// For `cfmakeraw`'s settings, as programs make them.
    #[cfg(test)]
    pub fn raw() -> Termios {
        let mut termios = Termios { iflag: 0, ..Termios::default() };
        termios.oflag &= !uapi::OPOST;
        termios.lflag = 0;
        termios
    }
}
