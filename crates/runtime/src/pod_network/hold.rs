//! Whose a network namespace is: one sandbox's at a time.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Doing, Error, Result};

/// A unix socket's name, in the namespace: as good as a lock, and gone with whoever has the socket.
const NAME: &[u8] = b"nacre: the sandbox of this network namespace";
/// Who has just ended is gone soon, and who only tidies up is done.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// Takes hold of the caller's network namespace, which messages call `name`, for as long as the descriptor is open. Nobody can send anything to it.
///
/// # Errors
/// Another sandbox has it.
pub fn take(name: &str) -> Result<OwnedFd> {
    let about = || format!("cannot take hold of the network namespace {name}");
    let address = SocketAddrUnix::new_abstract_name(NAME).doing(about)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).doing(about)?;
    for _ in 0..ATTEMPTS {
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => thread::sleep(PAUSE),
            bound => return bound.doing(about).map(|()| socket),
        }
    }
    Err(Error::Other(format!("another sandbox has the network namespace {name}")))
}
