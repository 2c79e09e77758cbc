//! The VM sandbox: a keeper, its VMM, and one process that serves all containers' files.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_api::{Client, CreateContainerRequest, DeleteContainerRequest, mount, root};

use super::main_process::{Guard, MainProcess, has_ended};
use super::{ContainerPlan, Ended, HostStdio, Launch, Sandbox, open_image};
use crate::cgroup::GUEST_MEMORY_OVERHEAD;
use crate::error::{Doing, Error, Result};
use crate::process::fs;
use crate::process::gofer::Trees;
use crate::process::keeper::{KeeperConfig, KvmConfig};
use crate::process::kvm::Kvm;
use crate::process::{Confined, Ids, Network, Privilege, Role, Spawn, message};
use crate::{machine, timing};

/// Guest memory in all, without a limit; half of the host's if that is less.
const DEFAULT_MEMORY: u64 = 1 << 30;
/// Guest memory is a multiple of this.
const MEMORY_STEP: u64 = 2 << 20;

/// A VM sandbox, held by the process that made it.
#[derive(Debug)]
pub struct VmSandbox {
    main: MainProcess,
    fs: Confined,
    fs_ids: Ids,
    /// Trees that it serves; none before the first container is added.
    trees: u32,
    agent: Arc<Client>,
    privilege: Privilege,
}

impl VmSandbox {
    /// Starts the VM; its kernel boots while the first container is prepared.
    ///
    /// # Errors
    /// No VMM, no guest image; the host's. Nothing is left running.
    pub fn launch(launch: Launch<'_>) -> Result<VmSandbox> {
        match launch.network {
            Network::None => {}
            Network::Host => return Err(Error::Other("a VM cannot use the host's sockets (--net host)".into())),
            Network::Namespace(path) => {
                let what = format!("a VM cannot join the network namespace {} yet", path.display());
                return Err(Error::Other(what));
            }
        }
        let program = find_program(vmm::qemu::PROGRAM)?;
        let image = guest::build(&guest::Options::default()).map_err(|e| Error::Other(e.to_string()))?;
        let (kernel, initrd) = (open_image(&image.kernel)?, open_image(&image.initrd)?);
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
        let (ours, theirs) = UnixStream::pair().doing(|| "cannot make a socket pair")?;
        let vmm_side = fs::vmm_end(&fs)?;
        timing::mark("runtime: file process connected");
        let (kvm, given) = match Kvm::find(launch.privilege) {
            Ok(Kvm::Mount(mount)) => (KvmConfig::Mount, Some(mount)),
            Ok(Kvm::Own) => (KvmConfig::Own, None),
            Err(because) => (KvmConfig::None(because), None),
        };
        let config = KeeperConfig {
            first_container: launch.first_container,
            program,
            cpus: launch.cpus as u32,
            memory: memory(launch.memory_limit),
            kvm,
            log: launch.log,
        };
        let mut fds = vec![launch.report.as_fd(), theirs.as_fd(), vmm_side.as_fd(), kernel.as_fd(), initrd.as_fd()];
        fds.extend(given.as_ref().map(AsFd::as_fd));
        fds.extend(launch.listener.as_ref().map(AsFd::as_fd));
        message::send(&keeper.socket, &config, &fds).doing(|| "cannot configure the VM")?;
        Ok(VmSandbox {
            main: MainProcess { confined: keeper.keep(), report: launch.report, name: "VM's keeper" },
            fs: fs.keep(),
            fs_ids,
            trees: 0,
            agent: Arc::new(Client::new(ours.into())),
            privilege: launch.privilege,
        })
    }

    /// Gives the file process a container's trees.
    fn add_trees(&mut self, plan: &ContainerPlan) -> Result<()> {
        if self.trees > 0 {
            return Err(Error::Other("a VM has one container as yet".into()));
        }
        let (trees, mounts) = Trees::new(&plan.attaches, self.privilege, &self.fs_ids)?;
        let fds: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
        message::send(&self.fs.socket, &trees, &fds).doing(|| "cannot configure the file process")?;
        fs::wait_until_ready(&self.fs)
    }
}

impl Sandbox for VmSandbox {
    fn pids(&self) -> Vec<i32> {
        [&self.main.confined, &self.fs].map(|confined| confined.pid.as_raw_nonzero().get()).to_vec()
    }

    fn agent(&self) -> &Arc<Client> {
        &self.agent
    }

    fn add_container(&mut self, mut plan: ContainerPlan, stdio: HostStdio<'_>) -> Result<()> {
        if !plan.images.is_empty() {
            return Err(Error::Other("EROFS images as root or mounts are not there for VMs yet".into()));
        }
        self.add_trees(&plan)?;
        number_trees(&mut plan.request, self.trees);
        self.trees += plan.attaches.len() as u32;
        let mut fds = Vec::new();
        let placed = stdio.place(&mut fds);
        if let Some(process) = &mut plan.request.process {
            process.stdio = Some(placed);
        }
        timing::mark("runtime: files configured");
        let made = self.agent.call_with(&plan.request, &fds);
        timing::mark("runtime: container made");
        made.map(drop).map_err(|error| self.explain("cannot make the container", error))
    }

    fn remove_container(&mut self, id: &str) {
        let request = DeleteContainerRequest { container_id: id.into(), force: true };
        if let Err(error) = self.agent.call(&request) {
            tracing::debug!("container {id} cannot be taken out of its VM: {error}");
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Option<Ended> {
        self.main.wait(timeout)
    }

    fn last_words(&self) -> Option<String> {
        let dead = [&self.main.confined, &self.fs].into_iter().filter(|confined| has_ended(confined));
        dead.filter_map(Confined::last_words).next()
    }

    fn stop(&mut self) {
        self.main.confined.kill();
        self.fs.kill();
    }
}

/// A container's attach indices count from 0; the device's from its first container on.
fn number_trees(request: &mut CreateContainerRequest, first: u32) {
    if let Some(root) = &mut request.root {
        root.attach += first;
        if let Some(root::Overlay::Dir(dir)) = &mut root.overlay {
            *dir += first;
        }
    }
    for mount in &mut request.mounts {
        if let Some(mount::Kind::Gofer(gofer)) = &mut mount.kind {
            gofer.attach += first;
        }
    }
}

/// Bytes of guest memory for containers that may use `limit`.
fn memory(limit: Option<u64>) -> u64 {
    let wanted = match limit {
        Some(limit) => limit.saturating_add(GUEST_MEMORY_OVERHEAD),
        None => DEFAULT_MEMORY,
    };
    let most = (machine::memory_bytes() / 2).max(GUEST_MEMORY_OVERHEAD);
    wanted.min(most).next_multiple_of(MEMORY_STEP)
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

    #[test]
    fn memory_has_room_for_the_guest_itself() {
        assert_eq!(memory(Some((64 << 20) + 1)), (192 << 20) + MEMORY_STEP);
        assert!(memory(None) <= DEFAULT_MEMORY && memory(Some(u64::MAX)) <= machine::memory_bytes());
    }

    #[test]
    fn trees_are_numbered_through() {
        let gofer = mount::Kind::Gofer(GoferMount { attach: 1, cache: 0 });
        let mut request = CreateContainerRequest {
            root: Some(Root { attach: 0, overlay: Some(root::Overlay::Dir(2)), ..Default::default() }),
            mounts: vec![Mount { kind: Some(gofer), ..Default::default() }],
            ..Default::default()
        };
        number_trees(&mut request, 5);
        let root = request.root.unwrap();
        assert_eq!((root.attach, root.overlay), (5, Some(root::Overlay::Dir(7))));
        assert_eq!(request.mounts[0].kind, Some(mount::Kind::Gofer(GoferMount { attach: 6, cache: 0 })));
    }
}
