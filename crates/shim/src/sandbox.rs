//! The Sandbox service of containerd 2: a pod's sandbox as a thing of its own, without a pause image.
//!
//! It is [`Tasks`] under another name. The sandbox is a container like any pod's first one; where the engine brings no program for it, its program is one of ours
//! that only waits ([`PAUSE`]), in a bundle that is made inside the sandbox's own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_api::{Code, Status};
use prost::Message;
use serde_json::{Value, json};

use crate::proto::{
    CreateSandboxRequest, CreateTaskRequest, KillRequest, NamespaceMode, Platform, PlatformResponse, PodConfig, SandboxMetric,
    SandboxMetricsResponse, SandboxRequest, SandboxStatusResponse, StartSandboxResponse, StopSandboxRequest, TaskStatus,
    Timestamp,
};
use crate::service::{decode, empty, encode};
use crate::tasks::{Tasks, unknown};

pub const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// Type of the options that CRI gives.
const POD_CONFIG: &str = "runtime.v1.PodSandboxConfig";
/// The directory inside the sandbox's bundle that has the bundle of its own container.
const BUNDLE: &str = "pause";
/// How long a sandbox may take to end, if the engine does not say.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a call leaves to be done after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    /// The shim ends.
    End,
}

/// Answers one call.
///
/// # Errors
/// For the client, in gRPC's codes.
pub fn call(tasks: &Arc<Tasks>, method: &str, payload: &[u8]) -> Result<(Vec<u8>, After), Status> {
    let asked = || decode::<SandboxRequest>(payload).map(|request| request.sandbox_id);
    let answer = match method {
        "CreateSandbox" => empty(create(tasks, &decode(payload)?)),
        "StartSandbox" => encode(start(tasks, &asked()?)),
        "Platform" => {
            let platform = Platform { os: "linux".into(), architecture: "amd64".into() };
            encode(Ok(PlatformResponse { platform: Some(platform) }))
        }
        "StopSandbox" => {
            let StopSandboxRequest { sandbox_id, timeout_secs } = decode(payload)?;
            let patience = if timeout_secs == 0 { PATIENCE } else { Duration::from_secs(timeout_secs.into()) };
            empty(stop(tasks, &sandbox_id, patience))
        }
        "WaitSandbox" => encode(tasks.wait(&asked()?, "")),
        "SandboxStatus" => encode(status(tasks, &asked()?)),
        "PingSandbox" => empty(tasks.ping(&asked()?)),
        "SandboxMetrics" => encode(metrics(tasks, &asked()?)),
        "ShutdownSandbox" => {
            let id = asked()?;
            stop(tasks, &id, PATIENCE)?;
            tasks.delete_all()?;
            return empty(Ok(())).map(|answer| (answer, After::End));
        }
        other => Err(Status::new(Code::Unimplemented, format!("there is no method {other}"))),
    };
    Ok((answer?, After::Nothing))
}

fn create(tasks: &Arc<Tasks>, request: &CreateSandboxRequest) -> Result<(), Status> {
    runtime::state::check_id(&request.sandbox_id).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
    // Its bundle is in use.
    if tasks.pid(&request.sandbox_id).is_ok() {
        return Err(Status::new(Code::AlreadyExists, format!("sandbox {} exists already", request.sandbox_id)));
    }
    let given = PathBuf::from(&request.bundle_path);
    let (bundle, rootfs) = match has_program(&given) {
        true => (given, request.rootfs.clone()),
        false if request.rootfs.is_empty() => (own_bundle(&given, request)?, Vec::new()),
        false => {
            let what = "the sandbox has a root file system, and no program in its configuration";
            return Err(Status::new(Code::InvalidArgument, what));
        }
    };
    let task = CreateTaskRequest {
        id: request.sandbox_id.clone(),
        bundle: bundle.to_string_lossy().into_owned(),
        rootfs,
        ..CreateTaskRequest::default()
    };
    tasks.create(&task).map(drop)
}

/// Whether a bundle's configuration says what to run.
fn has_program(bundle: &Path) -> bool {
    let text = fs::read(bundle.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    config.pointer("/process/args/0").is_some()
}

/// Makes the bundle of a container that only waits.
fn own_bundle(given: &Path, request: &CreateSandboxRequest) -> Result<PathBuf, Status> {
    let bundle = given.join(BUNDLE);
    let program = bundle.join("rootfs/pause");
    let made = fs::create_dir_all(bundle.join("rootfs"))
        .and_then(|()| fs::write(&program, PAUSE))
        .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o555)))
        .and_then(|()| fs::write(bundle.join("config.json"), config(request)?.to_string()));
    made.map_err(|error| unknown(format!("cannot make the sandbox's bundle {}: {error}", bundle.display())))?;
    Ok(bundle)
}

/// Its configuration.
fn config(request: &CreateSandboxRequest) -> std::io::Result<Value> {
    let pod = match &request.options {
        Some(options) if options.type_url.ends_with(POD_CONFIG) => {
            PodConfig::decode(options.value.as_slice()).map_err(std::io::Error::other)?
        }
        _ => PodConfig::default(),
    };
    let (metadata, linux) = (pod.metadata.unwrap_or_default(), pod.linux.unwrap_or_default());
    let mut annotations: BTreeMap<String, String> = pod.annotations.into_iter().chain(request.annotations.clone()).collect();
    for (name, value) in [
        ("io.kubernetes.cri.container-type", "sandbox"),
        ("io.kubernetes.cri.sandbox-id", &request.sandbox_id),
        ("io.kubernetes.cri.sandbox-name", &metadata.name),
        ("io.kubernetes.cri.sandbox-namespace", &metadata.namespace),
        ("io.kubernetes.cri.sandbox-uid", &metadata.uid),
    ] {
        if !value.is_empty() {
            annotations.insert(name.into(), value.into());
        }
    }
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "ipc"}), json!({"type": "uts"}), json!({"type": "mount"})];
    let security = linux.security_context.unwrap_or_default();
    match (request.netns_path.as_str(), security.namespace_options.unwrap_or_default().network()) {
        ("", NamespaceMode::Node) => {}
        ("", _) => namespaces.push(json!({"type": "network"})),
        (path, _) => namespaces.push(json!({"type": "network", "path": path})),
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": true},
        "process": {"args": ["/pause"], "cwd": "/", "user": {"uid": 65535, "gid": 65535}, "noNewPrivileges": true},
        "annotations": annotations,
        "linux": {
            "namespaces": namespaces,
            "sysctl": linux.sysctls,
        },
    });
    if !pod.hostname.is_empty() {
        config["hostname"] = pod.hostname.into();
    }
    if !linux.cgroup_parent.is_empty() {
        config["linux"]["cgroupsPath"] = cgroups_path(&linux.cgroup_parent, &request.sandbox_id).into();
    }
    Ok(config)
}

/// As containerd's CRI writes it: for a slice of systemd's in systemd's form.
fn cgroups_path(parent: &str, id: &str) -> String {
    match Path::new(parent).file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".slice")) {
        Some(slice) => format!("{slice}:cri-containerd:{id}"),
        None => format!("{parent}/{id}"),
    }
}

fn start(tasks: &Arc<Tasks>, id: &str) -> Result<StartSandboxResponse, Status> {
    let started = tasks.start(id, "")?;
    Ok(StartSandboxResponse { pid: started.pid, created_at: tasks.created_at(id) })
}

/// Ends it, with all its containers; one that has ended, or was never there, is stopped.
fn stop(tasks: &Arc<Tasks>, id: &str, patience: Duration) -> Result<(), Status> {
    let kill = KillRequest { id: id.into(), exec_id: String::new(), signal: libc::SIGKILL as u32, all: true };
    match tasks.kill(&kill) {
        Err(status) if status.code == Code::NotFound => return Ok(()),
        killed => killed?,
    }
    match tasks.wait_for(id, "", Some(patience))? {
        Some(_) => Ok(()),
        None => Err(Status::new(Code::Unknown, format!("sandbox {id} does not end"))),
    }
}

fn status(tasks: &Arc<Tasks>, id: &str) -> Result<SandboxStatusResponse, Status> {
    let state = tasks.state_of(id, "")?;
    // CRI's words.
    let ready = matches!(state.status(), TaskStatus::Running | TaskStatus::Paused);
    Ok(SandboxStatusResponse {
        sandbox_id: id.into(),
        pid: state.pid,
        state: if ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.into(),
        created_at: tasks.created_at(id),
        exited_at: state.exited_at,
    })
}

fn metrics(tasks: &Arc<Tasks>, id: &str) -> Result<SandboxMetricsResponse, Status> {
    let stats = tasks.stats(id)?.stats;
    let metric = SandboxMetric { timestamp: Some(Timestamp::now()), id: id.into(), data: stats };
    Ok(SandboxMetricsResponse { metrics: Some(metric) })
}

/// A static program for x86-64 that waits for signals for ever: an ELF header, a segment, and `pause` in a loop.
const PAUSE: &[u8] = &[
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // 64 bits, little endian
    2, 0, 62, 0, 1, 0, 0, 0, // a program for x86-64
    0x78, 0, 0x40, 0, 0, 0, 0, 0, // where it begins
    64, 0, 0, 0, 0, 0, 0, 0, // the segment's header is behind this one
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0, // there are no sections
    1, 0, 0, 0, 5, 0, 0, 0, // loaded, to be read and executed
    0, 0, 0, 0, 0, 0, 0, 0, // all of the file,
    0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, // to 4 MiB
    129, 0, 0, 0, 0, 0, 0, 0, 129, 0, 0, 0, 0, 0, 0, 0, // its length
    0, 0x10, 0, 0, 0, 0, 0, 0, // on a page
    0xb8, 34, 0, 0, 0, // mov $SYS_pause, %eax
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // again
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Any, NamespaceOption, PodLinux, PodMetadata, SecurityContext};

    #[test]
    fn the_program_waits() {
        let path = std::env::temp_dir().join(format!("nacre-pause-{}", std::process::id()));
        fs::write(&path, PAUSE).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
        let mut child = std::process::Command::new(&path).spawn().expect("it is a program");
        // It has come to its call: Linux says in which a process sleeps.
        let (call, deadline) = (format!("/proc/{}/syscall", child.id()), std::time::Instant::now() + PATIENCE);
        while !fs::read_to_string(&call).is_ok_and(|text| text.starts_with("34 ")) {
            assert!(std::time::Instant::now() < deadline && child.try_wait().is_ok_and(|exit| exit.is_none()));
            std::thread::yield_now();
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        fs::remove_file(&path).expect("remove");
    }

    #[test]
    fn the_configuration_is_the_pods() {
        let pod = PodConfig {
            metadata: Some(PodMetadata { name: "web".into(), uid: "u".into(), namespace: "shop".into() }),
            hostname: "web-1".into(),
            annotations: [("dev.nacre.sandbox".to_string(), "vm".to_string())].into(),
            linux: Some(PodLinux {
                cgroup_parent: "/kubepods/pod1".into(),
                sysctls: [("kernel.shm_rmid_forced".to_string(), "1".to_string())].into(),
                security_context: None,
            }),
        };
        let options = Any { type_url: format!("type.googleapis.com/{POD_CONFIG}"), value: pod.encode_to_vec() };
        let request = CreateSandboxRequest {
            sandbox_id: "s1".into(),
            netns_path: "/run/netns/x".into(),
            options: Some(options),
            ..CreateSandboxRequest::default()
        };
        let config = config(&request).expect("a configuration");
        assert_eq!(config["hostname"], "web-1");
        assert_eq!(config["annotations"]["io.kubernetes.cri.sandbox-name"], "web");
        assert_eq!(config["annotations"]["dev.nacre.sandbox"], "vm");
        assert_eq!(config["linux"]["cgroupsPath"], "/kubepods/pod1/s1");
        assert_eq!(config["linux"]["sysctl"]["kernel.shm_rmid_forced"], "1");
        assert_eq!(config["linux"]["namespaces"][4]["path"], "/run/netns/x");
        let of = |linux: PodLinux| {
            let value = PodConfig { linux: Some(linux), ..PodConfig::default() }.encode_to_vec();
            let options = Some(Any { type_url: POD_CONFIG.into(), value });
            super::config(&CreateSandboxRequest { options, netns_path: String::new(), ..request.clone() })
                .expect("a configuration")
        };
        assert_eq!(of(PodLinux::default())["linux"]["namespaces"][4], json!({"type": "network"}));
        let network = NamespaceOption { network: NamespaceMode::Node.into() };
        let security_context = Some(SecurityContext { namespace_options: Some(network) });
        let node = of(PodLinux { security_context, ..PodLinux::default() });
        assert_eq!(node["linux"]["namespaces"][4], Value::Null, "the host's network");
        let slice = of(PodLinux { cgroup_parent: "/kubepods.slice/kubepods-pod1.slice".into(), ..PodLinux::default() });
        assert_eq!(slice["linux"]["cgroupsPath"], "kubepods-pod1.slice:cri-containerd:s1");
        let bad = Any { type_url: POD_CONFIG.into(), value: vec![0xff] };
        assert!(super::config(&CreateSandboxRequest { options: Some(bad), ..request }).is_err());
    }
}
