//! The `system` lines of the table.

use super::{Arg::*, Line, none};
use crate::Errno;

pub(super) const LINES: &[Line] = &[
    none(63, "uname", &[Addr], Errno::ENOSYS, ""),
    none(99, "sysinfo", &[Addr], Errno::ENOSYS, ""),
    none(103, "syslog", &[Int, Addr, Int], Errno::ENOSYS, ""),
    none(153, "vhangup", &[], Errno::ENOSYS, ""),
    none(156, "_sysctl", &[Addr], Errno::ENOSYS, ""),
    none(169, "reboot", &[Hex, Hex, Int, Addr], Errno::ENOSYS, ""),
    none(170, "sethostname", &[Addr, Size], Errno::ENOSYS, ""),
    none(171, "setdomainname", &[Addr, Size], Errno::ENOSYS, ""),
    none(172, "iopl", &[Int], Errno::ENOSYS, ""),
    none(173, "ioperm", &[Uint, Uint, Int], Errno::ENOSYS, ""),
    none(174, "create_module", &[], Errno::ENOSYS, ""),
    none(175, "init_module", &[Addr, Uint, Path], Errno::ENOSYS, ""),
    none(176, "delete_module", &[Path, Hex], Errno::ENOSYS, ""),
    none(177, "get_kernel_syms", &[], Errno::ENOSYS, ""),
    none(178, "query_module", &[], Errno::ENOSYS, ""),
    none(181, "getpmsg", &[], Errno::ENOSYS, ""),
    none(182, "putpmsg", &[], Errno::ENOSYS, ""),
    none(183, "afs_syscall", &[], Errno::ENOSYS, ""),
    none(184, "tuxcall", &[], Errno::ENOSYS, ""),
    none(185, "security", &[], Errno::ENOSYS, ""),
    none(236, "vserver", &[], Errno::ENOSYS, ""),
    none(246, "kexec_load", &[Hex, Hex, Addr, Hex], Errno::ENOSYS, ""),
    none(313, "finit_module", &[Fd, Path, Hex], Errno::ENOSYS, ""),
    none(318, "getrandom", &[Addr, Size, Hex], Errno::ENOSYS, ""),
    none(320, "kexec_file_load", &[Fd, Fd, Uint, Path, Hex], Errno::ENOSYS, ""),
    none(335, "uretprobe", &[], Errno::ENOSYS, ""),
    none(336, "uprobe", &[], Errno::ENOSYS, ""),
];
