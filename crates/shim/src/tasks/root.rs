//! What a container's root is made of: images, or what is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use agent_api::{Code, Status};
use oci_spec::runtime::{Hook, Spec};
use runtime::config::annotations::{self, annotation};
use runtime::container;
use runtime::pod::Place;
use runtime::sandbox::{IMAGES_AT_START, IMAGES_LATER, Kind};
use runtime::state::Access;

use super::Tasks;
use crate::layers;
use crate::proto::CreateTaskRequest;

/// What annotations of containerd's CRI and of CRI-O begin with: all of their containers have some.
const OF_PODS: [&str; 2] = ["io.kubernetes.cri.", "io.kubernetes.cri-o."];

/// The images that a pod's VM was given while it ran, by the container that has them.
pub(super) type Plugged = BTreeMap<String, BTreeSet<PathBuf>>;

/// A pod's author names no files of the host: those of other pods are among them.
///
/// # Errors
/// Names the annotation.
pub(super) fn check_annotations(spec: &Spec) -> Result<(), Status> {
    let is_pods = |name: &String| OF_PODS.iter().any(|beginning| name.starts_with(beginning));
    if !spec.annotations().iter().flatten().any(|(name, _)| is_pods(name)) {
        return Ok(());
    }
    let refused = |name: &str, what: &str| Err(Status::new(Code::InvalidArgument, format!("annotation {name}: {what}")));
    if annotation(spec, annotations::ROOTFS).is_some() {
        return refused(annotations::ROOTFS, "a pod's container cannot choose a file of the host for its root");
    }
    if annotation(spec, annotations::OVERLAY).is_some_and(|overlay| overlay.starts_with("dir:")) {
        let what = "a pod's container cannot choose a directory of the host for its changes (\"dir\" is one of its own)";
        return refused(annotations::OVERLAY, what);
    }
    Ok(())
}

/// Whether the root must be where the bundle says, or looks otherwise there than its images.
fn is_to_be_mounted(spec: &Spec) -> bool {
    if annotation(spec, annotations::ROOTFS).is_some() || annotation(spec, annotations::OVERLAY) == Some("none") {
        return true;
    }
    let some = |list: &Option<Vec<Hook>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let looks = |hooks: &oci_spec::runtime::Hooks| {
        // They find the root in the bundle.
        some(hooks.prestart()) || some(hooks.create_runtime()) || some(hooks.create_container())
    };
    // With a user namespace, snapshotters shift a root's ids, but not those in its images.
    let shifted = |linux: &oci_spec::runtime::Linux| {
        [linux.uid_mappings(), linux.gid_mappings()].into_iter().flatten().any(|list| !list.is_empty())
    };
    spec.hooks().as_ref().is_some_and(looks) || spec.linux().as_ref().is_some_and(shifted)
}

impl Tasks {
    /// The images that the root is made of, the lowest first. Empty: it is to be mounted, for it is otherwise, or to be found in the bundle, or more than
    /// the VM has room for.
    pub(super) fn root_images(&self, request: &CreateTaskRequest, spec: &Spec) -> Vec<PathBuf> {
        if is_to_be_mounted(spec) {
            return Vec::new();
        }
        let Some(images) = layers::images(&request.rootfs) else { return Vec::new() };
        let (kind, running) = match Place::of(spec) {
            Ok(Place::Member(sandbox)) => (self.runtime.store.open(&sandbox, Access::Look).map(|entry| entry.saved.kind), true),
            _ => (container::kind(spec, (self.kind == Kind::Vm).then_some(Kind::Vm)), false),
        };
        let fit = match kind {
            Ok(Kind::Sentry) => true,
            Ok(Kind::Vm) if running => room_for(&mut self.lock().plugged, &request.id, &images),
            Ok(Kind::Vm) => images.len() <= IMAGES_AT_START,
            Err(_) => false,
        };
        if fit { images } else { Vec::new() }
    }

    /// A container has no images (any more): their slots are free.
    pub(super) fn without_images(&self, id: &str) {
        if let Some(plugged) = &mut self.lock().plugged {
            plugged.remove(id);
        }
    }
}

/// Whether a running VM can most likely be given these images too; then the container counts as having them. Each takes a slot, but containers of one image
/// share. What else takes one is not known here.
fn room_for(plugged: &mut Option<Plugged>, id: &str, images: &[PathBuf]) -> bool {
    let Some(plugged) = plugged else { return false };
    let all: BTreeSet<&PathBuf> = plugged.values().flatten().chain(images).collect();
    let fits = all.len() <= IMAGES_LATER;
    if fits {
        plugged.insert(id.into(), images.iter().cloned().collect());
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(more: serde_json::Value) -> Spec {
        let mut all = serde_json::json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}});
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        serde_json::from_value(all).expect("a configuration")
    }

    #[test]
    fn pods_name_no_files_of_the_host() {
        let checked = |pods: &str, name: &str, value: &str| {
            let annotations = serde_json::json!({"annotations": {pods: "x", name: value}});
            check_annotations(&spec(annotations)).map_err(|status| status.message)
        };
        let harmful = [
            (annotations::ROOTFS, "erofs:/var/lib/containerd/layer.erofs"),
            (annotations::ROOTFS, ""),
            (annotations::OVERLAY, "dir:/var/lib/containerd"),
        ];
        for (name, value) in harmful {
            for pods in
                ["io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.ContainerType"]
            {
                assert!(checked(pods, name, value).is_err_and(|what| what.contains(name)), "{pods} {name} {value}");
            }
            assert_eq!(checked("a", name, value), Ok(()), "who is no pod's author");
        }
        for value in ["memory", "dir", "none"] {
            assert_eq!(checked("io.kubernetes.cri.container-type", annotations::OVERLAY, value), Ok(()));
        }
    }

    #[test]
    fn some_roots_are_looked_at_in_the_bundle() {
        let hook = serde_json::json!([{"path": "/bin/true"}]);
        let ids = serde_json::json!([{"containerID": 0, "hostID": 65536, "size": 65536}]);
        let mounted = [
            serde_json::json!({"annotations": {annotations::OVERLAY: "none"}}),
            serde_json::json!({"annotations": {annotations::ROOTFS: "erofs:x"}}),
            serde_json::json!({"hooks": {"prestart": hook}}),
            serde_json::json!({"hooks": {"createRuntime": hook}}),
            serde_json::json!({"hooks": {"createContainer": hook}}),
            serde_json::json!({"linux": {"uidMappings": ids}}),
            serde_json::json!({"linux": {"gidMappings": ids}}),
        ];
        for more in mounted {
            assert!(is_to_be_mounted(&spec(more.clone())), "{more}");
        }
        let mapped = [
            serde_json::json!({}),
            serde_json::json!({"annotations": {annotations::OVERLAY: "dir"}}),
            serde_json::json!({"hooks": {"prestart": [], "poststop": hook}, "linux": {"uidMappings": [], "gidMappings": []}}),
        ];
        for more in mapped {
            assert!(!is_to_be_mounted(&spec(more.clone())), "{more}");
        }
    }

    #[test]
    fn a_vm_has_room_for_so_many_images() {
        let images = |numbers: std::ops::Range<usize>| numbers.map(|n| PathBuf::from(n.to_string())).collect::<Vec<_>>();
        let mut plugged = Some(Plugged::new());
        assert!(room_for(&mut plugged, "a", &images(0..IMAGES_LATER - 1)));
        assert!(room_for(&mut plugged, "b", &images(0..IMAGES_LATER - 1)), "it has them");
        assert!(!room_for(&mut plugged, "c", &images(IMAGES_LATER..IMAGES_LATER + 2)));
        assert!(room_for(&mut plugged, "d", &images(1..IMAGES_LATER)), "what did not fit is not counted");
        for gone in ["a", "b", "d"] {
            plugged.as_mut().expect("known").remove(gone);
        }
        assert!(room_for(&mut plugged, "c", &images(IMAGES_LATER..2 * IMAGES_LATER)), "what has gone neither");
        assert!(!room_for(&mut None, "a", &images(0..1)));
    }
}
