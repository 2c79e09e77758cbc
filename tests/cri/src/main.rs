//! `cri-client`: what the tests need of the kubelet's side of CRI, one verb at a time, over containerd's real socket.
//!
//!     cri-client SOCKET run-pod NAME [--handler H] [--cni|--node-network] [--cgroup-parent PATH] [--share-pid] [--privileged] [--annotation K=V] [--sysctl K=V]
//!     cri-client SOCKET create POD NAME IMAGE [--memory BYTES] [--cpu-quota US] [--mount HOST:INSIDE[:ro]] [--device HOST:INSIDE] [--log FILE]
//!         [--target CONTAINER] [--interactive] [--tty] [--user UID] [--group GID] [--groups GID] [--read-only] [--privileged] [--no-new-privileges]
//!         [--seccomp] [--cap-add C] [--cap-drop C] -- COMMAND...
//!     cri-client SOCKET update CONTAINER [--memory BYTES] [--cpu-quota US]
//!     cri-client SOCKET start|status|stats|stop|remove CONTAINER
//!     cri-client SOCKET exec CONTAINER -- COMMAND...
//!     cri-client SOCKET exec-stream CONTAINER [--tty] [--stdin TEXT] -- COMMAND...
//!     cri-client SOCKET attach CONTAINER [--tty] [--stdin TEXT] [--until TEXT]
//!     cri-client SOCKET port-forward POD PORT [--stdin TEXT] [--until TEXT]
//!     cri-client SOCKET stop-pod|remove-pod|pod-ids|container-ids [POD]
//!
//! Ids and states go to standard output; a gRPC error is an exit status of 1 with its text on standard error.

#![forbid(unsafe_code)]

mod grpc;
mod messages;
mod options;
mod stream;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use grpc::Client;
use messages as cri;
use options::Options;

/// What a kubelet has covered in containers that are not privileged.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cri-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8> {
    let options = Options::parse(std::env::args().skip(1))?;
    let client = Client::new(&options.socket)?;
    let argument = |n: usize| options.arguments.get(n).map(String::as_str).context("an argument is missing");
    let by_id = || Ok::<_, anyhow::Error>(cri::IdRequest { id: argument(0)?.into() });
    match options.verb.as_str() {
        "run-pod" => {
            let config = pod_config(argument(0)?, &options);
            let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: options.handler.clone() };
            println!("{}", client.call::<cri::IdResponse>("RunPodSandbox", &request)?.id);
        }
        "create" => {
            let (pod, name) = (argument(0)?, argument(1)?);
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: pod.into(),
                config: Some(container_config(name, argument(2)?, &options)?),
                // Only its log directory and labels are looked at.
                sandbox_config: Some(pod_config(pod, &options)),
            };
            println!("{}", client.call::<cri::IdResponse>("CreateContainer", &request)?.id);
        }
        "start" => drop(client.call::<cri::Empty>("StartContainer", &by_id()?)?),
        "stop" => {
            let request = cri::StopContainerRequest { container_id: argument(0)?.into(), timeout: 1 };
            client.call::<cri::Empty>("StopContainer", &request)?;
        }
        "remove" => drop(client.call::<cri::Empty>("RemoveContainer", &by_id()?)?),
        "stop-pod" => drop(client.call::<cri::Empty>("StopPodSandbox", &by_id()?)?),
        "remove-pod" => drop(client.call::<cri::Empty>("RemovePodSandbox", &by_id()?)?),
        "status" => {
            let status = client.call::<cri::ContainerStatusResponse>("ContainerStatus", &by_id()?)?.status;
            let status = status.context("no status")?;
            let state = ["created", "running", "exited", "unknown"].get(status.state as usize).copied().unwrap_or("?");
            println!("{state} {} {}", status.exit_code, status.reason);
        }
        "stats" => {
            let stats =
                client.call::<cri::ContainerStatsResponse>("ContainerStats", &by_id()?)?.stats.context("no statistics")?;
            let value = |value: Option<cri::Value>| value.map_or(0, |value| value.value);
            let cpu = value(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds));
            let memory = value(stats.memory.and_then(|memory| memory.working_set_bytes));
            println!("cpu {cpu} memory {memory}");
        }
        "exec" => {
            let request = cri::ExecSyncRequest { container_id: argument(0)?.into(), cmd: options.command.clone(), timeout: 30 };
            let done = client.call::<cri::ExecSyncResponse>("ExecSync", &request)?;
            std::io::stdout().write_all(&done.stdout)?;
            std::io::stderr().write_all(&done.stderr)?;
            return Ok(done.exit_code as u8);
        }
        "update" => {
            let request =
                cri::UpdateContainerResourcesRequest { container_id: argument(0)?.into(), linux: resources(&options) };
            client.call::<cri::Empty>("UpdateContainerResources", &request)?;
        }
        "exec-stream" => {
            let request = cri::ExecRequest {
                container_id: argument(0)?.into(),
                cmd: options.command.clone(),
                tty: options.tty,
                stdin: options.stdin.is_some(),
                stdout: true,
                stderr: !options.tty,
            };
            return streamed(&client.call::<cri::UrlResponse>("Exec", &request)?.url, None, &options);
        }
        "attach" => {
            let request = cri::AttachRequest {
                container_id: argument(0)?.into(),
                stdin: options.stdin.is_some(),
                tty: options.tty,
                stdout: true,
                stderr: !options.tty,
            };
            return streamed(&client.call::<cri::UrlResponse>("Attach", &request)?.url, None, &options);
        }
        "port-forward" => {
            let port: u16 = argument(1)?.parse()?;
            let request = cri::PortForwardRequest { pod_sandbox_id: argument(0)?.into(), port: vec![port.into()] };
            return streamed(&client.call::<cri::UrlResponse>("PortForward", &request)?.url, Some(port), &options);
        }
        "pod-ids" => {
            for pod in client.call::<cri::ListResponse>("ListPodSandbox", &cri::Empty {})?.items {
                println!("{}", pod.id);
            }
        }
        "container-ids" => {
            for container in client.call::<cri::ListResponse>("ListContainers", &cri::Empty {})?.items {
                println!("{}", container.id);
            }
        }
        other => bail!("unknown verb {other:?}"),
    }
    Ok(0)
}

/// Output goes where it belongs; an exit status, or an error of a forwarded port, is the client's.
fn streamed(url: &str, port: Option<u16>, options: &Options) -> Result<u8> {
    let mut stream = stream::open(url, &port.map(|port| format!("?port={port}")).unwrap_or_default())?;
    let input = options.stdin.as_deref().unwrap_or_default().as_bytes();
    stream::send(&mut stream, 0, input)?;
    let until = options.until.as_deref().map(str::as_bytes);
    // Each channel of a port begins with the port.
    let skip = if port.is_some() { 2 } else { 0 };
    let output = if port.is_some() { 0 } else { 1 };
    let enough =
        |all: &stream::Streamed| until.is_some_and(|until| all.channels[output].windows(until.len()).any(|part| part == until));
    let all = stream::receive(&mut stream, enough)?;
    let channel = |n: usize| all.channels[n].get(skip..).unwrap_or_default();
    std::io::stdout().write_all(channel(output))?;
    if port.is_some() {
        std::io::stderr().write_all(channel(1))?;
        return Ok(u8::from(!channel(1).is_empty()));
    }
    std::io::stderr().write_all(channel(2))?;
    let status = String::from_utf8_lossy(channel(3)).into_owned();
    // The API's Status: a command's exit code is in its causes.
    let code = status.split_once("\"reason\":\"ExitCode\",\"message\":\"").and_then(|(_, rest)| rest.split_once('"'));
    match code {
        Some((code, _)) => Ok(code.parse()?),
        None if status.is_empty() || status.contains("\"Success\"") => Ok(0),
        None => bail!("{status}"),
    }
}

fn namespaces(options: &Options) -> cri::NamespaceOption {
    // The node's network needs no plugin.
    let network = if options.cni { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Node };
    let pid = match (&options.target, options.share_pid) {
        (Some(_), _) => cri::NamespaceMode::Target,
        (None, true) => cri::NamespaceMode::Pod,
        (None, false) => cri::NamespaceMode::Container,
    };
    let target = options.target.clone().unwrap_or_default();
    cri::NamespaceOption { network: network.into(), pid: pid.into(), ipc: cri::NamespaceMode::Pod.into(), target }
}

/// Those on the node's network are there because it needs no plugin: they want no network of the node's.
fn annotations(options: &Options) -> std::collections::HashMap<String, String> {
    let mut annotations: std::collections::HashMap<_, _> = options.annotations.iter().cloned().collect();
    if !options.cni && !options.node_network {
        annotations.entry("dev.nacre.network".into()).or_insert_with(|| "none".into());
    }
    annotations
}

fn pod_config(name: &str, options: &Options) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: if options.cni { name.into() } else { String::new() },
        log_directory: options.log_directory(),
        annotations: annotations(options),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: options.cgroup_parent.clone(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(options)),
                privileged: options.privileged,
            }),
            sysctls: options.sysctls.iter().cloned().collect(),
        }),
    }
}

fn resources(options: &Options) -> Option<cri::LinuxContainerResources> {
    (options.memory.is_some() || options.cpu_quota.is_some()).then(|| cri::LinuxContainerResources {
        cpu_period: options.cpu_quota.map_or(0, |_| 100_000),
        cpu_quota: options.cpu_quota.unwrap_or(0),
        memory_limit_in_bytes: options.memory.unwrap_or(0),
    })
}

fn container_config(name: &str, image: &str, options: &Options) -> Result<cri::ContainerConfig> {
    let mount = |text: &String| -> Result<cri::Mount> {
        let (text, readonly) = text.strip_suffix(":ro").map_or((text.as_str(), false), |text| (text, true));
        let (host, inside) = text.split_once(':').context("--mount takes HOST:INSIDE or HOST:INSIDE:ro")?;
        Ok(cri::Mount { container_path: inside.into(), host_path: host.into(), readonly })
    };
    let device = |text: &String| -> Result<cri::Device> {
        let (host, inside) = text.split_once(':').context("--device takes HOST:INSIDE")?;
        Ok(cri::Device { container_path: inside.into(), host_path: host.into(), permissions: "rwm".into() })
    };
    let paths = |list: &[&str]| -> Vec<String> {
        let listed = list.iter().filter(|_| !options.privileged);
        listed.map(|path| path.to_string()).collect()
    };
    let capabilities = cri::Capability { add: options.capabilities_added.clone(), drop: options.capabilities_dropped.clone() };
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image.into() }),
        command: options.command.clone(),
        mounts: options.mounts.iter().map(mount).collect::<Result<_>>()?,
        devices: options.devices.iter().map(device).collect::<Result<_>>()?,
        annotations: options.annotations.iter().cloned().collect(),
        log_path: options.log_name(),
        stdin: options.interactive,
        tty: options.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: resources(options),
            security_context: Some(cri::LinuxContainerSecurityContext {
                capabilities: Some(capabilities),
                privileged: options.privileged,
                namespace_options: Some(namespaces(options)),
                run_as_user: options.user.map(|user| cri::Value { value: user }),
                readonly_rootfs: options.read_only,
                supplemental_groups: options.groups.clone(),
                no_new_privs: options.no_new_privileges,
                run_as_group: options.group.map(|group| cri::Value { value: group }),
                masked_paths: paths(&MASKED),
                readonly_paths: paths(&READ_ONLY),
                seccomp: options.seccomp.then_some(cri::SecurityProfile { kind: 0 }),
            }),
        }),
    })
}
