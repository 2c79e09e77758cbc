//! [`Receiver`]: a host thread that takes frames from an interface and brings what is in them to sockets.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hostcall::Errno;
use hostcall::packet::Batch;
use netstack::ip::{Fault, ICMP, ICMPV6, Packet, Quoted, TCP, UDP};

use super::Stack;
use crate::net::NetNamespace;
use crate::net::tcp::Tcp;

/// Batches in a row that the host may fail to give.
const FAILURES: u32 = 1000;

pub struct Receiver {
    net: Arc<NetNamespace>,
    stack: Arc<Stack>,
    /// Position of its interface.
    interface: usize,
    socket: Arc<OwnedFd>,
    batch: Batch,
}

impl Receiver {
    pub(super) fn new(net: Arc<NetNamespace>, stack: Arc<Stack>, interface: usize, socket: Arc<OwnedFd>) -> Receiver {
        Receiver { net, stack, interface, socket, batch: Batch::default() }
    }

    /// The body of its thread. `nudge` is called when timers may have come forward. Returns only when the host refuses frames for good.
    pub fn run(mut self, nudge: &dyn Fn()) -> Errno {
        self.stack.network.announce();
        let mut late = Vec::new();
        let mut failures = 0;
        loop {
            match self.batch.receive(self.socket.as_fd()) {
                Ok(()) => failures = 0,
                Err(errno) => match after(errno, &mut failures) {
                    After::Again => continue,
                    After::Lost => {
                        if let Some(interface) = self.stack.network.interfaces().get(self.interface) {
                            interface.counters.dropped.fetch_add(1, Ordering::Relaxed);
                        }
                        continue;
                    }
                    After::Over => return errno,
                },
            }
            let before = self.net.timers.earliest();
            let now = self.net.clock.monotonic().0;
            for frame in self.batch.frames() {
                let up = &mut |packet: &Packet<'_>| self.stack.arrives(&self.net, packet, &mut late);
                self.stack.network.receive(now, self.interface, frame, up);
            }
            // One acknowledgement for all that came for a connection in this batch.
            for socket in late.drain(..) {
                socket.answer();
            }
            self.stack.arm(&self.net);
            if self.net.timers.earliest() < before || before.is_none() {
                nudge();
            }
        }
    }
}

/// What an error of the host's means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Again,
    /// A frame is lost.
    Lost,
    Over,
}

fn after(errno: Errno, failures: &mut u32) -> After {
    match errno {
        // The interface went down, or up.
        Errno::EINTR | Errno::EAGAIN | Errno::ENETDOWN => After::Again,
        // A frame that virtio-net's header cannot describe (`packet_rcv_vnet`), or no memory for it: the next one may come through.
        Errno::EINVAL | Errno::ENOMEM | Errno::ENOBUFS if *failures < FAILURES => {
            *failures += 1;
            After::Lost
        }
        _ => After::Over,
    }
}

impl Stack {
    /// A packet for this namespace. Sockets that have something to send after it come to `late`.
    fn arrives(self: &Arc<Stack>, net: &Arc<NetNamespace>, packet: &Packet<'_>, late: &mut Vec<Arc<Tcp>>) {
        match (packet.protocol, packet.from.is_ipv4()) {
            (TCP, _) => self.segment_arrives(net, packet, late),
            (UDP, _) => self.datagram_arrives(net, packet),
            (ICMP, true) | (ICMPV6, false) => {
                self.to_sockets(net, packet);
                if let Some(quoted) = Quoted::parse(packet) {
                    self.fault(net, &quoted);
                }
            }
            _ => {
                if !self.to_sockets(net, packet) {
                    self.network.refuse(net.clock.monotonic().0, packet, Fault::ProtocolUnreachable);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_the_host_cannot_give_is_lost_and_no_more() {
        let mut failures = 0;
        assert_eq!(after(Errno::ENETDOWN, &mut failures), After::Again);
        for errno in [Errno::EINVAL, Errno::ENOMEM, Errno::ENOBUFS, Errno::EINVAL].into_iter().cycle().take(1000) {
            assert_eq!(after(errno, &mut failures), After::Lost);
        }
        assert_eq!(after(Errno::EINVAL, &mut failures), After::Over);
        assert_eq!(after(Errno::EBADF, &mut 0), After::Over);
    }
}
