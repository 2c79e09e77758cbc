//! The VM sandbox: a keeper, its VMM, and one process that serves all containers' files.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_api::{Client, CreateContainerRequest, mount, root};

use super::main_process::{Guard, MainProcess, has_ended};
use super::{ContainerPlan, Disk, Ended, HostStdio, Join, Launch, Sandbox, open_image};
use crate::cgroup::GUEST_MEMORY_OVERHEAD;
use crate::error::{Doing, Error, Result};
use crate::machine::Moment;
use crate::pod_network::queues::{self, Accelerated, Mover};
use crate::pod_network::{Joined, Way};
use crate::process::fs::{self, FsConfig, More};
use crate::process::fs_control;
use crate::process::gofer::Trees;
use crate::process::keeper::{KeeperConfig, KvmConfig};
use crate::process::kvm::Kvm;
use crate::process::{Confined, Ids, Network, Privilege, Role, Spawn, message};
use crate::{machine, pod_network, timing};

/// Guest memory in all, without a limit; half of the host's if that is less.
const DEFAULT_MEMORY: u64 = 1 << 30;
/// What the main process is called in messages.
const NAME: &str = "VM's keeper";
/// Bytes of shared memory that a pod's containers have together: what containerd gives a pod.
const POD_SHM: u64 = 64 << 20;
/// How many images and disks of further containers a pod's VM takes at a time: each costs its boot 10 to 20 ms emulated.
pub(super) const POD_SLOTS: u8 = 8;
/// How many interfaces the VM of a pod's network can be given later.
const NIC_SLOTS: u8 = 2;
/// Guest memory is a multiple of this.
const MEMORY_STEP: u64 = 2 << 20;
/// An emulated CPU's addresses end at 1 TiB, and devices need some of them.
const MOST_EMULATED_MEMORY: u64 = 896 << 30;

/// A VM sandbox, held by the process that made it, or joined.
#[derive(Debug)]
pub struct VmSandbox {
    main: MainProcess,
    /// The file process, if it is this process's.
    fs: Option<Confined>,
    /// As whom it will serve, until it has the first container's trees.
    fs_ids: Option<Ids>,
    /// And where it will tell the keeper what others change.
    tells: Option<UnixStream>,
    /// A pod's: where the file process hears of further trees.
    dir: Option<PathBuf>,
    agent: Arc<Client>,
    privilege: Privilege,
}

impl VmSandbox {
    /// Starts the VM; its kernel boots while the first container is prepared.
    ///
    /// # Errors
    /// No VMM, no guest image; the host's. Nothing is left running.
    pub fn launch(launch: Launch<'_>) -> Result<VmSandbox> {
        let start = Moment::now();
        let (kvm, given) = match Kvm::find(launch.privilege) {
            Ok(Kvm::Mount(mount)) => (KvmConfig::Mount, Some(mount)),
            Ok(Kvm::Own) => (KvmConfig::Own, None),
            Err(because) => (KvmConfig::None(because), None),
        };
        let accelerated = if matches!(kvm, KvmConfig::None(_)) { Accelerated::Emulated } else { Accelerated::ByKvm };
        let queues = queues::count(launch.cpus, accelerated);
        let network = match &launch.network {
            Network::None => Joined::default(),
            Network::Host => return Err(Error::Other("a VM cannot use the host's sockets (--net host)".into())),
            Network::Namespace(path) => pod_network::join(path, Way::Tap(queues))?,
        };
        // Those that it got.
        let queues = network.queues.max(1);
        let vhost = vhost(accelerated, &network, queues)?;
        let program = find_program(vmm::qemu::PROGRAM)?;
        let image = guest::build(&guest::Options::default(), &mut |_| ()).map_err(|e| Error::Other(e.to_string()))?;
        let (kernel, initrd) = (open_image(&image.kernel)?, open_image(&image.initrd)?);
        let images = launch.images.iter().map(|path| open_image(path)).collect::<Result<Vec<_>>>()?;
        let disks = launch.disks.iter().map(Disk::open).collect::<Result<Vec<_>>>()?;
        timing::mark("runtime: guest image found");
        let keeper_ids = Ids::of_main_process(launch.privilege);
        let fs_ids = Ids::from(launch.file_ids);
        let entrance = launch.cgroup.entrance()?;
        let spawn = |role, ids| Spawn {
            role,
            network: Network::None,
            ids,
            privilege: launch.privilege,
            cgroup: &entrance,
            stderr: launch.log_file,
            die_with_parent: launch.die_with_parent,
        };
        let keeper = Guard::new(spawn(Role::Keeper, &keeper_ids).spawn()?);
        let fs = Guard::new(spawn(Role::Fs, &fs_ids).spawn()?);
        keeper.release()?;
        fs.release()?;
        let pair = || UnixStream::pair().doing(|| "cannot make a socket pair");
        let ((ours, theirs), (told, tells)) = (pair()?, pair()?);
        let vmm_side = fs::vmm_end(&fs)?;
        timing::mark("runtime: file process connected");
        // Nobody else can reach it: nobody can change it.
        let growth = if launch.listener.is_some() { Growth::ToTheHosts } else { Growth::None };
        let follows = launch.listener.is_some() && matches!(launch.network, Network::Namespace(_));
        // An emulated machine's counter is the host's.
        let ticks = image.ticks.filter(|_| accelerated == Accelerated::Emulated);
        let host = Host { cpus: machine::cpus(), memory: machine::memory_bytes(), accelerated };
        let config = KeeperConfig {
            first_container: launch.first_container,
            program,
            cpus: host.cpus_for(launch.cpus, growth),
            memory: host.memory_for(launch.memory_limit, growth),
            images: images.len(),
            disks: launch.disks.iter().map(|disk| disk.wanted).collect(),
            cycles_per_tick: ticks.map(|ticks| start.cycles_per_second() / u64::from(ticks.max(1))),
            slots: if launch.pod.is_some() { POD_SLOTS } else { 0 } + if follows { NIC_SLOTS } else { 0 },
            queues,
            vhost: !vhost.is_empty(),
            shm_size: launch.pod.map(|_| POD_SHM),
            kvm,
            network: network.description,
            log: launch.log,
        };
        let mut fds = vec![launch.report.as_fd(), theirs.as_fd(), vmm_side.as_fd(), fs.pidfd.as_fd(), told.as_fd()];
        fds.extend([kernel.as_fd(), initrd.as_fd()]);
        fds.extend(given.as_ref().map(AsFd::as_fd));
        fds.extend(network.ways.iter().map(|(_, way)| way).chain(&vhost).map(AsFd::as_fd));
        fds.extend(images.iter().chain(&disks).map(AsFd::as_fd));
        fds.extend(launch.listener.as_ref().map(AsFd::as_fd));
        message::send(&keeper.socket, &config, &fds).doing(|| "cannot configure the VM")?;
        Ok(VmSandbox {
            main: MainProcess { confined: keeper.keep(), report: launch.report, name: NAME },
            fs: Some(fs.keep()),
            fs_ids: Some(fs_ids),
            tells: Some(tells),
            dir: launch.pod.map(Path::to_path_buf),
            agent: Arc::new(Client::new(ours.into())),
            privilege: launch.privilege,
        })
    }

    /// Holds a running one, to add a container.
    ///
    /// # Errors
    /// It has ended.
    pub fn join(join: Join<'_>) -> Result<VmSandbox> {
        let confined = Confined::found(&join.main)?;
        Ok(VmSandbox {
            main: MainProcess { confined, report: join.report, name: NAME },
            fs: None,
            fs_ids: None,
            tells: None,
            dir: Some(join.dir.to_path_buf()),
            agent: Arc::new(join.agent),
            privilege: join.privilege,
        })
    }

    /// Gives the file process a container's trees; their numbers in the device.
    fn add_trees(&mut self, plan: &ContainerPlan) -> Result<Vec<u32>> {
        if let (Some(ids), Some(tells), Some(process)) = (self.fs_ids.take(), self.tells.take(), &self.fs) {
            self.configure_files(process, &ids, &tells, plan)?;
            return Ok((0..plan.attaches.len() as u32).collect());
        }
        let no_pod = || Error::Other("this VM was not made for a pod: it has one container".into());
        fs_control::add(self.dir.as_ref().ok_or_else(no_pod)?, self.privilege, &plan.request.id, &plan.attaches)
    }

    fn configure_files(&self, process: &Confined, ids: &Ids, tells: &UnixStream, plan: &ContainerPlan) -> Result<()> {
        let (trees, mounts) = Trees::new(&plan.attaches, self.privilege, ids)?;
        let control = self.dir.as_deref().map(fs_control::listen).transpose()?;
        let more = if control.is_some() { More::ToCome } else { More::None };
        let mut fds: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
        fds.push(tells.as_fd());
        fds.extend(control.as_ref().map(AsFd::as_fd));
        message::send(&process.socket, &FsConfig { trees, more }, &fds).doing(|| "cannot configure the file process")?;
        fs::wait_until_ready(process)
    }
}

impl Sandbox for VmSandbox {
    fn pids(&self) -> Vec<i32> {
        let all = std::iter::once(&self.main.confined).chain(&self.fs);
        all.map(|confined| confined.pid.as_raw_nonzero().get()).collect()
    }

    fn agent(&self) -> &Arc<Client> {
        &self.agent
    }

    fn add_container(&mut self, mut plan: ContainerPlan, stdio: HostStdio<'_>) -> Result<()> {
        // Its first one is waited for with the VM's boot.
        let call = if self.fs_ids.is_some() { Client::call_booting } else { Client::call_with };
        let numbers = self.add_trees(&plan)?;
        number_trees(&mut plan.request, &numbers);
        // Of the first container's, the keeper knows by the files that they are there.
        let images = plan.images.iter().map(|path| open_image(path)).collect::<Result<Vec<_>>>()?;
        let disks = plan.disks.iter().map(Disk::open).collect::<Result<Vec<_>>>()?;
        let mut fds: Vec<_> = images.iter().chain(&disks).map(AsFd::as_fd).collect();
        plan.request.images = (0..images.len() as u32).collect();
        plan.request.disks = (images.len() as u32..fds.len() as u32).collect();
        let placed = stdio.place(&mut fds);
        if let Some(process) = &mut plan.request.process {
            process.stdio = Some(placed);
        }
        timing::mark("runtime: files configured");
        let made = call(&self.agent, &plan.request, &fds);
        timing::mark("runtime: container made");
        made.map(drop).map_err(|error| self.explain("cannot make the container", error))
    }

    fn wait(&self, timeout: Option<Duration>) -> Option<Ended> {
        self.main.wait(timeout)
    }

    fn last_words(&self) -> Option<String> {
        let all = std::iter::once(&self.main.confined).chain(&self.fs);
        let dead = all.filter(|confined| has_ended(confined));
        dead.filter_map(Confined::last_words).next()
    }

    fn stop(&mut self) {
        self.main.confined.kill();
        self.fs.iter().for_each(Confined::kill);
    }
}

/// Descriptors of vhost-net for all queues of the network's interfaces, or none.
fn vhost(accelerated: Accelerated, network: &Joined, queues: usize) -> Result<Vec<OwnedFd>> {
    let interfaces = network.description.interfaces.len();
    if interfaces == 0 {
        return Ok(Vec::new());
    }
    match queues::mover(accelerated) {
        Mover::Kernel => queues::open(interfaces * queues),
        Mover::Vmm(why) => {
            tracing::info!("QEMU moves the frames of the VM's interfaces: {why}");
            Ok(Vec::new())
        }
    }
}

/// A container's attach indices count its own trees; the device has those of all containers under numbers.
fn number_trees(request: &mut CreateContainerRequest, numbers: &[u32]) {
    let number = |attach: &mut u32| *attach = numbers.get(*attach as usize).copied().unwrap_or(u32::MAX);
    if let Some(root) = &mut request.root {
        if root.images.is_empty() {
            number(&mut root.attach);
        }
        if let Some(root::Overlay::Dir(dir)) = &mut root.overlay {
            number(dir);
        }
    }
    for mount in &mut request.mounts {
        if let Some(mount::Kind::Gofer(gofer)) = &mut mount.kind {
            number(&mut gofer.attach);
        }
    }
}

/// What there is to be divided.
#[derive(Debug, Clone, Copy)]
struct Host {
    cpus: usize,
    /// Bytes.
    memory: u64,
    /// How its VMs run.
    accelerated: Accelerated,
}

/// Whether a VM may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    ToTheHosts,
    None,
}

impl Host {
    /// CPUs of a VM whose containers may use so many: at the start, and at most.
    fn cpus_for(self, wanted: usize, growth: Growth) -> [u32; 2] {
        const MOST: usize = vmm::qemu::MOST_CPUS as usize;
        let boot = wanted.clamp(1, MOST);
        let most = match growth {
            Growth::ToTheHosts => self.cpus.clamp(boot, MOST),
            Growth::None => boot,
        };
        [boot as u32, most as u32]
    }

    /// Bytes of guest memory for containers that may use `limit`, likewise; it grows in steps.
    fn memory_for(self, limit: Option<u64>, growth: Growth) -> [u64; 2] {
        const STEP: u64 = vmm::qemu::MEMORY_STEP;
        let wanted = match limit {
            Some(limit) => limit.saturating_add(GUEST_MEMORY_OVERHEAD),
            None => DEFAULT_MEMORY,
        };
        let bound = match self.accelerated {
            Accelerated::ByKvm => vmm::qemu::MOST_MEMORY,
            Accelerated::Emulated => MOST_EMULATED_MEMORY,
        };
        let most = (self.memory / 2).max(GUEST_MEMORY_OVERHEAD).min(bound);
        let boot = wanted.min(most).next_multiple_of(MEMORY_STEP);
        let most = match growth {
            Growth::ToTheHosts => boot + self.memory.min(bound).saturating_sub(boot) / STEP * STEP,
            Growth::None => boot,
        };
        [boot, most]
    }
}

/// The VMM's program, by PATH.
fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file());
    let found = found.ok_or_else(|| {
        let missing = vmm::Error::NoProgram { program: name.into(), package: "qemu-system-x86" };
        Error::Other(missing.to_string())
    })?;
    // Links may lead out of what the VMM's process sees.
    let real = std::fs::canonicalize(&found).doing(|| format!("cannot find {}", found.display()))?;
    match real.starts_with(Path::new("/usr")) {
        true => Ok(real),
        false => Err(Error::Other(format!("{} is not under /usr: a VMM's process sees nothing else", real.display()))),
    }
}

#[cfg(test)]
mod tests {
    use agent_api::{GoferMount, Mount, Root};

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_has_room_for_the_guest_itself() {
        let host = Host { cpus: 2, memory: 16 * GIB, accelerated: Accelerated::ByKvm };
        let boot = |limit| host.memory_for(limit, Growth::None)[0];
        assert_eq!(boot(Some((64 << 20) + 1)), (192 << 20) + MEMORY_STEP);
        assert_eq!((boot(None), boot(Some(u64::MAX))), (DEFAULT_MEMORY, 8 * GIB));
        assert_eq!(host.memory_for(None, Growth::ToTheHosts), [GIB, 16 * GIB]);
    }

    /// The driver builds what is made of the largest hosts.
    #[test]
    fn no_host_is_too_large() {
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let host = Host { cpus: 1024, memory: 6144 * GIB + 4096, accelerated: Accelerated::ByKvm };
        for (cpus, limit) in [(1, None), (300, None), (1, Some(2048 * GIB)), (1024, Some(u64::MAX))] {
            for growth in [Growth::ToTheHosts, Growth::None] {
                let ([boot, max], [memory, most]) = (host.cpus_for(cpus, growth), host.memory_for(limit, growth));
                let machine = vmm::Machine {
                    name: "large".into(),
                    accelerator: vmm::Accelerator::Kvm,
                    kernel: file(),
                    initrd: None,
                    cmdline: String::new(),
                    cpus: vmm::Cpus { boot, max },
                    memory: vmm::Memory { boot: memory, max: most },
                    console: None,
                    devices: Vec::new(),
                    slots: POD_SLOTS + NIC_SLOTS,
                };
                let qmp = file();
                let line = vmm::qemu::command_line(&machine, qmp.as_fd());
                assert!(line.is_ok(), "{cpus} {limit:?} {growth:?}: {:?}", line.err());
            }
        }
        assert_eq!(host.cpus_for(300, Growth::None), [255; 2]);
        let [boot, most] = host.memory_for(None, Growth::ToTheHosts);
        assert_eq!((boot, most), (GIB, 1024 * GIB));
        let emulated = Host { accelerated: Accelerated::Emulated, ..host };
        assert_eq!(emulated.memory_for(Some(u64::MAX), Growth::ToTheHosts), [896 * GIB; 2]);
    }

    #[test]
    fn trees_are_numbered_through() {
        let gofer = mount::Kind::Gofer(GoferMount { attach: 1, cache: 0 });
        let mut request = CreateContainerRequest {
            root: Some(Root { attach: 0, overlay: Some(root::Overlay::Dir(2)), ..Default::default() }),
            mounts: vec![Mount { kind: Some(gofer), ..Default::default() }],
            ..Default::default()
        };
        number_trees(&mut request, &[5, 9, 7]);
        let root = request.root.unwrap();
        assert_eq!((root.attach, root.overlay), (5, Some(root::Overlay::Dir(7))));
        assert_eq!(request.mounts[0].kind, Some(mount::Kind::Gofer(GoferMount { attach: 9, cache: 0 })));
    }
}
