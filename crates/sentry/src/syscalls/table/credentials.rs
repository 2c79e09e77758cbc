//! The `credentials` lines of the table.

use super::{Arg::*, Line, none};
use crate::Errno;

pub(super) const LINES: &[Line] = &[
    none(102, "getuid", &[], Errno::ENOSYS, ""),
    none(104, "getgid", &[], Errno::ENOSYS, ""),
    none(105, "setuid", &[Int], Errno::ENOSYS, ""),
    none(106, "setgid", &[Int], Errno::ENOSYS, ""),
    none(107, "geteuid", &[], Errno::ENOSYS, ""),
    none(108, "getegid", &[], Errno::ENOSYS, ""),
    none(113, "setreuid", &[Int, Int], Errno::ENOSYS, ""),
    none(114, "setregid", &[Int, Int], Errno::ENOSYS, ""),
    none(115, "getgroups", &[Int, Addr], Errno::ENOSYS, ""),
    none(116, "setgroups", &[Int, Addr], Errno::ENOSYS, ""),
    none(117, "setresuid", &[Int, Int, Int], Errno::ENOSYS, ""),
    none(118, "getresuid", &[Addr, Addr, Addr], Errno::ENOSYS, ""),
    none(119, "setresgid", &[Int, Int, Int], Errno::ENOSYS, ""),
    none(120, "getresgid", &[Addr, Addr, Addr], Errno::ENOSYS, ""),
    none(122, "setfsuid", &[Int], Errno::ENOSYS, ""),
    none(123, "setfsgid", &[Int], Errno::ENOSYS, ""),
    none(125, "capget", &[Addr, Addr], Errno::ENOSYS, ""),
    none(126, "capset", &[Addr, Addr], Errno::ENOSYS, ""),
    none(248, "add_key", &[Path, Path, Addr, Size, Int], Errno::ENOSYS, ""),
    none(249, "request_key", &[Path, Path, Path, Int], Errno::ENOSYS, ""),
    none(250, "keyctl", &[Int, Addr, Addr, Addr, Addr], Errno::ENOSYS, ""),
    none(444, "landlock_create_ruleset", &[Addr, Size, Hex], Errno::ENOSYS, ""),
    none(445, "landlock_add_rule", &[Fd, Int, Addr, Hex], Errno::ENOSYS, ""),
    none(446, "landlock_restrict_self", &[Fd, Hex], Errno::ENOSYS, ""),
    none(459, "lsm_get_self_attr", &[Uint, Addr, Addr, Hex], Errno::ENOSYS, ""),
    none(460, "lsm_set_self_attr", &[Uint, Addr, Size, Hex], Errno::ENOSYS, ""),
    none(461, "lsm_list_modules", &[Addr, Addr, Hex], Errno::ENOSYS, ""),
];
