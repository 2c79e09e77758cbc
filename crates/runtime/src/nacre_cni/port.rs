//! [`Port`]: the host's end of a veth pair, and a tap that takes its place.

use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::belongings::Belongings;
use crate::error::{Doing, Error, Result};
use crate::pod_network::netlink::Netlink;

/// Frames that wait in a tap for the sandbox, at most.
const QUEUE: u32 = 1000;

/// What the host's end is like.
#[derive(Debug)]
pub struct Port {
    pub index: u32,
    pub name: String,
    mac: Vec<u8>,
    mtu: u32,
    bridge: Option<Bridge>,
    belongings: Belongings,
}

/// The bridge it is a port of, and how.
#[derive(Debug)]
struct Bridge {
    index: u32,
    settings: Vec<InfoBridgePort>,
    vlans: Vec<BridgeVlanInfo>,
}

/// What is read of any link.
#[derive(Debug, Default)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub is_veth: bool,
    /// The number of its other end, in that one's namespace.
    pub peer: Option<u32>,
    pub alias: String,
    controller: Option<u32>,
    settings: Vec<InfoBridgePort>,
}

impl Link {
    pub fn of(message: &LinkMessage) -> Link {
        let mut link = Link { index: message.header.index, ..Link::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(peer) => link.peer = Some(*peer),
                LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    link.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                    link.settings = infos.iter().flat_map(settings).collect();
                }
                _ => {}
            }
        }
        link
    }
}

/// The settings of a bridge's port that somebody may have chosen.
fn settings(info: &LinkInfo) -> Vec<InfoBridgePort> {
    use InfoBridgePort as P;
    let LinkInfo::PortData(InfoPortData::BridgePort(all)) = info else { return Vec::new() };
    let chosen = |one: &&P| {
        matches!(
            one,
            P::Priority(_)
                | P::Cost(_)
                | P::HairpinMode(_)
                | P::Guard(_)
                | P::Protect(_)
                | P::FastLeave(_)
                | P::Learning(_)
                | P::UnicastFlood(_)
                | P::MulticastFlood(_)
                | P::BroadcastFlood(_)
                | P::MulticastToUnicast(_)
                | P::ProxyARP(_)
                | P::NeighSupress(_)
                | P::Isolated(_)
                | P::Locked(_)
        )
    };
    all.iter().filter(chosen).cloned().collect()
}

/// All links of the caller's network namespace.
///
/// # Errors
/// The host's.
pub fn links(netlink: &mut Netlink) -> Result<Vec<Link>> {
    let all = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(all
        .iter()
        .filter_map(|message| if let RouteNetlinkMessage::NewLink(link) = message { Some(Link::of(link)) } else { None })
        .collect())
}

impl Port {
    /// The other end of the veth `pod`, in the caller's network namespace.
    ///
    /// # Errors
    /// It is not here; the host's.
    pub fn of(netlink: &mut Netlink, pod: &Link) -> Result<Port> {
        let found = links(netlink)?
            .into_iter()
            .find(|link| link.is_veth && Some(link.index) == pod.peer && link.peer == Some(pod.index));
        let link = found.ok_or_else(|| Error::Other(format!("the other end of the veth {} is not here", pod.name)))?;
        let bridge = match link.controller {
            Some(index) => Some(Bridge { index, settings: link.settings, vlans: vlans(netlink, link.index)? }),
            None => None,
        };
        let belongings = Belongings::of(netlink, link.index)?;
        Ok(Port { index: link.index, name: link.name, mac: link.mac, mtu: link.mtu, bridge, belongings })
    }

    /// Puts the interface `index` where the veth's end was, which is gone.
    ///
    /// # Errors
    /// The host's.
    pub fn take_place(self, netlink: &mut Netlink, index: u32) -> Result<()> {
        let about = || format!("cannot put a tap in the place of {}", self.name);
        let named = vec![
            LinkAttribute::IfName(self.name.clone()),
            LinkAttribute::Address(self.mac.clone()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::TxQueueLen(QUEUE),
        ];
        set(netlink, index, named, LinkFlags::empty()).doing(about)?;
        if let Some(bridge) = self.bridge {
            set(netlink, index, vec![LinkAttribute::Controller(bridge.index)], LinkFlags::empty()).doing(about)?;
            bridge.configure(netlink, index).doing(about)?;
        }
        set(netlink, index, Vec::new(), LinkFlags::Up).doing(about)?;
        self.belongings.give(netlink, index)
    }
}

impl Bridge {
    fn configure(self, netlink: &mut Netlink, index: u32) -> std::io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let data = LinkInfo::PortData(InfoPortData::BridgePort(self.settings));
        message.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), data])];
        netlink.change(RouteNetlinkMessage::NewLink(message), 0)?;
        let now = vlans(netlink, index).map_err(std::io::Error::other)?;
        for gone in now.iter().filter(|vlan| !self.vlans.contains(vlan)) {
            netlink.change(RouteNetlinkMessage::DelLink(vlan(index, gone)), 0)?;
        }
        for wanted in self.vlans.iter().filter(|vlan| !now.contains(vlan)) {
            netlink.change(RouteNetlinkMessage::SetLink(vlan(index, wanted)), 0)?;
        }
        Ok(())
    }
}

fn vlan(index: u32, info: &BridgeVlanInfo) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    message.attributes = vec![LinkAttribute::AfSpecBridge(vec![AfSpecBridge::VlanInfo(*info)])];
    message
}

/// The VLANs of a bridge's port; none where the bridge has no such thing.
fn vlans(netlink: &mut Netlink, index: u32) -> Result<Vec<BridgeVlanInfo>> {
    let mut query = LinkMessage::default();
    query.header.interface_family = AddressFamily::Bridge;
    query.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])];
    let mut found = Vec::new();
    for message in netlink.dump(RouteNetlinkMessage::GetLink(query))? {
        let RouteNetlinkMessage::NewLink(link) = message else { continue };
        if link.header.index != index {
            continue;
        }
        for attribute in link.attributes {
            let LinkAttribute::AfSpecBridge(all) = attribute else { continue };
            found.extend(all.into_iter().filter_map(|one| match one {
                AfSpecBridge::VlanInfo(info) => Some(info),
                _ => None,
            }));
        }
    }
    Ok(found)
}

/// Changes a link.
///
/// # Errors
/// The host's.
pub fn set(netlink: &mut Netlink, index: u32, attributes: Vec<LinkAttribute>, up: LinkFlags) -> std::io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = up;
    message.header.change_mask = up;
    message.attributes = attributes;
    netlink.change(RouteNetlinkMessage::SetLink(message), 0)
}

/// Takes a link away.
///
/// # Errors
/// The host's.
pub fn delete(netlink: &mut Netlink, index: u32) -> std::io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    netlink.change(RouteNetlinkMessage::DelLink(message), 0)
}
