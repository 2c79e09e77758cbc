//! The sandbox process: from exec to [`sentry::boot::run`].
//!
//! In this order: the configuration (a few numbers, no secrets), the file system for guest memory, the platform, whose zygote is forked from this
//! process, an empty root, no privileges, Landlock; then the kernel makes its threads and calls back for the seccomp filter.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use hostcall::packet::Wire;
use landlock::AccessFs;
use netstack::config::Description;
use platform::{Platform, systrap};
use sentry::boot::Boot;
use sentry::kernel::Machine;
use serde::{Deserialize, Serialize};

use super::confine::landlock;
use super::isolate::{drop_privileges, enter_private_root, keep_only_mounting};
use super::report::{self, Report};
use super::{Network, memory, message};
use crate::pod_network::Way;
use crate::{logging, timing};

/// What a sandbox starts with. Descriptor 0: the report file; 1: the Agent protocol's first client, connected; then, if others may come,
/// the listening socket; then the ways to interfaces, and last what keeps others out of the network namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SentryConfig {
    /// The container whose end is the sandbox's.
    pub first_container: String,
    /// Host threads that run tasks.
    pub executors: usize,
    pub memory: MemoryOf,
    /// Guest processes at a time.
    pub max_processes: usize,
    /// CPUs guests see.
    pub cpus: usize,
    /// Memory guests see, in bytes.
    pub memory_bytes: u64,
    pub host_memory_bytes: u64,
    pub cpu_model: String,
    pub network: Network,
    /// With [`Network::Namespace`]: what is there, and what each way is. The last descriptors are the ways, one for each interface, and one that is held while the
    /// sandbox lives.
    pub pod: Option<(Description, Vec<Way>)>,
    /// With [`Network::Host`]: its interfaces' numbers and names.
    pub host_names: Vec<(i32, String)>,
    pub log: logging::Config,
}

/// Where guests' memory is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum MemoryOf {
    /// Each container brings a file system of its own ([`super::memory`]).
    Containers,
    /// The sandbox makes one, of so many bytes at most, for all its containers.
    Sandbox { limit: Option<u64> },
}

/// A sandbox's life. Returns its exit status.
pub fn main(socket: &UnixStream) -> i32 {
    report::live("sentry", socket, run)
}

/// Ends as the first container's own process does: whoever started the sandbox (an engine that watches the pid it was told) gets the exit
/// status by waiting for it, and a later `nacre state` from the report.
fn run(socket: &UnixStream) -> Result<u8, String> {
    timing::mark("sentry: exec done");
    // No configuration: the runtime has died or given up.
    let Ok((config, descriptors)) = message::receive::<SentryConfig>(socket) else { return Ok(0) };
    let mut descriptors = descriptors;
    let _hold = config.pod.as_ref().and_then(|_| descriptors.pop());
    let ways = config.pod.as_ref().map_or(0, |(_, ways)| ways.len());
    let ways = descriptors.split_off(descriptors.len().saturating_sub(ways));
    let mut descriptors = descriptors.into_iter();
    let (report, client, listener) = (descriptors.next(), descriptors.next(), descriptors.next());
    let (report, client) = report.zip(client).ok_or("descriptors are missing")?;
    report::install(report);
    logging::install(&config.log, None);
    timing::mark("sentry: configuration read");
    let memory = match config.memory {
        MemoryOf::Containers => None,
        MemoryOf::Sandbox { limit } => {
            Some(memory::file_system(limit).map_err(|e| format!("cannot make the memory file system: {e}"))?)
        }
    };
    keep_only_mounting().map_err(|e| e.to_string())?;
    let platform = start_platform(&config)?;
    timing::mark("sentry: platform started");
    enter_private_root(|_| Ok(())).map_err(|e| e.to_string())?;
    drop_privileges().map_err(|e| e.to_string())?;
    let memory_files = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg;
    let allowed: Vec<_> = memory.iter().map(|memory| (memory.as_fd(), memory_files)).collect();
    landlock(&config.network, &allowed)?;
    timing::mark("sentry: isolated");
    let packets = config.pod.as_ref().is_some_and(|(_, ways)| ways.contains(&Way::PacketSocket));
    let boot = Boot {
        platform,
        client,
        listener,
        memory,
        machine: Machine {
            cpus: config.cpus,
            memory_bytes: config.memory_bytes,
            host_memory_bytes: config.host_memory_bytes,
            cpu_model: config.cpu_model,
        },
        first_container: config.first_container,
        executors: config.executors,
        network: match (&config.network, config.pod) {
            (Network::Host, _) => sentry::net::Network::Host { names: config.host_names },
            (_, Some((description, kinds))) => {
                let wires = kinds.iter().zip(ways).map(|(kind, way)| match kind {
                    Way::PacketSocket => Wire::Socket(way),
                    Way::Tap(_) => Wire::Tap(way),
                });
                sentry::net::Network::Packets { description, wires: wires.collect() }
            }
            (_, None) => sentry::net::Network::Loopback,
        },
        lock_down: Box::new(move || {
            let list = match config.network {
                Network::Host => hostcall::seccomp::sentry::list_with_host_network(),
                Network::Namespace(_) if packets => hostcall::seccomp::sentry::list_with_packets(),
                Network::Namespace(_) | Network::None => hostcall::seccomp::sentry::list(),
            };
            let done = list.install_on_all_threads().map_err(|e| e.to_string());
            timing::mark("sentry: locked down");
            done
        }),
    };
    let ended = sentry::boot::run(boot).map_err(|e| e.to_string())?;
    if let Some(status) = ended {
        report::write(&Report::Exited(status));
    }
    Ok(ended.unwrap_or(0))
}

/// The platform, while nothing worth having is in this process, and it still has one thread. It reads /proc/self/maps, so the root is
/// still the host's.
fn start_platform(config: &SentryConfig) -> Result<Arc<dyn Platform>, String> {
    let config = systrap::Config {
        executors: config.executors,
        max_address_spaces: config.max_processes,
        cpus: config.executors,
        spin: if config.executors > 1 { systrap::Spin::Adaptive } else { systrap::Spin::Never },
    };
    systrap::Systrap::start(config).map(|platform| platform as Arc<dyn Platform>).map_err(|e| e.to_string())
}
