//! Ports of the host that lead into a sandbox.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One, as the plugin portmap reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none", default)]
    pub host_ip: Option<IpAddr>,
}

impl FromStr for PortMapping {
    type Err = String;

    /// `[ADDRESS:]HOST:SANDBOX[/PROTOCOL]`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<PortMapping, String> {
        let bad = || format!("{text:?} is no port to publish: [ADDRESS:]HOST:SANDBOX[/tcp|udp|sctp]");
        let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        if !["tcp", "udp", "sctp"].contains(&protocol) {
            return Err(bad());
        }
        let (rest, container) = rest.rsplit_once(':').ok_or_else(bad)?;
        let (address, host) = match rest.rsplit_once(':') {
            Some((address, host)) => (Some(address), host),
            None => (None, rest),
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port != 0).ok_or_else(bad);
        let address = address.map(|address| address.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| bad()));
        Ok(PortMapping {
            host_port: port(host)?,
            container_port: port(container)?,
            protocol: protocol.into(),
            host_ip: address.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_people_write_them() {
        let mapping = |text: &str| text.parse::<PortMapping>();
        let plain = mapping("8080:80").expect("two ports");
        assert_eq!((plain.host_port, plain.container_port, &*plain.protocol, plain.host_ip), (8080, 80, "tcp", None));
        let whole = mapping("[::1]:5353:53/udp").expect("all parts");
        assert_eq!((whole.host_ip, &*whole.protocol), (Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])), "udp"));
        assert_eq!(mapping("127.0.0.1:1:2").expect("an address").host_ip, Some(IpAddr::from([127, 0, 0, 1])));
        for bad in ["80", "0:80", "80:0", "80:80/x", "70000:1", "x:1:2", ":80", ""] {
            assert!(mapping(bad).is_err(), "{bad}");
        }
    }
}
