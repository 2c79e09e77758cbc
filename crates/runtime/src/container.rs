//! OCI's operations on a container.
//!
//! Each opens the container's directory, does its step through the sandbox's agent, and saves. A create that fails leaves nothing; one that
//! is killed leaves a directory that `delete --force` clears: its sandbox ends by itself when it gets no configuration, and what it has recorded
//! (pids with start times, cgroup directories) is recorded before it matters.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use agent_api::{
    Client, ClientError, Code, DeleteContainerRequest, PauseContainerRequest, ResumeContainerRequest, SignalProcessRequest,
    SignalTarget, StartContainerRequest,
};
use oci_spec::runtime::Spec;

use crate::cgroup::{Cgroup, Driver, HostLimits, Location};
use crate::cni::{self, NetworkWish};
use crate::config::annotations::{self, annotation};
use crate::config::{self, Overlay};
use crate::console::Console;
use crate::error::{Doing, Error, Result};
use crate::hooks::{self, Moment};
use crate::pod::{self, Place, Pod};
use crate::process::{IdMap, Network, Privilege};
use crate::sandbox::{self, ContainerPlan, FileIds, HostStdio, Join, Kind, Launch, Sandbox};
use crate::state::{Access, Entry, ProcessRef, Saved, Status, Store, write_whole};
use crate::{logging, machine, pod_network, timing};

/// Where the containers are, and how this runtime works.
#[derive(Debug)]
pub struct Runtime {
    pub store: Store,
    pub privilege: Privilege,
    pub cgroups: Driver,
    pub log: logging::Config,
    /// For sandboxes to log to.
    pub log_file: Option<File>,
}

/// What `create` needs beside the bundle.
#[derive(Debug)]
pub struct Create<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    pub console_socket: Option<&'a Path>,
    pub pid_file: Option<&'a Path>,
    /// Used unless the process has a terminal and there is a console socket.
    pub stdio: HostStdio<'a>,
    /// With a terminal and no console socket: stdio is a terminal in raw mode, of this size.
    /// Where writes to the root go (`--overlay`); None: the annotation says.
    pub overlay: Option<&'a str>,
    pub own_terminal: Option<agent_api::WindowSize>,
    pub network: NetworkWish,
    /// EROFS images that the root is made of, the lowest first (`--root-image`). Without any the annotation says, or it is the bundle's directory.
    pub root_images: &'a [PathBuf],
    /// What the container runs in (`--sandbox`); None: annotation `dev.nacre.sandbox` says, or a sentry.
    pub sandbox: Option<Kind>,
}

/// The first container of a sandbox that another joins.
struct Host {
    entry: Entry,
    main: ProcessRef,
}

/// A container just made, with its sandbox.
#[derive(Debug)]
pub struct Container {
    pub entry: Entry,
    pub sandbox: Box<dyn Sandbox>,
    cgroup: Cgroup,
}

impl Runtime {
    /// Makes a container. It has to be [`start`](Runtime::start)ed.
    ///
    /// # Errors
    /// What is wrong with the bundle or what the host refuses. Nothing is left.
    pub fn create(&self, create: &Create<'_>) -> Result<Container> {
        crate::state::check_id(create.id)?;
        let bundle =
            std::fs::canonicalize(create.bundle).doing(|| format!("cannot find the bundle {}", create.bundle.display()))?;
        let spec = config::load(&bundle)?;
        let overlay = overlay(&spec, &bundle, create.overlay)?;
        let host = match Place::of(&spec)? {
            Place::Alone | Place::First => None,
            Place::Member(sandbox) => Some(self.host(&sandbox)?),
        };
        logging::about(host.as_ref().map_or(create.id, |host| &host.entry.saved.id), create.id);
        for name in annotations::unknown(&spec) {
            tracing::warn!("annotation {name} says nothing: there is none of that name (docs/runtime.md)");
        }
        let kind = match &host {
            None => kind(&spec, create.sandbox)?,
            Some(host) => host.entry.saved.kind,
        };
        let pod = host.as_ref().map(|host| Pod { sandbox_id: &host.entry.saved.id, pid: host.main.pid, store: &self.store });
        let images = match create.root_images {
            [] => annotations::erofs_root(&spec, &bundle)?,
            given => given.to_vec(),
        };
        config::check_images(&images)?;
        let rootfs = match images.last() {
            Some(top) => top.clone(),
            None => config::rootfs(&spec, &bundle)?,
        };
        let mut plan = config::plan(create.id, &bundle, &spec, images, &overlay, pod)?;
        plan.fits(kind)?;
        check_terminal(&spec, create)?;
        if let Overlay::Dir(dir) = &overlay {
            // An image's root has no attributes yet.
            let root = if rootfs.is_dir() { rootfs.as_path() } else { Path::new("/") };
            config::prepare_overlay(dir, root, kind)
                .doing(|| format!("cannot make the overlay's directory {}", dir.display()))?;
        }
        let linux = spec.linux().as_ref();
        let limits = match linux.and_then(|linux| linux.resources().as_ref()) {
            Some(resources) => HostLimits::of(kind, resources)?,
            None => HostLimits::default(),
        };
        let cgroups_path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let saved = Saved {
            id: create.id.into(),
            oci_version: spec.version().clone(),
            rootfs,
            bundle,
            created_ns: hostcall::time::realtime_ns(),
            owner: rustix::process::geteuid().as_raw(),
            annotations: spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            phase: Status::Creating,
            sandbox_id: host.as_ref().map_or(create.id, |host| &host.entry.saved.id).into(),
            kind,
            sandbox: host.as_ref().map(|host| host.main),
            gofers: Vec::new(),
            stand_in: None,
            memory_dev: None,
            network: None,
            cgroup: Location::plan(cgroups_path, create.id, self.cgroups, self.privilege)?,
            hooks: spec.hooks().clone(),
            process: spec.process().clone(),
        };
        timing::mark("runtime: configuration checked");
        let mut entry = self.store.create(saved)?;
        let cgroup = match Cgroup::create(entry.saved.cgroup.clone(), &limits) {
            Ok(cgroup) => cgroup,
            Err(error) => {
                entry.remove()?;
                return Err(error);
            }
        };
        timing::mark("runtime: cgroup made");
        let launched = match &host {
            None => self.attached(&entry.saved.id, &spec, &create.network).and_then(|network| {
                entry.saved.network = named(&network);
                self.launch(kind, &entry, &cgroup, &spec, &plan, network)
            }),
            Some(host) => self.join(host, &cgroup, &spec),
        };
        let sandbox = match launched {
            Ok(sandbox) => sandbox,
            Err(error) => {
                let _ = cgroup.remove();
                give_back(self.store.root(), &entry.saved);
                entry.remove()?;
                return Err(error);
            }
        };
        let mut container = Container { entry, sandbox, cgroup };
        if let Some(servers) = cni::resolv_conf(self.store.root(), &container.entry.saved.sandbox_id) {
            plan.set_resolv_conf(&servers);
        }
        match container.finish(create, &spec, plan).and_then(|()| cni::keep(self.store.root(), create.id)) {
            Ok(()) => Ok(container),
            Err(error) => {
                container.destroy();
                Err(error)
            }
        }
    }

    /// The container whose sandbox another is to join.
    fn host(&self, id: &str) -> Result<Host> {
        let about = |what: &str| Error::Other(format!("cannot join the sandbox of container {id}: {what}"));
        let entry = self.store.open(id, Access::Look).map_err(|error| about(&error.to_string()))?;
        if entry.saved.is_member() {
            return Err(about("it has none of its own"));
        }
        match entry.saved.sandbox.filter(|_| !matches!(entry.saved.status(), Status::Stopped | Status::Creating)) {
            Some(main) => Ok(Host { main, entry }),
            None => Err(about(&format!("it is {}{}", entry.saved.status(), reason(&entry)))),
        }
    }

    fn join(&self, host: &Host, cgroup: &Cgroup, spec: &Spec) -> Result<Box<dyn Sandbox>> {
        let report = host.entry.report_path();
        let join = Join {
            main: host.main,
            dir: &host.entry.dir,
            agent: connect(&host.entry)?,
            report: File::open(&report).doing(|| format!("cannot open {}", report.display()))?,
            cgroup,
            cpus: machine::cpus(),
            privilege: self.privilege,
            file_ids: file_ids(spec, self.privilege),
        };
        sandbox::join(host.entry.saved.kind, join)
    }

    /// What is asked for, made if need be; else what the configuration says.
    fn attached(&self, id: &str, spec: &Spec, asked: &NetworkWish) -> Result<Network> {
        match asked {
            NetworkWish::Ready(network) => Ok(network.clone()),
            NetworkWish::Cni(wish) => cni::attach(self.store.root(), id, wish),
            NetworkWish::Configured => match config::network(spec)? {
                Network::Namespace(path) if self.privilege == Privilege::User => {
                    let path = path.display();
                    tracing::warn!("the network of {path} is not joined: only root can; the sandbox has loopback only");
                    Ok(Network::None)
                }
                network => Ok(network),
            },
        }
    }

    fn launch(
        &self,
        kind: Kind,
        entry: &Entry,
        cgroup: &Cgroup,
        spec: &Spec,
        plan: &ContainerPlan,
        network: Network,
    ) -> Result<Box<dyn Sandbox>> {
        let limits = plan.request.limits.unwrap_or_default();
        let socket = entry.socket()?;
        let listener = UnixListener::bind(&socket.path).doing(|| "cannot make the agent's socket")?;
        let report = entry.report_path();
        let report =
            OpenOptions::new().create(true).append(true).read(true).open(&report).doing(|| "cannot make the report file")?;
        let launch = Launch {
            first_container: entry.saved.id.clone(),
            pod: (Place::of(spec)? == Place::First).then_some(&entry.dir),
            cpus: machine::executors(machine::cpus(), limits.cpu_quota_us, limits.cpu_period_us),
            memory_limit: limits.memory,
            memory_bytes: limits.memory.unwrap_or(u64::MAX).min(machine::memory_bytes()),
            max_processes: machine::max_processes(limits.pids),
            network,
            images: &plan.images,
            disks: &plan.disks,
            listener: Some(listener),
            report,
            cgroup,
            privilege: self.privilege,
            file_ids: file_ids(spec, self.privilege),
            log: logging::Config { sandbox: Some(entry.saved.sandbox_id.clone()), ..self.log.clone() },
            log_file: self.log_file.as_ref().map(AsFd::as_fd),
            die_with_parent: false,
        };
        sandbox::launch(kind, launch)
    }

    /// Runs a created container's process.
    ///
    /// # Errors
    /// It is not in that state; the agent refuses.
    pub fn start(&self, id: &str) -> Result<()> {
        let mut entry = self.store.open(id, Access::Change)?;
        match pod::status(&entry) {
            Status::Created => {}
            Status::Stopped => {
                return Err(Error::Other(format!("cannot start a container that has stopped{}", reason(&entry))));
            }
            Status::Running | Status::Paused => return Err(Error::Other("cannot start an already running container".into())),
            status @ Status::Creating => return Err(Error::WrongStatus { verb: "start", id: id.into(), status }),
        }
        let agent = connect(&entry)?;
        start(&mut entry, &agent)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It does not run; the agent refuses.
    pub fn kill(&self, id: &str, signal: i32, target: SignalTarget) -> Result<()> {
        let entry = self.store.open(id, Access::Look)?;
        if pod::status(&entry) == Status::Stopped {
            return match target {
                SignalTarget::Container => Ok(()),
                _ => Err(Error::NotRunning),
            };
        }
        let request = SignalProcessRequest { container_id: id.into(), exec_id: String::new(), signal, target: target.into() };
        let sent = connect(&entry).and_then(|agent| agent.call(&request).doing(|| "cannot send the signal"));
        match (sent, &entry.saved.sandbox) {
            (Ok(_), _) => Ok(()),
            (Err(Error::Agent { cause: ClientError::Status(status), .. }), _) if status.code == Code::NotFound => {
                Err(Error::NotRunning)
            }
            // Whatever state it is in, SIGKILL ends it.
            (Err(error), Some(sandbox)) if signal == libc::SIGKILL => {
                tracing::warn!("{error}; its process is killed instead");
                sandbox.kill();
                Ok(())
            }
            (Err(error), Some(_)) if has_ended(&entry, &error) => match target {
                SignalTarget::Container => Ok(()),
                _ => Err(Error::NotRunning),
            },
            (Err(error), _) => Err(error),
        }
    }

    /// Stops all of a container's tasks where they are.
    ///
    /// # Errors
    /// It does not run; the agent refuses.
    pub fn pause(&self, id: &str) -> Result<()> {
        self.change(id, "pause", &[Status::Running, Status::Created], Status::Paused, |agent| {
            agent.call(&PauseContainerRequest { container_id: id.into() }).map(drop)
        })
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It is not paused; the agent refuses.
    pub fn resume(&self, id: &str) -> Result<()> {
        self.change(id, "resume", &[Status::Paused], Status::Running, |agent| {
            agent.call(&ResumeContainerRequest { container_id: id.into() }).map(drop)
        })
    }

    fn change(
        &self,
        id: &str,
        verb: &'static str,
        from: &[Status],
        to: Status,
        call: impl FnOnce(&Client) -> std::result::Result<(), ClientError>,
    ) -> Result<()> {
        let mut entry = self.store.open(id, Access::Change)?;
        let status = pod::status(&entry);
        if !from.contains(&status) {
            return Err(Error::WrongStatus { verb, id: id.into(), status });
        }
        call(&connect(&entry)?).doing(|| format!("cannot {verb} the container"))?;
        entry.saved.phase = to;
        entry.save()
    }

    /// Removes a stopped container, or any with `force`.
    ///
    /// # Errors
    /// It runs and is not forced; something of it cannot be removed.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        let entry = match self.store.open(id, Access::Change) {
            Ok(entry) => entry,
            // runc's --force is content when there is nothing.
            Err(Error::NotFound(_)) if force => return Ok(()),
            Err(error) => return if force && self.store.remove_remains(id)? { Ok(()) } else { Err(error) },
        };
        let status = pod::status(&entry);
        if !force && !matches!(status, Status::Stopped | Status::Created) {
            return Err(Error::Other(format!("cannot delete container {id} that is not stopped: {status}")));
        }
        let main = match entry.saved.is_member() {
            true => {
                leave(&entry)?;
                None
            }
            false => entry.saved.sandbox.as_ref(),
        };
        let processes = || main.into_iter().chain(&entry.saved.gofers).chain(&entry.saved.stand_in);
        for process in processes() {
            process.kill();
        }
        for process in processes() {
            if !process.wait_gone(5000) {
                return Err(Error::Other(format!("process {} of container {id} does not end", process.pid)));
            }
        }
        clean_up(&entry, &Cgroup::open(entry.saved.cgroup.clone()))
    }
}

impl Container {
    /// From a running sandbox to a created container.
    fn finish(&mut self, create: &Create<'_>, spec: &Spec, mut plan: ContainerPlan) -> Result<()> {
        let mut pids = self.sandbox.pids().into_iter().filter_map(ProcessRef::of);
        let main = pids.next();
        if !self.entry.saved.is_member() {
            self.entry.saved.sandbox = main;
        }
        self.entry.saved.gofers = pids.collect();
        self.entry.save()?;
        let state = self.entry.saved.oci(Status::Creating);
        for moment in [Moment::Prestart, Moment::CreateRuntime, Moment::CreateContainer] {
            hooks::run(spec.hooks().as_ref(), moment, &state)?;
        }
        let process = plan.request.process.as_mut();
        let terminal = process.and_then(|process| process.terminal.as_mut());
        match (terminal, create.console_socket) {
            (Some(size), Some(socket)) => {
                let console = Console::open(*size)?;
                console.send_master(socket)?;
                self.sandbox.add_container(plan, console.as_host())?;
            }
            (Some(size), None) => {
                *size = create.own_terminal.unwrap_or(*size);
                self.sandbox.add_container(plan, create.stdio)?;
            }
            (None, _) => self.sandbox.add_container(plan, create.stdio)?,
        }
        if let Some(path) = create.pid_file {
            write_whole(path, self.entry.saved.pid().to_string().as_bytes())?;
        }
        self.entry.saved.memory_dev = self.sandbox.memory_dev();
        self.entry.saved.phase = Status::Created;
        self.entry.save()?;
        timing::mark("runtime: created");
        Ok(())
    }

    /// Runs it.
    ///
    /// # Errors
    /// The agent refuses, or the sandbox has ended.
    pub fn start(&mut self) -> Result<()> {
        start(&mut self.entry, self.sandbox.agent()).map_err(|error| match error {
            Error::Agent { what, cause } => self.sandbox.explain(&what, cause),
            other => other,
        })
    }

    /// Ends and removes it, as far as that goes: what fails is logged.
    pub fn destroy(&mut self) {
        let saved = &self.entry.saved;
        if saved.is_member() {
            if let Err(error) = leave(&self.entry) {
                tracing::debug!("{error}");
                sandbox::let_go(saved.kind, &self.entry.sandbox_dir(), &saved.id);
            }
            for process in saved.gofers.iter().chain(&saved.stand_in) {
                process.kill();
            }
        } else {
            self.sandbox.stop();
        }
        if let Err(error) = clean_up(&self.entry, &self.cgroup) {
            tracing::warn!("{error}");
        }
    }

    /// Has an engine wait for this process as for the container's own: it must end as that does.
    ///
    /// # Errors
    /// The host's.
    pub fn stands_in(&mut self, pid: i32, pid_file: &Path) -> Result<()> {
        self.entry.saved.stand_in = ProcessRef::of(pid);
        self.entry.save()?;
        write_whole(pid_file, pid.to_string().as_bytes())
    }

    /// Gives up the container's lock, for whoever else wants to change it, while it runs.
    pub fn unlock(&mut self) {
        self.entry.unlock();
    }
}

fn start(entry: &mut Entry, agent: &Client) -> Result<()> {
    agent
        .call(&StartContainerRequest { container_id: entry.saved.id.clone() })
        .doing(|| "unable to start container process")?;
    entry.saved.phase = Status::Running;
    entry.save()?;
    timing::mark("runtime: started");
    hooks::run_all(entry.saved.hooks.as_ref(), Moment::Poststart, &entry.saved.oci(Status::Running));
    Ok(())
}

/// Takes a container out of a sandbox that runs on.
fn leave(entry: &Entry) -> Result<()> {
    if entry.saved.status() == Status::Stopped {
        return Ok(());
    }
    let request = DeleteContainerRequest { container_id: entry.saved.id.clone(), force: true };
    match connect(entry).and_then(|agent| agent.call(&request).doing(|| "cannot take the container out of its sandbox")) {
        Ok(_) => {}
        // Its making may have come to an end between its files and the agent.
        Err(Error::Agent { cause: ClientError::Status(status), .. }) if status.code == Code::NotFound => {}
        Err(error) => return if has_ended(entry, &error) { Ok(()) } else { Err(error) },
    }
    sandbox::let_go(entry.saved.kind, &entry.sandbox_dir(), &entry.saved.id);
    Ok(())
}

/// Whether a sandbox that could not be asked ends at this moment, or has ended meanwhile.
fn has_ended(entry: &Entry, error: &Error) -> bool {
    let ends =
        matches!(error, Error::SandboxEnded(_) | Error::Agent { cause: ClientError::Closed | ClientError::Socket(_), .. });
    let patience_ms = if ends { 5000 } else { 0 };
    entry.saved.sandbox.as_ref().is_none_or(|main| main.wait_gone(patience_ms))
}

/// Lets the network be as the sandbox found it, or takes it away if it was made for it.
fn give_back(root: &Path, saved: &Saved) {
    if let Some(network) = &saved.network {
        pod_network::leave(network);
    }
    cni::detach(root, &saved.id);
}

/// After all processes are gone.
fn clean_up(entry: &Entry, cgroup: &Cgroup) -> Result<()> {
    cgroup.remove()?;
    if let Some(root) = entry.dir.parent() {
        give_back(root, &entry.saved);
    }
    let state = entry.saved.oci(Status::Stopped);
    entry.remove()?;
    hooks::run_all(entry.saved.hooks.as_ref(), Moment::Poststop, &state);
    Ok(())
}

/// A connection to a container's agent. An agent that does not answer within ten seconds is an error (a wait takes its own).
///
/// # Errors
/// It is not there; with the reason, if it left one.
pub fn connect(entry: &Entry) -> Result<Client> {
    let socket = entry.socket()?;
    Client::connect(&socket.path).map_err(|cause| match reason(entry) {
        reason if reason.is_empty() => Error::Agent { what: format!("container {}", entry.saved.id), cause },
        reason => Error::SandboxEnded(reason),
    })
}

/// Why a sandbox ended, in brackets, or nothing.
pub fn reason(entry: &Entry) -> String {
    use crate::process::report::{Report, read};
    match File::open(entry.report_path()).ok().and_then(read) {
        Some(Report::Broke(reason)) => format!(" ({reason})"),
        _ => String::new(),
    }
}

/// Where others find the network namespace too.
fn named(network: &Network) -> Option<PathBuf> {
    match network {
        Network::Namespace(path) => std::path::absolute(path).ok(),
        _ => None,
    }
}

/// What the container runs in, as the command line says, or annotation `dev.nacre.sandbox`.
///
/// # Errors
/// The annotation says what there is not, whether it counts or not.
pub fn kind(spec: &Spec, wanted: Option<Kind>) -> Result<Kind> {
    let asked = annotation(spec, annotations::SANDBOX).map(str::parse).transpose();
    let asked = asked.map_err(|what| Error::Other(format!("annotation {}: {what}", annotations::SANDBOX)))?;
    Ok(wanted.or(asked).unwrap_or_default())
}

/// Where writes go, as the command line says, or annotation `dev.nacre.overlay`.
fn overlay(spec: &Spec, bundle: &Path, wanted: Option<&str>) -> Result<Overlay> {
    match (wanted, annotation(spec, annotations::OVERLAY)) {
        (Some(text), _) => Overlay::parse(text, Some(bundle)).map_err(|what| Error::Other(format!("--overlay: {what}"))),
        (None, Some(text)) => {
            Overlay::parse(text, Some(bundle)).map_err(|what| Error::Other(format!("annotation dev.nacre.overlay: {what}")))
        }
        (None, None) => Ok(Overlay::default()),
    }
}

/// runc's rules, in its words.
fn check_terminal(spec: &Spec, create: &Create<'_>) -> Result<()> {
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    match (terminal, create.console_socket, create.own_terminal) {
        (true, None, None) => {
            Err(Error::Other("cannot allocate tty if nacre will detach without setting console socket".into()))
        }
        (false, Some(_), _) => Err(Error::Other("cannot use console socket if nacre will not detach or allocate tty".into())),
        _ => Ok(()),
    }
}

/// How file owners appear: by the configuration's mappings for an ordinary user.
fn file_ids(spec: &Spec, privilege: Privilege) -> FileIds {
    let linux = spec.linux().as_ref();
    let maps = |list: Option<&Vec<oci_spec::runtime::LinuxIdMapping>>| -> Vec<IdMap> {
        let map =
            |m: &oci_spec::runtime::LinuxIdMapping| IdMap { inside: m.container_id(), outside: m.host_id(), count: m.size() };
        list.into_iter().flatten().map(map).collect()
    };
    let (uids, gids) =
        (maps(linux.and_then(|l| l.uid_mappings().as_ref())), maps(linux.and_then(|l| l.gid_mappings().as_ref())));
    match uids.is_empty() || gids.is_empty() {
        true => FileIds::own(privilege),
        false => FileIds { uids, gids },
    }
}

/// The bundle a verb's `--bundle` means.
pub fn bundle_or_here(bundle: Option<&PathBuf>) -> PathBuf {
    bundle.cloned().unwrap_or_else(|| PathBuf::from("."))
}
