//! Which networks are configured, and what their plugins are told.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::PortMapping;
use crate::error::{Doing, Error, Result};

/// Where network configurations are, unless `$NETCONFPATH` says (as cnitool reads it).
const CONFIGS: &str = "/etc/cni/net.d";
const PORT_MAPPINGS: &str = "portMappings";

/// A network: its plugins, to be run in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    pub name: String,
    pub version: String,
    pub plugins: Vec<Plugin>,
}

/// A plugin's configuration: `type` and whatever else it understands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    pub kind: String,
    pub fields: Map<String, Value>,
}

/// The network of this name, or the first in the order of file names.
///
/// # Errors
/// There is none; a file that is no configuration is named.
pub fn find(name: Option<&str>) -> Result<NetworkConfig> {
    find_in(&std::env::var_os("NETCONFPATH").map_or_else(|| CONFIGS.into(), PathBuf::from), name)
}

fn find_in(dir: &Path, name: Option<&str>) -> Result<NetworkConfig> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| is_config(path)).collect();
    files.sort();
    for path in &files {
        let text = fs::read(path).doing(|| format!("cannot read {}", path.display()))?;
        let network = parse(&text).map_err(|what| Error::Other(format!("{}: {what}", path.display())))?;
        if name.is_none_or(|name| network.name == name) {
            return Ok(network);
        }
    }
    Err(Error::Other(match name {
        Some(name) => format!("there is no CNI network {name:?} in {}", dir.display()),
        None => format!("there is no CNI network in {}: put a configuration there (a .conflist file)", dir.display()),
    }))
}

fn is_config(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["conflist", "conf", "json"].iter().any(|known| extension == *known))
}

/// A list of plugins, or (`.conf`) a single one.
fn parse(text: &[u8]) -> std::result::Result<NetworkConfig, String> {
    let whole: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let string = |key: &str| whole.get(key).and_then(Value::as_str).map(str::to_string);
    let name = string("name").filter(|name| !name.is_empty()).ok_or("it has no name")?;
    let plugins = match whole.get("plugins") {
        None => vec![plugin(&whole)?],
        Some(Value::Array(list)) if !list.is_empty() => list
            .iter()
            .map(|one| plugin(one.as_object().ok_or("a plugin is no object")?))
            .collect::<std::result::Result<_, _>>()?,
        Some(_) => return Err("plugins is no list, or empty".into()),
    };
    Ok(NetworkConfig { name, version: string("cniVersion").unwrap_or_else(|| "0.1.0".into()), plugins })
}

fn plugin(fields: &Map<String, Value>) -> std::result::Result<Plugin, String> {
    let kind = fields.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty()).ok_or("a plugin has no type")?;
    if kind.contains('/') {
        return Err(format!("type {kind:?} is no plugin's name"));
    }
    Ok(Plugin { kind: kind.into(), fields: fields.clone() })
}

impl NetworkConfig {
    /// # Errors
    /// Ports are to be published, and no plugin of the network can.
    pub fn can_publish(&self, ports: &[PortMapping]) -> Result<()> {
        if ports.is_empty() || self.plugins.iter().any(|plugin| plugin.has(PORT_MAPPINGS)) {
            return Ok(());
        }
        Err(Error::Other(format!("the CNI network {} cannot publish ports: it has no plugin portmap", self.name)))
    }

    /// What a plugin reads.
    pub fn input(&self, plugin: &Plugin, ports: &[PortMapping], before: Option<&Value>) -> Value {
        let mut input = plugin.fields.clone();
        input.remove("capabilities");
        input.insert("name".into(), json!(self.name));
        input.insert("cniVersion".into(), json!(self.version));
        if plugin.has(PORT_MAPPINGS) && !ports.is_empty() {
            input.insert("runtimeConfig".into(), json!({ PORT_MAPPINGS: ports }));
        }
        if let Some(before) = before {
            input.insert("prevResult".into(), before.clone());
        }
        Value::Object(input)
    }
}

impl Plugin {
    fn has(&self, capability: &str) -> bool {
        self.fields.get("capabilities").and_then(|all| all.get(capability)).and_then(Value::as_bool).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"0.4.0","name":"n","plugins":[{"type":"bridge","bridge":"b0"},
        {"type":"portmap","capabilities":{"portMappings":true}}]}"#;

    #[test]
    fn plugins_are_told_of_the_network_and_of_ports() {
        let network = parse(LIST.as_bytes()).expect("a list");
        let ports: Vec<PortMapping> = vec!["8080:80".parse().expect("ports")];
        network.can_publish(&ports).expect("it can");
        let result = json!({"ips": []});
        let bridge = network.input(&network.plugins[0], &ports, None);
        assert_eq!(bridge, json!({"type": "bridge", "bridge": "b0", "name": "n", "cniVersion": "0.4.0"}));
        let portmap = network.input(&network.plugins[1], &ports, Some(&result));
        assert_eq!(portmap["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        assert_eq!((&portmap["prevResult"], portmap.get("capabilities")), (&result, None));
    }

    #[test]
    fn single_plugins_and_bad_files() {
        let network = parse(br#"{"name":"x","type":"ptp"}"#).expect("one plugin");
        assert_eq!((network.plugins.len(), &*network.plugins[0].kind), (1, "ptp"));
        assert!(network.can_publish(&["1:1".parse().expect("ports")]).is_err());
        for bad in ["{}", r#"{"name":"x"}"#, r#"{"name":"x","plugins":[]}"#, r#"{"name":"x","type":"../sh"}"#, "[]"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_found_by_name_and_in_order() {
        let dir = std::env::temp_dir().join(format!("nacre-cni-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        assert!(find_in(&dir, None).expect_err("none").to_string().contains("conflist"));
        fs::write(dir.join("20-b.conf"), r#"{"name":"b","type":"ptp"}"#).expect("a file");
        fs::write(dir.join("10-a.conflist"), LIST).expect("a file");
        fs::write(dir.join("00-notes.txt"), "no network").expect("a file");
        assert_eq!(find_in(&dir, None).expect("the first").name, "n");
        assert_eq!(find_in(&dir, Some("b")).expect("by name").name, "b");
        assert!(find_in(&dir, Some("c")).is_err());
        fs::remove_dir_all(&dir).expect("removed");
    }
}
