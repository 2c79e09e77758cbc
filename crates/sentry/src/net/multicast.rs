//! Groups that interfaces are in, as files below /proc/net. The loopback interface is shown in those of all hosts only.

use core::fmt::Write;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;

use super::NetNamespace;

/// All hosts of a link, and those of an interface: every interface is in these without a word to routers.
const ALL_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_V6: [Ipv6Addr; 2] = [Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1)];
/// `MAF_LOADED`, `MAF_NOREPORT`: the interface's filter has it; routers are not told of it.
const LOADED: u8 = 4;
const NOT_TOLD: u8 = 8;

/// An interface, and what is joined there by how many.
struct Joined {
    index: i32,
    name: String,
    groups: Vec<(IpAddr, u32)>,
}

/// In the order of their numbers: `lo`, then those of the pod.
fn interfaces(net: &NetNamespace) -> Vec<Joined> {
    let mut all = vec![Joined { index: 1, name: "lo".into(), groups: Vec::new() }];
    if let Some(stack) = net.stack() {
        let memberships = stack.network.memberships();
        all.extend(stack.network.interfaces().iter().enumerate().map(|(at, interface)| {
            let here = memberships.iter().filter(|(place, ..)| *place == at);
            Joined {
                index: interface.index,
                name: interface.name.clone(),
                groups: here.map(|(_, group, users)| (*group, *users)).collect(),
            }
        }));
    }
    all.sort_by_key(|joined| joined.index);
    all
}

/// `igmp_mc_seq_show`
pub fn igmp(net: &NetNamespace) -> String {
    let mut text = String::from("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n");
    for Joined { index, name, groups } in interfaces(net) {
        let groups = groups.into_iter().filter_map(|(group, users)| match group {
            IpAddr::V4(group) => Some((group, users)),
            IpAddr::V6(_) => None,
        });
        let groups: Vec<_> = groups.chain([(ALL_V4, 1)]).collect();
        let _ = writeln!(text, "{index}\t{name:<10}: {:5} {:>7}", groups.len(), "V3");
        for (group, users) in groups {
            let _ = writeln!(text, "\t\t\t\t{:08X} {users:5} 0:00000000\t\t0", u32::from_le_bytes(group.octets()));
        }
    }
    text
}

/// `igmp6_mc_seq_show`
pub fn igmp6(net: &NetNamespace) -> String {
    let mut text = String::new();
    for Joined { index, name, groups } in interfaces(net) {
        let all = [(ALL_V6[0], 1, LOADED | NOT_TOLD), (ALL_V6[1], 1, NOT_TOLD)];
        let groups = groups.into_iter().filter_map(|(group, users)| match group {
            IpAddr::V6(group) => Some((group, users, LOADED)),
            IpAddr::V4(_) => None,
        });
        for (group, users, flags) in groups.chain(all) {
            let _ = writeln!(text, "{index:<4} {name:<15} {:032x} {users:5} {flags:08X} 0", u128::from(group));
        }
    }
    text
}

/// `dev_mc_seq_show`: the Ethernet addresses of the groups, several of which may have the same.
pub fn devices(net: &NetNamespace) -> String {
    let mut text = String::new();
    for Joined { index, name, groups } in interfaces(net).into_iter().filter(|joined| joined.index != 1) {
        let mut addresses = BTreeMap::new();
        let all = [IpAddr::V4(ALL_V4), IpAddr::V6(ALL_V6[0])];
        for group in groups.iter().map(|(group, _)| *group).chain(all) {
            *addresses.entry(netstack::ip::frame::group_mac(group)).or_insert(0) += 1;
        }
        for (mac, uses) in addresses {
            let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(text, "{index:<4} {name:<15} {uses:<5} {:<5} {mac}", 0);
        }
    }
    text
}
