//! A tap behind a pod's interface: whatever arrives at one goes out at the other, by `ingress` queueing disciplines with a filter that
//! matches everything and redirects it (tc(8): u32, mirred). It works with whatever the CNI plugin has made, and no address is needed on the way.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector,
    TcU32SelectorFlags,
};
use netstack::config::Interface;

use super::netlink::Netlink;
use super::stand_in::{self, TUN};
use crate::error::{Doing, Error, Result};
use crate::sys::TapQueue;

/// Handle of an `ingress` discipline, and its parent.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// `ETH_P_ALL` and the filter's priority, as a filter's header has them.
const ALL_PROTOCOLS: u32 = 1 << 16 | (0x0003u16.to_be() as u32);

/// What taps are called, before the number of their interface.
const NAME: &str = "nacre";

/// Makes a tap, with virtio-net headers, that stands for `interface` in the caller's network namespace: its queues. It goes with their descriptors.
///
/// # Errors
/// Another sandbox has the interface; the host lacks a piece, which is named.
pub fn tap(netlink: &mut Netlink, interface: &Interface, queues: usize) -> Result<Vec<OwnedFd>> {
    let name = name(interface);
    let tap = open(&name, queues).map_err(|cause| match cause.raw_os_error() {
        Some(libc::EBUSY) => taken(interface),
        _ => Error::Host { what: format!("cannot make the tap {name} ({TUN}: the kernel's module tun)"), cause },
    })?;
    let index = netlink.index_of(&name)?;
    netlink.set_up(index, interface.mtu).doing(|| format!("cannot set the tap {name} up"))?;
    for (from, to) in [(interface.index, index), (index, interface.index)] {
        redirect(netlink, from, to).map_err(|error| match error {
            Error::Host { what, cause } => Error::Host { what: format!("{what} of interface {}", interface.name), cause },
            other => other,
        })?;
    }
    Ok(tap)
}

/// # Errors
/// Another sandbox has the interface.
pub fn check_free(netlink: &mut Netlink, interface: &Interface) -> Result<()> {
    if netlink.index_of(&name(interface)).is_ok() { Err(taken(interface)) } else { Ok(()) }
}

fn name(interface: &Interface) -> String {
    format!("{NAME}{}", interface.index)
}

fn taken(interface: &Interface) -> Error {
    Error::Other(format!("another sandbox has interface {} (its tap {} is there)", interface.name, name(interface)))
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

/// Whatever arrives at one interface goes out at another.
fn redirect(netlink: &mut Netlink, from: i32, to: i32) -> Result<()> {
    let discipline = |flags| {
        let mut message = message(from, INGRESS, TcHandle::INGRESS, 0);
        message.attributes = vec![TcAttribute::Kind("ingress".into())];
        match flags {
            0 => RouteNetlinkMessage::DelQueueDiscipline(message),
            _ => RouteNetlinkMessage::NewQueueDiscipline(message),
        }
    };
    // One that another sandbox in this namespace has left behind leads to a tap that is gone.
    let _ = netlink.ask(discipline(0), NLM_F_REQUEST | NLM_F_ACK);
    let create = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let what = "cannot redirect the frames (the kernel's modules sch_ingress, cls_u32, act_mirred)";
    netlink.ask(discipline(create), create).doing(|| what)?;
    let mut filter = message(from, TcHandle::default(), INGRESS, ALL_PROTOCOLS);
    filter.attributes = vec![
        TcAttribute::Kind("u32".into()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(match_all())),
            TcOption::U32(TcFilterU32Option::Action(vec![mirred(to)])),
        ]),
    ];
    netlink.ask(RouteNetlinkMessage::NewTrafficFilter(filter), create).doing(|| what).map(drop)
}

fn message(index: i32, handle: TcHandle, parent: TcHandle, info: u32) -> TcMessage {
    TcMessage::from_parts(TcHeader { index, handle, parent, info, ..TcHeader::default() }, Vec::new())
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
        let interface = Interface { name: "eth0".into(), index: 7, mac: [2; 6], mtu: 1500, addresses: Vec::new() };
        assert!(is_ours(&name(&interface)));
        for other in ["eth0", "nacre", "nacre7x", "nacre-7", "tap7"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
