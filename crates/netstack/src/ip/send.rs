//! Sending: an IP packet, over Ethernet, to the neighbour that the way leads to.

use core::net::IpAddr;

use super::checksum::Sum;
use super::frame::{self, Cut, Header, Offload};
use super::neighbours::{Mac, Reach};
use super::{Network, Way, count};
use crate::Ns;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Yes,
    /// The link has no room now.
    Full,
    /// Longer than the path takes, which is so many bytes, and not to be cut.
    TooLong(u32),
}

impl Network {
    /// Sends a packet whose transport header and payload are `transport`. The checksum that `offload` speaks of must hold the pseudo-header's sum.
    pub fn send(&self, now: Ns, way: &Way, header: &Header, offload: Offload, transport: &[&[u8]]) -> Sent {
        let length: usize = transport.iter().map(|piece| piece.len()).sum();
        let head = if header.to.is_ipv4() { frame::IPV4 } else { frame::IPV6 };
        let by_link = header.cutting.by_link();
        let mtu = if by_link { self.link_mtu(way) } else { self.path_mtu(header.to, way, now) };
        let one = match offload {
            Offload::Segments { header, mss, .. } => usize::from(header) + usize::from(mss),
            _ => length,
        };
        if head + one > mtu as usize {
            return match header.cutting.here() {
                false => Sent::TooLong(mtu),
                true => self.send_cut(now, way, header, offload, transport, mtu),
            };
        }
        let ip = header.bytes(length, self.next_id(), None);
        self.frame(now, way, header.to, offload, &ip, transport)
    }

    /// In pieces that fit.
    fn send_cut(&self, now: Ns, way: &Way, header: &Header, offload: Offload, transport: &[&[u8]], mtu: u32) -> Sent {
        let mut bytes = transport.concat();
        if let Offload::Checksum { at } = offload {
            let mut sum = Sum::default();
            sum.add(&bytes);
            super::checksum::put(&mut bytes, at.into(), udp_sum(sum.checksum()));
        }
        let head = if header.to.is_ipv4() { frame::IPV4 } else { frame::IPV6 + 8 };
        let piece = ((mtu as usize).saturating_sub(head) & !7).max(8);
        let id = u32::from(self.next_id()) | (now as u32 & 0xffff) << 16;
        let count = bytes.len().div_ceil(piece);
        let mut result = Sent::Yes;
        for (n, part) in bytes.chunks(piece).enumerate() {
            let cut = Cut { id, offset: (n * piece) as u16, more: n + 1 < count };
            let ip = header.bytes(part.len(), 0, Some(cut));
            if self.frame(now, way, header.to, Offload::Nothing, &ip, &[part]) == Sent::Full {
                result = Sent::Full;
            }
        }
        result
    }

    /// Finds the neighbour and sends the frame.
    fn frame(&self, now: Ns, way: &Way, to: IpAddr, offload: Offload, ip: &[u8], transport: &[&[u8]]) -> Sent {
        let Some(interface) = self.interfaces.get(way.interface) else { return Sent::Full };
        let own = interface.mac;
        let v4 = to.is_ipv4();
        let kind = frame::ethertype(to);
        let start = frame::ETHERNET + ip.len();
        let virtio = frame::virtio(offload, start, v4);
        let everybody = way.next.is_multicast() || self.owner(way.next) == super::Owner::Broadcast;
        let mac: Mac = if everybody && !way.next.is_multicast() {
            [0xff; 6]
        } else if everybody || way.next == IpAddr::V4(core::net::Ipv4Addr::BROADCAST) {
            frame::group_mac(way.next)
        } else {
            let whole = || {
                let ethernet = frame::ethernet([0; 6], own, kind);
                let mut bytes = [&virtio[..], &ethernet, ip].concat();
                for piece in transport {
                    bytes.extend_from_slice(piece);
                }
                bytes
            };
            let reach = {
                let mut neighbours = self.neighbours.lock();
                let reach = neighbours.reach(now, (way.interface, way.next), whole);
                if reach == Reach::Ask {
                    self.asking.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                reach
            };
            match reach {
                Reach::At(mac) => mac,
                Reach::AtButAsk(mac) => {
                    self.ask(way.interface, way.next, Some(mac));
                    mac
                }
                Reach::Ask => {
                    self.ask(way.interface, way.next, None);
                    return Sent::Yes;
                }
                Reach::Wait => return Sent::Yes,
            }
        };
        let ethernet = frame::ethernet(mac, own, kind);
        let mut pieces: smallvec::SmallVec<[&[u8]; 8]> = smallvec::smallvec![&virtio[..], &ethernet[..], ip];
        pieces.extend(transport.iter().copied().filter(|piece| !piece.is_empty()));
        self.put(way.interface, &pieces)
    }

    /// Frames that waited for `mac` go to it.
    pub(super) fn release(&self, interface: usize, mac: Mac, frames: Vec<Vec<u8>>) {
        for mut frame in frames {
            if let Some(place) = frame.get_mut(frame::VIRTIO..frame::VIRTIO + 6) {
                place.copy_from_slice(&mac);
            }
            self.put(interface, &[&frame]);
        }
    }

    /// Sends a whole frame, from its Ethernet header on, over the interface with this index. False: there is none, or it has no room now.
    pub fn send_frame(&self, device: i32, frame: &[u8]) -> bool {
        let nothing = frame::virtio(Offload::Nothing, frame::ETHERNET, true);
        self.position(device).is_some_and(|at| self.put(at, &[&nothing, frame]) == Sent::Yes)
    }

    pub(super) fn put(&self, at: usize, pieces: &[&[u8]]) -> Sent {
        let Some(interface) = self.interfaces.get(at).filter(|interface| interface.is_up()) else { return Sent::Full };
        let counters = &interface.counters;
        if self.link.send(at, pieces) {
            count(&counters.sent, 1);
            let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
            count(&counters.sent_bytes, bytes.saturating_sub(frame::VIRTIO) as u64);
            Sent::Yes
        } else {
            count(&counters.refused, 1);
            Sent::Full
        }
    }
}

/// A sum of 0 is told as its other form (RFC 768: 0 means that there is none).
fn udp_sum(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}
