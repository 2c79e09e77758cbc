//! `struct user`: a task's registers as PEEKUSER, POKEUSER and register sets have them.

use platform::{Registers, XState};
use zerocopy::IntoBytes;

use crate::Errno;

/// `sizeof(struct user_regs_struct)`.
pub(crate) const REGS_LEN: usize = 27 * 8;
/// `sizeof(struct user)`.
const USER_LEN: u64 = 928;
/// `u_debugreg`, eight of them.
const DEBUG_REGISTERS: std::ops::Range<u64> = 848..912;
/// The legacy area: what FPREGS are.
pub(crate) const FPREGS_LEN: usize = 512;
/// Where the software bytes say what the state can hold (XCR0).
const XCR0: std::ops::Range<usize> = 464..472;
const SOFTWARE: std::ops::Range<usize> = 464..512;
const HEADER: usize = 512;

/// The flags a tracer may set (`FLAG_MASK`): also RF.
const FLAGS: u64 = 0x5_4dd5;

/// As `struct user_regs_struct`.
pub(crate) fn words(r: &Registers) -> [u64; 27] {
    [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.orig_rax,
        r.rip, 0x33, r.eflags, r.rsp, 0x2b, r.fs_base, r.gs_base, 0, 0, 0, 0,
    ]
}

/// Sets one word (`putreg`).
///
/// # Errors
/// `EIO` for what cannot be loaded: segments that are none, bases and addresses outside user space.
pub(crate) fn put(r: &mut Registers, index: usize, value: u64) -> Result<(), Errno> {
    const TOP: u64 = 0x7fff_ffff_f000;
    let place = match index {
        0 => &mut r.r15,
        1 => &mut r.r14,
        2 => &mut r.r13,
        3 => &mut r.r12,
        4 => &mut r.rbp,
        5 => &mut r.rbx,
        6 => &mut r.r11,
        7 => &mut r.r10,
        8 => &mut r.r9,
        9 => &mut r.r8,
        10 => &mut r.rax,
        11 => &mut r.rcx,
        12 => &mut r.rdx,
        13 => &mut r.rsi,
        14 => &mut r.rdi,
        15 => &mut r.orig_rax,
        16 => &mut r.rip,
        18 => {
            r.eflags = r.eflags & !FLAGS | value & FLAGS;
            return Ok(());
        }
        19 => &mut r.rsp,
        // Selectors: those that there are, and the null ones.
        17 | 20 => return if value & 3 == 3 { Ok(()) } else { Err(Errno::EIO) },
        21 | 22 if value >= TOP => return Err(Errno::EIO),
        21 => &mut r.fs_base,
        22 => &mut r.gs_base,
        23..=26 => return if value == 0 || value & 3 == 3 && value <= 0xffff { Ok(()) } else { Err(Errno::EIO) },
        _ => return Err(Errno::EIO),
    };
    *place = value;
    Ok(())
}

/// PEEKUSER.
///
/// # Errors
/// `EIO` outside or between words.
pub(crate) fn peek(registers: &Registers, offset: u64) -> Result<u64, Errno> {
    if !offset.is_multiple_of(8) || offset >= USER_LEN {
        return Err(Errno::EIO);
    }
    // Debug registers read as 0: none is set.
    Ok(words(registers).get((offset / 8) as usize).copied().unwrap_or(0))
}

/// POKEUSER. There are no debug registers: only what leaves them off succeeds.
///
/// # Errors
/// `EIO`; `EINVAL` for a break or watch point.
pub(crate) fn poke(registers: &mut Registers, offset: u64, value: u64) -> Result<(), Errno> {
    if !offset.is_multiple_of(8) || offset >= USER_LEN {
        return Err(Errno::EIO);
    }
    if offset < REGS_LEN as u64 {
        return put(registers, (offset / 8) as usize, value);
    }
    if DEBUG_REGISTERS.contains(&offset) {
        return if value == 0 { Ok(()) } else { Err(Errno::EINVAL) };
    }
    Err(Errno::EIO)
}

/// Sets as many words as there are bytes for.
///
/// # Errors
/// As [`put`].
pub(crate) fn put_bytes(registers: &mut Registers, bytes: &[u8]) -> Result<(), Errno> {
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        put(registers, index, word.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))?;
    }
    Ok(())
}

pub(crate) fn bytes(registers: &Registers) -> Vec<u8> {
    words(registers).as_bytes().to_vec()
}

/// The extended state in `XSAVE`'s layout, `size` bytes, with XCR0 in the software bytes as debuggers look for it.
pub(crate) fn xstate_bytes(state: &XState, features: u64, size: usize) -> Vec<u8> {
    let mut bytes = match state {
        XState::Saved(bytes) => bytes.to_vec(),
        XState::Initial => initial(),
    };
    bytes.resize(size.max(HEADER + 64), 0);
    if let Some(place) = bytes.get_mut(SOFTWARE) {
        place.fill(0);
    }
    if let Some(place) = bytes.get_mut(XCR0) {
        place.copy_from_slice(&features.to_le_bytes());
    }
    bytes
}

/// The processor's initial state.
fn initial() -> Vec<u8> {
    let mut bytes = vec![0; HEADER + 64];
    for (at, value) in [(0, 0x37fu32), (24, 0x1f80), (HEADER, 3)] {
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// A state with a new legacy area.
///
/// # Errors
/// `EINVAL` for reserved bits of `mxcsr`.
pub(crate) fn with_fpregs(state: &XState, fpregs: &[u8]) -> Result<XState, Errno> {
    let mut bytes = match state {
        XState::Saved(bytes) if bytes.len() >= HEADER + 64 => bytes.to_vec(),
        _ => initial(),
    };
    let mxcsr = fpregs.get(24..28).map_or(0, |word| word.iter().rev().fold(0u32, |n, &byte| n << 8 | u32::from(byte)));
    if mxcsr & !0xffff != 0 {
        return Err(Errno::EINVAL);
    }
    let len = fpregs.len().min(SOFTWARE.start);
    if let (Some(place), Some(new)) = (bytes.get_mut(..len), fpregs.get(..len)) {
        place.copy_from_slice(new);
    }
    if let Some(present) = bytes.get_mut(HEADER) {
        *present |= 3;
    }
    Ok(XState::Saved(bytes.into_boxed_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_out_and_come_back() {
        let mut registers = Registers { rip: 1, rsp: 2, fs_base: 3, orig_rax: 4, eflags: 0x202, ..Registers::default() };
        let mut copy = Registers { eflags: 0x202, ..Registers::default() };
        put_bytes(&mut copy, &bytes(&registers)).unwrap();
        assert_eq!(copy, registers);
        assert_eq!(poke(&mut registers, 8 * 18, u64::MAX), Ok(()));
        assert_eq!(registers.eflags, 0x5_4fd7);
        assert_eq!(poke(&mut registers, 8 * 21, 1 << 47), Err(Errno::EIO));
        assert_eq!(peek(&registers, 4), Err(Errno::EIO));
        assert_eq!(peek(&registers, USER_LEN), Err(Errno::EIO));
        assert_eq!(peek(&registers, USER_LEN - 8), Ok(0));
    }
}
