//! `nacre do`: one command in a sandbox over the host's own files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use agent_api::{
    CacheMode, ClientError, Code, CreateContainerRequest, DevptsMount, Empty, GoferMount, Limits, Mount, MountFlags, Process, Root,
    SetStraceRequest, StartContainerRequest, Status, TmpfsMount, mount::Kind, root,
};
use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use runtime::cgroup::{Cgroup, HostLimits, Location};
use runtime::config::capabilities;
use runtime::process::Privilege;
use runtime::process::gofer::Attach;
use runtime::process::sentry::SentryConfig;
use runtime::sandbox::sentry::{FileIds, Launch, SentrySandbox};
use runtime::sandbox::{ContainerPlan, Sandbox};
use runtime::{Error, machine, timing};

use super::Failure;
use crate::cli::Global;
use crate::session::{self, Session, Wire};
use crate::stdio::Own;
use crate::terminal;

/// Run a command in a sandbox over the host's files, read-only, under an overlay in memory
#[derive(Debug, Args)]
pub struct Do {
    /// Root directory of the sandbox
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Working directory [default: the current one]
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set NAME=VALUE, or pass NAME on; the whole environment is passed on anyway
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Bind SRC of the host to DST in the sandbox, writable unless :ro
    #[arg(long, short, value_name = "SRC:DST[:ro]")]
    volume: Vec<OsString>,
    /// User (and group) to run as: names of the root's /etc/passwd, or numbers
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Most memory (k, m, g)
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Most tasks
    #[arg(long, value_name = "N")]
    pids: Option<u64>,
    /// Give the command a terminal (the default if standard input and output are one)
    #[arg(short = 't', long)]
    tty: bool,
    /// Print the command's system calls on standard error
    #[arg(long)]
    strace: bool,
    /// Network: only loopback so far
    #[arg(long, value_name = "MODE", default_value = "none")]
    net: Net,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Net {
    None,
}

impl Do {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let signals = session::block_signals();
        let privilege = global.privilege();
        let wire = self.wire()?;
        let plan = self.plan(privilege, wire)?;
        let id = plan.request.id.clone();
        let limits = plan.request.limits.unwrap_or_default();
        let cgroup = cgroup(&id, &limits, privilege)?;
        let mut sandbox = Guard { sandbox: launch(global, &id, &limits, &cgroup, privilege)?, cgroup };
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
        let agent = sandbox.sandbox.agent_handle();
        let session = Session { agent, container_id: id, exec_id: String::new(), wire };
        let exit = session.wait(signals);
        timing::mark("do: exited");
        drop(raw);
        match exit {
            Ok(exit) => Ok(session::exit_code(&exit)),
            Err(error) => Ok(sandbox.sandbox.status_instead("cannot wait for the command", error)?),
        }
    }

    fn wire(&self) -> anyhow::Result<Wire> {
        let (stdin, stdout) = (std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
        match (self.tty, stdin, stdout) {
            (true, false, _) => bail!("-t needs a terminal as standard input"),
            (true, true, _) | (false, true, true) => Ok(Wire::Terminal),
            _ => Ok(Wire::Streams),
        }
    }

    fn plan(&self, privilege: Privilege, wire: Wire) -> anyhow::Result<ContainerPlan> {
        let root = std::fs::canonicalize(&self.root).with_context(|| format!("--root {}", self.root.display()))?;
        if !root.is_dir() {
            bail!("--root {}: not a directory", root.display());
        }
        // The host's own file systems of these kinds are not for guests; the sandbox has its own.
        let host_only = ["/proc", "/sys", "/dev"].map(PathBuf::from);
        let hidden = if root == Path::new("/") { host_only.to_vec() } else { Vec::new() };
        let mut attaches = vec![Attach { source: root.clone(), recursive: true, read_only: true, exclusive: false, hidden }];
        let mut mounts = standard_mounts();
        for volume in &self.volume {
            mounts.push(bind(volume, &mut attaches)?);
        }
        let request = CreateContainerRequest {
            id: format!("do-{}", std::process::id()),
            process: Some(self.process(&root, privilege, wire)?),
            hostname: Some(rustix::system::uname().nodename().to_bytes().to_vec()),
            root: Some(Root {
                attach: 0,
                read_only: false,
                overlay: Some(root::Overlay::Memory(Empty {})),
                cache: CacheMode::Shared.into(),
            }),
            mounts,
            limits: Some(self.limits()?),
            ..Default::default()
        };
        Ok(ContainerPlan { request, attaches })
    }

    fn limits(&self) -> anyhow::Result<Limits> {
        let memory = match &self.memory {
            None => None,
            Some(text) => {
                let bytes = runtime::config::mounts::parse_bytes(text).filter(|bytes| *bytes > 0);
                Some(bytes.ok_or_else(|| anyhow!("--memory {text}: not a size (like 512m)"))?)
            }
        };
        if self.pids == Some(0) {
            bail!("--pids 0: not even the command could run");
        }
        Ok(Limits { memory, pids: self.pids, ..Default::default() })
    }

    fn process(&self, root: &Path, privilege: Privilege, wire: Wire) -> anyhow::Result<Process> {
        let user = match &self.user {
            Some(text) => User::parse(text, root)?,
            None => User::own(privilege),
        };
        let cwd = match &self.cwd {
            Some(cwd) if !cwd.is_absolute() => bail!("--cwd {}: not an absolute path", cwd.display()),
            Some(cwd) => cwd.clone(),
            None if root == Path::new("/") => std::env::current_dir().context("no current directory")?,
            None => PathBuf::from("/"),
        };
        let all = capabilities::ALL;
        let mut sets = capabilities::all_sets(if user.uid == 0 { all } else { 0 });
        sets.bounding = all;
        Ok(Process {
            args: self.command.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env: environment(&self.env),
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

/// A sandbox that is gone when this is, with its cgroup.
struct Guard {
    sandbox: SentrySandbox,
    cgroup: Cgroup,
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
fn command_failure(status: Status) -> Failure {
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
fn cgroup(id: &str, limits: &Limits, privilege: Privilege) -> anyhow::Result<Cgroup> {
    if limits.memory.is_none() && limits.pids.is_none() {
        return Ok(Cgroup::default());
    }
    let location = Location::plan(Some(Path::new(&format!("nacre-{id}"))), id, privilege)?;
    Ok(Cgroup::create(location, &HostLimits::with_overhead(limits.memory, limits.pids))?)
}

fn launch(global: &Global, id: &str, limits: &Limits, cgroup: &Cgroup, privilege: Privilege) -> anyhow::Result<SentrySandbox> {
    let cpus = machine::cpus();
    let config = SentryConfig {
        first_container: id.into(),
        executors: cpus,
        memory_limit: limits.memory,
        max_processes: machine::max_processes(limits.pids),
        cpus,
        memory_bytes: limits.memory.unwrap_or_else(machine::memory_bytes),
        cpu_model: machine::cpu_model(),
        log: global.log_config(),
    };
    let report = rustix::fs::memfd_create("nacre-report", rustix::fs::MemfdFlags::CLOEXEC).context("cannot make a report file")?;
    let (listener, socket) = listen()?;
    let log = global.log_file();
    let launched = SentrySandbox::launch(Launch {
        config,
        listener,
        socket: &socket,
        report: File::from(report),
        cgroup,
        privilege,
        file_ids: FileIds::own(privilege),
        log: Some(log.as_ref().map_or(std::io::stderr().as_fd(), AsFd::as_fd)),
        die_with_parent: true,
    });
    // Connected, or failed: the name is not needed any more.
    let _ = std::fs::remove_file(&socket);
    Ok(launched?)
}

/// A socket only we can connect to, under a name for a moment.
fn listen() -> anyhow::Result<(UnixListener, PathBuf)> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;
    let path = std::env::temp_dir().join(format!(".nacre-do-{:016x}", u64::from_ne_bytes(random)));
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&path);
    rustix::process::umask(old);
    Ok((listener.with_context(|| format!("cannot make the socket {}", path.display()))?, path))
}

fn own_umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}

/// Ours, changed and added to by `changes`.
fn environment(changes: &[OsString]) -> Vec<Vec<u8>> {
    let mut vars: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    for change in changes {
        let bytes = change.as_bytes();
        let Some(at) = bytes.iter().position(|b| *b == b'=') else { continue };
        let (name, value) = (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default());
        vars.retain(|(known, _)| known.as_bytes() != name);
        vars.push((OsStr::from_bytes(name).into(), OsStr::from_bytes(value).into()));
    }
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
        mount("/dev", Kind::Dev(TmpfsMount { mode: Some(0o755), ..Default::default() }), MountFlags { nosuid: true, ..Default::default() }),
        mount(
            "/dev/pts",
            Kind::Devpts(DevptsMount { ptmx_mode: Some(0o666), mode: Some(0o620), gid: Some(5) }),
            MountFlags { nosuid: true, noexec: true, ..Default::default() },
        ),
        mount("/dev/shm", Kind::Tmpfs(shm), flags),
        mount("/dev/mqueue", Kind::Mqueue(Empty {}), flags),
    ]
}

/// SRC:DST[:ro|:rw]
fn bind(volume: &OsStr, attaches: &mut Vec<Attach>) -> anyhow::Result<Mount> {
    let shown = || format!("--volume {}", volume.display());
    let mut parts = volume.as_bytes().split(|b| *b == b':').map(OsStr::from_bytes);
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else { bail!("{}: not SRC:DST[:ro]", shown()) };
    let read_only = match parts.next().map(OsStr::as_bytes) {
        None | Some(b"rw") => false,
        Some(b"ro") => true,
        Some(_) => bail!("{}: only ro or rw may follow", shown()),
    };
    if parts.next().is_some() || source.is_empty() {
        bail!("{}: not SRC:DST[:ro]", shown());
    }
    if !Path::new(destination).is_absolute() {
        bail!("{}: the destination is not an absolute path", shown());
    }
    let source = std::fs::canonicalize(source).with_context(shown)?;
    attaches.push(Attach { source: source.clone(), recursive: true, read_only, exclusive: false, hidden: Vec::new() });
    Ok(Mount {
        destination: destination.as_bytes().to_vec(),
        kind: Some(Kind::Gofer(GoferMount { attach: attaches.len() as u32 - 1, cache: CacheMode::Shared.into() })),
        flags: Some(MountFlags { read_only, nosuid: true, nodev: true, ..Default::default() }),
        source: source.into_os_string().into_vec(),
    })
}

/// Whom to run as.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl User {
    fn own(privilege: Privilege) -> User {
        let groups = match privilege {
            Privilege::Root => rustix::process::getgroups().unwrap_or_default().into_iter().map(|g| g.as_raw()).collect(),
            Privilege::User => Vec::new(),
        };
        User { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw(), groups }
    }

    /// `USER[:GROUP]`, by the root's own files.
    fn parse(text: &str, root: &Path) -> anyhow::Result<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let read = |file: &str| std::fs::read_to_string(root.join("etc").join(file)).unwrap_or_default();
        let passwd = read("passwd");
        let entry = field(&passwd, user, 0).or_else(|| field(&passwd, user, 2));
        let uid = match (&entry, user.parse()) {
            (Some(entry), _) => entry.get(2).and_then(|uid| uid.parse().ok()),
            (None, number) => number.ok(),
        };
        let uid = uid.ok_or_else(|| anyhow!("--user {text}: no user {user:?} in {}", root.join("etc/passwd").display()))?;
        let groups = read("group");
        let gid = match group {
            None => entry.as_ref().and_then(|entry| entry.get(3)?.parse().ok()).unwrap_or(0),
            Some(group) => field(&groups, group, 0)
                .and_then(|entry| entry.get(2)?.parse().ok())
                .or_else(|| group.parse().ok())
                .ok_or_else(|| anyhow!("--user {text}: no group {group:?} in {}", root.join("etc/group").display()))?,
        };
        let name = entry.as_ref().and_then(|entry| entry.first().copied());
        let member = |line: &&str| line.rsplit(':').next().is_some_and(|list| list.split(',').any(|m| Some(m) == name));
        let more = groups.lines().filter(member).filter_map(|line| line.split(':').nth(2)?.parse().ok());
        let groups = if group.is_none() { more.collect() } else { Vec::new() };
        Ok(User { uid, gid, groups })
    }
}

/// The line of a passwd-like file whose field `index` is `value`, split.
fn field<'a>(file: &'a str, value: &str, index: usize) -> Option<Vec<&'a str>> {
    file.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.get(index) == Some(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let mut attaches = Vec::new();
        let mount = bind(OsStr::new("/tmp:/data:ro"), &mut attaches).expect("volume");
        assert_eq!(mount.destination, b"/data");
        assert!(attaches.first().is_some_and(|attach| attach.read_only));
        for bad in ["/tmp", "/tmp:data", "/tmp:/data:rx", "/tmp:/data:ro:x", ":/data", "/nowhere/at/all:/data"] {
            assert!(bind(OsStr::new(bad), &mut attaches).is_err(), "{bad}");
        }
    }

    #[test]
    fn users() {
        let user = User::parse("root", Path::new("/")).expect("root");
        assert_eq!((user.uid, user.gid), (0, 0));
        assert_eq!(User::parse("12:34", Path::new("/nowhere")).expect("numbers"), User { uid: 12, gid: 34, groups: vec![] });
        assert!(User::parse("nobody-of-that-name", Path::new("/")).is_err());
    }

    #[test]
    fn the_environment_is_changed() {
        let env = environment(&["NACRE_TEST_VARIABLE=a=b".into()]);
        assert!(env.contains(&b"NACRE_TEST_VARIABLE=a=b".to_vec()));
    }
}
