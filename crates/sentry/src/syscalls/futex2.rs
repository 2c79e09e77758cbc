//! futex_waitv, futex_wake, futex_wait, futex_requeue: the calls that stand beside `futex`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::futex::absolute_deadline;
use super::{Args, Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::abi::uapi;
use crate::ipc::futex::{self, Missed, Scope, Word};
use crate::task::Cx;
use crate::time::{MonoTime, Timespec};

/// `FUTEX2_SIZE_U32`, the only size there is, and `FUTEX2_SIZE_MASK`.
const SIZE_U32: u32 = 2;
const SIZE_MASK: u32 = 3;
const PRIVATE: u32 = 128;
/// `FUTEX_WAITV_MAX`.
const MOST: u32 = 128;

/// `struct futex_waitv`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WaitV {
    value: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

/// Flags of a word: 32 bits, private or shared.
fn scope(flags: u32) -> Result<Scope, Errno> {
    if flags & !(SIZE_MASK | PRIVATE) != 0 || flags & SIZE_MASK != SIZE_U32 {
        return Err(Errno::EINVAL);
    }
    Ok(if flags & PRIVATE != 0 { Scope::Private } else { Scope::Shared })
}

/// A value or mask of a word's size.
fn word(value: u64) -> Result<u32, Errno> {
    u32::try_from(value).map_err(|_| Errno::EINVAL)
}

fn read_words(cx: &Cx, addr: u64, count: u32) -> Result<Vec<Word>, Errno> {
    let mut words = Vec::new();
    for n in 0..u64::from(count) {
        let raw: WaitV = cx.mm.read_val(addr.wrapping_add(n * size_of::<WaitV>() as u64))?;
        if raw.reserved != 0 {
            return Err(Errno::EINVAL);
        }
        words.push(Word { addr: raw.addr, scope: scope(raw.flags)?, expected: word(raw.value)? });
    }
    Ok(words)
}

/// An absolute time on the real-time or the monotonic clock.
fn timeout(cx: &mut Cx, addr: Option<u64>, clock: u32) -> Result<MonoTime, Errno> {
    let Some(addr) = addr else { return Ok(MonoTime::NEVER) };
    if !matches!(clock, uapi::CLOCK_REALTIME | uapi::CLOCK_MONOTONIC) {
        return Err(Errno::EINVAL);
    }
    let at = cx.mm.read_val::<Timespec>(addr)?.ns()?;
    Ok(absolute_deadline(cx, clock == uapi::CLOCK_REALTIME, at))
}

fn outcome(result: Result<usize, Missed>) -> Outcome {
    match result {
        Ok(at) => Ok(at as u64),
        Err(Missed::Failed(errno)) => Err(errno.into()),
        Err(Missed::Cut(error)) => Err(Fail::from_wait(error, Errno::ETIMEDOUT, Restart::Sys)),
    }
}

pub(super) fn futex_waitv(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let count = args.u32(1);
        if args.u32(2) != 0 || count == 0 || count > MOST || args.u64(0) == 0 {
            return Err(Errno::EINVAL.into());
        }
        let deadline = timeout(cx, args.opt_ptr(3), args.u32(4))?;
        let words = read_words(cx, args.u64(0), count)?;
        outcome(futex::wait_any(cx, &words, deadline).await)
    })
}

pub(super) fn futex_wake(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        let scope = scope(args.u32(3))?;
        let bitset = word(args.u64(1))?;
        if bitset == 0 {
            return Err(Errno::EINVAL);
        }
        // Unlike `futex` it wakes nobody when asked for nobody.
        let most = usize::try_from(args.i32(2)).unwrap_or(0);
        futex::wake(cx, args.u64(0), scope, most, bitset).map(|woken| woken as u64)
    })())
}

pub(super) fn futex_wait(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let scope = scope(args.u32(3))?;
        let (expected, bitset) = (word(args.u64(1))?, word(args.u64(2))?);
        let deadline = timeout(cx, args.opt_ptr(4), args.u32(5))?;
        if bitset == 0 {
            return Err(Errno::EINVAL.into());
        }
        outcome(futex::wait(cx, args.u64(0), scope, expected, bitset, deadline).await.map(|()| 0))
    })
}

pub(super) fn futex_requeue(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done((|| {
        if args.u32(1) != 0 || args.u64(0) == 0 {
            return Err(Errno::EINVAL);
        }
        let words = read_words(cx, args.u64(0), 2)?;
        let &[from, to] = words.as_slice() else { return Err(Errno::EINVAL) };
        let count = |n: usize| usize::try_from(args.i32(n)).map_err(|_| Errno::EINVAL);
        let moved =
            futex::requeue(cx, (from.addr, from.scope), (to.addr, to.scope), count(2)?, count(3)?, Some(from.expected))?;
        Ok(moved as u64)
    })())
}
