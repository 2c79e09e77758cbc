//! The runtime's options in containerd's configuration (`…runtimes.NAME.options`), which come with each container.
//!
//! There is nothing that they set: what a sandbox can be told is in the pod's annotations (`dev.nacre.*`) and in the name of its handler. So whoever writes
//! one is told: it is refused, but for runc's `SystemdCgroup`, which is copied from there, and is what the cgroup's path says by its form. Messages of runc's own type,
//! which containerd 2 makes for all runtimes, are let pass; what it has not put in by itself is logged.

use prost::Message;

use crate::proto::Any;

const TYPE: &str = "runtimeoptions.v1.Options";
const RUNC: &str = "containerd.runc.v1.Options";
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

/// What containerd itself puts into `containerd.runc.v1.Options`: for a user namespace, and for a sandbox that was made by the Sandbox API.
#[derive(Clone, PartialEq, Eq, Message)]
struct Runc {
    #[prost(uint32, tag = "4")]
    io_uid: u32,
    #[prost(uint32, tag = "5")]
    io_gid: u32,
    #[prost(string, tag = "12")]
    task_api_address: String,
    #[prost(uint32, tag = "13")]
    task_api_version: u32,
}

impl Runc {
    /// Whether there is nothing else in a message.
    fn is_all_of(message: &[u8]) -> bool {
        // Decoding leaves out what it does not know.
        Runc::decode(message).is_ok_and(|known| known.encoded_len() == message.len())
    }
}

/// # Errors
/// Names an option, or a type of options that are another runtime's.
pub fn check(options: Option<&Any>) -> Result<(), String> {
    let Some(options) = options.filter(|options| !options.value.is_empty()) else { return Ok(()) };
    if options.type_url.ends_with(RUNC) {
        if !Runc::is_all_of(&options.value) {
            tracing::info!("options of runc have no effect here: a sandbox is told by its pod's annotations, dev.nacre.*");
        }
        return Ok(());
    }
    if !options.type_url.ends_with(TYPE) {
        return Err(format!("options of type {} are another runtime's", options.type_url));
    }
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
        let of = |type_url: &str, value: &[u8]| Any { type_url: type_url.into(), value: value.into() };
        assert_eq!(check(Some(&of(RUNC, &[8, 1]))), Ok(()));
        assert!(check(Some(&of("another.v1.Options", &[8, 1]))).expect_err("refused").contains("another.v1"));
        assert_eq!(check(Some(&of("another.v1.Options", &[]))), Ok(()), "it says nothing");
    }

    #[test]
    fn what_containerd_puts_in_by_itself_is_known() {
        let own = Runc { io_uid: 70000, task_api_address: "unix:///run/s".into(), task_api_version: 3, ..Runc::default() };
        assert!(Runc::is_all_of(&own.encode_to_vec()));
        // no_pivot_root
        assert!(!Runc::is_all_of(&[8, 1]));
        assert!(!Runc::is_all_of(&[0xff]));
    }
}
