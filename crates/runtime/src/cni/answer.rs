//! A plugin's answer: what of it is read, checked as libcni's types do, and what it says of name servers.

use std::fmt::Write;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

/// Versions of the specification whose answers are known.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    cni_version: Option<String>,
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
    dns: Option<Dns>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
}

#[derive(Default, Deserialize)]
struct Dns {
    nameservers: Option<Vec<String>>,
    domain: Option<String>,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

/// # Errors
/// What it says cannot be meant.
pub fn check(answer: &Value) -> Result<(), String> {
    if !answer.is_object() {
        return Err("it is no object".into());
    }
    let answer: Answer = Answer::deserialize(answer).map_err(|error| error.to_string())?;
    if let Some(version) = answer.cni_version.filter(|version| !VERSIONS.contains(&&**version)) {
        return Err(format!("cniVersion {version:?} is not known"));
    }
    if answer.interfaces.iter().flatten().any(|interface| interface.name.is_empty()) {
        return Err("an interface has no name".into());
    }
    for Ip { address } in answer.ips.iter().flatten() {
        let parts = address.split_once('/').and_then(|(ip, prefix)| Some((ip.parse::<IpAddr>().ok()?, prefix.parse().ok()?)));
        if parts.is_none_or(|(ip, prefix): (IpAddr, u8)| prefix > if ip.is_ipv4() { 32 } else { 128 }) {
            return Err(format!("{address:?} is no address with a prefix"));
        }
    }
    let dns = answer.dns.unwrap_or_default();
    let lists = [&dns.nameservers, &dns.search, &dns.options].into_iter().flatten().flatten().chain(&dns.domain);
    match lists.into_iter().find(|word| word.contains(|c: char| c.is_whitespace() || c.is_control())) {
        Some(word) => Err(format!("dns: {word:?} is no word")),
        None => Ok(()),
    }
}

/// What /etc/resolv.conf is to be, if the answer names servers or where to search. It has been checked.
pub fn resolv_conf(answer: &Value) -> Option<String> {
    let dns = Answer::deserialize(answer).ok()?.dns?;
    let (servers, search) = (dns.nameservers.unwrap_or_default(), dns.search.unwrap_or_default());
    let options = dns.options.unwrap_or_default();
    let domain = dns.domain.filter(|domain| !domain.is_empty());
    let mut text = String::new();
    // The later of these two counts.
    if let Some(domain) = domain {
        let _ = writeln!(text, "domain {domain}");
    }
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in &servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_that_cannot_be_meant() {
        for good in [
            json!({}),
            json!({"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"address": "10.1.2.3/24", "interface": 0}]}),
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24"}, "dns": {}}),
            json!({"ips": null, "dns": {"nameservers": null}}),
        ] {
            assert_eq!(check(&good), Ok(()), "{good}");
        }
        for bad in [
            json!([]),
            json!("hello"),
            json!(7),
            json!({"cniVersion": "9.0.0"}),
            json!({"cniVersion": 1}),
            json!({"ips": {}}),
            json!({"ips": [{}]}),
            json!({"ips": [{"address": "10.1.2.3"}]}),
            json!({"ips": [{"address": "10.1.2.3/33"}]}),
            json!({"interfaces": [{"mac": "x"}]}),
            json!({"interfaces": "eth0"}),
            json!({"dns": {"nameservers": ["1.1.1.1\nnameserver 2.2.2.2"]}}),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn name_servers_as_a_file() {
        assert_eq!(resolv_conf(&json!({"ips": []})), None);
        assert_eq!(resolv_conf(&json!({"dns": {}})), None);
        let dns =
            json!({"nameservers": ["10.0.0.53", "fd00::53"], "domain": "a.b", "search": ["c", "d"], "options": ["ndots:2"]});
        let text = "domain a.b\nsearch c d\nnameserver 10.0.0.53\nnameserver fd00::53\noptions ndots:2\n";
        assert_eq!(resolv_conf(&json!({"dns": dns})).as_deref(), Some(text));
    }
}
