//! The signal frame on the user's stack: `struct rt_sigframe` of x86-64 (arch/x86/kernel/signal_64.c), with the extended state as
//! `XSAVE` lays it out.
//!
//! From high to low addresses: red zone (128 bytes, skipped), extended state (64-byte aligned), frame (16-byte aligned after the
//! return address is popped).

use platform::{Registers, XState};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::deliver::Caught;
use super::{AltStack, SigFlags, SigSet};
use crate::Errno;
use crate::task::Cx;

const RED_ZONE: u64 = 128;
/// `FP_XSTATE_MAGIC1` and 2.
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const LEGACY: usize = 512;
const HEADER: usize = 64;
/// Where `struct _fpx_sw_bytes` stands in the legacy area.
const SW_BYTES: usize = 464;
/// The largest extended state taken from a guest (AMX needs 11 KiB).
const MAX_XSTATE: usize = 16 << 10;

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 7;

const SS_ONSTACK: u32 = 1;
const SS_DISABLE: u32 = 2;
const SS_AUTODISARM: u32 = 1 << 31;
const MINSIGSTKSZ: u64 = 2048;

/// `stack_t`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StackT {
    pub sp: u64,
    pub flags: u32,
    pad: u32,
    pub size: u64,
}

/// `struct sigcontext`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SigContext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    eflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    err: u64,
    trapno: u64,
    oldmask: u64,
    cr2: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// `struct rt_sigframe`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Frame {
    pretcode: u64,
    uc_flags: u64,
    uc_link: u64,
    uc_stack: StackT,
    mcontext: SigContext,
    sigmask: u64,
    info: [u8; 128],
}

/// The hardware details of the last fault, for `sigcontext`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastFault {
    pub error: u64,
    pub trap: u64,
    pub addr: u64,
}

impl AltStack {
    /// Whether `sp` is on it (never, with `SS_AUTODISARM`).
    pub fn contains(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && sp > self.sp && sp - self.sp <= self.size
    }

    /// What `sigaltstack` reports.
    pub fn report(&self, sp: u64) -> StackT {
        let state = match () {
            () if self.size == 0 => SS_DISABLE,
            () if self.contains(sp) => SS_ONSTACK,
            () => 0,
        };
        StackT { sp: self.sp, flags: state | self.flags & SS_AUTODISARM, size: self.size, ..StackT::default() }
    }

    /// A new stack, as `sigaltstack` sets it while the stack pointer is `sp`.
    ///
    /// # Errors
    /// `EPERM` while on the old one, `EINVAL`, `ENOMEM`.
    pub fn change(&self, new: &StackT, sp: u64) -> Result<AltStack, Errno> {
        if self.contains(sp) {
            return Err(Errno::EPERM);
        }
        match new.flags & !SS_AUTODISARM {
            SS_DISABLE => Ok(AltStack { flags: new.flags & SS_AUTODISARM, ..AltStack::default() }),
            0 | SS_ONSTACK if new.size < MINSIGSTKSZ => Err(Errno::ENOMEM),
            0 | SS_ONSTACK => Ok(AltStack { sp: new.sp, size: new.size, flags: new.flags & SS_AUTODISARM }),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl Cx {
    /// Pushes a frame for a handler and sets the registers to call it. The mask before it is `saved`.
    ///
    /// # Errors
    /// `EFAULT` when the stack cannot take it.
    pub(crate) async fn push_frame(&mut self, caught: &Caught) -> Result<(), Errno> {
        let Caught { info, action } = caught;
        if !action.flags().contains(SigFlags::RESTORER) {
            return Err(Errno::EFAULT);
        }
        let state = self.xstate().await?;
        let image = frame_xstate(state);
        let (alt, blocked, saved) = {
            let signals = self.task.signals.lock();
            (signals.alt_stack, signals.blocked, signals.saved_mask)
        };
        let registers = *self.context.registers();
        let on_alt = alt.contains(registers.rsp);
        let enter_alt = action.flags().contains(SigFlags::ONSTACK) && alt.size != 0 && !on_alt;
        let top = if enter_alt { alt.sp.saturating_add(alt.size) } else { registers.rsp.wrapping_sub(RED_ZONE) };
        let fpstate = top.wrapping_sub(image.len() as u64) & !63;
        let at = (fpstate.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
        if (on_alt || enter_alt) && !(at > alt.sp && at - alt.sp <= alt.size) {
            return Err(Errno::EFAULT);
        }
        let frame = Frame {
            pretcode: action.restorer,
            uc_flags: UC_FLAGS,
            uc_link: 0,
            uc_stack: StackT { sp: alt.sp, flags: alt.report(registers.rsp).flags, pad: 0, size: alt.size },
            mcontext: save(&registers, &self.last_fault, blocked, fpstate),
            sigmask: saved.unwrap_or(blocked).0,
            info: info.encode(),
        };
        self.mm.write(fpstate, &image)?;
        self.mm.write_val(at, &frame)?;
        self.context.set_xstate(XState::Initial);
        let r = self.context.registers_mut();
        r.rdi = info.signal.number() as u64;
        r.rsi = at + std::mem::offset_of!(Frame, info) as u64;
        r.rdx = at + std::mem::offset_of!(Frame, uc_flags) as u64;
        r.rax = 0;
        r.rip = action.handler;
        r.rsp = at;
        // DF, RF and TF.
        r.eflags &= !0x1_0500;
        r.sanitise();
        let mut mask = SigSet(blocked.0 | action.mask);
        if !action.flags().contains(SigFlags::NODEFER) {
            mask = mask.with(info.signal);
        }
        {
            let mut signals = self.task.signals.lock();
            signals.saved_mask = None;
            if alt.flags & SS_AUTODISARM != 0 {
                signals.alt_stack = AltStack::default();
            }
        }
        self.task.clear(crate::task::TaskFlags::RESTORE_MASK);
        self.task.set_blocked(mask);
        Ok(())
    }

    /// `rt_sigreturn`: goes back to what the frame at `rsp - 8` says. Returns the new `rax`.
    ///
    /// # Errors
    /// `EFAULT` when the frame cannot be read; the task then gets `SIGSEGV`.
    pub(crate) fn pop_frame(&mut self) -> Result<u64, Errno> {
        let sp = self.context.registers().rsp;
        let frame: Frame = self.mm.read_val(sp.wrapping_sub(8))?;
        let state = self.read_xstate(frame.mcontext.fpstate)?;
        let fs_gs = (self.context.registers().fs_base, self.context.registers().gs_base);
        let registers = self.context.registers_mut();
        restore(registers, &frame.mcontext);
        (registers.fs_base, registers.gs_base) = fs_gs;
        registers.sanitise();
        let (rax, rsp) = (registers.rax, registers.rsp);
        if let Some(moved) = self.mm.moved(registers.rip) {
            registers.rip = moved;
        }
        self.context.set_xstate(state);
        self.task.set_blocked(SigSet(frame.sigmask));
        let mut signals = self.task.signals.lock();
        if let Ok(stack) = signals.alt_stack.change(&frame.uc_stack, rsp) {
            signals.alt_stack = stack;
        }
        Ok(rax)
    }

    fn read_xstate(&self, at: u64) -> Result<XState, Errno> {
        if at == 0 {
            return Ok(XState::Initial);
        }
        let mut legacy = [0; LEGACY];
        self.mm.read(at, &mut legacy)?;
        let word =
            |at: usize| legacy.get(at..at + 4).map_or(0, |b| b.iter().rev().fold(0u32, |n, &byte| n << 8 | u32::from(byte)));
        let (magic, extended, size) = (word(SW_BYTES), word(SW_BYTES + 4) as usize, word(SW_BYTES + 16) as usize);
        let sound = magic == MAGIC1 && (LEGACY + HEADER..=MAX_XSTATE).contains(&size) && extended >= size + 4;
        if sound {
            let mut image = vec![0; size + 4];
            self.mm.read(at, &mut image)?;
            if image.get(size..) == Some(&MAGIC2.to_le_bytes()) {
                image.truncate(size);
                return Ok(XState::Saved(image.into_boxed_slice()));
            }
        }
        // Only the legacy part: x87 and SSE.
        let mut image = legacy.to_vec();
        image.resize(LEGACY + HEADER, 0);
        put_u32(&mut image, LEGACY, 3);
        Ok(XState::Saved(image.into_boxed_slice()))
    }
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// The state as it stands in a frame: with the software bytes that describe it, and the second magic number after it.
fn frame_xstate(state: XState) -> Vec<u8> {
    let mut image = match state {
        XState::Saved(bytes) if bytes.len() >= LEGACY + HEADER => bytes.into_vec(),
        _ => {
            let mut initial = vec![0; LEGACY + HEADER];
            put_u32(&mut initial, 0, 0x37f);
            put_u32(&mut initial, 24, 0x1f80);
            initial
        }
    };
    let size = image.len();
    // Components in the image: x87 and SSE in the legacy area, the rest by its header.
    let features = image.get(LEGACY).copied().unwrap_or(0);
    put_u32(&mut image, SW_BYTES, MAGIC1);
    put_u32(&mut image, SW_BYTES + 4, size as u32 + 4);
    let rest = image.get(LEGACY + 1..LEGACY + 8).map(<[u8]>::to_vec).unwrap_or_default();
    if let Some(place) = image.get_mut(SW_BYTES + 8..SW_BYTES + 16) {
        place.copy_from_slice(&[&[features | 3][..], &rest].concat());
    }
    put_u32(&mut image, SW_BYTES + 16, size as u32);
    image.extend_from_slice(&MAGIC2.to_le_bytes());
    image
}

fn save(r: &Registers, fault: &LastFault, blocked: SigSet, fpstate: u64) -> SigContext {
    SigContext {
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rdi: r.rdi,
        rsi: r.rsi,
        rbp: r.rbp,
        rbx: r.rbx,
        rdx: r.rdx,
        rax: r.rax,
        rcx: r.rcx,
        rsp: r.rsp,
        rip: r.rip,
        eflags: r.eflags,
        cs: 0x33,
        ss: 0x2b,
        err: fault.error,
        trapno: fault.trap,
        oldmask: blocked.0,
        cr2: fault.addr,
        fpstate,
        ..SigContext::default()
    }
}

fn restore(r: &mut Registers, c: &SigContext) {
    *r = Registers {
        r8: c.r8,
        r9: c.r9,
        r10: c.r10,
        r11: c.r11,
        r12: c.r12,
        r13: c.r13,
        r14: c.r14,
        r15: c.r15,
        rdi: c.rdi,
        rsi: c.rsi,
        rbp: c.rbp,
        rbx: c.rbx,
        rdx: c.rdx,
        rax: c.rax,
        rcx: c.rcx,
        rsp: c.rsp,
        rip: c.rip,
        eflags: c.eflags,
        ..Registers::default()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_linux_s() {
        assert_eq!(size_of::<SigContext>(), 256);
        assert_eq!(size_of::<Frame>(), 440);
        assert_eq!(std::mem::offset_of!(Frame, mcontext), 8 + 40);
        assert_eq!(std::mem::offset_of!(Frame, info), 312);
    }

    #[test]
    fn initial_state_is_marked_complete() {
        let image = frame_xstate(XState::Initial);
        assert_eq!(image.len(), 580);
        assert_eq!(&image[SW_BYTES..SW_BYTES + 4], &MAGIC1.to_le_bytes());
        assert_eq!(&image[576..], &MAGIC2.to_le_bytes());
        assert_eq!(image[SW_BYTES + 8], 3);
    }

    #[test]
    fn alternate_stack_rules() {
        let alt = AltStack::default();
        let new = StackT { sp: 0x1000, size: 0x2000, ..StackT::default() };
        let set = alt.change(&new, 0).unwrap();
        assert_eq!(set.report(0x2000).flags, SS_ONSTACK);
        assert_eq!(set.change(&new, 0x2000), Err(Errno::EPERM));
        assert_eq!(alt.change(&StackT { size: 100, ..new }, 0), Err(Errno::ENOMEM));
        assert_eq!(alt.report(0).flags, SS_DISABLE);
    }
}
