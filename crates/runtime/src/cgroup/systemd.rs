//! `SLICE:PREFIX:NAME`: how engines whose cgroup driver is systemd's write a container's cgroup (runc's docs/systemd.md).
//!
//! Where it is in the tree follows from the names alone. The directory is made there by cgroupfs, in a slice that the kubelet has had systemd make;
//! systemd is told of no scope, and leaves directories alone that it does not know.

use std::path::PathBuf;

/// Where runc puts what names no slice.
const SYSTEM: &str = "system.slice";

/// Whether a path is of this form. Names of directories have no colons, unless somebody means this.
pub(super) fn is_meant(path: &str) -> bool {
    !path.contains('/') && path.split(':').count() == 3
}

/// The path from the hierarchy's root.
///
/// # Errors
/// What is wrong with it.
pub(super) fn path(path: &str) -> Result<PathBuf, String> {
    let mut parts = path.splitn(3, ':');
    let (slice, prefix, name) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let slice = expand(if slice.is_empty() { SYSTEM } else { slice })?;
    if name.is_empty() || matches!(name, "." | "..") {
        return Err("the unit's name is missing".into());
    }
    Ok(slice.join(match (name.ends_with(".slice"), prefix) {
        (true, _) => name.into(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    }))
}

/// systemd.slice(5): `a-b.slice` is in `a.slice`; `-.slice` is the root.
fn expand(slice: &str) -> Result<PathBuf, String> {
    let wrong = || format!("{slice:?} is no name of a slice");
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty()).ok_or_else(wrong)?;
    let mut path = PathBuf::from("/");
    if name == "-" {
        return Ok(path);
    }
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(wrong());
        }
        path.push(format!("{prefix}{part}.slice"));
        prefix = format!("{prefix}{part}-");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        path(text).map(|path| path.display().to_string())
    }

    #[test]
    fn as_runc_expands_them() {
        for (text, wanted) in [
            (
                "kubepods-burstable-pod1234_5678.slice:cri-containerd:abc",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_5678.slice/cri-containerd-abc.scope",
            ),
            ("machine.slice:libpod:0123", "/machine.slice/libpod-0123.scope"),
            (":runc:x", "/system.slice/runc-x.scope"),
            ("-.slice::x", "/x.scope"),
            ("user.slice::pod.slice", "/user.slice/pod.slice"),
        ] {
            assert!(is_meant(text), "{text}");
            assert_eq!(expanded(text).as_deref(), Ok(wanted));
        }
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        for text in ["kubepods:a:b", ".slice:a:b", "-a.slice:a:b", "a-.slice:a:b", "a--b.slice:a:b", "a.slice:a:"] {
            assert!(expanded(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_paths_are_what_they_say() {
        for text in ["/kubepods/pod1/x", "kubepods/x", "a:b", "/a.slice:b:c", "x"] {
            assert!(!is_meant(text), "{text}");
        }
    }
}
