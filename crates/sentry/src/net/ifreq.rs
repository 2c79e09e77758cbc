//! Interface ioctls (`struct ifreq`): there is one interface, `lo`.

use super::{LOOPBACK, NetNamespace};
use crate::Errno;
use crate::net::ip::LOOPBACK_MTU;
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
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCGIFMAP: u32 = 0x8970;

/// `IFF_UP | IFF_LOOPBACK | IFF_RUNNING`
pub const FLAGS_UP: u16 = 0x49;
const FLAGS_DOWN: u16 = 0x8;
/// `ARPHRD_LOOPBACK`
pub const ARPHRD_LOOPBACK: u16 = 772;
const IFREQ: usize = 40;
const NAME: usize = 16;

/// Serves an interface ioctl.
///
/// # Errors
/// `ENODEV`, `EFAULT`, `EPERM`; `ENOTTY` for what is none.
pub fn ioctl(cx: &Cx, net: &NetNamespace, command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        SIOCGIFCONF => return list(cx, net, argument),
        SIOCGIFNAME => return name_of(cx, argument),
        SIOCGIFFLAGS | SIOCSIFFLAGS | SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK | SIOCGIFMETRIC
        | SIOCGIFMTU | SIOCGIFHWADDR | SIOCGIFINDEX | SIOCGIFTXQLEN | SIOCGIFMAP => {}
        // Changes of interfaces, routes and neighbours.
        0x890b..=0x890c | 0x8916..=0x8936 | 0x8943..=0x8955 => {
            return Err(if net.allows(&cx.creds(), Capability::NetAdmin) { Errno::EOPNOTSUPP } else { Errno::EPERM });
        }
        _ => return Err(Errno::ENOTTY),
    }
    let request: [u8; IFREQ] = cx.mm.read_val(argument)?;
    let name = request.get(..NAME).unwrap_or_default();
    let name = name.split(|&byte| byte == 0 || byte == b':').next().unwrap_or_default();
    if name != b"lo" {
        return Err(Errno::ENODEV);
    }
    let mut value = [0u8; 24];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = value.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    match command {
        SIOCGIFFLAGS => put(0, &(if net.is_up() { FLAGS_UP } else { FLAGS_DOWN }).to_le_bytes()),
        SIOCSIFFLAGS => {
            if !net.allows(&cx.creds(), Capability::NetAdmin) {
                return Err(Errno::EPERM);
            }
            net.set_up(request.get(NAME).is_some_and(|flags| flags & 1 != 0));
            return Ok(0);
        }
        SIOCGIFADDR | SIOCGIFDSTADDR => put(0, &[2, 0, 0, 0, 127, 0, 0, 1]),
        SIOCGIFBRDADDR => put(0, &[2, 0, 0, 0, 0, 0, 0, 0]),
        SIOCGIFNETMASK => put(0, &[2, 0, 0, 0, 255, 0, 0, 0]),
        SIOCGIFMTU => put(0, &LOOPBACK_MTU.to_le_bytes()),
        SIOCGIFHWADDR => put(0, &ARPHRD_LOOPBACK.to_le_bytes()),
        SIOCGIFINDEX => put(0, &LOOPBACK.to_le_bytes()),
        SIOCGIFTXQLEN => put(0, &1000i32.to_le_bytes()),
        _ => {}
    }
    cx.mm.write(argument.wrapping_add(NAME as u64), &value).map(|()| 0)
}

/// `struct ifconf`: the interfaces that have an IPv4 address.
fn list(cx: &Cx, net: &NetNamespace, argument: u64) -> Result<u64, Errno> {
    let [len, buffer] = cx.mm.read_val::<[u64; 2]>(argument)?;
    let room = usize::try_from(len as u32 as i32).map_err(|_| Errno::EINVAL)?;
    let mut entry = [0u8; IFREQ];
    for (place, byte) in entry.iter_mut().zip(b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x7f\0\0\x01") {
        *place = *byte;
    }
    let count = usize::from(net.is_up());
    let stored = match buffer {
        0 => count * IFREQ,
        _ if room < IFREQ => 0,
        _ => {
            if count > 0 {
                cx.mm.write(buffer, &entry)?;
            }
            count * IFREQ
        }
    };
    cx.mm.write_val(argument, &(stored as i32)).map(|()| 0)
}

fn name_of(cx: &Cx, argument: u64) -> Result<u64, Errno> {
    let request: [u8; IFREQ] = cx.mm.read_val(argument)?;
    let index = super::address::array::<4>(&request, NAME).map_or(0, i32::from_le_bytes);
    if index != LOOPBACK {
        return Err(Errno::ENODEV);
    }
    cx.mm.write(argument, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0").map(|()| 0)
}
