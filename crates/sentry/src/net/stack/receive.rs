//! [`Receiver`]: a host thread that takes frames from an interface and brings what is in them to sockets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hostcall::Errno;
use hostcall::doze::Doze;
use hostcall::packet::{Batch, Wait, Wire};
use hostcall::time::monotonic_ns;
use netstack::ip::frame::{self, Virtio};
use netstack::ip::{Fault, ICMP, ICMPV6, Packet, Quoted, TCP, UDP};

use super::Stack;
use crate::net::NetNamespace;
use crate::net::tcp::Tcp;

/// How long the host may fail to give frames, with none in between, in nanoseconds.
const FAILURES_NS: u64 = 10_000_000_000;

pub struct Receiver {
    net: Arc<NetNamespace>,
    stack: Arc<Stack>,
    /// Position of its interface.
    interface: usize,
    wire: Arc<Wire>,
    batch: Batch,
    doze: Doze,
}

impl Receiver {
    pub(super) fn new(net: Arc<NetNamespace>, stack: Arc<Stack>, interface: usize, wire: Arc<Wire>) -> Receiver {
        Receiver { net, stack, interface, wire, batch: Batch::default(), doze: Doze::default() }
    }

    /// The body of its thread. `nudge` is called when timers may have come forward. Returns only when the host refuses frames for good.
    pub fn run(mut self, nudge: &dyn Fn()) -> Errno {
        self.stack.network.announce(self.interface);
        self.stack.arm(&self.net);
        nudge();
        let mut late = Vec::new();
        let mut failing_since = None;
        loop {
            match self.receive() {
                Ok(()) => failing_since = None,
                Err(errno) => match after(errno, &mut failing_since, self.net.clock.monotonic().0) {
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
                if self.net.packets.is_open() {
                    self.show(frame);
                }
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

    /// Takes the frames that are there, or waits for some.
    fn receive(&mut self) -> Result<(), Errno> {
        let (batch, wire) = (&mut self.batch, &*self.wire);
        let look = || match batch.receive(wire, Wait::Never) {
            Err(Errno::EAGAIN) => None,
            other => Some(other),
        };
        if let Some(result) = self.doze.until(None, look) {
            return result;
        }
        let start = monotonic_ns();
        let result = batch.receive(wire, Wait::Allowed);
        self.doze.slept(monotonic_ns().saturating_sub(start));
        result
    }

    /// Shows a frame to packet sockets.
    fn show(&self, bytes: &[u8]) {
        let Some(interface) = self.stack.network.interfaces().get(self.interface) else { return };
        let unfinished = Virtio::parse(bytes).is_some_and(|virtio| virtio.checked);
        self.net.packets.came(bytes.get(frame::VIRTIO..).unwrap_or_default(), interface.index, interface.mac, unfinished);
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

fn after(errno: Errno, failing_since: &mut Option<u64>, now: u64) -> After {
    match errno {
        // The interface went down, or up.
        Errno::EINTR | Errno::EAGAIN | Errno::ENETDOWN => After::Again,
        // A frame that virtio-net's header cannot describe (`packet_rcv_vnet`). Whoever is on the link may send as many as he likes.
        Errno::EINVAL => After::Lost,
        // No memory for it: the next one may come through.
        Errno::ENOMEM | Errno::ENOBUFS if now.saturating_sub(*failing_since.get_or_insert(now)) < FAILURES_NS => After::Lost,
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
        let mut since = None;
        assert_eq!(after(Errno::ENETDOWN, &mut since, 1), After::Again);
        for now in 0..100_000 {
            assert_eq!(after(Errno::EINVAL, &mut since, now), After::Lost);
        }
        assert_eq!(since, None, "frames that cannot be described are nobody's failure");
        for (errno, now) in [(Errno::ENOMEM, 5), (Errno::ENOBUFS, 6), (Errno::ENOMEM, 4 + FAILURES_NS)] {
            assert_eq!(after(errno, &mut since, now), After::Lost);
        }
        assert_eq!(after(Errno::ENOMEM, &mut since, 5 + FAILURES_NS), After::Over);
        assert_eq!(after(Errno::EBADF, &mut None, 0), After::Over);
    }
}
