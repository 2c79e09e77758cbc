//! Time-outs and temporary signal masks of ppoll, pselect6 and epoll_pwait.

use std::sync::atomic::Ordering;

use super::prctl::persona;
use crate::Errno;
use crate::signal::SigSet;
use crate::task::Cx;

/// Nanoseconds of a `timespec` in guest memory; None for a null pointer.
///
/// # Errors
/// `EFAULT`; `EINVAL` for negative or unnormalised times.
pub fn timespec(cx: &Cx, addr: u64) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let [sec, nsec] = cx.mm.read_val::<[i64; 2]>(addr)?;
    nanoseconds(sec, nsec).map(Some)
}

/// Nanoseconds of a `timespec`'s fields (saturating).
///
/// # Errors
/// `EINVAL`.
pub fn nanoseconds(sec: i64, nsec: i64) -> Result<u64, Errno> {
    let sec = u64::try_from(sec).map_err(|_| Errno::EINVAL)?;
    let nsec = u64::try_from(nsec).ok().filter(|&nsec| nsec < 1_000_000_000).ok_or(Errno::EINVAL)?;
    Ok(sec.saturating_mul(1_000_000_000).saturating_add(nsec))
}

/// Stores what is left of `deadline` as a `timespec`; a fault is ignored, as Linux does.
pub fn store_remaining(cx: &Cx, addr: u64, deadline: crate::time::MonoTime, unit_ns: u64) {
    let sticky = cx.task.group.personality.load(Ordering::Relaxed) & persona::STICKY_TIMEOUTS != 0;
    if addr != 0 && !sticky {
        let left = deadline.since(cx.now());
        let fields = [(left / 1_000_000_000) as i64, (left % 1_000_000_000 / unit_ns) as i64];
        let _ = cx.mm.write_val(addr, &fields);
    }
}

/// Sets the mask at `addr` (null: none) for the time of this call.
///
/// # Errors
/// `EINVAL` for a wrong size, `EFAULT`.
pub fn set_temporary(cx: &mut Cx, addr: u64, size: u64) -> Result<(), Errno> {
    if addr == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask = SigSet(cx.mm.read_val::<u64>(addr)?);
    cx.set_temporary_mask(mask);
    Ok(())
}
