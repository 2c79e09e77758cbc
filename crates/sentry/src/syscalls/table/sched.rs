//! The `sched` lines of the table.

use super::{Arg::*, Line, none};
use crate::Errno;

pub(super) const LINES: &[Line] = &[
    none(24, "sched_yield", &[], Errno::ENOSYS, ""),
    none(140, "getpriority", &[Int, Int], Errno::ENOSYS, ""),
    none(141, "setpriority", &[Int, Int, Int], Errno::ENOSYS, ""),
    none(142, "sched_setparam", &[Int, Addr], Errno::ENOSYS, ""),
    none(143, "sched_getparam", &[Int, Addr], Errno::ENOSYS, ""),
    none(144, "sched_setscheduler", &[Int, Int, Addr], Errno::ENOSYS, ""),
    none(145, "sched_getscheduler", &[Int], Errno::ENOSYS, ""),
    none(146, "sched_get_priority_max", &[Int], Errno::ENOSYS, ""),
    none(147, "sched_get_priority_min", &[Int], Errno::ENOSYS, ""),
    none(148, "sched_rr_get_interval", &[Int, Addr], Errno::ENOSYS, ""),
    none(203, "sched_setaffinity", &[Int, Size, Addr], Errno::ENOSYS, ""),
    none(204, "sched_getaffinity", &[Int, Size, Addr], Errno::ENOSYS, ""),
    none(251, "ioprio_set", &[Int, Int, Int], Errno::ENOSYS, ""),
    none(252, "ioprio_get", &[Int, Int], Errno::ENOSYS, ""),
    none(309, "getcpu", &[Addr, Addr, Addr], Errno::ENOSYS, ""),
    none(314, "sched_setattr", &[Int, Addr, Hex], Errno::ENOSYS, ""),
    none(315, "sched_getattr", &[Int, Addr, Uint, Hex], Errno::ENOSYS, ""),
];
