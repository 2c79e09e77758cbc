//! A datagram socket as the system calls see it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{Datagram, Protocol, send};
use crate::Errno;
use crate::mm::{Sink, Source};
use crate::net::address::{AF_INET, AF_INET6, AF_UNSPEC, Endpoint, Family, family_of, scope};
use crate::net::ip::About;
use crate::net::options::{self, Facts, OptionIn, SOL_SOCKET, SocketOptions, int, so};
use crate::net::ports::connect_scope;
use crate::net::socket::{
    AddressBytes, Control, End, Kind, MsgFlags, OptionBytes, Outgoing, Received, SOCK_DGRAM, SOCK_RAW, Shutdown, Socket,
    Target, Waiting,
};
use crate::net::{IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IPPROTO_UDPLITE, filter, ifreq};
use crate::step::Step;
use crate::syscalls::{Fail, Flow};
use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};

/// `SOL_RAW`, and its one option.
const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const ICMPV6_FILTER: i32 = 1;
const IPV6_CHECKSUM: i32 = 7;
/// Where the checksum of an ICMP message stands.
const ICMP_CHECKSUM: i32 = 2;
/// How much of a packet UDP-Lite's checksum covers.
const UDPLITE_SEND: i32 = 10;
const UDPLITE_RECEIVE: i32 = 11;

impl Datagram {
    fn is_raw_icmp_v6(&self) -> bool {
        self.protocol == Protocol::Raw(IPPROTO_ICMPV6) && self.family == Family::Inet6
    }

    fn about(&self) -> About {
        let device = self.options.lock().device;
        let state = self.state.lock();
        About {
            family: self.family,
            kind: self.kind().kind,
            bound: state.local.port != 0,
            remote: state.remote.map(|remote| remote.ip),
            device,
            protocol: self.number(),
        }
    }

    /// An address to send to. None: that of the connection.
    fn decode(&self, bytes: &[u8]) -> Result<Option<Endpoint>, Errno> {
        match (self.family, family_of(bytes)?) {
            (Family::Inet, _) if bytes.len() < 16 => Err(Errno::EINVAL),
            (Family::Inet, AF_INET | AF_UNSPEC) | (Family::Inet6, AF_INET) => {
                if self.family == Family::Inet6 && self.ip.lock().only_v6 {
                    return Err(Errno::ENETUNREACH);
                }
                Endpoint::decode(Family::Inet, bytes).map(Some)
            }
            (Family::Inet, _) => Err(Errno::EAFNOSUPPORT),
            (Family::Inet6, AF_INET6) => {
                let to = Endpoint::decode(Family::Inet6, bytes)?;
                if to.ip.is_ipv4() && self.ip.lock().only_v6 {
                    return Err(Errno::ENETUNREACH);
                }
                Ok(Some(to))
            }
            (Family::Inet6, AF_UNSPEC) => Ok(None),
            (Family::Inet6, _) => Err(Errno::EINVAL),
        }
    }

    fn connect_by_name(&self, bytes: &[u8]) -> Result<(), Errno> {
        match family_of(bytes)? {
            AF_UNSPEC => {
                self.disconnect();
                Ok(())
            }
            family if family != self.family.number() && !(family == AF_INET && self.family == Family::Inet6) => {
                Err(if bytes.len() < self.family.shortest() { Errno::EINVAL } else { Errno::EAFNOSUPPORT })
            }
            _ => {
                let Some(to) = self.decode(bytes)? else { return Ok(()) };
                // A group's interface may be the one for groups.
                let group = self.ip.lock().device_for(to.ip);
                let device = self.options.lock().device;
                let own = if device == 0 && scope(to.ip, bytes) == Some(0) { group } else { device };
                let device = connect_scope(&to, bytes, own)?;
                self.options.lock().device = device;
                self.claim_changed();
                self.connect_to(to)
            }
        }
    }
}

impl Socket for Datagram {
    fn kind(&self) -> Kind {
        let kind = if let Protocol::Raw(_) = self.protocol { SOCK_RAW } else { SOCK_DGRAM };
        Kind { family: i32::from(self.family.number()), kind, protocol: self.number() }
    }

    fn options(&self) -> &Mutex<SocketOptions> {
        &self.options
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn poll(&self) -> PollEvents {
        self.readiness()
    }

    fn bind<'a>(self: Arc<Self>, cx: &'a mut Cx, address: Vec<u8>) -> Flow<'a> {
        Flow::done(self.bind_to(cx, &address).map(|()| 0))
    }

    fn connect<'a>(self: Arc<Self>, _cx: &'a mut Cx, address: Vec<u8>, _waiting: Waiting) -> Flow<'a> {
        Flow::done(self.connect_by_name(&address).map(|()| 0))
    }

    fn name(&self, end: End) -> Result<AddressBytes, Errno> {
        let device = self.options.lock().device;
        let state = self.state.lock();
        match end {
            End::Own => Ok(state.local.encode_on(self.family, device)),
            End::Peer => Ok(state.remote.ok_or(Errno::ENOTCONN)?.encode_on(self.family, device)),
        }
    }

    fn shut_down(&self, what: Shutdown) -> Result<(), Errno> {
        let connected = {
            let mut state = self.state.lock();
            state.shut_receive |= what.receive;
            state.shut_send |= what.send;
            state.remote.is_some()
        };
        self.queue.wake(PollEvents::all());
        if connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    fn set_option(&self, cx: &Cx, level: i32, name: i32, value: OptionIn<'_>) -> Result<(), Errno> {
        match (level, name) {
            (SOL_SOCKET, _) => {
                if let Some(result) = filter::set(&self.options, name, value) {
                    return result;
                }
                options::set(cx, &self.net, &self.options, self.kind(), name, value)?;
                if matches!(name, so::REUSEADDR | so::REUSEPORT | so::BINDTODEVICE | so::BINDTOIFINDEX) {
                    self.claim_changed();
                }
                Ok(())
            }
            (IPPROTO_IP | IPPROTO_IPV6, _) => {
                let about = self.about();
                self.ip.lock().set(cx, &self.net, about, level, name, value)
            }
            (SOL_RAW, ICMP_FILTER) if self.protocol == Protocol::Raw(1) => {
                self.state.lock().filter = value.int()? as u32;
                Ok(())
            }
            (IPPROTO_ICMPV6, ICMPV6_FILTER) if self.is_raw_icmp_v6() => {
                let bytes = value.bytes(32)?;
                let mut state = self.state.lock();
                for (word, bytes) in state.filter_v6.iter_mut().zip(bytes.chunks_exact(4)) {
                    *word = bytes.try_into().map_or(0, u32::from_le_bytes);
                }
                Ok(())
            }
            // The sum of ICMPv6 is made for every packet, wherever the program says that it stands.
            (SOL_RAW, IPV6_CHECKSUM) if self.is_raw_icmp_v6() => match value.int()? {
                ICMP_CHECKSUM => Ok(()),
                _ => Err(Errno::EINVAL),
            },
            (IPPROTO_UDPLITE, UDPLITE_SEND | UDPLITE_RECEIVE) if self.protocol == Protocol::UdpLite => {
                let n = value.int()?;
                // The header is always covered.
                let covered = if n == 0 { 0 } else { n.clamp(8, 0xffff) };
                self.state.lock().coverage[usize::from(name == UDPLITE_RECEIVE)] = covered;
                Ok(())
            }
            // UDP_CORK and offloads: not there.
            (IPPROTO_UDP, _) if self.protocol == Protocol::Udp => Err(Errno::ENOPROTOOPT),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn option(&self, _cx: &Cx, level: i32, name: i32, given: OptionIn<'_>) -> Result<OptionBytes, Errno> {
        match (level, name) {
            (SOL_SOCKET, so::ERROR) => Ok(int(self.state.lock().error.take().map_or(0, Errno::raw))),
            (SOL_SOCKET, _) => {
                let facts = Facts { kind: self.kind(), listening: false, cookie: self.id };
                options::get(&self.net, &self.options.lock(), &facts, name)
            }
            (IPPROTO_IP | IPPROTO_IPV6, _) => {
                let about = self.about();
                self.ip.lock().get(&self.net, about, level, name, given.len)
            }
            (IPPROTO_UDPLITE, UDPLITE_SEND | UDPLITE_RECEIVE) if self.protocol == Protocol::UdpLite => {
                Ok(int(self.state.lock().coverage[usize::from(name == UDPLITE_RECEIVE)]))
            }
            (IPPROTO_ICMPV6, ICMPV6_FILTER) if self.is_raw_icmp_v6() => {
                Ok(self.state.lock().filter_v6.iter().flat_map(|word| word.to_le_bytes()).collect())
            }
            (SOL_RAW, IPV6_CHECKSUM) if self.is_raw_icmp_v6() => Ok(int(ICMP_CHECKSUM)),
            (SOL_RAW, ICMP_FILTER) if self.protocol == Protocol::Raw(1) => Ok(int(self.state.lock().filter as i32)),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn target<'a>(&'a self, _cx: &'a Cx, address: Vec<u8>) -> Step<'a, Result<Option<Target>, Fail>> {
        let target = |to: Endpoint| Target::Inet(to, scope(to.ip, &address).unwrap_or(0));
        Step::Ready(self.decode(&address).map(|to| to.map(target)).map_err(Fail::Errno))
    }

    fn take_control(&self, cx: &Cx, control: Control, out: &mut Outgoing) -> Result<(), Errno> {
        match control.level {
            SOL_SOCKET => options::check_control(cx, &self.net, &control)?,
            _ => send::check_control(self.family, &control)?,
        }
        out.controls.push(control);
        Ok(())
    }

    fn send(&self, from: &mut dyn Source, out: &mut Outgoing) -> Result<usize, Errno> {
        self.send_packet(from, out)
    }

    fn receive(&self, into: &mut dyn Sink, flags: MsgFlags) -> Result<Received, Errno> {
        if flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.receive_packet(into, flags)
    }

    fn ioctl(&self, cx: &Cx, command: u32, argument: u64) -> Result<u64, Errno> {
        use linux_raw_sys::ioctl::{FIONREAD, TIOCOUTQ};
        let value = match command {
            FIONREAD => self.state.lock().inbox.front().map_or(0, |packet| packet.bytes.len() as i32),
            TIOCOUTQ => 0,
            _ => return ifreq::ioctl(cx, &self.net, command, argument),
        };
        cx.mm.write_val(argument, &value).map(|()| 0)
    }

    fn close(self: Arc<Self>) {
        self.close_socket();
    }

    fn set_inode(&self, ino: u64) {
        self.ino.store(ino, Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
