//! The `system` lines of the table.

use super::{Arg::*, Line, full, none, partial};
use crate::Errno;
use crate::syscalls::{system, uname};

pub(super) const LINES: &[Line] = &[
    full(63, "uname", &[Addr], uname::sys_uname),
    partial(99, "sysinfo", &[Addr], system::sys_sysinfo, "no shared or buffer sizes"),
    partial(103, "syslog", &[Int, Addr, Int], system::sys_syslog, "the log is always empty"),
    full(153, "vhangup", &[], system::sys_vhangup),
    none(156, "_sysctl", &[Addr], Errno::ENOSYS, ""),
    partial(169, "reboot", &[Hex, Hex, Hex, Addr], system::sys_reboot, "a container cannot restart the sandbox: EPERM"),
    full(170, "sethostname", &[Addr, Size], uname::sys_sethostname),
    full(171, "setdomainname", &[Addr, Size], uname::sys_setdomainname),
    none(172, "iopl", &[Int], Errno::EPERM, "no port access"),
    none(173, "ioperm", &[Uint, Uint, Int], Errno::EPERM, "no port access"),
    none(174, "create_module", &[], Errno::ENOSYS, ""),
    none(175, "init_module", &[Addr, Uint, Path], Errno::EPERM, "there are no modules and no other kernel"),
    none(176, "delete_module", &[Path, Hex], Errno::EPERM, "there are no modules and no other kernel"),
    none(177, "get_kernel_syms", &[], Errno::ENOSYS, ""),
    none(178, "query_module", &[], Errno::ENOSYS, ""),
    none(181, "getpmsg", &[], Errno::ENOSYS, ""),
    none(182, "putpmsg", &[], Errno::ENOSYS, ""),
    none(183, "afs_syscall", &[], Errno::ENOSYS, ""),
    none(184, "tuxcall", &[], Errno::ENOSYS, ""),
    none(185, "security", &[], Errno::ENOSYS, ""),
    none(236, "vserver", &[], Errno::ENOSYS, ""),
    none(246, "kexec_load", &[Hex, Hex, Addr, Hex], Errno::EPERM, "there are no modules and no other kernel"),
    none(313, "finit_module", &[Fd, Path, Hex], Errno::EPERM, "there are no modules and no other kernel"),
    full(318, "getrandom", &[Addr, Size, Hex], system::sys_getrandom),
    none(320, "kexec_file_load", &[Fd, Fd, Uint, Path, Hex], Errno::EPERM, "there are no modules and no other kernel"),
    none(335, "uretprobe", &[], Errno::ENOSYS, ""),
    none(336, "uprobe", &[], Errno::ENOSYS, ""),
];
