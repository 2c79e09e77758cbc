//! Datagram sockets of the internet families: UDP, ICMP echo ("ping") and raw ones. `table` finds receivers; `send` and `receive` move packets;
//! `icmp` answers for the kernel.

mod api;
mod icmp;
mod receive;
mod send;
mod table;
mod wire;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use core::net::IpAddr;
use parking_lot::Mutex;

pub use send::check_control;
pub use table::Table;
pub use wire::{Arrival, UDP_HEADER, arrives, arrives_raw, came_back, udp_header};

use super::address::{Endpoint, Family};
use super::ip::IpOptions;
use super::namespace::NetNamespace;
use super::options::{SockFlags, SocketOptions};
use super::ports::{BindRules, Claim, bind_scope, check_bind};
use super::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP, IPPROTO_UDPLITE};
use crate::Errno;
use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};

/// What a packet costs of the receive buffer beyond its bytes.
const OVERHEAD: usize = 512;
/// Most errors that wait to be read (`IP_RECVERR`).
const ERRORS: usize = 64;
/// `IPPROTO_RAW`: sends whole packets, receives none.
const IPPROTO_RAW: i32 = 255;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    /// UDP with a checksum over a part (RFC 3828).
    UdpLite,
    /// ICMP echo; the "port" is the identifier.
    Ping,
    Raw(i32),
}

impl Protocol {
    /// Whether packets have ports.
    fn has_ports(self) -> bool {
        matches!(self, Protocol::Udp | Protocol::UdpLite)
    }
}

pub struct Datagram {
    me: Weak<Datagram>,
    pub(super) net: Arc<NetNamespace>,
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) id: u64,
    pub(super) uid: u32,
    pub(super) ino: AtomicU64,
    options: Mutex<SocketOptions>,
    ip: Mutex<IpOptions>,
    pub(super) state: Mutex<State>,
    queue: WaitQueue,
}

pub(super) struct State {
    pub local: Endpoint,
    pub remote: Option<Endpoint>,
    bound_ip: bool,
    bound_port: bool,
    inbox: VecDeque<Packet>,
    /// Bytes that the inbox counts against the receive buffer.
    pub queued: usize,
    pub drops: u32,
    error: Option<Errno>,
    errors: VecDeque<Failure>,
    shut_receive: bool,
    shut_send: bool,
    /// `ICMP_FILTER`: types not wanted, by bit.
    filter: u32,
    /// `ICMPV6_FILTER`: the same, of 256 types.
    filter_v6: [u32; 8],
    /// Bytes that UDP-Lite's checksum covers, sent and asked for; 0 is all.
    coverage: [i32; 2],
}

/// A packet that came.
#[derive(Clone)]
struct Packet {
    bytes: Arc<[u8]>,
    from: Endpoint,
    /// The address it was sent to.
    to: Endpoint,
    hops: u8,
    class: u8,
    /// Index of the interface it came over.
    device: i32,
    /// Real time.
    at_ns: u64,
}

/// A packet that came back as an ICMP error, or could not go.
struct Failure {
    bytes: Arc<[u8]>,
    to: Endpoint,
    errno: Errno,
    /// ICMP's type and code, what it told, and who sent it; None: this host, by no ICMP.
    kind: u8,
    code: u8,
    info: u32,
    offender: Option<IpAddr>,
}

impl Datagram {
    pub fn new(net: &Arc<NetNamespace>, family: Family, protocol: Protocol, uid: u32) -> Arc<Datagram> {
        let socket = Arc::new_cyclic(|me| Datagram {
            me: me.clone(),
            net: net.clone(),
            family,
            protocol,
            id: net.next_id(),
            uid,
            ino: AtomicU64::new(0),
            options: Mutex::new(SocketOptions::default()),
            ip: Mutex::new(IpOptions::default()),
            state: Mutex::new(State {
                local: Endpoint::new(family.unspecified(), 0),
                remote: None,
                bound_ip: false,
                bound_port: false,
                inbox: VecDeque::new(),
                queued: 0,
                drops: 0,
                error: None,
                errors: VecDeque::new(),
                shut_receive: false,
                shut_send: false,
                filter: 0,
                filter_v6: [0; 8],
                coverage: [0; 2],
            }),
            queue: WaitQueue::new(),
        });
        let mut table = net.datagrams.lock();
        table.add(socket.id, Arc::downgrade(&socket));
        if let Protocol::Raw(_) = protocol {
            table.add_raw(Arc::downgrade(&socket));
        }
        drop(table);
        socket
    }

    /// An integer option of `SOL_IP`.
    #[cfg(test)]
    pub(super) fn set_ip(&self, name: i32, value: i32) {
        self.ip.lock().set_v4(name, value);
    }

    /// The protocol's number (`SO_PROTOCOL`).
    fn number(&self) -> i32 {
        match (self.protocol, self.family) {
            (Protocol::Udp, _) => IPPROTO_UDP,
            (Protocol::UdpLite, _) => IPPROTO_UDPLITE,
            (Protocol::Ping, Family::Inet) => IPPROTO_ICMP,
            (Protocol::Ping, Family::Inet6) => IPPROTO_ICMPV6,
            (Protocol::Raw(number), _) => number,
        }
    }

    /// The options of `SOL_SOCKET`, and whether it is `IPV6_V6ONLY`.
    pub(super) fn common_options(&self) -> (SocketOptions, bool) {
        let options = self.options.lock().clone();
        (options, self.ip.lock().only_v6)
    }

    pub(super) fn inode(&self) -> u64 {
        self.ino.load(Ordering::Relaxed)
    }

    fn claim(&self, ip: IpAddr) -> Claim {
        let options = self.options.lock();
        Claim {
            ip,
            only_v6: self.ip.lock().only_v6,
            reuse: options.has(SockFlags::REUSEADDR),
            reuse_port: options.has(SockFlags::REUSEPORT),
            uid: self.uid,
            device: options.device,
        }
    }

    fn bind_to(&self, cx: &Cx, address: &[u8]) -> Result<(), Errno> {
        let rules = {
            let ip = self.ip.lock();
            let ports = self.protocol.has_ports();
            BindRules { only_v6: ip.only_v6, free_bind: ip.free_bind, stream: false, ports }
        };
        let device = bind_scope(&self.net, self.family, address, rules, self.options.lock().device)?;
        let at = check_bind(cx, &self.net, self.family, address, rules)?;
        if self.state.lock().local.port != 0 {
            return Err(Errno::EINVAL);
        }
        self.options.lock().device = device;
        if let Protocol::Raw(_) = self.protocol {
            let mut state = self.state.lock();
            state.local.ip = at.ip;
            state.bound_ip = !at.ip.is_unspecified();
            return Ok(());
        }
        self.take_port(at)?;
        self.ip.lock().bound_to(at.ip);
        let mut state = self.state.lock();
        state.bound_ip = !at.ip.is_unspecified();
        state.bound_port = at.port != 0;
        Ok(())
    }

    /// Takes a port for `at`; 0 is any.
    fn take_port(&self, at: Endpoint) -> Result<(), Errno> {
        let claim = self.claim(at.ip);
        let mut table = self.net.datagrams.lock();
        let mut state = self.state.lock();
        if state.local.port != 0 {
            // Another thread was faster.
            return Ok(());
        }
        let port = table.bind(self.protocol, self.id, at.port, claim, self.me.clone())?;
        state.local = Endpoint::new(at.ip, port);
        Ok(())
    }

    /// A port, if there is none yet.
    fn autobind(&self) -> Result<(), Errno> {
        let local = self.state.lock().local;
        if local.port != 0 || matches!(self.protocol, Protocol::Raw(_)) {
            return Ok(());
        }
        self.take_port(local)
    }

    /// Sets the other end.
    fn connect_to(&self, to: Endpoint) -> Result<(), Errno> {
        let to = Endpoint::new(super::namespace::to_loopback(to.ip), to.port);
        let (kind, device) = (self.net.address_kind(to.ip), self.device_towards(to.ip, 0));
        let source = self.source_for(to.ip, kind, device, None)?;
        self.autobind()?;
        let mut table = self.net.datagrams.lock();
        let mut state = self.state.lock();
        if state.local.ip.is_unspecified() {
            state.local.ip = source;
        }
        state.remote = Some(to);
        let (port, ip) = (state.local.port, state.local.ip);
        drop(state);
        table.update(self.protocol, port, self.id, self.claim(ip), Some(to));
        drop(table);
        self.queue.wake(PollEvents::OUT);
        Ok(())
    }

    /// `__udp_disconnect`: connected or not, it is on no interface any more.
    pub(super) fn disconnect(&self) {
        self.options.lock().device = 0;
        self.claim_changed();
        self.forget_remote();
    }

    fn forget_remote(&self) {
        let mut table = self.net.datagrams.lock();
        let mut state = self.state.lock();
        if state.remote.take().is_none() {
            return;
        }
        if !state.bound_ip {
            state.local.ip = self.family.unspecified();
        }
        let local = state.local;
        let keep = state.bound_port || matches!(self.protocol, Protocol::Raw(_));
        if !keep {
            state.local.port = 0;
        }
        drop(state);
        if keep {
            table.update(self.protocol, local.port, self.id, self.claim(local.ip), None);
        } else {
            table.release(self.protocol, local.port, self.id);
        }
    }

    fn claim_changed(&self) {
        let mut table = self.net.datagrams.lock();
        let (local, remote) = {
            let state = self.state.lock();
            (state.local, state.remote)
        };
        table.update(self.protocol, local.port, self.id, self.claim(local.ip), remote);
    }

    /// `datagram_poll`.
    fn readiness(&self) -> PollEvents {
        let state = self.state.lock();
        let mut events = PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
        events.set(PollEvents::ERR, state.error.is_some() || !state.errors.is_empty());
        events.set(PollEvents::RDHUP | PollEvents::IN | PollEvents::RDNORM, state.shut_receive);
        events.set(PollEvents::HUP, state.shut_receive && state.shut_send);
        if !state.inbox.is_empty() {
            events |= PollEvents::IN | PollEvents::RDNORM;
        }
        events
    }

    fn close_socket(&self) {
        let port = {
            let mut state = self.state.lock();
            state.shut_receive = true;
            std::mem::take(&mut state.local.port)
        };
        let mut table = self.net.datagrams.lock();
        table.release(self.protocol, port, self.id);
        table.remove(self.id);
        drop(table);
        self.queue.wake(PollEvents::all());
    }
}

impl State {
    pub fn has_bound_port(&self) -> bool {
        self.bound_port
    }

    /// `RCV_SHUTDOWN`, `SEND_SHUTDOWN`
    pub fn shut_sides(&self) -> u8 {
        u8::from(self.shut_receive) | u8::from(self.shut_send) << 1
    }
}

impl Drop for Datagram {
    fn drop(&mut self) {
        let queued = self.state.get_mut().queued;
        self.net.discharge(queued);
    }
}
