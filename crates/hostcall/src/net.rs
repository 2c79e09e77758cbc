//! Host sockets, for a sentry that shares the host's network (`--net host`). Nothing here waits.
//!
//! Which sockets and which options is said by [`FAMILIES`], [`TYPES`] and [`OPTIONS`], from which the seccomp list is made too.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Errno;
use crate::tally::{self, Counted};

/// Families and types that may be made.
pub const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];
pub const TYPES: [i32; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];

const SOCKET_FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// Options that may be read and set: (level, name).
pub const OPTIONS: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_TYPE),
    (libc::SOL_SOCKET, libc::SO_ERROR),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_ACCEPTCONN),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_INFO),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
];

/// Longest address that is given back, in bytes.
const ADDRESS: usize = 128;

fn unit(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 { Err(Errno::last_host()) } else { Ok(()) }
}

fn owned(fd: libc::c_int) -> Result<OwnedFd, Errno> {
    unit(fd)?;
    // SAFETY: the call has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A non-blocking socket.
///
/// # Errors
/// The host's.
pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    tally::count(Counted::Socket);
    // SAFETY: takes no pointers.
    owned(unsafe { libc::socket(family, kind | SOCKET_FLAGS, protocol) })
}

/// # Errors
/// The host's.
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    tally::count(Counted::SocketState);
    // SAFETY: pointer and length are those of `address`, which is only read.
    unit(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) })
}

/// # Errors
/// The host's; `EINPROGRESS`.
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    tally::count(Counted::SocketState);
    // SAFETY: as in `bind`.
    unit(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) })
}

/// # Errors
/// The host's.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    tally::count(Counted::SocketState);
    // SAFETY: takes no pointers.
    unit(unsafe { libc::listen(socket.as_raw_fd(), backlog) })
}

/// # Errors
/// The host's.
pub fn shut_down(socket: BorrowedFd<'_>, how: i32) -> Result<(), Errno> {
    tally::count(Counted::SocketState);
    // SAFETY: takes no pointers.
    unit(unsafe { libc::shutdown(socket.as_raw_fd(), how) })
}

/// Runs a call that fills in an address.
fn with_address<T>(
    call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> Result<T, Errno>,
) -> Result<(T, Vec<u8>), Errno> {
    let mut bytes = vec![0u8; ADDRESS];
    let mut len = ADDRESS as libc::socklen_t;
    let value = call(bytes.as_mut_ptr().cast(), &raw mut len)?;
    bytes.truncate(len as usize);
    Ok((value, bytes))
}

/// A connection and the peer's address.
///
/// # Errors
/// The host's; `EAGAIN`.
pub fn accept(socket: BorrowedFd<'_>) -> Result<(OwnedFd, Vec<u8>), Errno> {
    tally::count(Counted::Accept);
    // SAFETY: the pointers are to a buffer and its length, alive over the call.
    with_address(|address, len| owned(unsafe { libc::accept4(socket.as_raw_fd(), address, len, SOCKET_FLAGS) }))
}

/// # Errors
/// The host's.
pub fn own_name(socket: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    tally::count(Counted::SocketName);
    // SAFETY: as in `accept`.
    with_address(|address, len| unit(unsafe { libc::getsockname(socket.as_raw_fd(), address, len) })).map(|(_, name)| name)
}

/// # Errors
/// The host's; `ENOTCONN`.
pub fn peer_name(socket: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    tally::count(Counted::SocketName);
    // SAFETY: as in `accept`.
    with_address(|address, len| unit(unsafe { libc::getpeername(socket.as_raw_fd(), address, len) })).map(|(_, name)| name)
}

fn check_option(level: i32, name: i32) -> Result<(), Errno> {
    if OPTIONS.contains(&(level, name)) { Ok(()) } else { Err(Errno::ENOPROTOOPT) }
}

/// # Errors
/// The host's; `ENOPROTOOPT` for what is not in [`OPTIONS`].
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    tally::count(Counted::SocketOption);
    check_option(level, name)?;
    // SAFETY: pointer and length are those of `value`, which is only read.
    unit(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as u32) })
}

/// At most `room` bytes of an option's value.
///
/// # Errors
/// As [`set_option`].
pub fn option(socket: BorrowedFd<'_>, level: i32, name: i32, room: usize) -> Result<Vec<u8>, Errno> {
    tally::count(Counted::SocketOption);
    check_option(level, name)?;
    let mut value = vec![0u8; room.min(512)];
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: pointer and length are those of `value`, exclusively borrowed.
    unit(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) })?;
    value.truncate(len as usize);
    Ok(value)
}

/// Sends bytes, without a signal and without waiting. `to` may be empty.
///
/// # Errors
/// The host's; `EAGAIN`.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], to: &[u8], controls: &[Control], flags: i32) -> Result<usize, Errno> {
    tally::count(Counted::Sendmsg);
    let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let control = join(controls);
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = if to.is_empty() { std::ptr::null_mut() } else { to.as_ptr().cast_mut().cast() };
    message.msg_namelen = to.len() as u32;
    message.msg_iov = (&raw const iov).cast_mut();
    message.msg_iovlen = 1;
    message.msg_control = if control.is_empty() { std::ptr::null_mut() } else { control.as_ptr().cast_mut().cast() };
    message.msg_controllen = size_of_val(&*control);
    let flags = flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the message refers to `iov`, `bytes`, `control` and `to`, which are only read and live over the call.
    let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    usize::try_from(n).map_err(|_| Errno::last_host())
}

/// A control message: level, type, data.
pub type Control = (i32, i32, Vec<u8>);

/// What came.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Bytes put.
    pub bytes: usize,
    /// The packet's own length (with `MSG_TRUNC` in the flags asked for).
    pub length: usize,
    pub from: Vec<u8>,
    pub controls: Vec<Control>,
    /// `MSG_*`
    pub flags: i32,
}

/// Receives without waiting. With `MSG_TRUNC` a packet's whole length is told.
///
/// # Errors
/// The host's; `EAGAIN`.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8], flags: i32) -> Result<Incoming, Errno> {
    tally::count(Counted::Recvmsg);
    let mut from = vec![0u8; ADDRESS];
    // u64s, for alignment.
    let mut control = [0u64; 64];
    let iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = from.as_mut_ptr().cast();
    message.msg_namelen = ADDRESS as u32;
    message.msg_iov = (&raw const iov).cast_mut();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message refers to buffers exclusively borrowed here, with their lengths.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = usize::try_from(n).map_err(|_| Errno::last_host())?;
    from.truncate(message.msg_namelen as usize);
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).take(message.msg_controllen).collect();
    Ok(Incoming { bytes: length.min(into.len()), length, from, controls: split(&bytes), flags: message.msg_flags })
}

/// The control messages in a buffer.
fn split(mut bytes: &[u8]) -> Vec<Control> {
    let mut controls = Vec::new();
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    while let Some(head) = bytes.get(..16) {
        let len = head.get(..8).and_then(|b| b.try_into().ok()).map_or(0, usize::from_ne_bytes);
        let Some(data) = bytes.get(16..len) else { break };
        controls.push((word(head, 8), word(head, 12), data.to_vec()));
        bytes = bytes.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    controls
}

/// Control messages as a buffer of the host's; in u64s, for alignment.
fn join(controls: &[Control]) -> Vec<u64> {
    let mut words = Vec::new();
    for (level, kind, data) in controls {
        words.push(16 + data.len() as u64);
        words.push(u64::from(*level as u32) | u64::from(*kind as u32) << 32);
        words.extend(data.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        }));
    }
    words
}

/// Bytes that can be read at once (`FIONREAD`).
///
/// # Errors
/// The host's.
pub fn readable(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which `n` is.
    unit(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut n) })?;
    Ok(n)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn datagrams_over_the_hosts_loopback() {
        let a = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
        let any = [2, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        bind(a.as_fd(), &any).expect("bind");
        let name = own_name(a.as_fd()).expect("name");
        let b = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
        assert_eq!(send(b.as_fd(), b"hello", &name, &[], 0), Ok(5));
        let mut bytes = [0; 3];
        let got = receive(a.as_fd(), &mut bytes, libc::MSG_TRUNC).expect("receive");
        assert_eq!((got.bytes, got.length, got.from.len()), (3, 5, 16));
        assert_eq!(receive(a.as_fd(), &mut bytes, 0).map(|_| ()), Err(Errno::EAGAIN));
        assert_eq!(option(a.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE, 4), Ok(vec![2, 0, 0, 0]));
        assert_eq!(option(a.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, 4), Err(Errno::ENOPROTOOPT));
    }

    #[test]
    fn control_messages_go_and_come() {
        let a = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
        bind(a.as_fd(), &[2, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).expect("bind");
        set_option(a.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, &1i32.to_ne_bytes()).expect("option");
        set_option(a.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, &1i32.to_ne_bytes()).expect("option");
        let name = own_name(a.as_fd()).expect("name");
        let b = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
        let from = [0, 0, 0, 0, 127, 7, 7, 7, 0, 0, 0, 0].to_vec();
        let ttl = (libc::IPPROTO_IP, libc::IP_TTL, 9i32.to_ne_bytes().to_vec());
        let controls = [ttl.clone(), (libc::IPPROTO_IP, libc::IP_PKTINFO, from)];
        assert_eq!(send(b.as_fd(), b"x", &name, &controls, 0), Ok(1));
        let got = receive(a.as_fd(), &mut [0; 3], 0).expect("receive");
        assert_eq!(got.from.get(4..8), Some(&[127, 7, 7, 7][..]), "it is from whom the message says");
        assert!(got.controls.contains(&ttl), "{:?}", got.controls);
        assert!(got.controls.iter().any(|(level, kind, data)| (*level, *kind, data.len()) == (0, libc::IP_PKTINFO, 12)));
    }
}
