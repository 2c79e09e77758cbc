//! Which network the configuration asks for.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

use super::annotations::{NETWORK, annotation};
use super::{ConfigError, wrong};
use crate::process::Network;

/// The network namespace that the container is to join, if it names one.
pub fn network_namespace(spec: &Spec) -> Option<PathBuf> {
    network_entry(spec)?.path().clone().filter(|path| !path.as_os_str().is_empty())
}

/// Whether this is the namespace that this process is in.
fn is_own(namespace: &Path) -> bool {
    let inode = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    inode(namespace).is_some_and(|found| inode(Path::new("/proc/self/ns/net")) == Some(found))
}

fn network_entry(spec: &Spec) -> Option<&LinuxNamespace> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network)
}

/// The network of a sandbox with this first container.
///
/// Without a network namespace in its list, or with the host's own, OCI gives a container the host's network (hostNetwork of a pod, `--network host`). What a sandbox can have of it is
/// the host's sockets, which is much less of a boundary: so not unless annotation `dev.nacre.network` says so, too. It gives nothing that the list does not give.
///
/// # Errors
/// The host's network is asked for, and the annotation does not say what is meant; or says it where it is not asked for.
pub fn network(spec: &Spec) -> Result<Network, ConfigError> {
    let annotation = annotation(spec, NETWORK);
    let refused = |what: &str| Err(wrong(format!("annotations.{NETWORK}"), what));
    let own = network_entry(spec).filter(|_| !network_namespace(spec).is_some_and(|path| is_own(&path)));
    match (own, annotation) {
        (_, Some(other)) if !matches!(other, "host" | "none") => refused(&format!("{other:?} is neither host nor none")),
        (Some(_), Some("host")) => refused("the container has a network namespace of its own"),
        (Some(_), Some(_)) | (None, Some("none")) => Ok(Network::None),
        (Some(_), None) => Ok(network_namespace(spec).map_or(Network::None, Network::Namespace)),
        (None, Some(_)) => Ok(Network::Host),
        (None, None) => {
            let what = "none for the network is the host's network (hostNetwork, --network host), which a sandbox is not given unasked: \
                        use a network of its own, or annotation dev.nacre.network: \"host\" for the host's sockets (sentry only), \
                        \"none\" for a loopback interface (nacre's --net host, --net none)";
            Err(wrong("linux.namespaces", what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(namespaces: &str, annotations: &str) -> Result<Network, String> {
        let text = format!(r#"{{"ociVersion":"1.0.2","annotations":{annotations},"linux":{{"namespaces":{namespaces}}}}}"#);
        network(&serde_json::from_str(&text).expect("a spec")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_hosts_is_not_given_unasked() {
        let (host, none) = (r#"{"dev.nacre.network":"host"}"#, r#"{"dev.nacre.network":"none"}"#);
        let (own, pods) = (r#"[{"type":"network"}]"#, r#"[{"type":"network","path":"/run/netns/x"}]"#);
        assert_eq!(asked(own, "{}"), Ok(Network::None));
        assert_eq!(asked(pods, "{}"), Ok(Network::Namespace("/run/netns/x".into())));
        assert!(asked("[]", "{}").expect_err("the host's").contains("dev.nacre.network"));
        assert!(asked(r#"[{"type":"pid"}]"#, "{}").is_err());
        assert!(asked(r#"[{"type":"network","path":"/proc/thread-self/ns/net"}]"#, "{}").is_err());
        assert_eq!(asked("[]", host), Ok(Network::Host));
        assert_eq!(asked("[]", none), Ok(Network::None));
        // Who may annotate a pod need not be who may give it the host's network.
        assert!(asked(own, host).is_err() && asked(pods, host).is_err());
        assert_eq!(asked(pods, none), Ok(Network::None));
        assert!(asked("[]", r#"{"dev.nacre.network":"bridge"}"#).expect_err("unknown").contains("neither"));
    }
}
