//! Sockets of the host's network namespace (`--net host`): each is a host socket, non-blocking, whose readiness the reactor tells.
//!
//! The host's kernel does the network; this sandbox's tables (ports, /proc/net, netlink) know nothing of it. What is bound by privileged ports, raw
//! sockets and options outside [`hostcall::net::OPTIONS`] is refused, since the sentry has no rights there. Addresses and bytes go by way of our own
//! memory, at most [`BOUNCE`] at a time.

mod api;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hostcall::net as host;
use parking_lot::Mutex;

use super::options::{BUFFER, SocketOptions};
use super::socket::{Kind, SOCK_DGRAM, SOCK_STREAM, Socket};
use super::{IPPROTO_TCP, IPPROTO_UDP, NetNamespace};
use crate::Errno;
use crate::executor::{HostWatch, Reactor};

/// Bytes in one host call.
const BOUNCE: usize = 64 << 10;

pub struct HostSocket {
    kind: Kind,
    /// The namespace it was made in.
    net: Arc<NetNamespace>,
    reactor: Arc<Reactor>,
    watch: HostWatch,
    /// Time-outs and low-water marks are kept here; what the host must know goes to it too.
    options: Mutex<SocketOptions>,
}

/// A new host socket.
///
/// # Errors
/// `EINVAL`, `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`, `EPERM` for raw sockets; the host's.
pub fn make(net: &Arc<NetNamespace>, reactor: &Arc<Reactor>, kind: Kind) -> Result<Arc<dyn Socket>, Errno> {
    match (kind.kind, kind.protocol) {
        (SOCK_STREAM, 0 | IPPROTO_TCP) | (SOCK_DGRAM, 0 | IPPROTO_UDP) => {}
        (SOCK_STREAM | SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
        (super::socket::SOCK_RAW, _) => return Err(Errno::EPERM),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    }
    let protocol = if kind.kind == SOCK_STREAM { IPPROTO_TCP } else { IPPROTO_UDP };
    let socket = host::socket(kind.family, kind.kind, protocol)?;
    Ok(HostSocket::wrap(net, reactor, Kind { protocol, ..kind }, socket)?)
}

impl HostSocket {
    fn wrap(net: &Arc<NetNamespace>, reactor: &Arc<Reactor>, kind: Kind, socket: OwnedFd) -> Result<Arc<HostSocket>, Errno> {
        let watch = reactor.watch(Arc::new(socket))?;
        let options = SocketOptions { send_buffer: BUFFER, ..SocketOptions::default() };
        Ok(Arc::new(HostSocket { kind, net: net.clone(), reactor: reactor.clone(), watch, options: Mutex::new(options) }))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.file().as_fd()
    }
}
