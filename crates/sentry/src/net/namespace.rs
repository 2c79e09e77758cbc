//! [`NetNamespace`]: the interfaces and the sockets that see each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use parking_lot::Mutex;

use super::counters::Counters;
use super::{datagram, netlink, tcp};
use crate::Errno;
use crate::executor::Reactor;
use crate::ipc::unix;
use crate::ns::{Kind, UserNs};
use crate::task::{Capability, Creds};
use crate::time::{Clock, Timers};

/// A network namespace: a loopback interface, and the tables of its sockets.
///
/// Locking: the TCP table before a TCP socket's state; a listener's state before a connecting socket's; otherwise no two sockets' at a time.
pub struct NetNamespace {
    pub id: u64,
    pub owner: UserNs,
    /// Unix sockets: their abstract names belong to the network.
    pub unix: Arc<unix::Shared>,
    /// Whether `lo` is up.
    up: AtomicBool,
    pub(super) tcp: Mutex<tcp::Table>,
    /// All TCP sockets. A leaf lock.
    pub(super) tcp_sockets: Mutex<BTreeMap<u64, Weak<tcp::Tcp>>>,
    pub(super) datagrams: Mutex<datagram::Table>,
    pub(super) netlink: Mutex<netlink::Table>,
    pub(super) counters: Counters,
    pub(super) clock: Clock,
    pub(super) timers: Arc<Timers>,
    next_id: AtomicU64,
    /// Bytes that wait in all sockets, and how many may before senders get only little room.
    queued: AtomicUsize,
    queued_most: usize,
    /// Set when internet sockets are the host's.
    host: OnceLock<Arc<Reactor>>,
}

/// What an address is to the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressKind {
    Unspecified,
    Local,
    Broadcast,
    Multicast,
    Foreign,
}

impl NetNamespace {
    /// The sandbox's own, whose loopback interface is up, on a machine with so much memory.
    pub fn new(clock: Clock, timers: Arc<Timers>, memory_bytes: u64) -> Arc<NetNamespace> {
        let queued_most = usize::try_from(memory_bytes / 16).unwrap_or(usize::MAX).max(4 << 20);
        Arc::new(NetNamespace {
            up: AtomicBool::new(true),
            ..NetNamespace::empty(Kind::Net.first_id(), UserNs::ROOT, Arc::default(), clock, timers, queued_most)
        })
    }

    /// A new one: its loopback interface is down, and nothing leads out.
    pub fn apart(&self, id: u64, owner: UserNs) -> Arc<NetNamespace> {
        let unix = Arc::new(self.unix.apart());
        Arc::new(NetNamespace::empty(id, owner, unix, self.clock.clone(), self.timers.clone(), self.queued_most))
    }

    fn empty(
        id: u64,
        owner: UserNs,
        unix: Arc<unix::Shared>,
        clock: Clock,
        timers: Arc<Timers>,
        queued_most: usize,
    ) -> NetNamespace {
        let mut seed = [0; 8];
        // Without random bytes ports are only easier to guess.
        let _ = hostcall::random::fill(&mut seed);
        let seed = u64::from_le_bytes(seed) | 1;
        NetNamespace {
            id,
            owner,
            unix,
            up: AtomicBool::new(false),
            tcp: Mutex::new(tcp::Table::new(seed)),
            tcp_sockets: Mutex::default(),
            datagrams: Mutex::new(datagram::Table::new(seed)),
            netlink: Mutex::default(),
            counters: Counters::default(),
            clock,
            timers,
            next_id: AtomicU64::new(1),
            queued: AtomicUsize::new(0),
            queued_most,
            host: OnceLock::new(),
        }
    }

    /// Whether somebody has a capability over this network.
    pub fn allows(&self, creds: &Creds, capability: Capability) -> bool {
        creds.has_in(&self.owner, capability)
    }

    /// From now on internet sockets are the host's.
    pub fn use_host(&self, reactor: &Arc<Reactor>) {
        let _ = self.host.set(reactor.clone());
    }

    pub(super) fn host(&self) -> Option<&Arc<Reactor>> {
        self.host.get()
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn address_kind(&self, ip: IpAddr) -> AddressKind {
        match ip {
            _ if ip.is_unspecified() => AddressKind::Unspecified,
            _ if ip.is_multicast() => AddressKind::Multicast,
            IpAddr::V4(Ipv4Addr::BROADCAST) => AddressKind::Broadcast,
            IpAddr::V4(ip) if ip.octets() == [127, 255, 255, 255] => AddressKind::Broadcast,
            IpAddr::V4(ip) if ip.is_loopback() => AddressKind::Local,
            IpAddr::V6(Ipv6Addr::LOCALHOST) => AddressKind::Local,
            _ => AddressKind::Foreign,
        }
    }

    /// The source address for a destination.
    ///
    /// # Errors
    /// `ENETUNREACH`.
    pub(super) fn route(&self, to: IpAddr) -> Result<IpAddr, Errno> {
        match (self.address_kind(to), to) {
            _ if !self.is_up() => Err(Errno::ENETUNREACH),
            (AddressKind::Local, IpAddr::V4(_)) => Ok(Ipv4Addr::LOCALHOST.into()),
            (AddressKind::Local, IpAddr::V6(_)) => Ok(Ipv6Addr::LOCALHOST.into()),
            (AddressKind::Broadcast, IpAddr::V4(ip)) if ip.octets()[0] == 127 => Ok(Ipv4Addr::LOCALHOST.into()),
            _ => Err(Errno::ENETUNREACH),
        }
    }

    /// Bytes have been queued.
    pub(super) fn charge(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn discharge(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether so much waits in sockets that senders must be slowed down.
    pub(super) fn under_pressure(&self) -> bool {
        self.queued.load(Ordering::Relaxed) > self.queued_most
    }
}

/// An unspecified destination is the host itself.
pub(super) fn to_loopback(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}
