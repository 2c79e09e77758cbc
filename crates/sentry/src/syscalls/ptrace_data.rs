//! `ptrace`: requests on a stopped tracee's registers and memory.

use platform::{Registers, XState};
use zerocopy::{Immutable, IntoBytes};

use super::ptrace::stopped;
use super::{Args, Fail, Flow, Outcome};
use crate::Errno;
use crate::ptrace::user_area::{self, FPREGS_LEN, REGS_LEN};
use crate::ptrace::{Extended, SYSGOOD, SyscallInfo, TRAP};
use crate::seccomp::ARCH;
use crate::task::Cx;
use crate::wait::PollEvents;

const PEEKTEXT: u64 = 1;
const PEEKDATA: u64 = 2;
const PEEKUSER: u64 = 3;
const POKETEXT: u64 = 4;
const POKEDATA: u64 = 5;
const POKEUSER: u64 = 6;
const GETREGS: u64 = 12;
const SETREGS: u64 = 13;
const GETFPREGS: u64 = 14;
const SETFPREGS: u64 = 15;
const ARCH_PRCTL: u64 = 30;
const GETREGSET: u64 = 0x4204;
const SETREGSET: u64 = 0x4205;
const GET_SYSCALL_INFO: u64 = 0x420e;

const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;

pub(super) fn request(cx: &mut Cx, args: Args) -> Flow<'_> {
    match args.u64(0) {
        GETFPREGS | SETFPREGS | GETREGSET | SETREGSET => Flow::wait(extended(cx, args)),
        _ => Flow::done(at_once(cx, args)),
    }
}

fn at_once(cx: &mut Cx, args: Args) -> Result<u64, Errno> {
    let (tid, addr, data) = (args.i32(1), args.u64(2), args.u64(3));
    match args.u64(0) {
        PEEKTEXT | PEEKDATA => {
            let word = peek(cx, tid, addr)?;
            cx.mm.write_val(data, &word)?;
        }
        POKETEXT | POKEDATA => poke(cx, tid, addr, data)?,
        PEEKUSER => {
            let word = stopped(cx, tid, |_, stop| user_area::peek(&stop.registers, addr))?;
            cx.mm.write_val(data, &word)?;
        }
        POKEUSER => change(cx, tid, |registers| user_area::poke(registers, addr, data))?,
        GETREGS => {
            let bytes = stopped(cx, tid, |_, stop| Ok(user_area::bytes(&stop.registers)))?;
            cx.mm.write(data, &bytes).map_err(|_| Errno::EFAULT)?;
        }
        SETREGS => {
            stopped(cx, tid, |_, _| Ok(()))?;
            let bytes: [u8; REGS_LEN] = cx.mm.read_val(data)?;
            change(cx, tid, |registers| user_area::put_bytes(registers, &bytes))?;
        }
        ARCH_PRCTL => arch_prctl(cx, tid, data, addr)?,
        GET_SYSCALL_INFO => return syscall_info(cx, tid, addr, data),
        // Also what is not there: break and watch points, the filters of another, rseq.
        _ => return stopped(cx, tid, |_, _| Err(Errno::EIO)),
    }
    Ok(0)
}

fn change(cx: &Cx, tid: i32, act: impl FnOnce(&mut Registers) -> Result<(), Errno>) -> Result<(), Errno> {
    stopped(cx, tid, |_, stop| {
        stop.registers_changed = true;
        act(&mut stop.registers)
    })
}

/// The memory of a stopped tracee.
fn memory(cx: &Cx, tid: i32) -> Result<std::sync::Arc<crate::mm::Mm>, Errno> {
    let task = stopped(cx, tid, |task, _| Ok(task.clone()))?;
    let mm = task.shared.read().as_ref().map(|shared| shared.mm.clone());
    mm.ok_or(Errno::EIO)
}

fn peek(cx: &Cx, tid: i32, addr: u64) -> Result<u64, Errno> {
    let mut word = [0; 8];
    match memory(cx, tid)?.read_forced(addr, &mut word) {
        Ok(8) => Ok(u64::from_le_bytes(word)),
        _ => Err(Errno::EIO),
    }
}

fn poke(cx: &Cx, tid: i32, addr: u64, word: u64) -> Result<(), Errno> {
    match memory(cx, tid)?.write_forced(addr, &word.to_le_bytes()) {
        Ok(8) => Ok(()),
        _ => Err(Errno::EIO),
    }
}

/// `PTRACE_ARCH_PRCTL`: the bases of fs and gs.
fn arch_prctl(cx: &Cx, tid: i32, option: u64, addr: u64) -> Result<(), Errno> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let set = |index| change(cx, tid, |registers| user_area::put(registers, index, addr).map_err(|_| Errno::EPERM));
    let registers = stopped(cx, tid, |_, stop| Ok(stop.registers))?;
    match option {
        SET_FS => set(21),
        SET_GS => set(22),
        GET_FS => cx.mm.write_val(addr, &registers.fs_base),
        GET_GS => cx.mm.write_val(addr, &registers.gs_base),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct ptrace_syscall_info`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct RawSyscallInfo {
    op: u32,
    arch: u32,
    ip: u64,
    sp: u64,
    number: u64,
    args: [u64; 6],
    data: u64,
}

fn syscall_info(cx: &Cx, tid: i32, size: u64, addr: u64) -> Result<u64, Errno> {
    let (info, registers) = stopped(cx, tid, |_, stop| {
        // Without TRACESYSGOOD it cannot be told from another SIGTRAP.
        let told = stop.code == TRAP | SYSGOOD || matches!(stop.syscall, SyscallInfo::Seccomp { .. });
        Ok((if told { stop.syscall } else { SyscallInfo::None }, stop.registers))
    })?;
    let mut raw = RawSyscallInfo { op: 0, arch: ARCH, ip: registers.rip, sp: registers.rsp, number: 0, args: [0; 6], data: 0 };
    let len = match info {
        SyscallInfo::None => 24,
        SyscallInfo::Entry { number, args } => {
            (raw.op, raw.number, raw.args) = (1, number, args);
            80
        }
        SyscallInfo::Exit { value } => {
            let is_error = (-4095..0).contains(&value);
            (raw.op, raw.number) = (2, value as u64);
            if let Some(first) = raw.args.first_mut() {
                *first = is_error.into();
            }
            33
        }
        SyscallInfo::Seccomp { number, args, data } => {
            (raw.op, raw.number, raw.args, raw.data) = (3, number, args, data.into());
            84
        }
    };
    let shown = usize::try_from(size).unwrap_or(usize::MAX).min(len);
    cx.mm.write(addr, raw.as_bytes().get(..shown).unwrap_or_default())?;
    Ok(len as u64)
}

/// Requests that look at the extended state, which the tracee has to fetch.
async fn extended(cx: &mut Cx, args: Args) -> Outcome {
    let (tid, addr, data) = (args.i32(1), args.u64(2), args.u64(3));
    stopped(cx, tid, |_, _| Ok(()))?;
    match args.u64(0) {
        GETFPREGS => {
            let bytes = state_bytes(cx, tid).await?;
            cx.mm.write(data, bytes.get(..FPREGS_LEN).unwrap_or_default())?;
        }
        SETFPREGS => {
            let bytes: [u8; FPREGS_LEN] = cx.mm.read_val(data)?;
            set_fpregs(cx, tid, &bytes).await?;
        }
        request => {
            // struct iovec: the length comes back as what was copied.
            let [base, len]: [u64; 2] = cx.mm.read_val(data)?;
            let len = match request {
                GETREGSET => get_set(cx, tid, addr, base, len).await?,
                _ => put_set(cx, tid, addr, base, len).await?,
            };
            cx.mm.write_val(data + 8, &len)?;
        }
    }
    Ok(0)
}

async fn get_set(cx: &Cx, tid: i32, kind: u64, base: u64, len: u64) -> Result<u64, Fail> {
    if !len.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let bytes = match kind {
        NT_PRSTATUS => stopped(cx, tid, |_, stop| Ok(user_area::bytes(&stop.registers)))?,
        NT_PRFPREG => {
            let mut bytes = state_bytes(cx, tid).await?;
            bytes.truncate(FPREGS_LEN);
            bytes
        }
        NT_X86_XSTATE => state_bytes(cx, tid).await?,
        _ => return Err(Errno::EINVAL.into()),
    };
    let len = len.min(bytes.len() as u64);
    cx.mm.write(base, bytes.get(..len as usize).unwrap_or_default())?;
    Ok(len)
}

async fn put_set(cx: &Cx, tid: i32, kind: u64, base: u64, len: u64) -> Result<u64, Fail> {
    let capabilities = cx.kernel().platform.capabilities();
    let size = match kind {
        NT_PRSTATUS => REGS_LEN,
        NT_PRFPREG => FPREGS_LEN,
        NT_X86_XSTATE => capabilities.xstate_size,
        _ => return Err(Errno::EINVAL.into()),
    } as u64;
    if !len.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let len = len.min(size);
    let mut bytes = vec![0; len as usize];
    cx.mm.read(base, &mut bytes)?;
    match kind {
        NT_PRSTATUS => change(cx, tid, |registers| user_area::put_bytes(registers, &bytes))?,
        NT_PRFPREG => set_fpregs(cx, tid, &bytes).await?,
        _ if len < size => return Err(Errno::EFAULT.into()),
        _ => {
            // mxcsr and the features must be such as the processor has.
            let word = |at: usize| {
                bytes.get(at..at + 8).map_or(0, |word| word.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte)))
            };
            if word(24) as u32 & !0xffff != 0 || word(512) & !capabilities.xfeatures != 0 || word(520) != 0 {
                return Err(Errno::EINVAL.into());
            }
            set_state(cx, tid, XState::Saved(bytes.into_boxed_slice()))?;
        }
    }
    Ok(len)
}

async fn set_fpregs(cx: &Cx, tid: i32, bytes: &[u8]) -> Result<(), Fail> {
    let old = state(cx, tid).await?;
    Ok(set_state(cx, tid, user_area::with_fpregs(&old, bytes)?)?)
}

fn set_state(cx: &Cx, tid: i32, state: XState) -> Result<(), Errno> {
    stopped(cx, tid, |_, stop| {
        stop.extended = Extended::Changed(state);
        Ok(())
    })
}

async fn state_bytes(cx: &Cx, tid: i32) -> Result<Vec<u8>, Fail> {
    let capabilities = cx.kernel().platform.capabilities();
    let state = state(cx, tid).await?;
    Ok(user_area::xstate_bytes(&state, capabilities.xfeatures, capabilities.xstate_size))
}

/// The tracee's extended state; it is asked to fetch it.
async fn state(cx: &Cx, tid: i32) -> Result<XState, Fail> {
    let (task, known) = stopped(cx, tid, |task, stop| {
        let known = match &stop.extended {
            Extended::Known(state) | Extended::Changed(state) => Some(state.clone()),
            Extended::Unknown | Extended::Wanted => {
                stop.extended = Extended::Wanted;
                None
            }
        };
        Ok((task.clone(), known))
    })?;
    if let Some(state) = known {
        return Ok(state);
    }
    task.ptrace.wake();
    let queues = [(&task.ptrace.served, PollEvents::IN)];
    let look = || {
        let state = task.ptrace.lock();
        match state.stopped().map(|stop| &stop.extended) {
            None => Some(Err(Errno::ESRCH)),
            Some(Extended::Known(state) | Extended::Changed(state)) => Some(Ok(state.clone())),
            Some(_) => None,
        }
    };
    let waited = cx.task.wait_killable(&queues, look).await.map_err(|_| Errno::EINTR)?;
    Ok(waited?)
}
