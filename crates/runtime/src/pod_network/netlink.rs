//! What is asked of the host's kernel by route netlink, in the caller's network namespace.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use netstack::config::{Address, Description, Interface, Neighbour, Route};

use super::tcfilter;
use crate::error::{Doing, Error, Result};

/// Bytes of one answer at most.
const ANSWER: usize = 64 << 10;

pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// # Errors
    /// The host's.
    pub fn new() -> Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE).doing(|| "cannot make a netlink socket")?;
        socket.bind_auto().doing(|| "cannot bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).doing(|| "cannot connect a netlink socket")?;
        Ok(Netlink { socket })
    }

    /// The interfaces that are up, apart from loopback and taps of ours, with their addresses, routes and permanent neighbours; and their aliases.
    ///
    /// # Errors
    /// One that is not Ethernet; the host's.
    pub fn describe(&mut self, name: &str) -> Result<(Description, Vec<String>)> {
        let (mut interfaces, mut aliases) = (Vec::new(), Vec::new());
        for message in self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
            if let RouteNetlinkMessage::NewLink(link) = message
                && let Some(interface) = interface(&link, name)?
                && !tcfilter::is_ours(&interface.name)
            {
                interfaces.push(interface);
                aliases.push(alias(&link).unwrap_or_default().to_string());
            }
        }
        let mut taken = Vec::new();
        for message in self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            let RouteNetlinkMessage::NewAddress(message) = message else { continue };
            let interface = interfaces.iter_mut().find(|interface| interface.index as u32 == message.header.index);
            if let (Some(interface), Some(address)) = (interface, address(&message)) {
                if message.header.flags.contains(AddressHeaderFlags::Dadfailed) {
                    taken.push((interface.index, interface.name.clone(), address.ip));
                    continue;
                }
                interface.addresses.push(address);
            }
        }
        for (index, interface, ip) in taken {
            let what = format!(
                "the address {ip} of interface {interface} in {name} is in use by somebody else on its network (duplicate address detection)"
            );
            if interfaces.iter().any(|other| other.index == index && other.addresses.is_empty()) {
                return Err(Error::Other(what));
            }
            tracing::warn!("{what}: it is left out");
        }
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            for message in self.dump(RouteNetlinkMessage::GetRoute(query))? {
                if let RouteNetlinkMessage::NewRoute(message) = message {
                    routes.extend(route(&message));
                }
            }
        }
        let mut neighbours = Vec::new();
        for message in self.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))? {
            if let RouteNetlinkMessage::NewNeighbour(message) = message {
                neighbours.extend(neighbour(&message));
            }
        }
        Ok((Description { interfaces, routes, neighbours }, aliases))
    }

    /// Takes an address off an interface, and with it the routes that need it.
    ///
    /// # Errors
    /// The host's.
    pub fn take_off(&mut self, index: i32, address: &Address) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = if address.ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = address.prefix;
        message.header.index = index as u32;
        message.attributes = vec![AddressAttribute::Local(address.ip), AddressAttribute::Address(address.ip)];
        let doing = || format!("cannot take the address {} off its interface", address.ip);
        self.change(RouteNetlinkMessage::DelAddress(message), 0).doing(doing)
    }

    /// An interface, by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn link(&mut self, name: &str) -> Result<LinkMessage> {
        let mut query = LinkMessage::default();
        query.attributes = vec![LinkAttribute::IfName(name.into())];
        let answers = self.ask(RouteNetlinkMessage::GetLink(query), NLM_F_REQUEST | NLM_F_ACK);
        let answers = answers.doing(|| format!("cannot find the interface {name}"))?;
        let found = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        found.ok_or_else(|| Error::Other(format!("cannot find the interface {name}")))
    }

    /// The number of an interface, by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn index_of(&mut self, name: &str) -> Result<i32> {
        self.link(name).map(|link| link.header.index as i32)
    }

    /// All interfaces: their numbers and names.
    ///
    /// # Errors
    /// The host's.
    pub fn names(&mut self) -> Result<Vec<(i32, String)>> {
        let links = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let name = |message| match message {
            RouteNetlinkMessage::NewLink(link) => link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some((link.header.index as i32, name)),
                _ => None,
            }),
            _ => None,
        };
        Ok(links.into_iter().filter_map(name).collect())
    }

    /// Gives an interface an MTU and sets it up.
    ///
    /// # Errors
    /// The host's.
    pub fn set_up(&mut self, index: i32, mtu: u32) -> std::io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index as u32;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![LinkAttribute::Mtu(mtu)];
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// All of a kind.
    ///
    /// # Errors
    /// The host's.
    pub fn dump(&mut self, query: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        self.ask(query, NLM_F_REQUEST | NLM_F_DUMP).doing(|| "cannot read the network's configuration")
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// The host's.
    pub fn change(&mut self, wish: RouteNetlinkMessage, flags: u16) -> std::io::Result<()> {
        self.ask(wish, NLM_F_REQUEST | NLM_F_ACK | flags).map(drop)
    }

    /// Sends a request and collects the answer, up to its end.
    fn ask(&mut self, query: RouteNetlinkMessage, flags: u16) -> std::io::Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(query));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        let mut room = vec![0; ANSWER];
        loop {
            let received = self.socket.recv(&mut &mut room[..], 0)?;
            let mut rest = room.get(..received).unwrap_or_default();
            while !rest.is_empty() {
                let message: NetlinkMessage<RouteNetlinkMessage> =
                    NetlinkMessage::deserialize(rest).map_err(|e| std::io::Error::other(e.to_string()))?;
                let length = (message.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(length..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    // An acknowledgement.
                    NetlinkPayload::Error(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
    }
}

/// What an interface's owner has written on it.
pub fn alias(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
        _ => None,
    })
}

fn interface(link: &LinkMessage, namespace: &str) -> Result<Option<Interface>> {
    let flags = link.header.flags;
    if !flags.contains(LinkFlags::Up) || flags.contains(LinkFlags::Loopback) {
        return Ok(None);
    }
    let mut found =
        Interface { name: String::new(), index: link.header.index as i32, mac: [0; 6], mtu: 1500, addresses: Vec::new() };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::Address(mac) => found.mac = mac.as_slice().try_into().unwrap_or_default(),
            _ => {}
        }
    }
    if link.header.link_layer_type != LinkLayerType::Ether {
        let what = format!("interface {} in network namespace {namespace} is not an Ethernet interface", found.name);
        return Err(Error::Other(what));
    }
    Ok(Some(found))
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut ip, mut local, mut broadcast) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(at) => ip = Some(*at),
            AddressAttribute::Local(at) => local = Some(*at),
            AddressAttribute::Broadcast(at) => broadcast = Some(*at),
            _ => {}
        }
    }
    let (prefix, scope) = (message.header.prefix_len, u8::from(message.header.scope));
    Some(Address { ip: local.or(ip)?, prefix, broadcast, scope })
}

/// A unicast route of the main table, by one way.
fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        _ => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut route = Route {
        to: any,
        prefix: header.destination_prefix_length,
        gateway: None,
        interface: 0,
        source: None,
        metric: 0,
        scope: header.scope.into(),
        protocol: header.protocol.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => route.to = ip(to)?,
            RouteAttribute::Gateway(to) => route.gateway = Some(ip(to)?),
            RouteAttribute::PrefSource(from) => route.source = ip(from),
            RouteAttribute::Oif(index) => route.interface = *index as i32,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    (route.interface != 0).then_some(route)
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(at)) => ip = Some(IpAddr::V4(*at)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(at)) => ip = Some(IpAddr::V6(*at)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let ip = ip.filter(|ip| !ip.is_multicast())?;
    Some(Neighbour { ip, interface: message.header.ifindex as i32, mac: mac? })
}
