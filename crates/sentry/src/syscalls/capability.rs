//! capget and capset (capabilities(7)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Args, Flow};
use crate::Errno;
use crate::task::{Capability, Creds, Cx, Tid};

/// `struct __user_cap_header_struct`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    version: u32,
    pid: Tid,
}

/// `struct __user_cap_data_struct`: 32 capabilities of each set.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// All capabilities there are.
const ALL: u64 = (1 << 41) - 1;

/// Reads the header and says how many [`Data`] follow; writes the version to be used where it is unknown.
fn header(cx: &Cx, addr: u64) -> Result<(Header, usize), Errno> {
    let header: Header = cx.mm.read_val(addr)?;
    match header.version {
        VERSION_1 => Ok((header, 1)),
        VERSION_2 | VERSION_3 => Ok((header, 2)),
        _ => {
            cx.mm.write_val(addr, &Header { version: VERSION_3, ..header })?;
            Err(Errno::EINVAL)
        }
    }
}

pub fn sys_capget(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(capget(cx, args))
}

fn capget(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let (header, count) = match header(cx, args.u64(0)) {
        // A query of the version alone.
        Err(Errno::EINVAL) if args.u64(1) == 0 => return Ok(0),
        other => other?,
    };
    let creds = match header.pid {
        0 => cx.creds(),
        pid if pid < 0 => return Err(Errno::EINVAL),
        pid => cx.find_task(pid).ok_or(Errno::ESRCH)?.creds(),
    };
    if args.u64(1) == 0 {
        return Ok(0);
    }
    for n in 0..count {
        let part = |set: u64| (set >> (32 * n)) as u32;
        let data =
            Data { effective: part(creds.effective), permitted: part(creds.permitted), inheritable: part(creds.inheritable) };
        cx.mm.write_val(args.u64(1).saturating_add(n as u64 * size_of::<Data>() as u64), &data)?;
    }
    Ok(0)
}

pub fn sys_capset(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(capset(cx, args))
}

fn capset(cx: &mut Cx, args: Args) -> Result<u64, Errno> {
    let (header, count) = header(cx, args.u64(0))?;
    if header.pid != 0 && header.pid != cx.local(cx.task.tid()) {
        return Err(Errno::EPERM);
    }
    let (mut effective, mut permitted, mut inheritable) = (0, 0, 0);
    for n in 0..count {
        let data: Data = cx.mm.read_val(args.u64(1).saturating_add(n as u64 * size_of::<Data>() as u64))?;
        effective |= u64::from(data.effective) << (32 * n);
        permitted |= u64::from(data.permitted) << (32 * n);
        inheritable |= u64::from(data.inheritable) << (32 * n);
    }
    let (effective, permitted, inheritable) = (effective & ALL, permitted & ALL, inheritable & ALL);
    let old = cx.creds();
    let inheritable_from = if old.has_own(Capability::Setpcap) { ALL } else { old.inheritable | old.permitted };
    let allowed = permitted & !old.permitted == 0
        && effective & !permitted == 0
        && inheritable & !inheritable_from == 0
        && inheritable & !(old.inheritable | old.bounding) == 0;
    if !allowed {
        return Err(Errno::EPERM);
    }
    let ambient = old.ambient & permitted & inheritable;
    cx.set_creds(Creds { effective, permitted, inheritable, ambient, ..(*old).clone() });
    Ok(0)
}
