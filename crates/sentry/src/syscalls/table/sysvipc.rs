//! The `sysvipc` lines of the table.

use super::{Arg::*, Line, none};
use crate::Errno;

pub(super) const LINES: &[Line] = &[
    none(29, "shmget", &[Hex, Size, Hex], Errno::ENOSYS, ""),
    none(30, "shmat", &[Int, Addr, Hex], Errno::ENOSYS, ""),
    none(31, "shmctl", &[Int, Int, Addr], Errno::ENOSYS, ""),
    none(64, "semget", &[Hex, Int, Hex], Errno::ENOSYS, ""),
    none(65, "semop", &[Int, Addr, Size], Errno::ENOSYS, ""),
    none(66, "semctl", &[Int, Int, Int, Addr], Errno::ENOSYS, ""),
    none(67, "shmdt", &[Addr], Errno::ENOSYS, ""),
    none(68, "msgget", &[Hex, Hex], Errno::ENOSYS, ""),
    none(69, "msgsnd", &[Int, Addr, Size, Hex], Errno::ENOSYS, ""),
    none(70, "msgrcv", &[Int, Addr, Size, Int, Hex], Errno::ENOSYS, ""),
    none(71, "msgctl", &[Int, Int, Addr], Errno::ENOSYS, ""),
    none(220, "semtimedop", &[Int, Addr, Size, Addr], Errno::ENOSYS, ""),
    none(240, "mq_open", &[Path, Hex, Mode, Addr], Errno::ENOSYS, ""),
    none(241, "mq_unlink", &[Path], Errno::ENOSYS, ""),
    none(242, "mq_timedsend", &[Fd, Addr, Size, Uint, Addr], Errno::ENOSYS, ""),
    none(243, "mq_timedreceive", &[Fd, Addr, Size, Addr, Addr], Errno::ENOSYS, ""),
    none(244, "mq_notify", &[Fd, Addr], Errno::ENOSYS, ""),
    none(245, "mq_getsetattr", &[Fd, Addr, Addr], Errno::ENOSYS, ""),
];
