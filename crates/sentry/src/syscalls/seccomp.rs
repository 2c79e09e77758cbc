//! `seccomp`, and the part of `prctl` that does the same.

use super::{Args, Flow};
use crate::Errno;
use crate::bpf::Program;
use crate::seccomp::{Data, FilterFlags, Mode, ret};
use crate::task::Cx;

const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
const GET_NOTIF_SIZES: u32 = 3;

pub(super) fn seccomp(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(operate(cx, args.u32(0), args.u64(1) & 0xffff_ffff, args.u64(2)))
}

/// `prctl(PR_SET_SECCOMP)`.
pub(super) fn set_mode(cx: &mut Cx, mode: u64, addr: u64) -> Result<u64, Errno> {
    match mode {
        mode if mode == Mode::Strict as u64 => operate(cx, SET_MODE_STRICT, 0, 0),
        mode if mode == Mode::Filter as u64 => operate(cx, SET_MODE_FILTER, 0, addr),
        _ => Err(Errno::EINVAL),
    }
}

fn operate(cx: &mut Cx, operation: u32, flags: u64, addr: u64) -> Result<u64, Errno> {
    match operation {
        SET_MODE_STRICT if flags == 0 && addr == 0 => cx.seccomp_strict().map(|()| 0),
        SET_MODE_FILTER => set_filter(cx, flags, addr),
        GET_ACTION_AVAIL if flags == 0 => {
            let action: u32 = cx.mm.read_val(addr)?;
            let known = [ret::KILL_PROCESS, ret::KILL_THREAD, ret::TRAP, ret::ERRNO, ret::TRACE, ret::LOG, ret::ALLOW];
            if known.contains(&action) { Ok(0) } else { Err(Errno::EOPNOTSUPP) }
        }
        // struct seccomp_notif, seccomp_notif_resp, seccomp_data.
        GET_NOTIF_SIZES if flags == 0 => cx.mm.write_val(addr, &[80u16, 24, 64]).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn set_filter(cx: &mut Cx, flags: u64, addr: u64) -> Result<u64, Errno> {
    // Unknown flags, and those of user notification.
    let flags = FilterFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let program = Program::read(&cx.mm, addr, Data::DIALECT, || cx.may_filter())?;
    let stranger = cx.seccomp_filter(program, flags)?;
    Ok(stranger.map_or(0, |tid| tid as u64))
}
