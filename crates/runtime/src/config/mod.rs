//! config.json: read once, checked once, turned into what the agent and the gofer are told.
//!
//! [`load`] parses and names the key that is wrong; [`plan`] makes the typed request. What this runtime cannot do is an error that says
//! so, except what a sandbox makes pointless (AppArmor, SELinux), which is logged.

pub mod annotations;
pub mod capabilities;
mod devices;
pub mod mounts;
mod network;
mod overlay;
mod process;
pub mod resources;
mod seccomp;

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_api::{
    CacheMode, CreateContainerRequest, Empty, IdMapping, Limits, MOST_ROOT_IMAGES, NamespaceKind, Root, SharedNamespace,
    Sysctl, root,
};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec};

pub use oci_spec::runtime::Process as OciProcess;
pub use overlay::{Overlay, prepare as prepare_overlay};

pub use self::annotations::annotation;
pub use self::network::{network, network_namespace};
pub use self::process::{check as check_process, process};
use crate::cgroup;
use crate::pod::{Named, Place, Pod, named};
use crate::process::gofer::Attach;
use crate::sandbox::{ContainerPlan, is_read_only};

/// What is wrong with a bundle's configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("JSON specification file {} not found", .0.display())]
    NotFound(PathBuf),
    #[error("cannot read {}: {cause}", .path.display())]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("{}: {key}: {problem}", .path.display())]
    Json { path: PathBuf, key: String, problem: String },
    #[error("config.json: {key} is missing")]
    Missing { key: String },
    #[error("config.json: {key}: {problem}")]
    Wrong { key: String, problem: String },
    #[error("config.json: {key}: {what} is not supported by the sentry sandbox")]
    Unsupported { key: String, what: String },
    #[error("invalid rootfs: {}: {cause}", .path.display())]
    Rootfs { path: PathBuf, cause: std::io::Error },
}

pub(crate) fn missing(key: &str) -> ConfigError {
    ConfigError::Missing { key: key.into() }
}

pub(crate) fn wrong(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Wrong { key: key.into(), problem: problem.into() }
}

pub(crate) fn unsupported(key: impl Into<String>, what: impl Into<String>) -> ConfigError {
    ConfigError::Unsupported { key: key.into(), what: what.into() }
}

/// Parses a JSON file; errors name the key by its path.
///
/// # Errors
/// [`ConfigError::NotFound`], [`ConfigError::Read`], [`ConfigError::Json`].
pub fn parse_file<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read(path).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => ConfigError::NotFound(path.into()),
        _ => ConfigError::Read { path: path.into(), cause },
    })?;
    parse(&text).map_err(|(key, problem)| ConfigError::Json { path: path.into(), key, problem })
}

fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, (String, String)> {
    let mut value: serde_json::Value = serde_json::from_slice(text).map_err(|e| ("malformed JSON".into(), e.to_string()))?;
    allow_no_user(&mut value);
    serde_path_to_error::deserialize(value).map_err(|e| {
        let (path, problem) = (e.path().to_string(), e.into_inner().to_string());
        match problem.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            Some(field) if path == "." => (field.into(), "is missing".into()),
            Some(field) => (format!("{path}.{field}"), "is missing".into()),
            None => (path, problem),
        }
    })
}

/// OCI and runc let a process without `user` be root; the crate does not.
fn allow_no_user(value: &mut serde_json::Value) {
    let inner = value.get_mut("process").and_then(|process| process.as_object_mut());
    if let Some(process) = inner {
        process.entry("user").or_insert_with(|| serde_json::json!({}));
    } else if let Some(process) = value.as_object_mut().filter(|object| object.contains_key("args")) {
        process.entry("user").or_insert_with(|| serde_json::json!({}));
    }
}

/// A bundle's configuration, checked as far as it can be without the host.
///
/// # Errors
/// Names the key.
pub fn load(bundle: &Path) -> Result<Spec, ConfigError> {
    fs::read_dir(bundle).map_err(|cause| ConfigError::Read { path: bundle.into(), cause })?;
    let spec: Spec = parse_file(&bundle.join("config.json")).map_err(|error| match error {
        ConfigError::NotFound(_) => ConfigError::NotFound("config.json".into()),
        other => other,
    })?;
    check(&spec)?;
    Ok(spec)
}

fn check(spec: &Spec) -> Result<(), ConfigError> {
    let version = spec.version();
    if version.is_empty() {
        return Err(missing("ociVersion"));
    }
    if version.split('.').next() != Some("1") {
        return Err(wrong("ociVersion", format!("{version:?} is not a 1.x version")));
    }
    let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(missing("root.path"));
    }
    let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    check_process(process, "process")?;
    if spec.solaris().is_some() || spec.windows().is_some() || spec.vm().is_some() {
        return Err(unsupported("windows, solaris or vm", "a configuration for another platform"));
    }
    let hooks = spec.hooks().as_ref();
    if hooks.is_some_and(|hooks| hooks.start_container().as_ref().is_some_and(|list| !list.is_empty())) {
        return Err(unsupported("hooks.startContainer", "a hook that runs inside the container"));
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if !mount.destination().is_absolute() {
            // runc accepts these with a warning, relative to /.
            tracing::warn!("mounts[{index}].destination {} is not absolute", mount.destination().display());
        }
    }
    Ok(())
}

/// The path of the container's root, which must be a directory.
///
/// # Errors
/// [`ConfigError::Rootfs`].
pub fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf, ConfigError> {
    let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
    let path = bundle.join(root.path());
    let problem = |cause| ConfigError::Rootfs { path: path.clone(), cause };
    let path = fs::canonicalize(&path).map_err(problem)?;
    match fs::metadata(&path).map_err(problem)?.is_dir() {
        true => Ok(path),
        false => Err(problem(ErrorKind::NotADirectory.into())),
    }
}

/// A root can be made of so many images.
///
/// # Errors
/// It cannot.
pub fn check_images(images: &[PathBuf]) -> Result<(), ConfigError> {
    if images.len() > MOST_ROOT_IMAGES {
        let many = images.len();
        return Err(unsupported("root", format!("one of {many} images (it can be made of {MOST_ROOT_IMAGES})")));
    }
    let mut seen = HashSet::new();
    for image in images {
        // What is not there is missed when it is opened.
        let Ok(metadata) = fs::metadata(image) else { continue };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            return Err(wrong("root", format!("the image {} twice", image.display())));
        }
    }
    Ok(())
}

/// Whether a user namespace has further ids than its maker's own.
fn has_ids_of_others(linux: &Linux) -> bool {
    [linux.uid_mappings(), linux.gid_mappings()].into_iter().flatten().flatten().any(|mapping| mapping.size() > 1)
}

/// What to tell the agent and the gofer about a container, in a pod's sandbox or in one of its own. Its root is made of `images`, the lowest first, or, without
/// any, the bundle's directory.
///
/// # Errors
/// Names the key that is wrong or cannot be done.
pub fn plan(
    id: &str,
    bundle: &Path,
    spec: &Spec,
    images: Vec<PathBuf>,
    overlay: &Overlay,
    pod: Option<Pod<'_>>,
) -> Result<ContainerPlan, ConfigError> {
    let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
    let read_only = root.readonly().unwrap_or(false);
    let root_images = (0..images.len() as u32).collect::<Vec<_>>();
    let mut attaches = Vec::new();
    if images.is_empty() {
        attaches.push(Attach {
            source: rootfs(spec, bundle)?,
            recursive: true,
            read_only: read_only || *overlay != Overlay::None,
            exclusive: true,
            hidden: Vec::new(),
            told: false,
        });
    } else if *overlay == Overlay::None && !read_only {
        return Err(wrong("annotations", "an EROFS root cannot be written to: dev.nacre.overlay=none needs root.readonly"));
    } else if spec.linux().as_ref().is_some_and(has_ids_of_others) {
        let what =
            "a root of EROFS images has the ids that are in them, which are not shifted: leave the mappings out, or mount it";
        return Err(wrong("linux.uidMappings, gidMappings", what));
    }
    let mut of_host = mounts::OfHost { attaches, images, disks: Vec::new() };
    let mounts = mounts::mounts(spec.mounts().as_deref().unwrap_or_default(), bundle, &mut of_host)?;
    let linux = spec.linux().as_ref();
    let devices = linux.map(|linux| devices::devices(linux, &mut of_host.disks, is_read_only)).transpose()?.unwrap_or_default();
    let device_rules = linux.map(devices::rules).transpose()?.unwrap_or_default();
    let mounts::OfHost { mut attaches, images, disks } = of_host;
    let kept = attaches.len() as u32;
    if let Overlay::Dir(dir) = overlay {
        attaches.push(Attach {
            source: dir.clone(),
            recursive: false,
            read_only: false,
            exclusive: true,
            hidden: Vec::new(),
            told: false,
        });
    }
    let namespaces = linux.and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    let spec_process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    let resources = linux.and_then(|l| l.resources().as_ref());
    let request = CreateContainerRequest {
        id: id.into(),
        process: Some(process(spec_process)?),
        hostname: spec.hostname().as_ref().map(|name| name.clone().into_bytes()),
        domainname: spec.domainname().as_ref().map(|name| name.clone().into_bytes()),
        gofer: 0,
        images: Vec::new(),
        memory: None,
        disks: Vec::new(),
        root: Some(Root {
            attach: 0,
            read_only,
            overlay: Some(match overlay {
                Overlay::Memory => root::Overlay::Memory(Empty {}),
                Overlay::Dir(_) => root::Overlay::Dir(kept),
                Overlay::None => root::Overlay::None(Empty {}),
            }),
            cache: CacheMode::Exclusive.into(),
            images: root_images,
        }),
        mounts,
        masked_paths: paths(linux.and_then(|l| l.masked_paths().as_ref())),
        read_only_paths: paths(linux.and_then(|l| l.readonly_paths().as_ref())),
        devices,
        device_rules,
        sysctls: sysctls(linux.and_then(|l| l.sysctl().as_ref())),
        limits: resources.map(limits).transpose()?,
        shared_namespaces: shared(namespaces, spec, pod)?,
        uid_mappings: id_mappings(linux.and_then(|l| l.uid_mappings().as_ref())),
        gid_mappings: id_mappings(linux.and_then(|l| l.gid_mappings().as_ref())),
        seccomp: linux.and_then(|l| l.seccomp().as_ref()).map(seccomp::profile).transpose()?,
    };
    warn_of_ignored(spec);
    Ok(ContainerPlan { request, attaches, images, disks })
}

fn paths(list: Option<&Vec<String>>) -> Vec<Vec<u8>> {
    list.into_iter().flatten().map(|path| path.clone().into_bytes()).collect()
}

fn sysctls(map: Option<&std::collections::HashMap<String, String>>) -> Vec<Sysctl> {
    let mut list: Vec<_> =
        map.into_iter().flatten().map(|(key, value)| Sysctl { key: key.clone(), value: value.clone() }).collect();
    list.sort_by(|a, b| a.key.cmp(&b.key));
    list
}

fn id_mappings(list: Option<&Vec<LinuxIdMapping>>) -> Vec<IdMapping> {
    let mapping = |m: &LinuxIdMapping| IdMapping { container_id: m.container_id(), host_id: m.host_id(), size: m.size() };
    list.into_iter().flatten().map(mapping).collect()
}

/// The limits the sentry keeps.
///
/// # Errors
/// Names the limit that makes no sense.
fn limits(resources: &LinuxResources) -> Result<Limits, ConfigError> {
    let positive = |value: Option<i64>, key: &str| {
        let limit = cgroup::asked(value).map_err(|what| wrong(format!("linux.resources.{key}"), what));
        limit.map(|limit| limit.filter(|&limit| limit != Limits::NONE))
    };
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    Ok(Limits {
        memory: positive(memory.and_then(|m| m.limit()), "memory.limit")?,
        pids: positive(resources.pids().as_ref().map(|p| p.limit()), "pids.limit")?,
        // Engines fill in zeros for what is not asked for, and -1 is no quota.
        cpu_quota_us: cpu.and_then(|c| c.quota()).and_then(|quota| u64::try_from(quota).ok()).filter(|&quota| quota != 0),
        cpu_period_us: cpu.and_then(|c| c.period()).filter(|&period| period != 0),
        cpu_shares: cpu.and_then(|c| c.shares()).filter(|&shares| shares != 0),
    })
}

/// A namespace given by a path is shared with the pod's first container if it is the pod's; the host's and other sandboxes' cannot be joined. A
/// network namespace is joined by the sandbox ([`network_namespace`]).
fn shared(namespaces: &[LinuxNamespace], spec: &Spec, pod: Option<Pod<'_>>) -> Result<Vec<SharedNamespace>, ConfigError> {
    let first = matches!(Place::of(spec), Ok(Place::First));
    let mut shared = Vec::new();
    for (index, namespace) in namespaces.iter().enumerate() {
        let key = || format!("linux.namespaces[{index}]");
        let kind = namespace.typ();
        let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
        let (path, kind) = match (kind, path) {
            (LinuxNamespaceType::Time, _) => return Err(unsupported(key(), "a time namespace")),
            (_, None) => continue,
            // The sandbox joins it, for all of its containers.
            (LinuxNamespaceType::Network, Some(_)) => continue,
            (kind, Some(path)) => (path, kind),
        };
        let wanted = match kind {
            LinuxNamespaceType::Pid => Some(NamespaceKind::Pid),
            LinuxNamespaceType::Ipc => Some(NamespaceKind::Ipc),
            LinuxNamespaceType::Uts => Some(NamespaceKind::Uts),
            _ => None,
        };
        let joining = || unsupported(key(), format!("joining {} ({})", path.display(), name(kind)));
        match (named(kind, path, pod.map(|pod| pod.pid)), wanted, pod) {
            (Named::Pods, Some(kind), Some(pod)) => {
                shared.push(SharedNamespace { kind: kind.into(), container_id: pod.sandbox_id.into() });
            }
            (Named::Foreign, Some(kind), Some(pod)) => match pod.member(path) {
                Some(id) => shared.push(SharedNamespace { kind: kind.into(), container_id: id }),
                None => return Err(joining()),
            },
            // Pinned by the engine for the pod to come: the sandbox's own is it.
            (Named::Pods, Some(_), None) if first => {}
            _ => return Err(joining()),
        }
    }
    Ok(shared)
}

fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Time => "time",
    }
}

/// All kinds the sentry has, for `features`.
pub const NAMESPACES: [NamespaceKind; 7] = [
    NamespaceKind::Cgroup,
    NamespaceKind::Ipc,
    NamespaceKind::Mount,
    NamespaceKind::Network,
    NamespaceKind::Pid,
    NamespaceKind::User,
    NamespaceKind::Uts,
];

fn warn_of_ignored(spec: &Spec) {
    let Some(linux) = spec.linux() else { return };
    let process = spec.process().as_ref();
    let given = |text: Option<&String>| text.is_some_and(|text| !text.is_empty());
    let ignored = [
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.mountLabel", given(linux.mount_label().as_ref())),
        ("process.apparmorProfile", given(process.and_then(|p| p.apparmor_profile().as_ref()))),
        ("process.selinuxLabel", given(process.and_then(|p| p.selinux_label().as_ref()))),
        ("process.ioPriority", process.is_some_and(|p| p.io_priority().is_some())),
        ("process.scheduler", process.is_some_and(|p| p.scheduler().is_some())),
    ];
    for (key, _) in ignored.iter().filter(|(_, given)| *given) {
        tracing::info!("{key} has no effect in a sandbox");
    }
    for (key, value) in linux.resources().iter().flat_map(resources::without_effect) {
        tracing::info!("linux.resources.{key}: {value} has no effect in a sandbox");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Spec, String> {
        let spec: Spec = parse(text.as_bytes()).map_err(|(key, problem)| format!("{key}: {problem}"))?;
        check(&spec).map_err(|e| e.to_string())?;
        Ok(spec)
    }

    const GOOD: &str = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["true"],"cwd":"/"}}"#;

    #[test]
    fn the_smallest_configuration() {
        assert!(parsed(GOOD).is_ok());
    }

    #[test]
    fn an_image_is_no_two_layers() {
        let image = |name: &str| std::env::temp_dir().join(format!("nacre-config-{}-{name}", std::process::id()));
        let (one, other, same) = (image("one"), image("other"), image("same"));
        for path in [&one, &other] {
            fs::write(path, "").expect("a file");
        }
        std::os::unix::fs::symlink(&one, &same).expect("a link");
        let checked = |images: &[&PathBuf]| {
            let images: Vec<PathBuf> = images.iter().map(|&image| image.clone()).collect();
            check_images(&images).map_err(|error| error.to_string())
        };
        let (missing, two, twice) = (image("missing"), checked(&[&one, &other]), checked(&[&one, &other, &same]));
        let absent = checked(&[&missing, &missing]);
        for path in [&one, &other, &same] {
            let _ = fs::remove_file(path);
        }
        assert_eq!(two, Ok(()));
        assert!(twice.is_err_and(|what| what.contains("twice")));
        assert_eq!(absent, Ok(()));
    }

    #[test]
    fn ids_of_images_are_not_shifted() {
        let planned = |size: u32| {
            let ids = format!(r#"[{{"containerID":0,"hostID":1000,"size":{size}}}]"#);
            let text = GOOD.replace(r#""root""#, &format!(r#""linux":{{"uidMappings":{ids},"gidMappings":{ids}}},"root""#));
            let spec = parsed(&text).expect("it is one");
            plan("id", Path::new("/"), &spec, vec!["/image".into()], &Overlay::Memory, None)
                .map(drop)
                .map_err(|e| e.to_string())
        };
        assert!(planned(65536).is_err_and(|what| what.contains("uidMappings")));
        assert_eq!(planned(1), Ok(()), "an ordinary user's own");
    }

    #[test]
    fn errors_name_the_key() {
        let cases = [
            (GOOD.replace("\"1.0.2\"", "\"\""), "ociVersion is missing"),
            (GOOD.replace("\"1.0.2\"", "\"2.0.0\""), "ociVersion: \"2.0.0\" is not a 1.x version"),
            (GOOD.replace(r#""root":{"path":"rootfs"},"#, ""), "root is missing"),
            (GOOD.replace(r#"{"path":"rootfs"}"#, "{}"), "root.path"),
            (GOOD.replace(r#","process":{"args":["true"],"cwd":"/"}"#, ""), "process is missing"),
            (GOOD.replace(r#"["true"]"#, "[]"), "process.args is missing"),
            (GOOD.replace(r#"["true"]"#, "[7]"), "process.args[0]: invalid type: integer `7`, expected a string"),
            (GOOD.replace(r#","cwd":"/""#, ""), "process.cwd: is missing"),
            (GOOD.replace(r#""cwd":"/""#, r#""cwd":"tmp""#), "process.cwd: \"tmp\" is not an absolute path"),
            (GOOD.replace(r#""cwd":"/""#, r#""cwd":"/","user":{"uid":"me"}"#), "process.user.uid: invalid type: string \"me\""),
            (GOOD.replace(r#""cwd":"/""#, r#""cwd":"/","env":["PATH"]"#), "process.env[0]: \"PATH\" has no \"=\""),
            (GOOD.replace(r#""cwd":"/""#, r#""cwd":"/","capabilities":{"bounding":["CAP_FLY"]}"#), "process.capabilities"),
            (format!("{GOOD}x"), "malformed JSON: trailing characters"),
            (
                GOOD.replace(r#""cwd""#, r#""terminal":true,"consoleSize":{"height":99999999,"width":1},"cwd""#),
                "process.consoleSize",
            ),
        ];
        for (text, expected) in cases {
            let error = parsed(&text).expect_err(&text);
            assert!(error.contains(expected), "{text}\ngives: {error}\nnot:   {expected}");
        }
    }
}
