//! A pod's network in the words in which a VM's agent is told of it.

use std::net::IpAddr;

use agent_api::{Interface, Neighbour, Route, SetUpSandboxRequest};
use netstack::config::Description;

/// `RTPROT_KERNEL`: routes that come with an address.
const BY_KERNEL: u8 = 2;

/// Interfaces, routes and neighbours; everything else is empty.
pub fn for_guest(network: &Description) -> SetUpSandboxRequest {
    let name = |index: i32| {
        let found = network.interfaces.iter().find(|interface| interface.index == index);
        found.map(|interface| interface.name.clone())
    };
    let interfaces = network.interfaces.iter().map(|interface| Interface {
        name: interface.name.clone(),
        hardware_address: interface.mac.to_vec(),
        mtu: interface.mtu,
        addresses: interface.addresses.iter().map(|address| format!("{}/{}", address.ip, address.prefix)).collect(),
    });
    let routes = network.routes.iter().filter(|route| route.protocol != BY_KERNEL).filter_map(|route| {
        let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        // The family of a default route without a gateway would be unknown otherwise.
        let destination = match (route.prefix, route.gateway) {
            (0, Some(_)) => String::new(),
            (prefix, _) => format!("{}/{prefix}", route.to),
        };
        let (gateway, source, scope) = (text(route.gateway), text(route.source), route.scope.into());
        Some(Route { destination, gateway, interface: name(route.interface)?, source, scope, metric: route.metric })
    });
    let neighbours = network.neighbours.iter().filter_map(|neighbour| {
        let hardware_address = neighbour.mac.to_vec();
        Some(Neighbour { address: neighbour.ip.to_string(), hardware_address, interface: name(neighbour.interface)? })
    });
    SetUpSandboxRequest {
        interfaces: interfaces.collect(),
        routes: routes.collect(),
        neighbours: neighbours.collect(),
        ..SetUpSandboxRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use netstack::config;

    use super::*;

    #[test]
    fn routes_that_come_with_addresses_are_left_out() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let address = config::Address { ip: ip("10.1.0.2"), prefix: 24, broadcast: None, scope: 0 };
        let eth0 = config::Interface { name: "eth0".into(), index: 7, mac: [2; 6], mtu: 1450, addresses: vec![address] };
        let own = config::Route {
            to: ip("10.1.0.0"),
            prefix: 24,
            gateway: None,
            interface: 7,
            source: None,
            metric: 0,
            scope: 253,
            protocol: BY_KERNEL,
        };
        let (to, gateway) = (ip("0.0.0.0"), Some(ip("10.1.0.1")));
        let default = config::Route { to, prefix: 0, gateway, metric: 100, scope: 0, protocol: 3, ..own.clone() };
        let lost = config::Route { interface: 9, ..default.clone() };
        let network = Description { interfaces: vec![eth0], routes: vec![own, default, lost], neighbours: Vec::new() };
        let told = for_guest(&network);
        assert_eq!((told.interfaces[0].addresses[0].as_str(), told.interfaces[0].mtu), ("10.1.0.2/24", 1450));
        let [route] = &told.routes[..] else { panic!("{:?}", told.routes) };
        assert_eq!((&*route.destination, &*route.gateway, &*route.interface, route.metric), ("", "10.1.0.1", "eth0", 100));
    }
}
