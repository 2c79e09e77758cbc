//! The `credentials` lines of the table.

use super::{Arg::*, Line, full, none};
use crate::Errno;
use crate::syscalls::{capability, credentials};

pub(super) const LINES: &[Line] = &[
    full(102, "getuid", &[], credentials::sys_getuid),
    full(104, "getgid", &[], credentials::sys_getgid),
    full(105, "setuid", &[Int], credentials::sys_setuid),
    full(106, "setgid", &[Int], credentials::sys_setgid),
    full(107, "geteuid", &[], credentials::sys_geteuid),
    full(108, "getegid", &[], credentials::sys_getegid),
    full(113, "setreuid", &[Int, Int], credentials::sys_setreuid),
    full(114, "setregid", &[Int, Int], credentials::sys_setregid),
    full(115, "getgroups", &[Int, Addr], credentials::sys_getgroups),
    full(116, "setgroups", &[Int, Addr], credentials::sys_setgroups),
    full(117, "setresuid", &[Int, Int, Int], credentials::sys_setresuid),
    full(118, "getresuid", &[Addr, Addr, Addr], credentials::sys_getresuid),
    full(119, "setresgid", &[Int, Int, Int], credentials::sys_setresgid),
    full(120, "getresgid", &[Addr, Addr, Addr], credentials::sys_getresgid),
    full(122, "setfsuid", &[Int], credentials::sys_setfsuid),
    full(123, "setfsgid", &[Int], credentials::sys_setfsgid),
    full(125, "capget", &[Addr, Addr], capability::sys_capget),
    full(126, "capset", &[Addr, Addr], capability::sys_capset),
    none(248, "add_key", &[Path, Path, Addr, Size, Int], Errno::ENOSYS, "no key rings"),
    none(249, "request_key", &[Path, Path, Path, Int], Errno::ENOSYS, "no key rings"),
    none(250, "keyctl", &[Int, Addr, Addr, Addr, Addr], Errno::ENOSYS, "no key rings"),
    none(444, "landlock_create_ruleset", &[Addr, Size, Hex], Errno::EOPNOTSUPP, "as a kernel with Landlock disabled at boot"),
    none(445, "landlock_add_rule", &[Fd, Int, Addr, Hex], Errno::EOPNOTSUPP, "as a kernel with Landlock disabled at boot"),
    none(446, "landlock_restrict_self", &[Fd, Hex], Errno::EOPNOTSUPP, "as a kernel with Landlock disabled at boot"),
    none(459, "lsm_get_self_attr", &[Uint, Addr, Addr, Hex], Errno::ENOSYS, ""),
    none(460, "lsm_set_self_attr", &[Uint, Addr, Size, Hex], Errno::ENOSYS, ""),
    none(461, "lsm_list_modules", &[Addr, Addr, Hex], Errno::ENOSYS, ""),
];
