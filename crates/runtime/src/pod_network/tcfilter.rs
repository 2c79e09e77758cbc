//! A tap behind a pod's interface: whatever arrives at one goes out at the other, by `ingress` queueing disciplines with a filter that
//! matches everything and redirects it (tc(8): u32, mirred). It works with whatever the CNI plugin has made, and no address is needed on the way.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirrorOption, TcActionOption, TcActionType, TcFilterU32Option,
    TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use netstack::config::Interface;

use super::netlink::Netlink;
use super::stand_in::{self, TUN};
use super::tc;
use crate::error::{Doing, Error, Result};
use crate::sys::TapQueue;

/// What taps are called, before the number of their interface.
const NAME: &str = "nacre";

/// Makes a tap, with virtio-net headers, that stands for `interface` in the caller's network namespace: its queues. It goes with their descriptors.
///
/// # Errors
/// Another sandbox has the interface; the host lacks a piece, which is named.
pub fn tap(netlink: &mut Netlink, interface: &Interface, queues: usize) -> Result<Vec<OwnedFd>> {
    let name = name(interface.index);
    let tap = open(&name, queues).map_err(|cause| match cause.raw_os_error() {
        Some(libc::EBUSY) => taken(interface),
        _ => Error::Host { what: format!("cannot make the tap {name} ({TUN}: the kernel's module tun)"), cause },
    })?;
    let index = netlink.index_of(&name)?;
    netlink.set_up(index, interface.mtu).doing(|| format!("cannot set the tap {name} up"))?;
    for (from, to) in [(interface.index, index), (index, interface.index)] {
        redirect(netlink, from, to).map_err(|error| match error {
            Error::Host { what, cause } => Error::Host { what: format!("{what} of interface {}", interface.name), cause },
            other => Error::Other(format!("interface {}: {other}", interface.name)),
        })?;
    }
    Ok(tap)
}

/// # Errors
/// Another sandbox has the interface.
pub fn check_free(netlink: &mut Netlink, interface: &Interface) -> Result<()> {
    if netlink.index_of(&name(interface.index)).is_ok() { Err(taken(interface)) } else { Ok(()) }
}

/// What the tap of the interface with this number is called.
pub fn name(index: i32) -> String {
    format!("{NAME}{index}")
}

fn taken(interface: &Interface) -> Error {
    Error::Other(format!("another sandbox has interface {} (its tap {} is there)", interface.name, name(interface.index)))
}

/// Whether an interface of this name is a tap of a sandbox's.
pub fn is_ours(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|number| number.parse::<u32>().is_ok())
}

fn open(name: &str, queues: usize) -> io::Result<Vec<OwnedFd>> {
    let one = |number| {
        let queue = match (number, queues) {
            (0, 1) => TapQueue::Only,
            (0, _) => TapQueue::First,
            _ => TapQueue::Further,
        };
        stand_in::open(name, queue)
    };
    (0..queues.max(1)).map(one).collect()
}

/// Whatever arrives at one interface goes out at another. What a former sandbox has left leads to a tap that is gone.
fn redirect(netlink: &mut Netlink, from: i32, to: i32) -> Result<()> {
    // If that fails, the next step says better why.
    let _ = tc::clear(netlink, from);
    let what = "cannot redirect the frames (the kernel's modules sch_ingress, cls_u32, act_mirred)";
    tc::add_discipline(netlink, from, "ingress").map_err(|cause| match cause.raw_os_error() {
        Some(libc::EEXIST) => {
            Error::Other("cannot redirect the frames: somebody else has an ingress or clsact discipline there".into())
        }
        _ => Error::Host { what: what.into(), cause },
    })?;
    let options = vec![
        TcOption::U32(TcFilterU32Option::Selector(match_all())),
        TcOption::U32(TcFilterU32Option::Action(vec![mirred(to)])),
    ];
    tc::add_filter(netlink, from, tc::HANDLE, "u32", options).map_err(|cause| {
        // Without a filter it would not be known as ours.
        let _ = tc::remove_discipline(netlink, from);
        Error::Host { what: what.into(), cause }
    })
}

/// `match u32 0 0`
fn match_all() -> TcU32Selector {
    let mut key = TcU32Key::default();
    (key.mask, key.val) = (0, 0);
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![key];
    selector
}

/// `action mirred egress redirect dev TO`
fn mirred(to: i32) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to as u32;
    let mut action = TcAction::default();
    action.tab = 1;
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_known_by_its_name() {
        assert!(is_ours(&name(7)));
        for other in ["eth0", "nacre", "nacre7x", "nacre-7", "tap7"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
