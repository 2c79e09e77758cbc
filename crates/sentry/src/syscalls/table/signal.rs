//! The `signal` lines of the table.

use super::{Arg::*, Line, full};
use crate::syscalls::{kill, signal};

pub(super) const LINES: &[Line] = &[
    full(13, "rt_sigaction", &[Signal, Addr, Addr, Size], signal::rt_sigaction),
    full(14, "rt_sigprocmask", &[Int, Addr, Addr, Size], signal::rt_sigprocmask),
    full(15, "rt_sigreturn", &[], signal::rt_sigreturn),
    full(34, "pause", &[], signal::pause),
    full(62, "kill", &[Int, Signal], kill::kill),
    full(127, "rt_sigpending", &[Addr, Size], signal::rt_sigpending),
    full(128, "rt_sigtimedwait", &[Addr, Addr, Addr, Size], signal::rt_sigtimedwait),
    full(129, "rt_sigqueueinfo", &[Int, Signal, Addr], kill::rt_sigqueueinfo),
    full(130, "rt_sigsuspend", &[Addr, Size], signal::rt_sigsuspend),
    full(131, "sigaltstack", &[Addr, Addr], signal::sigaltstack),
    full(200, "tkill", &[Int, Signal], kill::tkill),
    full(219, "restart_syscall", &[], signal::restart_syscall),
    full(234, "tgkill", &[Int, Int, Signal], kill::tgkill),
    full(297, "rt_tgsigqueueinfo", &[Int, Int, Signal, Addr], kill::rt_tgsigqueueinfo),
];
