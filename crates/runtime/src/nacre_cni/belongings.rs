//! [`Belongings`]: what an interface has beside itself, taken from one and given to another of the same name.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::{Doing, Result};
use crate::pod_network::netlink::Netlink;

/// `RT_TABLE_LOCAL`: what the kernel makes of addresses by itself.
const LOCAL: u8 = 255;

/// Addresses, routes of all tables but that, and permanent neighbours.
#[derive(Debug, Default)]
pub struct Belongings {
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
    neighbours: Vec<NeighbourMessage>,
}

impl Belongings {
    /// Those of the interface with this number.
    ///
    /// # Errors
    /// The host's.
    pub fn of(netlink: &mut Netlink, index: u32) -> Result<Belongings> {
        let mut all = Belongings::default();
        for message in netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            if let RouteNetlinkMessage::NewAddress(address) = message
                && address.header.index == index
            {
                all.addresses.push(address);
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            for message in netlink.dump(RouteNetlinkMessage::GetRoute(query))? {
                if let RouteNetlinkMessage::NewRoute(route) = message
                    && leads_to(&route, index)
                {
                    all.routes.push(route);
                }
            }
        }
        // A gateway's own route comes before those that lead over it.
        all.routes.sort_by_key(|route| route.attributes.iter().any(|one| matches!(one, RouteAttribute::Gateway(_))));
        for message in netlink.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))? {
            if let RouteNetlinkMessage::NewNeighbour(neighbour) = message
                && neighbour.header.ifindex == index
                && neighbour.header.state == NeighbourState::Permanent
            {
                all.neighbours.push(neighbour);
            }
        }
        Ok(all)
    }

    /// Whether there is an address, written as `10.0.0.2/24`.
    pub fn has(&self, wanted: &str) -> bool {
        self.addresses.iter().any(|address| {
            let prefix = address.header.prefix_len;
            address.attributes.iter().any(|one| match one {
                AddressAttribute::Address(ip) | AddressAttribute::Local(ip) => format!("{ip}/{prefix}") == wanted,
                _ => false,
            })
        })
    }

    /// Gives them to another interface, which is up.
    ///
    /// # Errors
    /// The host's.
    pub fn give(self, netlink: &mut Netlink, index: u32) -> Result<()> {
        for mut address in self.addresses {
            let mut flags = AddressFlags::Noprefixroute;
            if address.header.family == AddressFamily::Inet6 {
                flags |= AddressFlags::Nodad;
            }
            address.header.index = index;
            address.header.flags = AddressHeaderFlags::empty();
            address.attributes.retain(|one| !matches!(one, AddressAttribute::Flags(_) | AddressAttribute::Protocol(_)));
            address.attributes.push(AddressAttribute::Flags(flags));
            add(netlink, RouteNetlinkMessage::NewAddress(address), "an address")?;
        }
        for mut route in self.routes {
            route.header.flags &= RouteFlags::Onlink;
            route.attributes.retain(|one| !matches!(one, RouteAttribute::Oif(_) | RouteAttribute::CacheInfo(_)));
            route.attributes.push(RouteAttribute::Oif(index));
            add(netlink, RouteNetlinkMessage::NewRoute(route), "a route")?;
        }
        for mut neighbour in self.neighbours {
            neighbour.header.ifindex = index;
            neighbour
                .attributes
                .retain(|one| matches!(one, NeighbourAttribute::Destination(_) | NeighbourAttribute::LinkLayerAddress(_)));
            add(netlink, RouteNetlinkMessage::NewNeighbour(neighbour), "a neighbour")?;
        }
        Ok(())
    }
}

fn leads_to(route: &RouteMessage, index: u32) -> bool {
    let local = route.header.table == LOCAL;
    !local
        && !route.header.flags.contains(RouteFlags::Cloned)
        && route.attributes.iter().any(|one| matches!(one, RouteAttribute::Oif(oif) if *oif == index))
}

/// What the kernel has made of itself in the meantime is as good.
fn add(netlink: &mut Netlink, what: RouteNetlinkMessage, name: &str) -> Result<()> {
    match netlink.change(what, NLM_F_CREATE) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        done => done.doing(|| format!("cannot give {name} to the interface that takes the veth's place")),
    }
}
