//! Sending: to a socket's inbox, or an error back.

use std::sync::Arc;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netstack::ip::frame;

use super::{Datagram, ERRORS, Failure, OVERHEAD, Packet, Protocol, UDP_HEADER, icmp, udp_header};
use crate::Errno;
use crate::bpf::Program;
use crate::mm::Source;
use crate::net::address::{Endpoint, Family, array, needs_scope};
use crate::net::filter::{self, View};
use crate::net::ip::{IpOptions, opt};
use crate::net::namespace::{AddressKind, NetNamespace, to_loopback};
use crate::net::options::SockFlags;
use crate::net::socket::{Control, MsgFlags, Outgoing, Target};
use crate::net::{IPPROTO_IP, IPPROTO_IPV6, LOOPBACK};
use crate::wait::PollEvents;

/// Largest packets in bytes: what fits behind an IPv4 header, and an IPv6 payload.
const MOST_V4: usize = 65_535 - 20;
const MOST_V6: usize = 65_535;

/// What a sender's control messages set for one packet.
#[derive(Default)]
struct Overrides {
    source: Option<IpAddr>,
    hops: Option<u8>,
    class: Option<u8>,
    device: i32,
}

impl Datagram {
    pub(super) fn send_packet(&self, from: &mut dyn Source, out: &Outgoing) -> Result<usize, Errno> {
        let len = from.remaining();
        if len > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        let (to, scope) = match &out.to {
            Some(Target::Inet(to, scope)) => (*to, *scope),
            _ => (self.state.lock().remote.ok_or(Errno::EDESTADDRREQ)?, 0),
        };
        let to = Endpoint::new(to_loopback(to.ip), to.port);
        // IPv6 sends it like any other (`udpv6_sendmsg`).
        if out.flags.contains(MsgFlags::OOB) && (to.ip.is_ipv4() || !self.protocol.has_ports()) {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.protocol.has_ports() && to.port == 0 {
            return Err(Errno::EINVAL);
        }
        let mut set = overrides(self.family, &out.controls);
        self.check_overrides(&set, to.ip)?;
        if set.device == 0 {
            set.device = scope;
        }
        let (kind, chosen) = (self.net.address_kind(to.ip), self.device_towards(to.ip, set.device));
        let source = self.source_for(to.ip, kind, chosen, set.source)?;
        {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            if state.shut_send {
                return Err(Errno::EPIPE);
            }
        }
        let header = if self.protocol.has_ports() { UDP_HEADER } else { 0 };
        let most = if to.ip.is_ipv4() { MOST_V4 } else { MOST_V6 };
        if len + header > most {
            return Err(Errno::EMSGSIZE);
        }
        self.autobind()?;
        // Made shared at once, so that the bytes are copied once.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
        if len > 0 && from.take(Arc::get_mut(&mut bytes).ok_or(Errno::ENOBUFS)?)? < len {
            return Err(Errno::EFAULT);
        }
        let counters = &self.net.counters;
        counters.packets.add(1);
        counters.bytes.add((len + header + if to.ip.is_ipv4() { 20 } else { 40 }) as u64);
        let (hops, class) = self.hops_and_class(to.ip, &set);
        let near = Endpoint::new(source, self.state.lock().local.port);
        let device = match kind {
            AddressKind::Local => self.net.local_device(to.ip, chosen),
            _ => LOOPBACK,
        };
        let mut packet = Packet { bytes, from: near, to, hops, class, device, at_ns: self.net.clock.realtime_ns() };
        let way = self.way_out(&packet, kind, chosen)?;
        match self.protocol {
            Protocol::Udp | Protocol::UdpLite => {
                counters.udp_datagrams.add(1);
                match way {
                    Some(way) => self.depart(&way, self.number(), &packet)?,
                    None => {
                        let head = udp_header(packet.from, packet.to, packet.bytes.len());
                        let marks = (packet.hops, packet.class);
                        self.net.packets.looped(
                            packet.from.ip,
                            packet.to.ip,
                            self.number() as u8,
                            marks,
                            &[&head, &packet.bytes],
                        );
                        self.deliver(packet, kind);
                    }
                }
            }
            Protocol::Ping => {
                let mut request = packet.bytes.to_vec();
                icmp::check_ping(self.family, &request)?;
                icmp::set_identifier(&mut request, near.port);
                packet.bytes = request.into();
                match way {
                    Some(way) => self.depart(&way, self.number(), &packet)?,
                    None => icmp::deliver(&self.net, self.family, self.number(), &packet),
                }
            }
            Protocol::Raw(number) => {
                let wrapped = self.is_wrapped(&self.ip.lock());
                let (packet, number) = if wrapped { icmp::unwrap(packet)? } else { (packet, number) };
                match way {
                    Some(way) => self.depart(&way, number, &packet)?,
                    None => icmp::deliver(&self.net, self.family, number, &packet),
                }
            }
        }
        Ok(len)
    }

    fn hops_and_class(&self, to: IpAddr, set: &Overrides) -> (u8, u8) {
        let ip = self.ip.lock();
        let (hops, class) = match (to, to.is_multicast()) {
            (IpAddr::V4(_), false) => (ip.v4(opt::IP_TTL), ip.v4(opt::IP_TOS)),
            (IpAddr::V4(_), true) => (ip.v4(opt::IP_MULTICAST_TTL), ip.v4(opt::IP_TOS)),
            (IpAddr::V6(_), false) => (ip.v6(opt::IPV6_UNICAST_HOPS), ip.v6(opt::IPV6_TCLASS)),
            (IpAddr::V6(_), true) => (ip.v6(opt::IPV6_MULTICAST_HOPS), ip.v6(opt::IPV6_TCLASS)),
        };
        (set.hops.unwrap_or(hops as u8), set.class.unwrap_or(class as u8))
    }

    /// What the program says of a packet must be possible (`ip6_datagram_send_ctl`, `ip_cmsg_send`; of an IPv4 address see
    /// [`NetNamespace::check_source`]).
    fn check_overrides(&self, set: &Overrides, to: IpAddr) -> Result<(), Errno> {
        if set.device != 0 && !self.net.has_device(set.device) {
            return Err(Errno::ENODEV);
        }
        let Some(source) = set.source else { return Ok(()) };
        if source.is_ipv4() != to.is_ipv4() {
            return Err(Errno::EINVAL);
        }
        let fine = match self.net.address_kind(source) {
            _ if source.is_ipv4() => true,
            AddressKind::Local => !needs_scope(source) || self.net.has_on(set.device, source),
            AddressKind::Foreign => self.ip.lock().free_bind,
            _ => false,
        };
        if fine { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// The interface that packets to `to` must take; 0: whichever leads there. `chosen` is that of the packet.
    pub(super) fn device_towards(&self, to: IpAddr, chosen: i32) -> i32 {
        let own = self.options.lock().device;
        let group = self.ip.lock().device_for(to);
        [chosen, own, group].into_iter().find(|device| *device != 0).unwrap_or(0)
    }

    /// The source address for a packet to `to`, of this kind, over `device` if that is not 0; if there is a way. `chosen` is that of the packet.
    pub(super) fn source_for(
        &self,
        to: IpAddr,
        kind: AddressKind,
        device: i32,
        chosen: Option<IpAddr>,
    ) -> Result<IpAddr, Errno> {
        let broadcast = self.options.lock().has(SockFlags::BROADCAST);
        let (transparent, group_source, wrapped) = {
            let ip = self.ip.lock();
            (ip.transparent, ip.source_for(to), self.is_wrapped(&ip))
        };
        // One that is bound to a group, or to all of a link, sends from the way's address.
        let local = Some(self.state.lock().local.ip);
        let local = local.filter(|ip| matches!(self.net.address_kind(*ip), AddressKind::Local | AddressKind::Foreign));
        let named = chosen.or(local).or(group_source).filter(|own| own.is_ipv4() == to.is_ipv4());
        let loopback: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let way = match kind {
            _ if !self.net.is_up() => Err(Errno::ENETUNREACH),
            AddressKind::Multicast | AddressKind::Broadcast
                if device == LOOPBACK || named.is_some_and(|own| own.is_loopback()) =>
            {
                Ok(loopback)
            }
            AddressKind::Foreign | AddressKind::Multicast if device != 0 => self.net.way(to, device).map(|way| way.source),
            AddressKind::Broadcast if device != 0 && !to.is_loopback() => self.net.way(to, device).map(|way| way.source),
            _ => self.net.route(to),
        }?;
        if kind == AddressKind::Broadcast && !broadcast {
            return Err(Errno::EACCES);
        }
        let Some(own) = named else { return Ok(way) };
        // Whoever makes the header may say anything in it.
        if !wrapped {
            self.net.check_source(own, to, transparent)?;
        }
        Ok(own)
    }

    /// Whether the program makes the IPv4 header (`IP_HDRINCL`).
    fn is_wrapped(&self, ip: &IpOptions) -> bool {
        let raw = matches!(self.protocol, Protocol::Raw(_)) && self.family == Family::Inet;
        raw && (self.protocol == Protocol::Raw(super::IPPROTO_RAW) || ip.v4(opt::IP_HDRINCL) != 0)
    }

    /// `kind` is that of the address it goes to.
    fn deliver(&self, packet: Packet, kind: AddressKind) {
        let (to, from) = (packet.to, packet.from);
        if matches!(kind, AddressKind::Multicast | AddressKind::Broadcast) {
            deliver_to_all(&self.net, self.protocol, &packet);
            return;
        }
        let receiver = self.net.datagrams.lock().find(self.protocol, to, from, packet.device);
        match receiver {
            Some(receiver) => receiver.take_in(packet),
            None => self.unreachable(packet),
        }
    }

    /// Puts a packet into the inbox, or drops it when that is full.
    pub(super) fn take_in(&self, mut packet: Packet) {
        let (most, filter) = {
            let options = self.options.lock();
            (options.receive_buffer, options.filter.clone())
        };
        if let Some(filter) = filter {
            let Some(kept) = self.filtered(&filter, &packet) else { return };
            if kept < packet.bytes.len() {
                packet.bytes = packet.bytes.get(..kept).unwrap_or_default().into();
            }
        }
        let cost = packet.bytes.len() + OVERHEAD;
        let mut state = self.state.lock();
        if state.queued + cost > most && !state.inbox.is_empty() || (self.net.under_pressure() && state.inbox.len() > 4) {
            state.drops = state.drops.saturating_add(1);
            self.net.counters.udp_receive_errors.add(1);
            return;
        }
        state.queued += cost;
        state.inbox.push_back(packet);
        drop(state);
        self.net.charge(cost);
        self.queue.wake(PollEvents::IN | PollEvents::RDNORM);
    }

    /// How many of its bytes a filter lets in; the program sees the transport's header, of raw IPv4 sockets IP's.
    fn filtered(&self, filter: &Program, packet: &Packet) -> Option<usize> {
        let head = match (self.protocol, self.family) {
            (Protocol::Udp | Protocol::UdpLite, _) => udp_header(packet.from, packet.to, packet.bytes.len()).to_vec(),
            (Protocol::Raw(number), Family::Inet) => icmp::header(packet, number).to_vec(),
            _ => Vec::new(),
        };
        let bytes = [&head, &*packet.bytes].concat();
        let protocol = frame::ethertype(packet.to.ip);
        let view = View { bytes: &bytes, protocol, device: packet.device, ..View::default() };
        filter::admits(filter, &view).map(|kept| kept.saturating_sub(head.len()))
    }

    /// Nobody is there: what a real host would say by ICMP is an error at the sender, if it is connected or asks for errors.
    fn unreachable(&self, packet: Packet) {
        self.net.counters.udp_no_ports.add(1);
        let wants_errors = {
            let ip = self.ip.lock();
            (if packet.to.ip.is_ipv4() { ip.v4(opt::IP_RECVERR) } else { ip.v6(opt::IPV6_RECVERR) }) != 0
        };
        let mut state = self.state.lock();
        if !wants_errors && state.remote.is_none() {
            return;
        }
        state.error = Some(Errno::ECONNREFUSED);
        if wants_errors && state.errors.len() < ERRORS {
            // Port unreachable, from the host itself.
            let (kind, code) = if packet.to.ip.is_ipv4() && self.family == Family::Inet { (3, 3) } else { (1, 4) };
            state.errors.push_back(Failure {
                bytes: packet.bytes,
                to: packet.to,
                errno: Errno::ECONNREFUSED,
                kind,
                code,
                info: 0,
                offender: Some(packet.to.ip),
            });
        }
        drop(state);
        self.queue.wake(PollEvents::ERR | PollEvents::IN | PollEvents::OUT);
    }
}

/// Puts a packet to a group, or to all, into the inboxes of those who want it.
pub(super) fn deliver_to_all(net: &NetNamespace, protocol: Protocol, packet: &Packet) {
    let sockets = net.datagrams.lock().find_all(protocol, packet.to, packet.from, packet.device);
    let group = packet.to.ip;
    if sockets.is_empty() || (group.is_multicast() && !is_joined(net, group, packet.device)) {
        return;
    }
    for socket in sockets {
        let wanted = {
            let ip = socket.ip.lock();
            let all = if group.is_ipv4() { ip.v4(opt::IP_MULTICAST_ALL) } else { ip.v6(29) };
            !group.is_multicast() || all != 0 || ip.is_in(group, packet.device)
        };
        if wanted {
            socket.take_in(packet.clone());
        }
    }
}

/// Whether an interface takes what is for a group: any socket has joined it there, or it is 224.0.0.1 or ff02::1.
fn is_joined(net: &NetNamespace, group: IpAddr, device: i32) -> bool {
    if group == Ipv4Addr::new(224, 0, 0, 1) || group == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) {
        return true;
    }
    let everybody = net.datagrams.lock().all();
    everybody.iter().any(|socket| socket.ip.lock().is_in(group, device))
}

/// Reads the control messages that were checked by [`check_control`].
fn overrides(family: Family, controls: &[Control]) -> Overrides {
    let mut set = Overrides::default();
    for control in controls {
        let data = &control.data;
        let int = array::<4>(data, 0).map(i32::from_le_bytes);
        match (control.level, control.kind) {
            (IPPROTO_IP, opt::IP_TTL) | (IPPROTO_IPV6, 52) => set.hops = int.and_then(|n| u8::try_from(n).ok()),
            (IPPROTO_IP, opt::IP_TOS) if data.len() < 4 => set.class = data.first().copied(),
            (IPPROTO_IP, opt::IP_TOS) | (IPPROTO_IPV6, opt::IPV6_TCLASS) => set.class = int.and_then(|n| u8::try_from(n).ok()),
            (IPPROTO_IP, opt::IP_PKTINFO) => {
                set.device = int.unwrap_or(0);
                set.source = array::<4>(data, 4).map(|ip| Ipv4Addr::from(ip).into());
            }
            (IPPROTO_IPV6, 50) if family == Family::Inet6 => {
                set.source = array::<16>(data, 0).map(|ip| Ipv6Addr::from(ip).to_canonical());
                set.device = array::<4>(data, 16).map_or(0, i32::from_le_bytes);
            }
            _ => {}
        }
    }
    set.source = set.source.filter(|ip| !ip.is_unspecified());
    set
}

/// Checks a control message of a send.
///
/// # Errors
/// `EINVAL`.
pub fn check_control(family: Family, control: &Control) -> Result<(), Errno> {
    let len = control.data.len();
    let int = array::<4>(&control.data, 0).map(i32::from_le_bytes);
    let fine = match (control.level, control.kind) {
        (IPPROTO_IP, opt::IP_TTL) => int.is_some_and(|n| (1..=255).contains(&n)),
        (IPPROTO_IP, opt::IP_TOS) => len == 1 || int.is_some_and(|n| (0..=255).contains(&n)),
        (IPPROTO_IP, opt::IP_PKTINFO) => len == 12,
        (IPPROTO_IP, _) => false,
        (IPPROTO_IPV6, 52 | opt::IPV6_TCLASS) => int.is_some_and(|n| (-1..=255).contains(&n)),
        (IPPROTO_IPV6, 50) if family == Family::Inet => len == 20,
        (IPPROTO_IPV6, 50) => len >= 20,
        (IPPROTO_IPV6, _) => family == Family::Inet,
        _ => true,
    };
    if fine { Ok(()) } else { Err(Errno::EINVAL) }
}

impl Failure {
    /// The bytes and the extended error.
    pub(super) fn parts(self, family: Family) -> (Arc<[u8]>, Endpoint, Control) {
        let v4 = self.to.ip.is_ipv4() && family == Family::Inet;
        let mut data = (self.errno.raw() as u32).to_le_bytes().to_vec();
        // Origin local, ICMP or ICMP6.
        let origin = match self.offender {
            None => 1,
            Some(_) if v4 => 2,
            Some(_) => 3,
        };
        data.extend_from_slice(&[origin, self.kind, self.code, 0]);
        data.extend_from_slice(&self.info.to_le_bytes());
        data.extend_from_slice(&[0; 4]);
        match self.offender {
            Some(offender) => data.extend_from_slice(&Endpoint::new(offender, 0).encode(family)),
            // An address of no family, as long as one.
            None => data.resize(data.len() + Endpoint::new(family.unspecified(), 0).encode(family).len(), 0),
        }
        let control = if v4 {
            Control::new(IPPROTO_IP, opt::IP_RECVERR, &data)
        } else {
            Control::new(IPPROTO_IPV6, opt::IPV6_RECVERR, &data)
        };
        (self.bytes, self.to, control)
    }
}
