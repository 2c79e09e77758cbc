//! The back end of a vhost-user device on one connected socket: what QEMU says of the guest's memory and rings.
//!
//! The crate `vhost` speaks the protocol; here is the state it changes ([`Rings`]), and a [`Frontend`] that an epoll loop drives message by message,
//! so that a device needs one thread (`vsock`), or that has a thread of its own beside those that do the requests (`virtiofs`). The crate
//! `vhost-user-backend` always needs two, and a path to listen on; and it does not look how long the memory's file is.
//!
//! The VMM at the other end may have been taken over by its guest. It can make this device useless; it must not get more than that. So only memory
//! that cannot shrink under us is mapped, numbers are checked by `vhost`, and what lies in the memory is the device's to distrust.

mod rings;
mod shared;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, MutexGuard};

use rustix::event::epoll;
use vhost::vhost_user::BackendReqHandler;

pub use rings::{Ring, Rings};
pub use shared::Shared;

/// What a device is, to the VMM.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The device's own feature bits; those of rings are added.
    pub features: u64,
    pub queues: usize,
    /// The most entries a queue may have.
    pub max_queue: u16,
    /// The device's configuration space. The VMM cannot write to it.
    pub config: Vec<u8>,
}

/// The epoll token of the VMM's socket; that of ring `i`'s kick is `KICK + i`. A loop's own tokens are from [`FREE`] on.
pub const SOCKET: u64 = 0;
pub const KICK: u64 = 1;
pub const FREE: u64 = 1 << 16;

/// The VMM at the other end of a socket.
pub struct Frontend {
    handler: BackendReqHandler<Shared>,
    rings: Arc<Shared>,
}

impl Frontend {
    /// A device for the VMM at the other end of `socket`. The socket, and kicks as they come, are watched by `epoll`.
    pub fn new(socket: UnixStream, layout: Layout, epoll: Arc<OwnedFd>) -> io::Result<Frontend> {
        socket.set_nonblocking(false)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(SOCKET), epoll::EventFlags::IN)?;
        Frontend::for_threads(socket, Arc::new(Shared::new(layout, epoll, || true)?))
    }

    /// The same for a device of several threads, one of which calls [`Frontend::handle`] and waits there for the next message. Kicks are watched by the
    /// epoll that `rings` were made with, the socket by none.
    pub fn for_threads(socket: UnixStream, rings: Arc<Shared>) -> io::Result<Frontend> {
        socket.set_nonblocking(false)?;
        Ok(Frontend { handler: BackendReqHandler::from_stream(socket, rings.clone()), rings })
    }

    /// Reads one message from the socket and does what it says; waits for its end if it has begun.
    ///
    /// # Errors
    /// The VMM closed the socket (`UnexpectedEof`) or broke the protocol, or requests that hang keep the device from what it has to do: nothing more can
    /// come of it.
    pub fn handle(&mut self) -> io::Result<()> {
        use vhost::vhost_user::Error;
        let handled = self.handler.handle_request();
        if self.rings.is_unsettled() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "requests hang, and the guest's memory is to be let go"));
        }
        match handled {
            Ok(()) => Ok(()),
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            // The VMM's request was refused and it was told so, or had not asked to be.
            Err(e @ (Error::InvalidParam | Error::InvalidOperation(_) | Error::ReqHandlerError(_))) => {
                tracing::warn!(%e, "a vhost-user request is refused");
                Ok(())
            }
            Err(e) => Err(io::Error::other(e)),
        }
    }

    /// The memory and rings, as the last message left them.
    pub fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock()
    }
}

/// Empties a kick's eventfd.
fn drain(kick: &File) {
    let mut buffer = [0; 8];
    let _ = rustix::io::read(kick, &mut buffer);
}
