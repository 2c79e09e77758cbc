//! The `time` lines of the table.

use super::{Arg::*, Line, none};
use crate::Errno;

pub(super) const LINES: &[Line] = &[
    none(35, "nanosleep", &[Addr, Addr], Errno::ENOSYS, ""),
    none(36, "getitimer", &[Int, Addr], Errno::ENOSYS, ""),
    none(37, "alarm", &[Uint], Errno::ENOSYS, ""),
    none(38, "setitimer", &[Int, Addr, Addr], Errno::ENOSYS, ""),
    none(96, "gettimeofday", &[Addr, Addr], Errno::ENOSYS, ""),
    none(100, "times", &[Addr], Errno::ENOSYS, ""),
    none(159, "adjtimex", &[Addr], Errno::ENOSYS, ""),
    none(164, "settimeofday", &[Addr, Addr], Errno::ENOSYS, ""),
    none(201, "time", &[Addr], Errno::ENOSYS, ""),
    none(222, "timer_create", &[Int, Addr, Addr], Errno::ENOSYS, ""),
    none(223, "timer_settime", &[Int, Hex, Addr, Addr], Errno::ENOSYS, ""),
    none(224, "timer_gettime", &[Int, Addr], Errno::ENOSYS, ""),
    none(225, "timer_getoverrun", &[Int], Errno::ENOSYS, ""),
    none(226, "timer_delete", &[Int], Errno::ENOSYS, ""),
    none(227, "clock_settime", &[Int, Addr], Errno::ENOSYS, ""),
    none(228, "clock_gettime", &[Int, Addr], Errno::ENOSYS, ""),
    none(229, "clock_getres", &[Int, Addr], Errno::ENOSYS, ""),
    none(230, "clock_nanosleep", &[Int, Hex, Addr, Addr], Errno::ENOSYS, ""),
    none(305, "clock_adjtime", &[Int, Addr], Errno::ENOSYS, ""),
];
