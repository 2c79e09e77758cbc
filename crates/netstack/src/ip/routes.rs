//! Which way a packet goes.

use core::net::IpAddr;

use super::{Interface, Network};
use crate::config::{self, contains, is_link_local};

/// A way: over which interface (its position), to which neighbour, from which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    pub interface: usize,
    pub next: IpAddr,
    pub source: IpAddr,
}

/// Longest prefix first, then the smallest metric.
pub(super) fn sorted<'a>(routes: impl Iterator<Item = &'a config::Route>) -> Vec<config::Route> {
    let mut routes: Vec<config::Route> = routes.cloned().collect();
    routes.sort_by_key(|route| (route.to.is_ipv6(), std::cmp::Reverse(route.prefix), route.metric));
    routes
}

impl Network {
    /// The way to `to`, over the interface with index `device` if that is not 0. None: there is none.
    pub fn route(&self, to: IpAddr, device: i32) -> Option<Way> {
        let fits = |index: i32| device == 0 || device == index;
        let everybody = to.is_multicast() || to == IpAddr::V4(core::net::Ipv4Addr::BROADCAST);
        let routes = self.routes();
        for route in routes.iter().filter(|route| fits(route.interface) && contains(route.to, route.prefix, to)) {
            let Some(interface) = self.position(route.interface) else { continue };
            let Some(source) = route.source.or_else(|| self.source(interface, to, route.gateway.unwrap_or(to))) else {
                continue;
            };
            let next = route.gateway.filter(|_| !everybody).unwrap_or(to);
            return Some(Way { interface, next, source });
        }
        // Groups, and everything over a chosen interface, are on its link.
        let chosen = if device == 0 { self.interfaces.iter().position(Interface::is_up)? } else { self.position(device)? };
        if !self.interfaces.get(chosen)?.is_up() {
            return None;
        }
        let direct = everybody || device != 0 || (to.is_ipv6() && is_link_local(to));
        let source = self.source(chosen, to, to).filter(|_| direct)?;
        Some(Way { interface: chosen, next: to, source })
    }

    pub(super) fn position(&self, index: i32) -> Option<usize> {
        self.interfaces.iter().position(|interface| interface.index == index)
    }

    /// Our address on an interface for packets to `to` by way of `near`.
    fn source(&self, interface: usize, to: IpAddr, near: IpAddr) -> Option<IpAddr> {
        let addresses = self.interfaces.get(interface)?.addresses();
        let family = addresses.iter().filter(|address| address.ip.is_ipv4() == to.is_ipv4());
        let local = is_link_local(to) || matches!(to, IpAddr::V6(ip) if ip.is_multicast() && ip.octets()[1] & 0xf == 2);
        // In the neighbour's network, else of the same scope, else any.
        let near =
            family.clone().find(|address| contains(address.ip, address.prefix, near) && is_link_local(address.ip) == local);
        let scope = near.or_else(|| family.clone().find(|address| is_link_local(address.ip) == local));
        scope.or_else(|| family.clone().next()).map(|address| address.ip)
    }
}
