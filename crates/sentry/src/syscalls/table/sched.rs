//! The `sched` lines of the table.

use super::{Arg::*, Line, full, partial};
use crate::syscalls::sched;

pub(super) const LINES: &[Line] = &[
    full(24, "sched_yield", &[], sched::sys_sched_yield),
    full(140, "getpriority", &[Int, Int], sched::sys_getpriority),
    partial(141, "setpriority", &[Int, Int, Int], sched::sys_setpriority, "negative values are kept and reported only"),
    partial(142, "sched_setparam", &[Int, Addr], sched::sys_sched_setparam, "kept and reported; the host schedules"),
    full(143, "sched_getparam", &[Int, Addr], sched::sys_sched_getparam),
    partial(
        144,
        "sched_setscheduler",
        &[Int, Int, Addr],
        sched::sys_sched_setscheduler,
        "kept and reported; the host schedules",
    ),
    full(145, "sched_getscheduler", &[Int], sched::sys_sched_getscheduler),
    full(146, "sched_get_priority_max", &[Int], sched::sys_sched_get_priority_max),
    full(147, "sched_get_priority_min", &[Int], sched::sys_sched_get_priority_min),
    partial(148, "sched_rr_get_interval", &[Int, Addr], sched::sys_sched_rr_get_interval, "a fixed slice"),
    partial(203, "sched_setaffinity", &[Int, Size, Addr], sched::sys_sched_setaffinity, "64 CPUs at most"),
    partial(204, "sched_getaffinity", &[Int, Size, Addr], sched::sys_sched_getaffinity, "64 CPUs at most"),
    partial(251, "ioprio_set", &[Int, Int, Int], sched::sys_ioprio_set, "kept and reported; the host schedules"),
    full(252, "ioprio_get", &[Int, Int], sched::sys_ioprio_get),
    partial(309, "getcpu", &[Addr, Addr, Addr], sched::sys_getcpu, "a CPU the caller may run on"),
    partial(314, "sched_setattr", &[Int, Addr, Hex], sched::sys_sched_setattr, "kept and reported; the host schedules"),
    full(315, "sched_getattr", &[Int, Addr, Uint, Hex], sched::sys_sched_getattr),
];
