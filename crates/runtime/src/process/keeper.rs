//! The keeper process of a VM: from exec to [`keeper::run`].
//!
//! In this order: the configuration, the VMM's process (cloned while this one has one thread, so that it dies with it: this is PID 1 of their
//! name space), an empty root, no privileges, Landlock; then the keeper makes its threads.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_api::SetUpSandboxRequest;
use keeper::{Boot, Drives, Hold, NicsAtStart, Range};
use netstack::config::Description;
use serde::{Deserialize, Serialize};
use vmm::qemu::{self, Qemu};
use vmm::{Accelerator, Console, Cpus, Device, Machine, Memory, Vmm};

use super::confine::landlock;
use super::isolate::{drop_privileges, enter_private_root, keep_only_mounting};
use super::kvm::Kvm;
use super::report::{self, Report};
use super::{Network, message, vmm as vmm_process};
use crate::cgroup::GUEST_MEMORY_OVERHEAD;
use crate::{logging, pod_network, timing};

/// How long a VMM may take to answer at all.
const VMM_START: Duration = Duration::from_secs(20);

/// What its guest's kernel is told: memory that comes can go again; and no 64 MiB for devices that cannot reach beyond 4 GiB, where there may be
/// memory one day: there are none. It boots with one CPU, which an emulated machine does sooner; the agent brings the others in.
const KERNEL: &str = "memhp_default_state=online_movable swiotlb=noforce maxcpus=1";

/// What a keeper starts with. Descriptor 0: the report file; 1: the Agent protocol's first client, connected; 2: the VMM's side of the virtio-fs
/// device, 3: a pidfd of the process at its other side, 4: where that tells of changes; 5 and 6: the guest's kernel and initial root; then, with [`KvmConfig::Mount`], that mount; for each interface of the
/// network its queues of a tap, then with `vhost` as many of vhost-net; the images, the disks, and, if others may come, the listening socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeeperConfig {
    /// The container whose end is the VM's.
    pub first_container: String,
    /// The VMM's.
    pub program: PathBuf,
    /// At the start, and at most.
    pub cpus: [u32; 2],
    /// Bytes of guest memory, likewise.
    pub memory: [u64; 2],
    /// Bytes of shared memory that the pod's containers have together.
    pub shm_size: Option<u64>,
    pub kvm: KvmConfig,
    /// The pod's, if it has one.
    pub network: Description,
    /// Pairs of queues of each of its interfaces.
    pub queues: usize,
    /// Whether the host's kernel moves their frames.
    pub vhost: bool,
    /// How many images and disks of the first container come as descriptors, and what is done with the disks.
    pub images: usize,
    pub disks: Vec<Hold>,
    /// How many devices may come later, at a time.
    pub slots: u8,
    /// How far the CPU's time stamp counter goes from one of the guest kernel's ticks to the next, where the guest cannot be told by KVM.
    pub cycles_per_tick: Option<u64>,
    pub log: logging::Config,
}

/// [`Kvm`], to be sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum KvmConfig {
    Mount,
    Own,
    /// There is none, for this reason.
    None(String),
}

/// A keeper's life. Returns its exit status.
pub fn main(socket: &UnixStream) -> i32 {
    report::live("vm", socket, run)
}

/// Ends as the first container's own process does, as a sentry does.
fn run(socket: &UnixStream) -> Result<u8, String> {
    // No configuration: the runtime has died or given up.
    let Ok((config, descriptors)) = message::receive::<KeeperConfig>(socket) else { return Ok(0) };
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or("descriptors are missing");
    let (report, client, fs, files, changes) = (next()?, next()?, next()?, next()?, next()?);
    let (kernel, initrd) = (next()?, next()?);
    let (kvm, accelerator) = match config.kvm.clone() {
        KvmConfig::Mount => (Some(Kvm::Mount(next()?)), Accelerator::Kvm),
        KvmConfig::Own => (Some(Kvm::Own), Accelerator::Kvm),
        KvmConfig::None(because) => (None, Accelerator::Emulation { because }),
    };
    let (nics_at_start, nics) = nics(&config, &mut descriptors)?;
    let (drives, devices) = drives(&config, &mut descriptors)?;
    let listener = descriptors.next();
    report::install(report);
    logging::install(&config.log, None);
    timing::mark("keeper: configuration read");
    keep_only_mounting().map_err(|e| e.to_string())?;
    let (vsock, vsock_device) = pair()?;
    let (console, console_device) = pair()?;
    let (qmp, qmp_server) = pair()?;
    if let Accelerator::Emulation { because } = &accelerator {
        tracing::warn!("the VM is emulated, many times slower than with KVM: {because}");
    }
    let [cpus, most_cpus] = config.cpus;
    let [memory, most_memory] = config.memory;
    let range = Range {
        cpus: Cpus { boot: cpus, max: most_cpus },
        memory: Memory { boot: memory, max: most_memory },
        overhead: GUEST_MEMORY_OVERHEAD,
    };
    // Otherwise each CPU that comes measures it, which takes an emulated one a quarter of a second.
    let delay = config.cycles_per_tick.map(|cycles| format!(" lpj={cycles}"));
    let machine = Machine {
        name: config.first_container.clone(),
        accelerator,
        kernel,
        initrd: Some(initrd),
        cmdline: [KERNEL, delay.as_deref().unwrap_or_default()].concat(),
        cpus: range.cpus,
        memory: range.memory,
        console: Some(Console::Socket(console_device.into())),
        devices: [
            ("vsock".into(), Device::Vsock { socket: vsock_device.into() }),
            ("files".into(), Device::VirtioFs { tag: agent_api::vm::FS_TAG.into(), socket: fs }),
            ("balloon".into(), Device::Balloon),
            ("rng".into(), Device::Rng),
        ]
        .into_iter()
        .chain(nics)
        .chain(devices)
        .collect(),
        slots: config.slots,
    };
    let line = qemu::command_line(&machine, qmp_server.as_fd()).map_err(|e| e.to_string())?;
    let Some(Console::Socket(stderr)) = &machine.console else { return Err("no console".into()) };
    vmm_process::start(&config.program, &line, kvm.as_ref(), stderr.as_fd())
        .map_err(|e| format!("cannot start the VMM: {e}"))?;
    drop((machine, qmp_server, kvm));
    timing::mark("keeper: VMM started");
    enter_private_root(|_| Ok(())).map_err(|e| e.to_string())?;
    drop_privileges().map_err(|e| e.to_string())?;
    landlock(&Network::None, &[])?;
    hostcall::seccomp::keeper::confine().map_err(|e| e.to_string())?;
    timing::mark("keeper: isolated");
    let boot = Boot {
        client,
        listener,
        first_container: config.first_container,
        set_up: SetUpSandboxRequest {
            shm_size: config.shm_size,
            log_level: config.log.syslog_level(),
            ..pod_network::for_guest(&config.network)
        },
        range,
        drives,
        nics: nics_at_start,
        attach: Box::new(move || {
            let vmm = Qemu::attach(qmp, VMM_START)?;
            vmm.boot(VMM_START)?;
            timing::mark("keeper: VM runs");
            Ok(Arc::new(vmm))
        }),
        vsock: vsock.into(),
        console: console.into(),
        files,
        changes,
    };
    let ended = keeper::run(boot).map_err(|e| e.to_string())?;
    if let Some(status) = ended {
        report::write(&Report::Exited(status));
    }
    Ok(ended.unwrap_or(0))
}

/// The network's cards.
fn nics(
    config: &KeeperConfig,
    descriptors: &mut impl Iterator<Item = OwnedFd>,
) -> Result<(NicsAtStart, Vec<(String, Device)>), String> {
    let hardware_addresses: Vec<[u8; 6]> = config.network.interfaces.iter().map(|interface| interface.mac).collect();
    let mut queues = || -> Result<Vec<Vec<OwnedFd>>, String> {
        let mut next = |_| descriptors.next().ok_or("descriptors are missing".to_string());
        hardware_addresses.iter().map(|_| (0..config.queues).map(&mut next).collect()).collect()
    };
    let taps = queues()?;
    let vhost = if config.vhost { queues()? } else { hardware_addresses.iter().map(|_| Vec::new()).collect() };
    let all = taps.into_iter().zip(vhost).zip(&hardware_addresses).enumerate();
    let devices = all.map(|(number, ((taps, vhost), &mac))| (NicsAtStart::id(number), Device::Net { taps, vhost, mac }));
    let devices = devices.collect();
    Ok((NicsAtStart { hardware_addresses, queues: config.queues as u32, vhost: config.vhost }, devices))
}

/// The devices of the first container's images and disks.
fn drives(
    config: &KeeperConfig,
    descriptors: &mut impl Iterator<Item = OwnedFd>,
) -> Result<(Drives, Vec<(String, Device)>), String> {
    let (mut drives, mut devices) = (Drives::default(), Vec::new());
    let images = std::iter::repeat_n(Hold::Read, config.images);
    for hold in images.chain(config.disks.iter().copied()) {
        let file = descriptors.next().ok_or("descriptors are missing")?;
        let (_, new) = drives.take(&config.first_container, file, hold).map_err(|status| status.message)?;
        devices.extend(new.map(|new| (new.id, new.device)));
    }
    Ok((drives, devices))
}

fn pair() -> Result<(UnixStream, UnixStream), String> {
    UnixStream::pair().map_err(|e| format!("cannot make a socket pair: {e}"))
}
