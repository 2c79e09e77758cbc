//! The `time` lines of the table.

use super::{Arg::*, Line, full, none, partial};
use crate::Errno;
use crate::syscalls::{time, timers};

pub(super) const LINES: &[Line] = &[
    full(35, "nanosleep", &[Addr, Addr], time::nanosleep),
    full(36, "getitimer", &[Int, Addr], timers::getitimer),
    full(37, "alarm", &[Uint], timers::alarm),
    full(38, "setitimer", &[Int, Addr, Addr], timers::setitimer),
    full(96, "gettimeofday", &[Addr, Addr], time::gettimeofday),
    full(100, "times", &[Addr], time::times),
    partial(159, "adjtimex", &[Addr], time::adjtimex, "reads only"),
    none(164, "settimeofday", &[Addr, Addr], Errno::EPERM, "the clocks are the host's"),
    full(201, "time", &[Addr], time::time),
    full(222, "timer_create", &[Int, Addr, Addr], timers::timer_create),
    partial(
        223,
        "timer_settime",
        &[Int, Hex, Addr, Addr],
        timers::timer_settime,
        "an absolute time does not follow when the host's clock is set",
    ),
    full(224, "timer_gettime", &[Int, Addr], timers::timer_gettime),
    full(225, "timer_getoverrun", &[Int], timers::timer_getoverrun),
    full(226, "timer_delete", &[Int], timers::timer_delete),
    partial(227, "clock_settime", &[Int, Addr], time::clock_settime, "the clocks are the host's: EPERM"),
    full(228, "clock_gettime", &[Int, Addr], time::clock_gettime),
    full(229, "clock_getres", &[Int, Addr], time::clock_getres),
    partial(
        230,
        "clock_nanosleep",
        &[Int, Hex, Addr, Addr],
        time::clock_nanosleep,
        "an absolute time does not follow when the host's clock is set",
    ),
    partial(305, "clock_adjtime", &[Int, Addr], time::clock_adjtime, "reads only"),
];
