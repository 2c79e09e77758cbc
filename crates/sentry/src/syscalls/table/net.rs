//! The `net` lines of the table.

use super::{Arg::*, Line, full, partial};
use crate::syscalls::{message, socket};

pub(super) const LINES: &[Line] = &[
    partial(
        41,
        "socket",
        &[Int, Hex, Int],
        socket::sys_socket,
        "AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (route, sock_diag, uevent), AF_PACKET",
    ),
    full(42, "connect", &[Fd, Addr, Uint], socket::sys_connect),
    full(43, "accept", &[Fd, Addr, Addr], socket::sys_accept),
    partial(
        44,
        "sendto",
        &[Fd, Addr, Size, Hex, Addr, Uint],
        message::sys_sendto,
        "no MSG_ZEROCOPY; on loopback MSG_MORE sends at once",
    ),
    full(45, "recvfrom", &[Fd, Addr, Size, Hex, Addr, Addr], message::sys_recvfrom),
    partial(46, "sendmsg", &[Fd, Addr, Hex], message::sys_sendmsg, "no SCM_PIDFD, no MSG_ZEROCOPY"),
    partial(47, "recvmsg", &[Fd, Addr, Hex], message::sys_recvmsg, "no SCM_PIDFD"),
    full(48, "shutdown", &[Fd, Int], socket::sys_shutdown),
    full(49, "bind", &[Fd, Addr, Uint], socket::sys_bind),
    full(50, "listen", &[Fd, Int], socket::sys_listen),
    full(51, "getsockname", &[Fd, Addr, Addr], socket::sys_getsockname),
    full(52, "getpeername", &[Fd, Addr, Addr], socket::sys_getpeername),
    full(53, "socketpair", &[Int, Hex, Int, Addr], socket::sys_socketpair),
    partial(
        54,
        "setsockopt",
        &[Fd, Int, Int, Addr, Uint],
        socket::sys_setsockopt,
        "no extended BPF, no filters of TCP sockets; on loopback, options about segments and their timing are kept and change nothing",
    ),
    partial(
        55,
        "getsockopt",
        &[Fd, Int, Int, Addr, Addr],
        socket::sys_getsockopt,
        "no extended BPF, no filters of TCP sockets; on loopback, options about segments and their timing are kept and change nothing",
    ),
    full(288, "accept4", &[Fd, Addr, Addr, Hex], socket::sys_accept4),
    full(299, "recvmmsg", &[Fd, Addr, Uint, Hex, Addr], message::sys_recvmmsg),
    full(307, "sendmmsg", &[Fd, Addr, Uint, Hex], message::sys_sendmmsg),
];
