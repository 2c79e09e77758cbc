//! Changes of addresses, routes and interfaces, as programs in the namespace ask for them.

use core::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Interface, Network, routes};
use crate::Ns;
use crate::config::{Address, Route, contains, is_link_local, network};

/// Addresses of an interface, and routes in all, at most.
const ADDRESSES: usize = 256;
const ROUTES: usize = 1024;
/// Least MTUs (`ETH_MIN_MTU`, and what IPv6 needs).
const LEAST_MTU: u32 = 68;

/// `RTPROT_KERNEL`, and the scope of what is on a link.
const BY_KERNEL: u8 = 2;
const SCOPE_LINK: u8 = 253;
/// The metric of IPv6 routes that addresses make.
const METRIC_V6: u32 = 256;

/// Why a change is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NoInterface,
    Down,
    Exists,
    Missing,
    /// There are too many.
    Full,
    /// An MTU that the interface does not take.
    OutOfRange,
    /// A gateway that is not on a link.
    Unreachable,
}

/// Which route is meant: unset fields fit all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteKey {
    pub to: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    pub interface: Option<i32>,
    pub metric: Option<u32>,
    pub protocol: Option<u8>,
}

impl RouteKey {
    fn fits(&self, route: &Route) -> bool {
        (route.to, route.prefix) == (self.to, self.prefix)
            && self.gateway.is_none_or(|gateway| route.gateway == Some(gateway))
            && self.interface.is_none_or(|interface| route.interface == interface)
            && self.metric.is_none_or(|metric| route.metric == metric)
            && self.protocol.is_none_or(|protocol| route.protocol == protocol)
    }
}

/// The network that an address is in, as a route to it over an interface.
fn connected(address: &Address, interface: i32) -> Route {
    let to = network(address.ip, address.prefix);
    let v4 = to.is_ipv4();
    Route {
        to,
        prefix: address.prefix,
        gateway: None,
        interface,
        source: v4.then_some(address.ip),
        metric: if v4 { 0 } else { METRIC_V6 },
        scope: if v4 { SCOPE_LINK } else { 0 },
        protocol: BY_KERNEL,
    }
}

impl Network {
    fn with_index(&self, index: i32) -> Result<(usize, &Interface), Refused> {
        let found = self.interfaces.iter().enumerate().find(|(_, interface)| interface.index == index);
        found.ok_or(Refused::NoInterface)
    }

    /// Gives an interface an address, and makes the route to its network.
    ///
    /// # Errors
    /// `NoInterface`, `Exists`, `Full`.
    pub fn add_address(&self, index: i32, address: Address) -> Result<(), Refused> {
        let (at, interface) = self.with_index(index)?;
        {
            let mut addresses = interface.addresses.write();
            if addresses.iter().any(|own| (own.ip, own.prefix) == (address.ip, address.prefix)) {
                return Err(Refused::Exists);
            }
            if addresses.len() >= ADDRESSES {
                return Err(Refused::Full);
            }
            Arc::make_mut(&mut addresses).push(address.clone());
        }
        if interface.is_up() {
            self.connect(&address, index);
            self.announce_one(at, interface.mac, address.ip);
        }
        Ok(())
    }

    fn connect(&self, address: &Address, index: i32) {
        let route = connected(address, index);
        let host = if route.to.is_ipv4() { 32 } else { 128 };
        if route.prefix >= host {
            return;
        }
        self.change_routes(|routes| {
            let twin = |other: &Route| (other.to, other.prefix, other.interface) == (route.to, route.prefix, index);
            if !routes.iter().any(twin) {
                routes.push(route);
            }
        });
    }

    /// Takes an address from an interface, and the routes that are there for it alone.
    ///
    /// # Errors
    /// `NoInterface`, `Missing`.
    pub fn remove_address(&self, now: Ns, index: i32, ip: IpAddr, prefix: u8) -> Result<(), Refused> {
        let (at, interface) = self.with_index(index)?;
        let left = {
            let mut addresses = interface.addresses.write();
            let place = addresses.iter().position(|own| (own.ip, own.prefix) == (ip, prefix)).ok_or(Refused::Missing)?;
            Arc::make_mut(&mut addresses).remove(place);
            addresses.clone()
        };
        // Down, it had left it already.
        if interface.is_up() {
            self.leave_own(now, at, ip);
        }
        let link = network(ip, prefix);
        let shared = left.iter().any(|own| own.prefix == prefix && contains(link, prefix, own.ip));
        self.change_routes(|routes| {
            routes.retain(|route| {
                let own = (route.to, route.prefix, route.interface, route.protocol) == (link, prefix, index, BY_KERNEL);
                if own { shared } else { route.source != Some(ip) }
            });
            for route in routes.iter_mut().filter(|route| route.source == Some(ip)) {
                route.source = None;
            }
        });
        Ok(())
    }

    /// # Errors
    /// `NoInterface`, `OutOfRange`.
    pub fn set_mtu(&self, index: i32, mtu: u32) -> Result<(), Refused> {
        let (_, interface) = self.with_index(index)?;
        if !(LEAST_MTU..=interface.most).contains(&mtu) {
            return Err(Refused::OutOfRange);
        }
        interface.mtu.store(mtu, Ordering::Relaxed);
        Ok(())
    }

    /// An interface goes up or down. Down, it has no routes, and keeps only its IPv4 addresses; up, it gets routes to their networks.
    ///
    /// # Errors
    /// `NoInterface`.
    pub fn set_up(&self, now: Ns, index: i32, up: bool) -> Result<(), Refused> {
        let (at, interface) = self.with_index(index)?;
        if interface.up.swap(up, Ordering::Relaxed) == up {
            return Ok(());
        }
        if up {
            for address in interface.addresses().iter() {
                self.connect(address, index);
                self.announce_one(at, interface.mac, address.ip);
            }
        } else {
            for address in interface.addresses().iter() {
                self.leave_own(now, at, address.ip);
            }
            Arc::make_mut(&mut interface.addresses.write()).retain(|address| address.ip.is_ipv4());
            self.change_routes(|routes| routes.retain(|route| route.interface != index));
        }
        Ok(())
    }

    /// Adds a route, whose interface may be left to its gateway (0). `replace`: one to the same network with the same metric makes way.
    ///
    /// # Errors
    /// `NoInterface`, `Down`, `Exists`, `Full`, `Unreachable`.
    pub fn add_route(&self, mut route: Route, replace: Existing) -> Result<Route, Refused> {
        if let Some(gateway) = route.gateway {
            let known = self.routes();
            let near = |other: &&Route| {
                other.gateway.is_none()
                    && contains(other.to, other.prefix, gateway)
                    && (route.interface == 0 || other.interface == route.interface)
            };
            let by = known.iter().find(near).map(|other| other.interface);
            // A gateway may be named by its address on the link.
            let local = (is_link_local(gateway) && route.interface != 0).then_some(route.interface);
            route.interface = by.or(local).ok_or(Refused::Unreachable)?;
        }
        let (_, interface) = self.with_index(route.interface)?;
        if !interface.is_up() {
            return Err(Refused::Down);
        }
        let mut result = Ok(());
        self.change_routes(|routes| {
            let same = |other: &Route| (other.to, other.prefix, other.metric) == (route.to, route.prefix, route.metric);
            let twin = |other: &Route| same(other) && (other.gateway, other.interface) == (route.gateway, route.interface);
            let known = routes.iter().any(same);
            result = match replace {
                Existing::Refused if known => Err(Refused::Exists),
                Existing::Kept if routes.iter().any(twin) => Err(Refused::Exists),
                // What makes way leaves its place.
                Existing::Replaced if known => Ok(()),
                _ if routes.len() >= ROUTES => Err(Refused::Full),
                _ => Ok(()),
            };
            if result.is_ok() {
                if replace == Existing::Replaced {
                    routes.retain(|other| !same(other));
                }
                routes.push(route.clone());
            }
        });
        result.map(|()| route)
    }

    pub fn has_route(&self, key: &RouteKey) -> bool {
        self.routes().iter().any(|route| key.fits(route))
    }

    /// Takes the best route that fits.
    ///
    /// # Errors
    /// `Missing`.
    pub fn remove_route(&self, key: &RouteKey) -> Result<Route, Refused> {
        let mut gone = Err(Refused::Missing);
        self.change_routes(|routes| {
            if let Some(at) = routes.iter().position(|route| key.fits(route)) {
                gone = Ok(routes.remove(at));
            }
        });
        gone
    }

    fn change_routes(&self, change: impl FnOnce(&mut Vec<Route>)) {
        let mut routes = self.routes.write();
        let mut new = routes.as_ref().clone();
        change(&mut new);
        *routes = Arc::new(routes::sorted(new.iter()));
    }
}

/// What becomes of a route to the same network with the same metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Replaced,
    /// The new one is refused.
    Refused,
    /// The new one stands behind it, if they differ.
    Kept,
}
