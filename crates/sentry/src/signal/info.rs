//! [`SigInfo`]: what comes with a signal (`siginfo_t`).

use super::Signal;
use crate::abi::uapi;

/// A signal with its information. Like the kernel's own `kernel_siginfo`, it keeps the first 48 of `siginfo_t`'s 128 bytes: the rest
/// is always zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SigInfo {
    pub signal: Signal,
    pub code: i32,
    pub errno: i32,
    /// The union, from byte 16 on.
    fields: [u64; 4],
}

/// Two ints side by side, as in a little-endian struct.
fn pair(low: i32, high: u32) -> u64 {
    u64::from(low as u32) | u64::from(high) << 32
}

impl SigInfo {
    /// `sizeof(siginfo_t)`.
    pub const SIZE: usize = 128;

    fn new(signal: Signal, code: i32, fields: [u64; 4]) -> SigInfo {
        SigInfo { signal, code, errno: 0, fields }
    }

    /// From the kernel itself (`SI_KERNEL`).
    pub fn kernel(signal: Signal) -> SigInfo {
        SigInfo::new(signal, 0x80, [0; 4])
    }

    /// By `kill` (`SI_USER`).
    pub fn user(signal: Signal, pid: i32, uid: u32) -> SigInfo {
        SigInfo::new(signal, 0, [pair(pid, uid), 0, 0, 0])
    }

    /// By `tkill` or `tgkill` (`SI_TKILL`).
    pub fn tkill(signal: Signal, pid: i32, uid: u32) -> SigInfo {
        SigInfo::new(signal, -6, [pair(pid, uid), 0, 0, 0])
    }

    /// A fault at `addr`, with a code as `SEGV_MAPERR`.
    pub fn fault(signal: Signal, code: i32, addr: u64) -> SigInfo {
        SigInfo::new(signal, code, [addr, 0, 0, 0])
    }

    /// A child's change (`CLD_*`); times in clock ticks (1/100 s).
    pub fn child(code: i32, pid: i32, uid: u32, status: i32, user_ticks: u64, system_ticks: u64) -> SigInfo {
        SigInfo::new(Signal::CHLD, code, [pair(pid, uid), u64::from(status as u32), user_ticks, system_ticks])
    }

    /// The same for another exit signal than `SIGCHLD`.
    pub fn with_signal(self, signal: Signal) -> SigInfo {
        SigInfo { signal, ..self }
    }

    /// The same with another code.
    pub fn with_code(self, code: i32) -> SigInfo {
        SigInfo { code, ..self }
    }

    /// The same with another sender.
    pub fn with_sender(mut self, pid: i32, uid: u32) -> SigInfo {
        self.fields[0] = pair(pid, uid);
        self
    }

    /// A POSIX timer's expiry (`SI_TIMER`).
    pub fn timer(signal: Signal, id: i32, overrun: i32, value: u64) -> SigInfo {
        SigInfo::new(signal, -2, [pair(id, overrun as u32), value, 0, 0])
    }

    /// A message has come to an empty queue (`SI_MESGQ`).
    pub fn message_queue(signal: Signal, pid: i32, uid: u32, value: u64) -> SigInfo {
        SigInfo::new(signal, -3, [pair(pid, uid), value, 0, 0])
    }

    /// Asynchronous I/O readiness (`POLL_IN` …).
    pub fn poll(signal: Signal, code: i32, band: i64, fd: i32) -> SigInfo {
        SigInfo::new(signal, code, [band as u64, u64::from(fd as u32), 0, 0])
    }

    /// A system call that a filter refused (`SYS_SECCOMP`): the address after it, its number, its architecture, the filter's data.
    pub fn seccomp(addr: u64, number: i32, arch: u32, data: i32) -> SigInfo {
        SigInfo { errno: data, ..SigInfo::new(Signal::SYS, 1, [addr, pair(number, arch), 0, 0]) }
    }

    /// From a guest's `siginfo_t` (`rt_sigqueueinfo`): None when it holds what the kernel would not keep.
    pub fn decode(signal: Signal, bytes: &[u8; Self::SIZE]) -> Option<SigInfo> {
        let word = |at: usize| bytes.get(at..at + 8).map_or(0, |b| b.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)));
        if !known_layout(signal, word(8) as i32) && bytes.iter().skip(48).any(|&byte| byte != 0) {
            return None;
        }
        let fields = [word(16), word(24), word(32), word(40)];
        Some(SigInfo { signal, code: word(8) as i32, errno: (word(0) >> 32) as i32, fields })
    }

    /// As `siginfo_t`.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let words = [
            pair(self.signal.number(), self.errno as u32),
            u64::from(self.code as u32),
            self.fields[0],
            self.fields[1],
            self.fields[2],
            self.fields[3],
        ];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `si_pid` of signals that have one.
    pub fn pid(&self) -> i32 {
        self.fields[0] as i32
    }

    /// `si_uid`.
    pub fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// `si_addr` of faults.
    pub fn addr(&self) -> u64 {
        self.fields[0]
    }

    /// `si_value` (signalfd).
    pub fn value(&self) -> u64 {
        self.fields[1]
    }

    /// `si_status` of a child's change.
    pub fn status(&self) -> i32 {
        self.fields[1] as i32
    }

    /// Times of a child's change in clock ticks: user, system.
    pub fn child_ticks(&self) -> (u64, u64) {
        (self.fields[2], self.fields[3])
    }

    /// `si_timerid` (`si_tid`) and `si_overrun`.
    pub fn timer_fields(&self) -> (i32, i32) {
        (self.fields[0] as i32, (self.fields[0] >> 32) as i32)
    }

    /// `si_band` and `si_fd`.
    pub fn poll_fields(&self) -> (i64, i32) {
        (self.fields[0] as i64, self.fields[1] as i32)
    }

    pub(crate) fn set_overrun(&mut self, overrun: i32) {
        self.fields[0] = pair(self.fields[0] as i32, overrun as u32);
    }

    /// Whether the kernel made it (`SI_FROMKERNEL`): positive codes.
    pub fn from_kernel(&self) -> bool {
        self.code > 0
    }
}

/// `si_code`s of `SIGCHLD`.
pub mod cld {
    pub const EXITED: i32 = super::uapi::CLD_EXITED as i32;
    pub const KILLED: i32 = super::uapi::CLD_KILLED as i32;
    pub const DUMPED: i32 = super::uapi::CLD_DUMPED as i32;
    pub const TRAPPED: i32 = super::uapi::CLD_TRAPPED as i32;
    pub const STOPPED: i32 = super::uapi::CLD_STOPPED as i32;
    pub const CONTINUED: i32 = super::uapi::CLD_CONTINUED as i32;
}

/// Whether it is known what a `siginfo` of this code holds (`known_siginfo_layout`): then bytes after it may be anything.
fn known_layout(signal: Signal, code: i32) -> bool {
    /// `SI_KERNEL`, `SI_DETHREAD`, `SI_ASYNCNL`.
    const KERNEL: i32 = 0x80;
    const DETHREAD: i32 = -7;
    const ASYNCNL: i32 = -60;
    /// `NSIGPOLL`: what other signals' codes may be too.
    const POLL_CODES: i32 = 6;
    if code <= 0 {
        return code >= DETHREAD || code == ASYNCNL;
    }
    let own = match signal {
        Signal::ILL => 11,
        Signal::FPE => 15,
        Signal::SEGV => 10,
        Signal::BUS => 5,
        Signal::TRAP | Signal::CHLD => 6,
        Signal::SYS => 2,
        _ => POLL_CODES,
    };
    code == KERNEL || code <= own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_linux_s() {
        let bytes = SigInfo::child(cld::EXITED, 7, 1000, 3, 5, 6).encode();
        let int = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        assert_eq!([int(0), int(8), int(16), int(20), int(24), int(32), int(40)], [17, 1, 7, 1000, 3, 5, 6]);
        assert_eq!(SigInfo::decode(Signal::CHLD, &bytes), Some(SigInfo::child(cld::EXITED, 7, 1000, 3, 5, 6)));
    }
}
