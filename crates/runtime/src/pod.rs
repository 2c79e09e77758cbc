//! Pods: several containers in one sandbox.
//!
//! Engines say by annotations which container a pod's sandbox is made for and which join it: the first keeps the sandbox (its end is the
//! sandbox's), the others have a state directory, a gofer and a cgroup of their own, and a pid that is theirs where the host has a process of their own
//! ([`Saved::pid`](crate::state::Saved::pid)).

use std::path::Path;

use agent_api::{ContainerStatus, ListContainersRequest};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::container::connect;
use crate::error::{Error, Result};
use crate::state::{Entry, Status, Store, check_id};

/// A container's place in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing is said: a sandbox of its own.
    Alone,
    /// The pod's sandbox is made for it.
    First,
    /// It joins the sandbox of this container.
    Member(String),
}

/// Annotations of containerd's CRI, and of CRI-O (podman uses them too): the container's type, and the sandbox it belongs to.
const ANNOTATIONS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];

impl Place {
    /// As the annotations say.
    ///
    /// # Errors
    /// A container of a pod whose sandbox is not named, or by no id.
    pub fn of(spec: &Spec) -> Result<Place> {
        Place::of_annotations(|name| spec.annotations().as_ref().and_then(|annotations| annotations.get(name)))
    }

    /// As annotations say that are looked up with `given`.
    ///
    /// # Errors
    /// See [`Place::of`].
    pub fn of_annotations<'a>(given: impl Fn(&str) -> Option<&'a String>) -> Result<Place> {
        for (kind, sandbox) in ANNOTATIONS {
            match given(kind).map(String::as_str) {
                Some("sandbox") => return Ok(Place::First),
                Some("container") => {
                    let id = given(sandbox).ok_or_else(|| Error::Other(format!("annotation {kind} without {sandbox}")))?;
                    check_id(id)?;
                    return Ok(Place::Member(id.clone()));
                }
                // A single container that is none of a pod (CRI-O's and podman's word).
                None | Some("") => {}
                Some(other) => {
                    return Err(Error::Other(format!("annotation {kind}: {other:?} is neither sandbox nor container")));
                }
            }
        }
        Ok(Place::Alone)
    }
}

/// The pod's side of a container's configuration: whose name spaces it may share.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    pub sandbox_id: &'a str,
    /// The sandbox's main process, which engines take for that of its first container.
    pub pid: i32,
    /// Where its other containers are found.
    pub store: &'a Store,
}

impl Pod<'_> {
    /// The container of the pod whose name space a path names by the pid that engines know it by (`kubectl debug --target`).
    pub fn member(&self, path: &Path) -> Option<String> {
        let pid: i32 = path.strip_prefix("/proc").ok()?.iter().next()?.to_str()?.parse().ok()?;
        let entries = self.store.list().ok()?;
        let found = entries.into_iter().find(|entry| {
            entry.saved.is_member() && entry.saved.sandbox_id == self.sandbox_id && entry.saved.pid() == pid && pid != self.pid
        });
        found.map(|entry| entry.saved.id)
    }
}

/// What a name space given by a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// The pod's: its sandbox has it.
    Pods,
    /// Some other process's.
    Foreign,
}

/// Whose name space a path names, for a container of a pod whose sandbox has this pid. That of another container is found by [`Pod::member`] before; what
/// an engine has pinned in a file, it has pinned for the pod.
pub fn named(kind: LinuxNamespaceType, path: &Path, pid: Option<i32>) -> Named {
    let shareable = matches!(
        kind,
        LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts | LinuxNamespaceType::Network | LinuxNamespaceType::Pid
    );
    let process = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next());
    let pods = match process.map(|name| name.to_string_lossy()) {
        None => kind != LinuxNamespaceType::Pid,
        Some(number) => pid.is_some_and(|pid| *number == *pid.to_string()),
    };
    if shareable && pods { Named::Pods } else { Named::Foreign }
}

/// What a container is now. One that has joined a sandbox may have ended while that runs on: its agent knows.
pub fn status(entry: &Entry) -> Status {
    let status = entry.saved.status();
    if !entry.saved.is_member() || matches!(status, Status::Stopped | Status::Creating) {
        return status;
    }
    let asked = connect(entry).and_then(|agent| {
        agent.call(&ListContainersRequest {}).map_err(|cause| Error::Agent { what: "cannot ask for its state".into(), cause })
    });
    let Ok(list) = asked else { return entry.saved.status() };
    match list.containers.iter().find(|container| container.id == entry.saved.id).map(|container| container.status()) {
        None | Some(ContainerStatus::Stopped) => Status::Stopped,
        Some(ContainerStatus::Created) => Status::Created,
        Some(ContainerStatus::Running) => Status::Running,
        Some(ContainerStatus::Paused) => Status::Paused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(annotations: &[(&str, &str)]) -> Result<Place> {
        let annotations = annotations.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut spec = Spec::default();
        spec.set_annotations(Some(annotations));
        Place::of(&spec)
    }

    #[test]
    fn annotations_of_engines() {
        assert_eq!(place(&[]).expect("none"), Place::Alone);
        assert_eq!(place(&[("io.kubernetes.cri.container-type", "sandbox")]).expect("a sandbox"), Place::First);
        let member = [("io.kubernetes.cri-o.ContainerType", "container"), ("io.kubernetes.cri-o.SandboxID", "pod1")];
        assert_eq!(place(&member).expect("a container"), Place::Member("pod1".into()));
        assert!(place(&[("io.kubernetes.cri.container-type", "container")]).is_err(), "of no sandbox");
        assert!(place(&[("io.kubernetes.cri.container-type", "volume")]).is_err(), "an unknown type");
        let outside = [("io.kubernetes.cri.container-type", "container"), ("io.kubernetes.cri.sandbox-id", "../x")];
        assert!(place(&outside).is_err(), "an id that leaves the directory");
    }

    #[test]
    fn only_the_pods_own_name_spaces_are_shared() {
        use LinuxNamespaceType::{Ipc, Mount, Pid};
        assert_eq!(named(Ipc, Path::new("/proc/7/ns/ipc"), Some(7)), Named::Pods);
        assert_eq!(named(Ipc, Path::new("/proc/8/ns/ipc"), Some(7)), Named::Foreign);
        assert_eq!(named(Ipc, Path::new("/proc/7/ns/ipc"), None), Named::Foreign);
        assert_eq!(named(Ipc, Path::new("/run/ipcns/x"), None), Named::Pods);
        assert_eq!(named(Pid, Path::new("/run/pidns/x"), Some(7)), Named::Foreign);
        assert_eq!(named(Mount, Path::new("/proc/7/ns/mnt"), Some(7)), Named::Foreign);
    }
}
