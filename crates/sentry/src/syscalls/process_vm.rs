//! process_vm_readv and process_vm_writev.

use std::sync::Arc;

use crate::Errno;
use crate::executor::yield_now;
use crate::mm::{Mm, Ranges};
use crate::ptrace::Mode;
use crate::syscalls::{Args, Flow, Outcome};
use crate::task::{Cx, Task};
use crate::wait::Interrupt;

/// Bytes copied at a time.
const CHUNK: usize = 64 << 10;

pub(super) fn process_vm_readv(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(transfer(cx, args, Direction::FromOther))
}

pub(super) fn process_vm_writev(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(transfer(cx, args, Direction::ToOther))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromOther,
    ToOther,
}

async fn transfer(cx: &Cx, args: Args, direction: Direction) -> Outcome {
    if args.u64(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut local = cx.mm.read_ranges(args.u64(1), args.u64(2))?;
    let mut remote = cx.mm.read_ranges(args.u64(3), args.u64(4))?;
    let other = cx.find_task(args.i32(0)).ok_or(Errno::ESRCH)?;
    let other = accessible(cx, &other)?;
    let mut done = 0;
    let mut buffer = vec![0; CHUNK.min(total(&local)).min(total(&remote))];
    while let (Some(&(here, here_len)), Some(&(there, there_len))) = (local.first(), remote.first()) {
        let want = here_len.min(there_len).min(CHUNK);
        let Some(part) = buffer.get_mut(..want) else { break };
        let (from, from_addr, to, to_addr) = match direction {
            Direction::FromOther => (&other, there, &cx.mm, here),
            Direction::ToOther => (&cx.mm, here, &other, there),
        };
        let moved = from.read_some(from_addr, part).and_then(|n| to.write_some(to_addr, part.get(..n).unwrap_or_default()));
        let n = match moved {
            Ok(n) => n,
            Err(errno) if done == 0 => return Err(errno.into()),
            Err(_) => break,
        };
        done += n;
        if n < want {
            break;
        }
        if cx.task.killed() {
            break;
        }
        yield_now().await;
        advance(&mut local, n);
        advance(&mut remote, n);
    }
    Ok(done as u64)
}

fn total(ranges: &Ranges) -> usize {
    ranges.iter().fold(0, |sum, (_, len)| sum.saturating_add(*len))
}

fn advance(ranges: &mut Ranges, n: usize) {
    if let Some((addr, len)) = ranges.first_mut() {
        *addr = addr.wrapping_add(n as u64);
        *len -= n;
        if *len == 0 {
            ranges.remove(0);
        }
    }
}

/// The other task's memory, if `ptrace(2)`'s access check with real ids allows it.
fn accessible(cx: &Cx, other: &Arc<Task>) -> Result<Arc<Mm>, Errno> {
    may_attach(cx, other)?;
    other.shared.read().as_ref().map(|shared| shared.mm.clone()).ok_or(Errno::ESRCH)
}

/// As [`may_attach`], to look only (`PTRACE_MODE_READ`).
///
/// # Errors
/// `EPERM`.
pub(crate) fn may_inspect(cx: &Cx, other: &Arc<Task>) -> Result<(), Errno> {
    may_attach(cx, other)
}

/// Whether the caller's real ids may take hold of a task (`PTRACE_MODE_ATTACH_REALCREDS`).
///
/// # Errors
/// `EPERM`.
pub(crate) fn may_attach(cx: &Cx, other: &Arc<Task>) -> Result<(), Errno> {
    if cx.task.may_access(other, Mode::Real) { Ok(()) } else { Err(Errno::EPERM) }
}
