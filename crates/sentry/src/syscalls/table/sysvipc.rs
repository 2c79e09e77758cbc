//! The `sysvipc` lines of the table.

use super::{Arg::*, Line, full, partial};
use crate::syscalls::{mqueue, sysv_msg, sysv_sem, sysv_shm};

pub(super) const LINES: &[Line] = &[
    partial(29, "shmget", &[Hex, Size, Hex], sysv_shm::sys_shmget, "no huge pages"),
    full(30, "shmat", &[Int, Addr, Hex], sysv_shm::sys_shmat),
    full(31, "shmctl", &[Int, Int, Addr], sysv_shm::sys_shmctl),
    full(64, "semget", &[Hex, Int, Hex], sysv_sem::sys_semget),
    full(65, "semop", &[Int, Addr, Size], sysv_sem::sys_semop),
    full(66, "semctl", &[Int, Int, Int, Addr], sysv_sem::sys_semctl),
    full(67, "shmdt", &[Addr], sysv_shm::sys_shmdt),
    full(68, "msgget", &[Hex, Hex], sysv_msg::sys_msgget),
    full(69, "msgsnd", &[Int, Addr, Size, Hex], sysv_msg::sys_msgsnd),
    full(70, "msgrcv", &[Int, Addr, Size, Int, Hex], sysv_msg::sys_msgrcv),
    full(71, "msgctl", &[Int, Int, Addr], sysv_msg::sys_msgctl),
    full(220, "semtimedop", &[Int, Addr, Size, Addr], sysv_sem::sys_semtimedop),
    full(240, "mq_open", &[Path, Hex, Mode, Addr], mqueue::sys_mq_open),
    full(241, "mq_unlink", &[Path], mqueue::sys_mq_unlink),
    full(242, "mq_timedsend", &[Fd, Addr, Size, Uint, Addr], mqueue::sys_mq_timedsend),
    full(243, "mq_timedreceive", &[Fd, Addr, Size, Addr, Addr], mqueue::sys_mq_timedreceive),
    full(244, "mq_notify", &[Fd, Addr], mqueue::sys_mq_notify),
    full(245, "mq_getsetattr", &[Fd, Addr, Addr], mqueue::sys_mq_getsetattr),
];
