//! [`NetNamespace`]: the interfaces and the sockets that see each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hostcall::packet::Wire;
use netstack::config::{Address, Description};
use netstack::ip::{Interface, Owner, Refused, Way};
use parking_lot::{Mutex, RwLock};

use super::counters::Counters;
use super::stack::{Receiver, Stack};
use super::tunables::Tunables;
use super::{LOOPBACK, datagram, netlink, packet, tcp};
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
    /// TCP sockets that keep much memory, the oldest first. A leaf lock.
    pub(super) large: Mutex<VecDeque<Weak<tcp::Tcp>>>,
    pub(super) datagrams: Mutex<datagram::Table>,
    pub(super) netlink: Mutex<netlink::Table>,
    pub(super) packets: Arc<packet::Taps>,
    pub(super) counters: Counters,
    pub(super) tunables: Tunables,
    pub(super) clock: Clock,
    pub(super) timers: Arc<Timers>,
    next_id: AtomicU64,
    /// Bytes that wait in all sockets, and how many may before senders get only little room.
    queued: AtomicUsize,
    queued_most: usize,
    /// Addresses of the loopback interface beside its first two.
    loopback: RwLock<Vec<Address>>,
    /// Set when internet sockets are the host's.
    host: OnceLock<(Arc<Reactor>, Vec<(i32, String)>)>,
    /// Set when there is a way out.
    stack: OnceLock<Arc<Stack>>,
}

/// Most addresses of the loopback interface.
const LOOPBACK_ADDRESSES: usize = 256;

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
            large: Mutex::default(),
            datagrams: Mutex::new(datagram::Table::new(seed)),
            netlink: Mutex::default(),
            packets: Arc::new(packet::Taps::new(clock.clone())),
            counters: Counters::default(),
            tunables: Tunables::default(),
            clock,
            timers,
            next_id: AtomicU64::new(1),
            queued: AtomicUsize::new(0),
            queued_most,
            loopback: RwLock::default(),
            host: OnceLock::new(),
            stack: OnceLock::new(),
        }
    }

    /// Whether somebody has a capability over this network.
    pub fn allows(&self, creds: &Creds, capability: Capability) -> bool {
        creds.has_in(&self.owner, capability)
    }

    /// From now on internet sockets are the host's, whose interfaces have these numbers and names.
    pub fn use_host(&self, reactor: &Arc<Reactor>, names: Vec<(i32, String)>) {
        let _ = self.host.set((reactor.clone(), names));
    }

    /// Numbers and names of the host's interfaces, which its sockets' control messages are about. Nothing else is known of them here.
    pub fn host_names(&self) -> &[(i32, String)] {
        self.host.get().map_or(&[], |(_, names)| names)
    }

    /// Whether its internet sockets are the host's.
    pub fn is_hosts(&self) -> bool {
        self.host.get().is_some()
    }

    pub(super) fn host(&self) -> Option<&Arc<Reactor>> {
        self.host.get().map(|(reactor, _)| reactor)
    }

    /// From now on there is a way out, over these wires (one for each interface of the description). Each receiver is to be run on a thread.
    pub fn use_packets(self: &Arc<Self>, description: Description, wires: Vec<Wire>) -> Vec<Receiver> {
        let (stack, receivers) = Stack::new(self, description, wires);
        let _ = self.stack.set(stack);
        receivers
    }

    pub(super) fn stack(&self) -> Option<&Arc<Stack>> {
        self.stack.get()
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// Addresses of the loopback interface beside its first two.
    pub(super) fn loopback_addresses(&self) -> Vec<Address> {
        self.loopback.read().clone()
    }

    pub(super) fn add_loopback_address(&self, address: Address) -> Result<(), Refused> {
        let first = match address.ip {
            IpAddr::V4(ip) => ip == Ipv4Addr::LOCALHOST && address.prefix == 8,
            IpAddr::V6(ip) => ip == Ipv6Addr::LOCALHOST,
        };
        let mut addresses = self.loopback.write();
        if first {
            // It has them while it is up. Those who set a new namespace up (bubblewrap) add them before.
            return if self.is_up() { Err(Refused::Exists) } else { Ok(()) };
        }
        if addresses.iter().any(|own| (own.ip, own.prefix) == (address.ip, address.prefix)) {
            return Err(Refused::Exists);
        }
        if addresses.len() >= LOOPBACK_ADDRESSES {
            return Err(Refused::Full);
        }
        addresses.push(address);
        Ok(())
    }

    pub(super) fn remove_loopback_address(&self, ip: IpAddr, prefix: u8) -> Result<(), Refused> {
        let mut addresses = self.loopback.write();
        let at = addresses.iter().position(|own| (own.ip, own.prefix) == (ip, prefix)).ok_or(Refused::Missing)?;
        addresses.remove(at);
        Ok(())
    }

    /// All TCP sockets, to be looked at without the lock of the list: who lets the last of one go takes it.
    pub(super) fn all_tcp(&self) -> Vec<Arc<tcp::Tcp>> {
        self.tcp_sockets.lock().values().filter_map(Weak::upgrade).collect()
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
            ip => match self.stack().map(|stack| stack.owner(ip)) {
                _ if self.loopback.read().iter().any(|address| address.ip == ip) => AddressKind::Local,
                Some(Owner::Own) => AddressKind::Local,
                Some(Owner::Broadcast) => AddressKind::Broadcast,
                Some(Owner::Other) | None => AddressKind::Foreign,
            },
        }
    }

    /// The source address for a destination.
    ///
    /// # Errors
    /// `ENETUNREACH`.
    pub(super) fn route(&self, to: IpAddr) -> Result<IpAddr, Errno> {
        match (self.address_kind(to), to) {
            (AddressKind::Local, _) if !self.is_up() => Err(Errno::ENETUNREACH),
            (AddressKind::Local, IpAddr::V4(ip)) if ip.is_loopback() => Ok(Ipv4Addr::LOCALHOST.into()),
            (AddressKind::Broadcast, IpAddr::V4(ip)) if ip.octets()[0] == 127 && self.is_up() => Ok(Ipv4Addr::LOCALHOST.into()),
            // One's own address is reached from itself.
            (AddressKind::Local, own) => Ok(own),
            (AddressKind::Unspecified, _) => Err(Errno::ENETUNREACH),
            _ => self.way(to, 0).map(|way| way.source),
        }
    }

    /// The way out to a destination, over the interface `device` if that is not 0.
    ///
    /// # Errors
    /// `ENETUNREACH`.
    pub(super) fn way(&self, to: IpAddr, device: i32) -> Result<Way, Errno> {
        self.stack().and_then(|stack| stack.network.route(to, device)).ok_or(Errno::ENETUNREACH)
    }

    /// Bytes of the largest packet on the way to a destination.
    pub(super) fn mtu_towards(&self, to: IpAddr, device: i32) -> i32 {
        let foreign = matches!(self.address_kind(to), AddressKind::Foreign | AddressKind::Multicast | AddressKind::Broadcast);
        let way = if foreign { self.way(to, device).ok() } else { None };
        match (self.stack(), way) {
            (Some(stack), Some(way)) => stack.network.path_mtu(to, &way, self.clock.monotonic().0) as i32,
            _ => super::ip::LOOPBACK_MTU,
        }
    }

    /// The index of the interface that is the way to a destination.
    pub(super) fn way_device(&self, to: IpAddr) -> Option<i32> {
        let way = self.way(to, 0).ok()?;
        self.stack()?.network.interfaces().get(way.interface).map(|interface| interface.index)
    }

    /// The index of the interface with this name.
    pub(super) fn device_named(&self, name: &[u8]) -> Option<i32> {
        if name == b"lo" {
            return Some(LOOPBACK);
        }
        let interfaces = self.stack()?.network.interfaces();
        interfaces.iter().find(|interface| interface.name.as_bytes() == name).map(|interface| interface.index)
    }

    /// The interface with this index, but for the loopback interface.
    pub(super) fn device(&self, index: i32) -> Option<&Interface> {
        self.stack()?.network.interfaces().iter().find(|interface| interface.index == index)
    }

    /// The name of an interface that is there.
    pub(super) fn device_name(&self, index: i32) -> &str {
        self.device(index).map_or("lo", |device| device.name.as_str())
    }

    /// Whether there is an interface with this index.
    pub(super) fn has_device(&self, index: i32) -> bool {
        index == LOOPBACK || self.device(index).is_some()
    }

    /// The index of the interface that has this address of ours.
    pub(super) fn device_with(&self, ip: IpAddr) -> Option<i32> {
        if ip.is_loopback() || self.loopback.read().iter().any(|address| address.ip == ip) {
            return Some(LOOPBACK);
        }
        let interfaces = self.stack()?.network.interfaces();
        let owner = interfaces.iter().find(|interface| interface.addresses().iter().any(|address| address.ip == ip));
        owner.map(|interface| interface.index)
    }

    /// The interface over which a packet to one of our own addresses comes: the one that its sender has chosen, else the one that has the address.
    /// It passes over `lo`, but is counted as of there (`ip_route_output_key_hash_rcu`).
    pub(super) fn local_device(&self, to: IpAddr, chosen: i32) -> i32 {
        if chosen != 0 { chosen } else { self.device_with(to).unwrap_or(LOOPBACK) }
    }

    /// Whether packets to `to` may come from `own`, which a program has named. For IPv6 it is asked when the address is named.
    ///
    /// # Errors
    /// As `ip_route_output_key_hash_rcu` and `__mkroute_output`: `EINVAL` of an address that is no host's, and of the loopback interface's for what
    /// leaves; `ENETUNREACH` of another's, but for whoever may be `IP_TRANSPARENT`.
    pub(super) fn check_source(&self, own: IpAddr, to: IpAddr, transparent: bool) -> Result<(), Errno> {
        let IpAddr::V4(ip) = own else { return Ok(()) };
        match self.address_kind(own) {
            AddressKind::Multicast => Err(Errno::EINVAL),
            _ if ip.is_broadcast() => Err(Errno::EINVAL),
            AddressKind::Local if ip.is_loopback() && self.address_kind(to) == AddressKind::Foreign => Err(Errno::EINVAL),
            AddressKind::Local => Ok(()),
            _ if transparent => Ok(()),
            AddressKind::Unspecified | AddressKind::Broadcast | AddressKind::Foreign => Err(Errno::ENETUNREACH),
        }
    }

    /// Whether an interface has an address.
    pub(super) fn has_on(&self, index: i32, ip: IpAddr) -> bool {
        match self.device(index) {
            Some(device) => device.addresses().iter().any(|address| address.ip == ip),
            None => self.loopback.read().iter().any(|address| address.ip == ip),
        }
    }

    /// An interface's first IPv4 address.
    pub(super) fn address_of(&self, index: i32) -> Ipv4Addr {
        let addresses = self.device(index).map(Interface::addresses).unwrap_or_default();
        let v4 = addresses.iter().find_map(|address| if let IpAddr::V4(ip) = address.ip { Some(ip) } else { None });
        v4.unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// Bytes have been queued.
    pub(super) fn charge(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn discharge(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
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
