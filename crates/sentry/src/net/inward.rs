//! [`Inward`]: a TCP connection to the loopback interface that nobody inside has made.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::NetNamespace;
use super::address::{Endpoint, Family};
use super::socket::{End, Shutdown, Socket};
use super::tcp::Tcp;
use crate::Errno;
use crate::mm::{Sink, Source};
use crate::net::socket::{MsgFlags, Outgoing};
use crate::wait::{PollEvents, WaitQueue};

/// The outer end. Dropping it closes it.
pub struct Inward(Arc<Tcp>);

impl Inward {
    /// Begins a connection to what listens on a port, by IPv4 or by IPv6.
    ///
    /// # Errors
    /// `ECONNREFUSED`, also of a port that does not listen but might connect to itself; `EOPNOTSUPP` where sockets are the host's.
    pub fn begin(net: &Arc<NetNamespace>, family: Family, port: u16) -> Result<Inward, Errno> {
        if net.host().is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let ip = match family {
            Family::Inet => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Family::Inet6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let inward = Inward(Tcp::new(net, family, 0));
        inward.0.begin_connect(Endpoint::new(ip, port))?;
        let itself = inward.0.name(End::Peer).is_ok_and(|peer| inward.0.name(End::Own) == Ok(peer));
        if itself { Err(Errno::ECONNREFUSED) } else { Ok(inward) }
    }

    /// What came of the connection; None while it waits for room in the listener's queue.
    pub fn finished(&self) -> Option<Result<(), Errno>> {
        self.0.finish_connect()
    }

    pub fn queue(&self) -> &WaitQueue {
        self.0.queue()
    }

    pub fn poll(&self) -> PollEvents {
        self.0.poll()
    }

    /// # Errors
    /// `EAGAIN` and the socket's.
    pub fn send(&self, from: &mut dyn Source) -> Result<usize, Errno> {
        self.0.send(from, &mut Outgoing::default())
    }

    /// Receives what is there; 0 is the end.
    ///
    /// # Errors
    /// `EAGAIN` and the socket's.
    pub fn receive(&self, into: &mut dyn Sink) -> Result<usize, Errno> {
        self.0.receive(into, MsgFlags::DONTWAIT).map(|received| received.bytes)
    }

    /// Nothing more will be sent.
    pub fn end_input(&self) {
        // One that is closed already has no other end to tell.
        let _ = self.0.shut_down(Shutdown { receive: false, send: true });
    }
}

impl Drop for Inward {
    fn drop(&mut self) {
        self.0.clone().close();
    }
}
