//! The `signal` lines of the table.

use super::{Arg::*, Line, none};
use crate::Errno;

pub(super) const LINES: &[Line] = &[
    none(13, "rt_sigaction", &[Signal, Addr, Addr, Size], Errno::ENOSYS, ""),
    none(14, "rt_sigprocmask", &[Int, Addr, Addr, Size], Errno::ENOSYS, ""),
    none(15, "rt_sigreturn", &[], Errno::ENOSYS, ""),
    none(34, "pause", &[], Errno::ENOSYS, ""),
    none(62, "kill", &[Int, Signal], Errno::ENOSYS, ""),
    none(127, "rt_sigpending", &[Addr, Size], Errno::ENOSYS, ""),
    none(128, "rt_sigtimedwait", &[Addr, Addr, Addr, Size], Errno::ENOSYS, ""),
    none(129, "rt_sigqueueinfo", &[Int, Signal, Addr], Errno::ENOSYS, ""),
    none(130, "rt_sigsuspend", &[Addr, Size], Errno::ENOSYS, ""),
    none(131, "sigaltstack", &[Addr, Addr], Errno::ENOSYS, ""),
    none(200, "tkill", &[Int, Signal], Errno::ENOSYS, ""),
    none(219, "restart_syscall", &[], Errno::ENOSYS, ""),
    none(234, "tgkill", &[Int, Int, Signal], Errno::ENOSYS, ""),
    none(297, "rt_tgsigqueueinfo", &[Int, Int, Signal, Addr], Errno::ENOSYS, ""),
];
