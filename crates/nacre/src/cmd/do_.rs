//! `nacre do`: one command in a sandbox over the host's own files.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use agent_api::dev::access;
use agent_api::{
    CacheMode, ClientError, Code, CreateContainerRequest, Device, DeviceKind, DeviceRule, DevptsMount, Empty, Limits, Mount,
    MountFlags, Process, Root, SetStraceRequest, StartContainerRequest, Status, TmpfsMount, mount::Kind, root,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use runtime::cgroup::{Cgroup, Driver, HostLimits, Location};
use runtime::cni::{self, NetworkWish};
use runtime::config::{Overlay, capabilities, prepare_overlay};
use runtime::process::gofer::Attach;
use runtime::process::{Network, Privilege};
use runtime::sandbox::{self, ContainerPlan, FileIds, Launch, Sandbox};
use runtime::{Error, machine, pod_network, timing};

use super::Failure;
use crate::cli::{Global, Net};
use crate::flags::{Flags, Volume};
use crate::session::{self, Session, Wire};
use crate::stdio::Own;
use crate::terminal;
use crate::user::User;

/// Run a command in a sandbox over the host's files, which stay as they are: changes go to memory, or where --overlay says
#[derive(Debug, Args)]
pub struct Do {
    /// Root directory of the sandbox, or an EROFS image
    #[arg(long, value_name = "DIR|IMAGE", default_value = "/")]
    root: PathBuf,
    #[command(flatten)]
    flags: Flags,
    /// Print the command's system calls on standard error
    #[arg(long)]
    strace: bool,
    /// Where changes of the root go: memory, dir:PATH (kept there), or none (the root itself)
    #[arg(long, value_name = "MODE", default_value = "memory")]
    overlay: String,
    #[command(flatten)]
    net: Net,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Do {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let signals = session::block_signals();
        let privilege = global.privilege();
        let wire = self.flags.wire()?;
        let kind = global.sandbox()?.unwrap_or_default();
        let mut plan = self.plan(kind, privilege, wire)?;
        let id = plan.request.id.clone();
        let limits = plan.request.limits.unwrap_or_default();
        let attached = Attached::by(self.net.wish()?, &id, global)?;
        if let Some(servers) = attached.made.as_ref().and_then(|(root, id)| cni::resolv_conf(root, id)) {
            plan.set_resolv_conf(&servers);
        }
        let cgroup = cgroup(kind, &id, &limits, privilege)?;
        let launched = launch(kind, global, &plan, &cgroup, privilege, attached.network.clone())?;
        let mut sandbox = Guard { sandbox: launched, cgroup, _network: attached };
        timing::mark("do: launched");
        let own = Own::take().context("cannot use the standard streams")?;
        sandbox.sandbox.add_container(plan, own.as_host()).map_err(|error| match error {
            Error::Agent { cause: ClientError::Status(status), .. } => command_failure(status),
            other => other.into(),
        })?;
        if self.strace {
            let request = SetStraceRequest { container_id: id.clone(), output: Some(0) };
            sandbox.call("cannot trace", &request, &[std::io::stderr().as_fd()])?;
        }
        let raw = match wire {
            Wire::Terminal => Some(terminal::Raw::enter().context("cannot change the terminal")?),
            Wire::Streams => None,
        };
        sandbox.call("cannot start", &StartContainerRequest { container_id: id.clone() }, &[])?;
        timing::mark("do: started");
        drop(own);
        let agent = sandbox.sandbox.agent().clone();
        let session = Session { agent, container_id: id, exec_id: String::new(), wire };
        let exit = session.wait(signals);
        timing::mark("do: exited");
        drop(raw);
        match exit {
            Ok(exit) => Ok(exit.shell_status()),
            Err(error) => Ok(sandbox.sandbox.status_instead("cannot wait for the command", error)?),
        }
    }

    fn plan(&self, kind: sandbox::Kind, privilege: Privilege, wire: Wire) -> anyhow::Result<ContainerPlan> {
        let root = std::fs::canonicalize(&self.root).with_context(|| format!("--root {}", self.root.display()))?;
        // A file is an EROFS image.
        let images = if root.is_file() { vec![root.clone()] } else { Vec::new() };
        if images.is_empty() && !root.is_dir() {
            bail!("--root {}: neither a directory nor an image", root.display());
        }
        // The host's own file systems of these kinds are not for guests; the sandbox has its own.
        let host_only = ["/proc", "/sys", "/dev"].map(PathBuf::from);
        let mut hidden = if root == Path::new("/") { host_only.to_vec() } else { Vec::new() };
        let overlay = Overlay::parse(&self.overlay, None).map_err(|what| anyhow!("--overlay: {what}"))?;
        let mut kept = None;
        if let Overlay::Dir(dir) = &overlay {
            prepare_overlay(dir, if root.is_dir() { &root } else { Path::new("/") }, kind)
                .with_context(|| format!("--overlay: cannot make {}", dir.display()))?;
            let dir = std::fs::canonicalize(dir)?;
            // Its raw content is not for the guest.
            hidden.extend(dir.strip_prefix(&root).ok().map(|inner| Path::new("/").join(inner)));
            kept = Some(Attach {
                source: dir,
                recursive: false,
                read_only: false,
                exclusive: true,
                hidden: Vec::new(),
                told: false,
            });
        }
        let read_only = overlay != Overlay::None;
        let mut attaches = Vec::new();
        if images.is_empty() {
            attaches.push(Attach { source: root.clone(), recursive: true, read_only, exclusive: false, hidden, told: false });
        }
        let kept_at = attaches.len() as u32;
        attaches.extend(kept);
        let mut mounts = standard_mounts();
        for volume in self.flags.volumes()? {
            mounts.push(bind(volume, &mut attaches));
        }
        let devices = loop_devices();
        let request = CreateContainerRequest {
            id: format!("do-{}", std::process::id()),
            process: Some(self.process(&root, privilege, wire)?),
            hostname: Some(rustix::system::uname().nodename().to_bytes().to_vec()),
            root: Some(Root {
                attach: 0,
                read_only: !images.is_empty() && overlay == Overlay::None,
                overlay: Some(match overlay {
                    Overlay::Memory => root::Overlay::Memory(Empty {}),
                    Overlay::Dir(_) => root::Overlay::Dir(kept_at),
                    Overlay::None => root::Overlay::None(Empty {}),
                }),
                cache: CacheMode::Shared.into(),
                images: (0..images.len() as u32).collect(),
            }),
            mounts,
            device_rules: devices.iter().map(free_use).collect(),
            devices,
            limits: Some(self.flags.limits()?),
            ..Default::default()
        };
        Ok(ContainerPlan { request, attaches, images, disks: Vec::new() })
    }

    fn process(&self, root: &Path, privilege: Privilege, wire: Wire) -> anyhow::Result<Process> {
        let user = match &self.flags.user {
            Some(text) => User::parse(text, root).context("--user")?,
            None => User::own(privilege),
        };
        let cwd = match &self.flags.cwd {
            Some(cwd) if !cwd.is_absolute() => bail!("--cwd {}: not an absolute path", cwd.display()),
            // The sentry would make it, as for containers; here it is a slip of the pen.
            Some(cwd) if self.flags.volume.is_empty() && !is_directory(root, cwd) => {
                bail!("--cwd {}: no such directory", cwd.display())
            }
            Some(cwd) => cwd.clone(),
            None if root == Path::new("/") => std::env::current_dir().context("no current directory")?,
            None => PathBuf::from("/"),
        };
        let all = capabilities::ALL;
        let mut sets = capabilities::all_sets(if user.uid == 0 { all } else { 0 });
        sets.bounding = all;
        Ok(Process {
            args: self.command.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env: environment(&self.flags),
            cwd: cwd.into_os_string().into_vec(),
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.groups,
            umask: Some(own_umask()),
            capabilities: Some(sets),
            terminal: (wire == Wire::Terminal).then(terminal::own_size),
            ..Default::default()
        })
    }
}

/// Loop devices at the beginning.
const LOOP_DEVICES: u32 = 8;

/// Loop devices, as a machine has them; they are the sandbox's own.
fn loop_devices() -> Vec<Device> {
    let node = |path: String, kind: DeviceKind, major, minor| Device {
        path: path.into_bytes(),
        kind: kind.into(),
        major,
        minor,
        mode: 0o660,
        ..Device::default()
    };
    let control = node("/dev/loop-control".into(), DeviceKind::Character, 10, 237);
    let disks = (0..LOOP_DEVICES).map(|index| node(format!("/dev/loop{index}"), DeviceKind::Block, 7, index));
    std::iter::once(control).chain(disks).collect()
}

/// The rule that lets a container do all with a device.
fn free_use(device: &Device) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: Some(device.kind),
        major: Some(device.major),
        minor: Some(device.minor),
        access: access::MKNOD | access::READ | access::WRITE,
    }
}

/// A sandbox that is gone when this is, with its cgroup.
struct Guard {
    sandbox: Box<dyn Sandbox>,
    cgroup: Cgroup,
    /// Goes last.
    _network: Attached,
}

/// The sandbox's network. What plugins have made for it is undone when this goes, and what was there is left as it was found.
struct Attached {
    network: Network,
    made: Option<(PathBuf, String)>,
}

impl Attached {
    fn by(wish: NetworkWish, id: &str, global: &Global) -> anyhow::Result<Attached> {
        let wish = match wish {
            NetworkWish::Configured => return Ok(Attached { network: Network::None, made: None }),
            NetworkWish::Ready(network) => return Ok(Attached { network, made: None }),
            NetworkWish::Cni(wish) => wish,
        };
        let root = global.runtime().store.root().to_path_buf();
        let network = cni::attach(&root, id, &wish)?;
        Ok(Attached { network, made: Some((root, id.into())) })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        match (&self.made, &self.network) {
            (Some((root, id)), _) => cni::detach(root, id),
            (None, Network::Namespace(path)) => pod_network::leave(path),
            (None, _) => {}
        }
    }
}

impl Guard {
    /// A call whose failure is the command's.
    fn call<M: agent_api::Method>(&self, what: &str, request: &M, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<(), Failure> {
        match self.sandbox.agent().call_with(request, fds) {
            Ok(_) => Ok(()),
            Err(ClientError::Status(status)) => Err(command_failure(status)),
            Err(error) => Err(self.sandbox.explain(what, error).into()),
        }
    }
}

/// Not found is 127, not executable 126, as in a shell.
pub fn command_failure(status: Status) -> Failure {
    let code = match status.code {
        Code::NotFound => 127,
        Code::PermissionDenied => 126,
        _ => 1,
    };
    Failure { error: anyhow!(status.message), code }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.sandbox.stop();
        if let Err(error) = self.cgroup.remove() {
            tracing::warn!("{error}");
        }
    }
}

/// A cgroup only if there is something to limit, and one can be made.
fn cgroup(kind: sandbox::Kind, id: &str, limits: &Limits, privilege: Privilege) -> anyhow::Result<Cgroup> {
    if limits.memory.is_none() && limits.pids.is_none() {
        return Ok(Cgroup::default());
    }
    let location = Location::plan(Some(Path::new(&format!("nacre-{id}"))), id, Driver::Cgroupfs, privilege)?;
    Ok(Cgroup::create(location, &HostLimits::with_overhead(kind, limits.memory, limits.pids))?)
}

fn launch(
    kind: sandbox::Kind,
    global: &Global,
    plan: &ContainerPlan,
    cgroup: &Cgroup,
    privilege: Privilege,
    network: Network,
) -> anyhow::Result<Box<dyn Sandbox>> {
    let report =
        rustix::fs::memfd_create("nacre-report", rustix::fs::MemfdFlags::CLOEXEC).context("cannot make a report file")?;
    let log = global.log_file();
    let stderr = std::io::stderr();
    let limits = plan.request.limits.unwrap_or_default();
    let launch = Launch {
        first_container: plan.request.id.clone(),
        cpus: machine::cpus(),
        memory_limit: limits.memory,
        memory_bytes: limits.memory.unwrap_or_else(machine::memory_bytes),
        max_processes: machine::max_processes(limits.pids),
        network,
        listener: None,
        pod: None,
        images: &plan.images,
        disks: &plan.disks,
        report: File::from(report),
        cgroup,
        privilege,
        file_ids: FileIds::own(privilege),
        log: global.log_config(),
        log_file: Some(log.as_ref().map_or(stderr.as_fd(), AsFd::as_fd)),
        die_with_parent: true,
    };
    Ok(sandbox::launch(kind, launch)?)
}

fn own_umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}

/// Whether a directory is there for the command, links followed inside its root. /proc and the like are the sandbox's own.
fn is_directory(root: &Path, path: &Path) -> bool {
    if ["/proc", "/sys", "/dev"].iter().any(|own| path.starts_with(own)) {
        return true;
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let opened = rustix::fs::open(root, flags, rustix::fs::Mode::empty());
    opened.is_ok_and(|root| {
        let in_root = rustix::fs::ResolveFlags::IN_ROOT;
        let error = rustix::fs::openat2(root, path, flags, rustix::fs::Mode::empty(), in_root).err();
        !matches!(error, Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR))
    })
}

/// Ours, changed and added to by flags.
fn environment(flags: &Flags) -> Vec<Vec<u8>> {
    let vars = flags.environment(std::env::vars_os().collect());
    vars.into_iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect()
}

fn standard_mounts() -> Vec<Mount> {
    let flags = MountFlags { nosuid: true, nodev: true, noexec: true, ..Default::default() };
    let mount = |destination: &str, kind: Kind, flags: MountFlags| Mount {
        destination: destination.into(),
        kind: Some(kind),
        flags: Some(flags),
        source: Vec::new(),
    };
    let shm = TmpfsMount { mode: Some(0o1777), ..Default::default() };
    vec![
        mount("/proc", Kind::Proc(Empty {}), flags),
        mount("/sys", Kind::Sysfs(Empty {}), MountFlags { read_only: true, ..flags }),
        mount(
            "/dev",
            Kind::Dev(TmpfsMount { mode: Some(0o755), ..Default::default() }),
            MountFlags { nosuid: true, ..Default::default() },
        ),
        mount(
            "/dev/pts",
            Kind::Devpts(DevptsMount { ptmx_mode: Some(0o666), mode: Some(0o620), gid: Some(5) }),
            MountFlags { nosuid: true, noexec: true, ..Default::default() },
        ),
        mount("/dev/shm", Kind::Tmpfs(shm), flags),
        mount("/sys/fs/cgroup", Kind::Cgroup(Empty {}), flags),
        mount("/dev/mqueue", Kind::Mqueue(Empty {}), flags),
    ]
}

fn bind(volume: Volume, attaches: &mut Vec<Attach>) -> Mount {
    let Volume { source, destination, read_only } = volume;
    let attach =
        Attach { source: source.clone(), recursive: true, read_only, exclusive: false, hidden: Vec::new(), told: true };
    Mount {
        destination: destination.into_os_string().into_vec(),
        kind: Some(attach.mounted(attaches)),
        flags: Some(MountFlags { read_only, nosuid: true, nodev: true, ..Default::default() }),
        source: source.into_os_string().into_vec(),
    }
}
