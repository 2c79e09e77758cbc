//! Annotations of Nacre's own, `dev.nacre.*`: what a configuration can say that has no field of OCI's.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::{ConfigError, wrong};

/// What a container runs in.
pub const SANDBOX: &str = "dev.nacre.sandbox";
/// Where writes to the root go.
pub const OVERLAY: &str = "dev.nacre.overlay";
/// What is meant by the host's network.
pub const NETWORK: &str = "dev.nacre.network";
/// Images for a root.
pub const ROOTFS: &str = "dev.nacre.rootfs";
/// The image that a container was made from, for people.
pub const IMAGE: &str = "dev.nacre.image";

/// How all of them begin.
pub const OURS: &str = "dev.nacre.";
const KNOWN: [&str; 5] = [SANDBOX, OVERLAY, NETWORK, ROOTFS, IMAGE];

/// What an annotation says, if it is there.
pub fn annotation<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(name).map(String::as_str)
}

/// Those that look like ours and say nothing: a slip of the pen. OCI forbids an error for them.
pub fn unknown(spec: &Spec) -> impl Iterator<Item = &str> {
    let names = spec.annotations().iter().flatten().map(|(name, _)| name.as_str());
    names.filter(|name| name.starts_with(OURS) && !KNOWN.contains(name))
}

/// The images of annotation [`ROOTFS`]: `erofs:PATH`, relative to the bundle or not; several, of which each is over the one before it, stand in lines of
/// their own. None: the root is a directory.
///
/// # Errors
/// Names the annotation.
pub fn erofs_root(spec: &Spec, bundle: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let Some(text) = annotation(spec, ROOTFS) else { return Ok(Vec::new()) };
    let line = |line: &str| match line.strip_prefix("erofs:").filter(|path| !path.is_empty()) {
        Some(path) => Ok(bundle.join(path)),
        None => Err(wrong(format!("annotation {ROOTFS}"), format!("{line:?} is not erofs:PATH"))),
    };
    text.trim_end_matches('\n').split('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found() {
        let text = r#"{"ociVersion":"1.0.2","annotations":{"dev.nacre.sandbox":"vm","dev.nacre.overlai":"none","io.kubernetes.cri.sandbox-name":"a"}}"#;
        let spec = serde_json::from_str(text).expect("a spec");
        assert_eq!(unknown(&spec).collect::<Vec<_>>(), ["dev.nacre.overlai"]);
    }
}
