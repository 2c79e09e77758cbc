//! Interface ioctls (`struct ifreq`).

use core::net::{IpAddr, Ipv4Addr};

use netstack::config::{Address, mask_v4};

use super::NetNamespace;
use super::netlink::change::{set_mtu, set_up};
use crate::Errno;
use crate::task::{Capability, Cx};

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCGIFMAP: u32 = 0x8970;

const IFREQ: usize = 40;
const NAME: usize = 16;

/// Serves an interface ioctl.
///
/// # Errors
/// `ENODEV`, `EFAULT`, `EPERM`; `ENOTTY` for what is none.
pub fn ioctl(cx: &Cx, net: &NetNamespace, command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        SIOCGIFCONF => return list(cx, net, argument),
        SIOCGIFNAME => return name_of(cx, net, argument),
        SIOCGIFFLAGS | SIOCSIFFLAGS | SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK | SIOCGIFMETRIC
        | SIOCGIFMTU | SIOCSIFMTU | SIOCGIFHWADDR | SIOCGIFINDEX | SIOCGIFTXQLEN | SIOCGIFMAP => {}
        // Changes of interfaces, routes and neighbours.
        0x890b..=0x890c | 0x8916..=0x8936 | 0x8943..=0x8955 => {
            return Err(if net.allows(&cx.creds(), Capability::NetAdmin) { Errno::EOPNOTSUPP } else { Errno::EPERM });
        }
        _ => return Err(Errno::ENOTTY),
    }
    let request: [u8; IFREQ] = cx.mm.read_val(argument)?;
    let name = request.get(..NAME).unwrap_or_default();
    let name = name.split(|&byte| byte == 0 || byte == b':').next().unwrap_or_default();
    let devices = net.devices();
    let Some(device) = devices.iter().find(|device| device.name.as_bytes() == name) else {
        return match net.host_names().iter().find(|(_, hosts)| hosts.as_bytes() == name) {
            Some((index, _)) if command == SIOCGIFINDEX => {
                cx.mm.write_val(argument.wrapping_add(NAME as u64), index).map(|()| 0)
            }
            _ => Err(Errno::ENODEV),
        };
    };
    if matches!(command, SIOCSIFFLAGS | SIOCSIFMTU) && !net.allows(&cx.creds(), Capability::NetAdmin) {
        return Err(Errno::EPERM);
    }
    let v4 = || device.v4().ok_or(Errno::EADDRNOTAVAIL);
    let mut value = [0u8; 24];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = value.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    match command {
        SIOCGIFFLAGS => put(0, &(device.flags as u16).to_le_bytes()),
        SIOCSIFFLAGS => {
            return set_up(net, device.index, request.get(NAME).is_some_and(|flags| flags & 1 != 0)).map(|()| 0);
        }
        SIOCSIFMTU => {
            let mtu = super::address::array(&request, NAME).map_or(0, i32::from_le_bytes);
            return set_mtu(net, device, u32::try_from(mtu).map_err(|_| Errno::EINVAL)?).map(|()| 0);
        }
        SIOCGIFADDR | SIOCGIFDSTADDR => put(0, &sockaddr(v4_of(v4()?))),
        SIOCGIFBRDADDR => put(0, &sockaddr(v4()?.broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED))),
        SIOCGIFNETMASK => {
            put(0, &sockaddr(Ipv4Addr::from_bits(mask_v4(v4()?.prefix))));
        }
        SIOCGIFMTU => put(0, &device.mtu.to_le_bytes()),
        SIOCGIFHWADDR => {
            put(0, &device.kind.to_le_bytes());
            put(2, &device.mac);
        }
        SIOCGIFINDEX => put(0, &device.index.to_le_bytes()),
        SIOCGIFTXQLEN => put(0, &1000i32.to_le_bytes()),
        _ => {}
    }
    cx.mm.write(argument.wrapping_add(NAME as u64), &value).map(|()| 0)
}

/// `struct ifconf`: the interfaces that have an IPv4 address.
fn list(cx: &Cx, net: &NetNamespace, argument: u64) -> Result<u64, Errno> {
    let [len, buffer] = cx.mm.read_val::<[u64; 2]>(argument)?;
    let room = usize::try_from(len as u32 as i32).map_err(|_| Errno::EINVAL)?;
    let mut entries = Vec::new();
    for device in net.devices() {
        for address in device.addresses.iter().filter(|address| address.ip.is_ipv4()) {
            let mut entry: Vec<u8> = device.name.bytes().take(NAME - 1).collect();
            entry.resize(NAME, 0);
            entry.extend_from_slice(&sockaddr(v4_of(address)));
            entry.resize(IFREQ, 0);
            entries.push(entry);
        }
    }
    if buffer != 0 {
        // As many whole ones as fit.
        entries.truncate(room / IFREQ);
        cx.mm.write(buffer, &entries.concat())?;
    }
    let stored = entries.len() * IFREQ;
    cx.mm.write_val(argument, &(stored as i32)).map(|()| 0)
}

fn name_of(cx: &Cx, net: &NetNamespace, argument: u64) -> Result<u64, Errno> {
    let request: [u8; IFREQ] = cx.mm.read_val(argument)?;
    let index = super::address::array::<4>(&request, NAME).map_or(0, i32::from_le_bytes);
    let devices = net.devices();
    let own = devices.iter().find(|device| device.index == index).map(|device| &device.name);
    let name = own.or_else(|| net.host_names().iter().find(|(number, _)| *number == index).map(|(_, name)| name));
    let mut name: Vec<u8> = name.ok_or(Errno::ENODEV)?.bytes().take(NAME - 1).collect();
    name.resize(NAME, 0);
    cx.mm.write(argument, &name).map(|()| 0)
}

fn v4_of(address: &Address) -> Ipv4Addr {
    match address.ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// The start of a `sockaddr_in` with this address; the rest is zeros.
fn sockaddr(ip: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = ip.octets();
    [2, 0, 0, 0, a, b, c, d]
}
