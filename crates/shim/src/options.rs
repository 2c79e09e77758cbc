//! The runtime's options in containerd's configuration (`…runtimes.NAME.options`), which come with each container.
//!
//! There is nothing that they set: what a sandbox can be told is in the pod's annotations (`dev.nacre.*`) and in the name of its handler. So whoever writes
//! one is told; but for runc's `SystemdCgroup`, which is copied from there, and is what the cgroup's path says by its form.

use prost::Message;

use crate::proto::Any;

const TYPE: &str = "runtimeoptions.v1.Options";
/// What may be there, whatever it says.
const KNOWN: &str = "SystemdCgroup";

/// `runtimeoptions.v1.Options`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Options {
    #[prost(string, tag = "2")]
    pub config_path: String,
    /// TOML.
    #[prost(bytes = "vec", tag = "3")]
    pub config_body: Vec<u8>,
}

/// # Errors
/// Names an option.
pub fn check(options: Option<&Any>) -> Result<(), String> {
    // containerd 2 sends runc's to all runtimes, filled in by itself.
    let Some(options) = options.filter(|options| options.type_url.ends_with(TYPE)) else { return Ok(()) };
    let options = Options::decode(options.value.as_slice()).map_err(|error| format!("malformed options: {error}"))?;
    let body = match options.config_path.as_str() {
        "" => options.config_body,
        path => std::fs::read(path).map_err(|error| format!("cannot read the options {path}: {error}"))?,
    };
    let text = String::from_utf8_lossy(&body);
    let keys = text.lines().filter_map(|line| line.trim().split_once('=')).map(|(key, _)| key.trim().trim_matches('"'));
    match keys.filter(|key| !key.starts_with('#')).find(|key| *key != KNOWN) {
        Some(key) => Err(format!("there is no option {key}: a sandbox is told by its pod's annotations, dev.nacre.*")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: &str) -> Result<(), String> {
        let options = Options { config_path: String::new(), config_body: body.into() };
        check(Some(&Any { type_url: TYPE.into(), value: options.encode_to_vec() }))
    }

    #[test]
    fn what_has_no_effect_is_refused() {
        assert_eq!(check(None), Ok(()));
        assert_eq!(checked("# x = 1\nSystemdCgroup = true\n"), Ok(()));
        assert!(checked("SystemdCgroup = true\nBinaryName = \"/bin/runc\"\n").expect_err("refused").contains("BinaryName"));
        let other = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![8, 1] };
        assert_eq!(check(Some(&other)), Ok(()));
    }
}
