//! The `net` lines of the table.

use super::{Arg::*, Line, none};
use crate::Errno;

pub(super) const LINES: &[Line] = &[
    none(41, "socket", &[Int, Hex, Int], Errno::ENOSYS, ""),
    none(42, "connect", &[Fd, Addr, Uint], Errno::ENOSYS, ""),
    none(43, "accept", &[Fd, Addr, Addr], Errno::ENOSYS, ""),
    none(44, "sendto", &[Fd, Addr, Size, Hex, Addr, Uint], Errno::ENOSYS, ""),
    none(45, "recvfrom", &[Fd, Addr, Size, Hex, Addr, Addr], Errno::ENOSYS, ""),
    none(46, "sendmsg", &[Fd, Addr, Hex], Errno::ENOSYS, ""),
    none(47, "recvmsg", &[Fd, Addr, Hex], Errno::ENOSYS, ""),
    none(48, "shutdown", &[Fd, Int], Errno::ENOSYS, ""),
    none(49, "bind", &[Fd, Addr, Uint], Errno::ENOSYS, ""),
    none(50, "listen", &[Fd, Int], Errno::ENOSYS, ""),
    none(51, "getsockname", &[Fd, Addr, Addr], Errno::ENOSYS, ""),
    none(52, "getpeername", &[Fd, Addr, Addr], Errno::ENOSYS, ""),
    none(53, "socketpair", &[Int, Hex, Int, Addr], Errno::ENOSYS, ""),
    none(54, "setsockopt", &[Fd, Int, Int, Addr, Uint], Errno::ENOSYS, ""),
    none(55, "getsockopt", &[Fd, Int, Int, Addr, Addr], Errno::ENOSYS, ""),
    none(288, "accept4", &[Fd, Addr, Addr, Hex], Errno::ENOSYS, ""),
    none(299, "recvmmsg", &[Fd, Addr, Uint, Hex, Addr], Errno::ENOSYS, ""),
    none(307, "sendmmsg", &[Fd, Addr, Uint, Hex], Errno::ENOSYS, ""),
];
