//! [`Loopback`]: connections to localhost in a pod's network namespace, on the host's side of it.
//!
//! Engines forward a pod's ports by connecting to localhost in its namespace (containerd and CRI-O do). It is the host's kernel that answers there, in
//! which nothing of a sandbox listens. So this does, for all ports at once; who asks for the connections passes them on.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::{inside, own_inode};
use crate::bpf;
use crate::error::{Doing, Result};

/// Connections that may wait.
const BACKLOG: i32 = 64;

/// Whoever connects. Dropping it lets the namespace be as it was.
#[derive(Debug)]
pub struct Loopback {
    listener: OwnedFd,
    _redirection: OwnedFd,
}

impl Loopback {
    /// Listens in the network namespace at `path`.
    ///
    /// # Errors
    /// It is the caller's own, it cannot be entered, or the host has no BPF for this (Linux 5.9).
    pub fn listen(path: &Path) -> Result<Loopback> {
        let about = || format!("cannot listen on the loopback interface of {}", path.display());
        let namespace = File::open(path).doing(about)?;
        // The host's own connections to localhost are nobody's to take, whatever a configuration names.
        if namespace.metadata().doing(about)?.ino() == own_inode()? {
            return Err(io::Error::other("it is the host's network")).doing(about);
        }
        let made = inside(&namespace, || {
            let listener = listener()?;
            let redirection = bpf::take_loopback(namespace.as_fd(), listener.as_fd())?;
            Ok(Loopback { listener, _redirection: redirection })
        });
        made.flatten().doing(about)
    }

    /// The next connection, and the port it is for. None: after [`Loopback::end`].
    ///
    /// # Errors
    /// The host is short of something.
    pub fn accept(&self) -> io::Result<Option<(TcpStream, u16)>> {
        loop {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let socket = TcpStream::from(socket);
                    let port = socket.local_addr()?.port();
                    return Ok(Some((socket, port)));
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(rustix::io::Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Lets who waits in [`Loopback::accept`] go.
    pub fn end(&self) {
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }
}

/// For both families, where there are two.
fn listener() -> io::Result<OwnedFd> {
    let socket = |family| rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let v6 = socket(AddressFamily::INET6).and_then(|socket| {
        sockopt::set_ipv6_v6only(&socket, false)?;
        rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        Ok(socket)
    });
    let listener = match v6 {
        Ok(listener) => listener,
        Err(_) => {
            let listener = socket(AddressFamily::INET)?;
            rustix::net::bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            listener
        }
    };
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_network_is_left_alone() {
        let error = Loopback::listen(Path::new("/proc/self/ns/net")).expect_err("refused").to_string();
        assert!(error.contains("it is the host's network"), "{error}");
    }
}
