//! `ioctl` of a pidfd: the namespaces of its process (Linux 6.11), and what `pidfd_info` tells.

use super::pidfd::PidFd;
use crate::Errno;
use crate::ns::{Held, Kind, open};
use crate::task::Cx;

/// `PIDFD_GET_*_NAMESPACE`: `_IO(0xff, n)`, from `PIDFD_GET_CGROUP_NAMESPACE` (1) on.
const KINDS: [(u32, Option<Kind>); 10] = [
    (0xff01, Some(Kind::Cgroup)),
    (0xff02, Some(Kind::Ipc)),
    (0xff03, Some(Kind::Mnt)),
    (0xff04, Some(Kind::Net)),
    (0xff05, Some(Kind::Pid)),
    (0xff06, Some(Kind::Pid)),
    (0xff07, None),
    (0xff08, None),
    (0xff09, Some(Kind::User)),
    (0xff0a, Some(Kind::Uts)),
];
/// `PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE`.
const FOR_CHILDREN: u32 = 0xff06;

/// `PIDFD_GET_INFO` without its size.
const GET_INFO: u32 = 0xc000_ff0b;

pub(super) fn control(pidfd: &PidFd, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
    // `_IOWR(0xff, 11, struct pidfd_info)`, of whatever size.
    if command & 0xc000_ffff == GET_INFO {
        return super::pidfd_info::get(pidfd, cx, (command >> 16 & 0x3fff) as usize, argument);
    }
    let (_, kind) = KINDS.iter().find(|(number, _)| *number == command).ok_or(Errno::ENOTTY)?;
    if argument != 0 {
        return Err(Errno::EINVAL);
    }
    let task = pidfd.named.task().ok_or(Errno::ESRCH)?;
    crate::syscalls::process_vm::may_inspect(cx, &task).map_err(|_| Errno::EACCES)?;
    // There are no time namespaces.
    let kind = kind.ok_or(Errno::EOPNOTSUPP)?;
    let held =
        if command == FOR_CHILDREN { Held::Pid(task.namespaces().pid_for_children.clone()) } else { Held::of(&task, kind)? };
    open(cx, held).map(|fd| fd as u64)
}
