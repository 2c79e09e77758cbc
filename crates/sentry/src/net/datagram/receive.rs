//! Receiving: one packet, and what it is asked to tell of its way.

use core::net::IpAddr;

use smallvec::SmallVec;

use super::{Datagram, OVERHEAD, Packet, Protocol, icmp};
use crate::Errno;
use crate::mm::Sink;
use crate::net::address::{Endpoint, Family, as_v6};
use crate::net::ip::{IpOptions, opt};
use crate::net::namespace::{AddressKind, NetNamespace};
use crate::net::options::SockFlags;
use crate::net::socket::{Control, MsgFlags, Received, timestamp};
use crate::net::{IPPROTO_IP, IPPROTO_IPV6};

impl Datagram {
    pub(super) fn receive_packet(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        if flags.contains(MsgFlags::ERRQUEUE) {
            return self.receive_failure(into);
        }
        let peek = flags.contains(MsgFlags::PEEK);
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let packet = match (state.inbox.front(), peek) {
            (None, _) if state.shut_receive && !flags.contains(MsgFlags::DONTWAIT) => return Ok(Received::default()),
            (None, _) => return Err(Errno::EAGAIN),
            (Some(packet), true) => packet.clone(),
            (Some(_), false) => {
                let packet = state.inbox.pop_front().ok_or(Errno::EAGAIN)?;
                let cost = packet.bytes.len() + OVERHEAD;
                state.queued = state.queued.saturating_sub(cost);
                self.net.discharge(cost);
                packet
            }
        };
        let drops = state.drops;
        drop(state);
        self.put(into, &packet, peek, drops)
    }

    fn put(&self, into: &mut dyn Sink, packet: &Packet, peek: bool, drops: u32) -> Result<Received, Errno> {
        let options = self.options.lock().clone();
        let wrapped;
        let bytes: &[u8] = match (self.protocol, self.family) {
            // A raw IPv4 socket sees the header.
            (Protocol::Raw(number), Family::Inet) => {
                wrapped = icmp::wrap(packet, number);
                &wrapped
            }
            _ => &packet.bytes,
        };
        let length = bytes.len();
        let skipped = if peek { usize::try_from(options.peek_offset).unwrap_or(0).min(length) } else { 0 };
        let rest = bytes.get(skipped..).unwrap_or_default();
        let fits = into.remaining().min(rest.len());
        let n = if fits == 0 { 0 } else { into.put(rest.get(..fits).unwrap_or_default())? };
        if n < fits {
            return Err(Errno::EFAULT);
        }
        if options.peek_offset >= 0 {
            let moved = if peek { n } else { 0 };
            let back = if peek { 0 } else { length };
            let offset = (options.peek_offset as usize).saturating_add(moved).saturating_sub(back);
            self.options.lock().peek_offset = i32::try_from(offset).unwrap_or(i32::MAX);
        }
        let mut received = Received { bytes: n, length: rest.len(), ..Received::default() };
        received.flags.set(MsgFlags::TRUNC, n < rest.len());
        let port = if self.protocol.has_ports() { packet.from.port } else { 0 };
        received.from = Some(Endpoint::new(packet.from.ip, port).encode_on(self.family, packet.device));
        received.controls.extend(timestamp(&options, packet.at_ns));
        if options.has(SockFlags::RXQ_OVFL) && drops > 0 {
            received.controls.push(Control::new(1, 40, &drops.to_le_bytes()));
        }
        path_controls(&mut received.controls, &self.net, &self.ip.lock(), packet);
        Ok(received)
    }

    /// An error that `IP_RECVERR` has kept.
    fn receive_failure(&self, into: &mut dyn Sink) -> Result<Received, Errno> {
        let failure = {
            let mut state = self.state.lock();
            let failure = state.errors.pop_front().ok_or(Errno::EAGAIN)?;
            // The next error shows; without one there is none.
            state.error = state.errors.front().filter(|next| next.offender.is_some()).map(|next| next.errno);
            failure
        };
        let (bytes, to, control) = failure.parts(self.family);
        let fits = into.remaining().min(bytes.len());
        let n = if fits == 0 { 0 } else { into.put(bytes.get(..fits).unwrap_or_default())? };
        let mut received = Received { bytes: n, length: bytes.len(), flags: MsgFlags::ERRQUEUE, ..Received::default() };
        received.flags.set(MsgFlags::TRUNC, n < bytes.len());
        received.from = Some(to.encode(self.family));
        received.controls.push(control);
        Ok(received)
    }
}

/// `IP_PKTINFO` and its kin, as far as they are asked for.
fn path_controls(controls: &mut SmallVec<[Control; 1]>, net: &NetNamespace, ip: &IpOptions, packet: &Packet) {
    let mut add = |asked: bool, level: i32, kind: i32, data: &[u8]| {
        if asked {
            controls.push(Control::new(level, kind, data));
        }
    };
    let index = packet.device.to_le_bytes();
    if let IpAddr::V4(to) = packet.to.ip {
        let mut info = index.to_vec();
        // The address it came for; for a group, the interface's.
        let many = matches!(net.address_kind(to.into()), AddressKind::Multicast | AddressKind::Broadcast);
        let local = if many { net.address_of(packet.device).octets() } else { to.octets() };
        info.extend_from_slice(&local);
        info.extend_from_slice(&to.octets());
        add(ip.v4(opt::IP_PKTINFO) != 0, IPPROTO_IP, opt::IP_PKTINFO, &info);
        add(ip.v4(opt::IP_RECVTTL) != 0, IPPROTO_IP, opt::IP_TTL, &i32::from(packet.hops).to_le_bytes());
        add(ip.v4(opt::IP_RECVTOS) != 0, IPPROTO_IP, opt::IP_TOS, &[packet.class]);
        add(ip.v4(opt::IP_RECVORIGDSTADDR) != 0, IPPROTO_IP, opt::IP_RECVORIGDSTADDR, &packet.to.encode(Family::Inet));
    }
    let mut info = as_v6(packet.to.ip).octets().to_vec();
    info.extend_from_slice(&index);
    add(ip.v6(opt::IPV6_RECVPKTINFO) != 0, IPPROTO_IPV6, 50, &info);
    add(ip.v6(opt::IPV6_RECVHOPLIMIT) != 0, IPPROTO_IPV6, 52, &i32::from(packet.hops).to_le_bytes());
    add(ip.v6(opt::IPV6_RECVTCLASS) != 0, IPPROTO_IPV6, opt::IPV6_TCLASS, &i32::from(packet.class).to_le_bytes());
}
