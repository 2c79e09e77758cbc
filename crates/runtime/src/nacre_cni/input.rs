//! What a plugin is told: variables, and a configuration as JSON (containernetworking/cni, SPEC.md); and how it says no.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Error;

/// Versions of the specification that are understood.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Bytes of a configuration at most.
pub const LONGEST: u64 = 1 << 20;

/// Why a call failed: `code` is the specification's, or from 100 on ours.
#[derive(Debug)]
pub struct Fault {
    pub code: u32,
    pub text: String,
}

impl Fault {
    pub const VERSION: u32 = 1;
    pub const ENVIRONMENT: u32 = 4;
    pub const DECODING: u32 = 6;
    pub const CONFIGURATION: u32 = 7;
    pub const NOT_AVAILABLE: u32 = 50;
    pub const HOST: u32 = 100;
    pub const CHECK: u32 = 101;

    pub fn new(code: u32, text: impl Into<String>) -> Fault {
        Fault { code, text: text.into() }
    }

    /// As the caller reads it.
    pub fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": format!("nacre-cni: {}", self.text) })
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::new(Fault::HOST, error.to_string())
    }
}

/// A configuration, as far as it is read here.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(rename = "cniVersion", default)]
    pub version: String,
    #[serde(default)]
    pub name: String,
    /// The answer of the plugin before, kept as it is,
    #[serde(rename = "prevResult")]
    pub before: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", default)]
    pub valid: Option<Vec<Attachment>>,
}

/// What a garbage collection spares.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container: String,
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// The answer of the plugin before, as far as it is read here.
#[derive(Debug, Deserialize)]
pub struct Before {
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    #[serde(default)]
    pub ips: Vec<Ip>,
}

#[derive(Debug, Deserialize)]
pub struct Interface {
    pub name: String,
    #[serde(default)]
    pub sandbox: String,
}

#[derive(Debug, Deserialize)]
pub struct Ip {
    /// With its prefix.
    pub address: String,
}

/// Whom ADD, DEL and CHECK are about.
#[derive(Debug)]
pub struct Target {
    pub container: String,
    pub interface: String,
    /// The pod's network namespace; DEL may come without.
    pub namespace: Option<PathBuf>,
}

impl Config {
    pub fn parse(text: &[u8]) -> Result<Config, Fault> {
        serde_json::from_slice(text).map_err(|error| Fault::new(Fault::DECODING, format!("the configuration: {error}")))
    }

    pub fn check_version(&self) -> Result<(), Fault> {
        if VERSIONS.contains(&self.version.as_str()) {
            return Ok(());
        }
        let text = format!("cniVersion {:?} is not one of {}", self.version, VERSIONS.join(", "));
        Err(Fault::new(Fault::VERSION, text))
    }

    /// What the plugin before has made.
    pub fn before(&self) -> Result<(&Value, Before), Fault> {
        let text = "there is no prevResult: it comes after bridge or ptp in a list of plugins";
        let value = self.before.as_ref().ok_or_else(|| Fault::new(Fault::CONFIGURATION, text))?;
        let before = Before::deserialize(value);
        Ok((value, before.map_err(|error| Fault::new(Fault::DECODING, format!("prevResult: {error}")))?))
    }
}

impl Target {
    /// From the variables, by `get`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Target, Fault> {
        let word = |name: &str, longest: usize| {
            let value = get(name).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| Fault::new(Fault::ENVIRONMENT, format!("{name} is not set")))?;
            check(name, &value, longest)?;
            Ok::<_, Fault>(value)
        };
        Ok(Target {
            container: word("CNI_CONTAINERID", 128)?,
            interface: word("CNI_IFNAME", 15)?,
            namespace: get("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from),
        })
    }
}

/// Names become words of an alias.
pub fn check(what: &str, value: &str, longest: usize) -> Result<(), Fault> {
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    match value.len() <= longest && value.bytes().all(good) {
        true => Ok(()),
        false => Err(Fault::new(Fault::ENVIRONMENT, format!("{what} {value:?} is no name, or has more than {longest} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_names() {
        let with = |id: &str, interface: &str| {
            let (id, interface) = (id.to_string(), interface.to_string());
            Target::read(move |name| match name {
                "CNI_CONTAINERID" => Some(id.clone()),
                "CNI_IFNAME" => Some(interface.clone()),
                _ => None,
            })
        };
        assert!(with("c1", "eth0").is_ok_and(|target| target.namespace.is_none()));
        for (id, interface) in
            [("", "eth0"), ("a b", "eth0"), ("c1", "a/b"), ("c1", "sixteen-letters-"), (&"x".repeat(129), "eth0")]
        {
            assert_eq!(with(id, interface).expect_err("refused").code, Fault::ENVIRONMENT, "{id} {interface}");
        }
    }

    #[test]
    fn configurations_of_all_kinds() {
        let config = |text: &str| Config::parse(text.as_bytes());
        let good =
            config(r#"{"cniVersion":"1.0.0","name":"n","prevResult":{"ips":[{"address":"10.0.0.2/24"}]}}"#).expect("good");
        assert!(good.check_version().is_ok());
        assert_eq!(good.before().expect("a result").1.ips[0].address, "10.0.0.2/24");
        let code = |fault: Fault| fault.code;
        assert_eq!(config("[]").map_err(code).err(), Some(Fault::DECODING));
        let old = config(r#"{"cniVersion":"0.2.0"}"#).expect("read");
        assert_eq!(old.check_version().map_err(code), Err(Fault::VERSION));
        assert_eq!(old.before().map(drop).map_err(code), Err(Fault::CONFIGURATION));
        let odd = config(r#"{"prevResult":{"interfaces":7}}"#).expect("read");
        assert_eq!(odd.before().map(drop).map_err(code), Err(Fault::DECODING));
    }
}
