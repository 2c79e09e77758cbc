//! `cri-client`: what the tests need of the kubelet's side of CRI, one verb at a time, over containerd's real socket.
//!
//!     cri-client SOCKET run-pod NAME [--handler H] [--share-pid] [--annotation K=V]
//!     cri-client SOCKET create POD NAME IMAGE [--memory BYTES] [--mount HOST:INSIDE] [--log FILE] [--user UID] -- COMMAND...
//!     cri-client SOCKET start|status|stats|stop|remove CONTAINER
//!     cri-client SOCKET exec CONTAINER -- COMMAND...
//!     cri-client SOCKET stop-pod|remove-pod|pod-ids|container-ids [POD]
//!
//! Ids and states go to standard output; a gRPC error is an exit status of 1 with its text on standard error.

#![forbid(unsafe_code)]

mod grpc;
mod messages;
mod options;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use grpc::Client;
use messages as cri;
use options::Options;

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

fn namespaces(options: &Options) -> cri::NamespaceOption {
    // The node's network needs no plugin.
    let network = if options.cni { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Node };
    let pid = if options.share_pid { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
    cri::NamespaceOption { network: network.into(), pid: pid.into(), ipc: cri::NamespaceMode::Pod.into() }
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
        annotations: options.annotations.iter().cloned().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: String::new(),
            security_context: Some(cri::LinuxSandboxSecurityContext { namespace_options: Some(namespaces(options)) }),
        }),
    }
}

fn container_config(name: &str, image: &str, options: &Options) -> Result<cri::ContainerConfig> {
    let mount = |text: &String| -> Result<cri::Mount> {
        let (host, inside) = text.split_once(':').context("--mount takes HOST:INSIDE")?;
        Ok(cri::Mount { container_path: inside.into(), host_path: host.into(), readonly: false })
    };
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image.into() }),
        command: options.command.clone(),
        mounts: options.mounts.iter().map(mount).collect::<Result<_>>()?,
        annotations: options.annotations.iter().cloned().collect(),
        log_path: options.log_name(),
        linux: Some(cri::LinuxContainerConfig {
            resources: options.memory.map(|memory| cri::LinuxContainerResources { memory_limit_in_bytes: memory }),
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(options)),
                run_as_user: options.user.map(|user| cri::Value { value: user }),
            }),
        }),
    })
}
