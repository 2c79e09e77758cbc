//! [`Device`]: an interface as programs are shown it, whether by netlink, ioctls or files.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;

use netstack::config::Address;

use super::ip::LOOPBACK_MTU;
use super::{LOOPBACK, NetNamespace};

/// `ARPHRD_LOOPBACK`, `ARPHRD_ETHER`
pub const ARPHRD_LOOPBACK: u16 = 772;
pub const ARPHRD_ETHER: u16 = 1;
/// `IFF_UP | IFF_LOOPBACK | IFF_RUNNING | IFF_LOWER_UP`
const LOOPBACK_UP: u32 = 0x1_0049;
const LOOPBACK_DOWN: u32 = 0x8;
/// `IFF_UP | IFF_BROADCAST | IFF_RUNNING | IFF_MULTICAST | IFF_LOWER_UP`
const ETHERNET_UP: u32 = 0x1_1043;
const ETHERNET_DOWN: u32 = 0x1002;
pub const SCOPE_HOST: u8 = 254;

pub struct Device {
    pub index: i32,
    pub name: String,
    /// `ARPHRD_*`
    pub kind: u16,
    pub mac: [u8; 6],
    pub broadcast: [u8; 6],
    pub mtu: u32,
    /// `IFF_*`
    pub flags: u32,
    /// `IF_OPER_*`
    pub state: u8,
    pub addresses: Vec<Address>,
    pub received: Traffic,
    pub sent: Traffic,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    pub dropped: u64,
}

impl NetNamespace {
    /// All interfaces, the loopback interface first.
    pub fn devices(&self) -> Vec<Device> {
        let mut devices = vec![self.loopback()];
        let interfaces = self.stack().map(|stack| stack.network.interfaces()).unwrap_or_default();
        devices.extend(interfaces.iter().map(|interface| {
            let counters = &interface.counters;
            let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            Device {
                index: interface.index,
                name: interface.name.clone(),
                kind: ARPHRD_ETHER,
                mac: interface.mac,
                broadcast: [0xff; 6],
                mtu: interface.mtu(),
                flags: if interface.is_up() { ETHERNET_UP } else { ETHERNET_DOWN },
                // Up, down.
                state: if interface.is_up() { 6 } else { 2 },
                addresses: interface.addresses().as_ref().clone(),
                received: Traffic {
                    packets: get(&counters.received),
                    bytes: get(&counters.received_bytes),
                    dropped: get(&counters.dropped),
                },
                sent: Traffic {
                    packets: get(&counters.sent),
                    bytes: get(&counters.sent_bytes),
                    dropped: get(&counters.refused),
                },
            }
        }));
        devices
    }

    fn loopback(&self) -> Device {
        let up = self.is_up();
        let address = |ip: IpAddr, prefix| Address { ip, prefix, broadcast: None, scope: SCOPE_HOST };
        let own = vec![address(Ipv4Addr::LOCALHOST.into(), 8), address(Ipv6Addr::LOCALHOST.into(), 128)];
        let traffic = Traffic { packets: self.counters.packets.get(), bytes: self.counters.bytes.get(), dropped: 0 };
        Device {
            index: LOOPBACK,
            name: "lo".into(),
            kind: ARPHRD_LOOPBACK,
            mac: [0; 6],
            broadcast: [0; 6],
            mtu: LOOPBACK_MTU as u32,
            flags: if up { LOOPBACK_UP } else { LOOPBACK_DOWN },
            // Unknown, down.
            state: if up { 0 } else { 2 },
            addresses: if up { own } else { Vec::new() }.into_iter().chain(self.loopback_addresses()).collect(),
            received: traffic,
            sent: traffic,
        }
    }
}

impl Device {
    pub fn is_loopback(&self) -> bool {
        self.index == LOOPBACK
    }

    pub fn is_up(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Its first IPv4 address.
    pub fn v4(&self) -> Option<&Address> {
        self.addresses.iter().find(|address| address.ip.is_ipv4())
    }

    pub fn mac_text(mac: [u8; 6]) -> String {
        mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}
