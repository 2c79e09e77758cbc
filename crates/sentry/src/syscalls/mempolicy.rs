//! NUMA memory policies, on a machine of one node (node 0). They are checked, kept and reported; there is only one place for memory to be.

use super::{Args, Flow};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::task::{Capability, Cx, MemoryPolicy};

/// `MPOL_*`: 5 is `PREFERRED_MANY`, 6 `WEIGHTED_INTERLEAVE`.
const DEFAULT: u32 = 0;
const PREFERRED: u32 = 1;
const BIND: u32 = 2;
const INTERLEAVE: u32 = 3;
const LOCAL: u32 = 4;
const MAX: u32 = 7;
/// `MPOL_F_*` of a mode.
const STATIC_NODES: u32 = 1 << 15;
const RELATIVE_NODES: u32 = 1 << 14;
const NUMA_BALANCING: u32 = 1 << 13;
/// `MPOL_F_*` of a question.
const F_NODE: u32 = 1;
const F_ADDR: u32 = 2;
const F_MEMS_ALLOWED: u32 = 4;
/// `MPOL_MF_*`.
const MF_STRICT: u32 = 1;
const MF_MOVE: u32 = 2;
const MF_MOVE_ALL: u32 = 4;

/// The mask of all nodes.
const NODES: u64 = 1;

/// A guest's node mask of `max` bits and one. Nodes beyond 64 are refused, as beyond `MAX_NUMNODES`.
fn read_nodes(cx: &Cx, addr: Option<u64>, max: u64) -> Result<u64, Errno> {
    let bits = max.wrapping_sub(1);
    let Some(addr) = addr.filter(|_| bits != 0) else { return Ok(0) };
    if bits > PAGE_SIZE * 8 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; bits.div_ceil(64) as usize * 8];
    cx.mm.read(addr, &mut bytes)?;
    let mut words = bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0_u64, |n, &byte| n << 8 | u64::from(byte)));
    let first = words.next().unwrap_or(0);
    let first = if bits < 64 { first & ((1 << bits) - 1) } else { first };
    if words.any(|word| word != 0) { Err(Errno::EINVAL) } else { Ok(first) }
}

fn write_nodes(cx: &Cx, addr: u64, max: u64, nodes: u64) -> Result<(), Errno> {
    let bytes = max.wrapping_sub(1).div_ceil(64).saturating_mul(8);
    if bytes > PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    let mut out = vec![0; bytes as usize];
    for (to, byte) in out.iter_mut().zip(nodes.to_le_bytes()) {
        *to = byte;
    }
    cx.mm.write(addr, &out)
}

/// A policy from what a guest says (`mpol_new`, `mpol_set_nodemask`).
fn policy(mode: u32, nodes: u64) -> Result<MemoryPolicy, Errno> {
    let flags = mode & (STATIC_NODES | RELATIVE_NODES | NUMA_BALANCING);
    let mode = mode & !flags;
    let placed = flags & (STATIC_NODES | RELATIVE_NODES);
    if mode >= MAX || placed == STATIC_NODES | RELATIVE_NODES || (flags & NUMA_BALANCING != 0 && mode != BIND) {
        return Err(Errno::EINVAL);
    }
    match mode {
        DEFAULT if nodes == 0 => Ok(MemoryPolicy::default()),
        PREFERRED if nodes == 0 && placed == 0 => Ok(MemoryPolicy { mode: LOCAL, nodes: 0 }),
        LOCAL if nodes == 0 && placed == 0 => Ok(MemoryPolicy { mode: LOCAL, nodes: 0 }),
        DEFAULT | LOCAL => Err(Errno::EINVAL),
        _ => {
            let nodes = if flags & RELATIVE_NODES != 0 && nodes != 0 { NODES } else { nodes & NODES };
            if nodes == 0 { Err(Errno::EINVAL) } else { Ok(MemoryPolicy { mode: mode | flags, nodes }) }
        }
    }
}

pub(super) fn set_mempolicy(cx: &mut Cx, args: Args) -> Flow<'_> {
    let result = read_nodes(cx, args.opt_ptr(1), args.u64(2)).and_then(|nodes| policy(args.u32(0), nodes));
    Flow::done(result.map(|policy| {
        cx.task.scheduling.lock().memory = policy;
        0
    }))
}

pub(super) fn get_mempolicy(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(get(cx, args))
}

fn get(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let (mode, mask, max, addr, flags) = (args.opt_ptr(0), args.opt_ptr(1), args.u64(2), args.u64(3), args.u32(4));
    if (mask.is_some() && max < 1) || flags & !(F_NODE | F_ADDR | F_MEMS_ALLOWED) != 0 {
        return Err(Errno::EINVAL);
    }
    let own = cx.task.scheduling.lock().memory;
    let (value, nodes) = if flags & F_MEMS_ALLOWED != 0 {
        if flags != F_MEMS_ALLOWED {
            return Err(Errno::EINVAL);
        }
        (0, NODES)
    } else if flags & F_ADDR != 0 {
        // A range has no policy of its own.
        if !cx.mm.is_mapped(crate::abi::page_down(addr), PAGE_SIZE) {
            return Err(Errno::EFAULT);
        }
        (if flags & F_NODE != 0 { 0 } else { own.mode }, own.nodes)
    } else if addr != 0 {
        return Err(Errno::EINVAL);
    } else if flags & F_NODE != 0 {
        // The node where the next page of an interleaved range goes.
        if own.mode & !(STATIC_NODES | RELATIVE_NODES) != INTERLEAVE {
            return Err(Errno::EINVAL);
        }
        (0, own.nodes)
    } else {
        (own.mode, own.nodes)
    };
    if let Some(at) = mode {
        cx.mm.write_val(at, &value)?;
    }
    if let Some(at) = mask {
        write_nodes(cx, at, max, nodes)?;
    }
    Ok(0)
}

pub(super) fn mbind(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(bind(cx, args))
}

fn bind(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let (start, len, mode, flags) = (args.u64(0), args.u64(1), args.u32(2), args.u32(5));
    let nodes = read_nodes(cx, args.opt_ptr(3), args.u64(4))?;
    if flags & !(MF_STRICT | MF_MOVE | MF_MOVE_ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MF_MOVE_ALL != 0 && !cx.creds().has(Capability::SysNice) {
        return Err(Errno::EPERM);
    }
    let end = len.checked_next_multiple_of(PAGE_SIZE).and_then(|len| start.checked_add(len)).ok_or(Errno::EINVAL)?;
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if start == end {
        return Ok(0);
    }
    policy(mode, nodes)?;
    if cx.mm.is_mapped(start, end - start) { Ok(0) } else { Err(Errno::EFAULT) }
}

pub(super) fn migrate_pages(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(migrate(cx, args))
}

/// There is nowhere to migrate to: all that is left are the checks.
fn migrate(cx: &Cx, args: Args) -> Result<u64, Errno> {
    read_nodes(cx, args.opt_ptr(2), args.u64(1))?;
    let new = read_nodes(cx, args.opt_ptr(3), args.u64(1))?;
    let task = match args.i32(0) {
        0 => cx.task.clone(),
        tid => cx.find_task(tid).ok_or(Errno::ESRCH)?,
    };
    super::process_vm::may_attach(cx, &task)?;
    if new & !NODES != 0 && !cx.creds().has(Capability::SysNice) {
        return Err(Errno::EPERM);
    }
    if new & NODES == 0 { Err(Errno::EINVAL) } else { Ok(0) }
}
