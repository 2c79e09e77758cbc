//! [`Engine`]: a containerd of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::image;
use crate::sh::{self, Ended};
use crate::{packages, startup};

/// How long one command of a case may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long something may take to come about that nobody is told of.
const SOON: Duration = Duration::from_secs(20);
/// Emulated machines are slow.
const SOON_VM: Duration = Duration::from_secs(120);
pub const SENTRY: &str = "nacre";
pub const VM: &str = "nacre-vm";
pub const NAMESPACE: &str = "test";
const CRI_NAMESPACE: &str = "k8s.io";

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The one that is installed.
    One,
    /// Containerd 2, which makes pods' sandboxes by the Sandbox API.
    Two,
}

pub struct Engine {
    pub dir: PathBuf,
    pub release: Release,
    /// Where containerd and its programs are; None: installed.
    programs: Option<PathBuf>,
    containerd: Option<Child>,
    /// The handler of pods that name none.
    pub handler: &'static str,
    /// Where images are unpacked to (`--snapshotter`); empty: containerd's default.
    snapshotter: &'static str,
    /// What was there before, of others: [`Engine::remains`] leaves it out.
    foreign: Vec<PathBuf>,
    /// Processes of sandboxes that have been seen, with when they started.
    seen: Mutex<BTreeSet<(u32, u64)>>,
}

impl Engine {
    /// Starts it and gives it the image.
    pub fn start(release: Release, snapshotter: &'static str) -> Result<Engine> {
        let programs = match release {
            Release::One => None,
            Release::Two => Some(packages::containerd2().context("containerd 2 cannot be had")?),
        };
        let dir = sh::scratch()?;
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin)?;
        let nacre = std::fs::canonicalize(sh::nacre()).context("there is no nacre to test")?;
        for name in ["nacre", "containerd-shim-nacre-v2", "containerd-shim-nacre-vm-v2"] {
            symlink(&nacre, bin.join(name))?;
        }
        std::fs::write(dir.join("config.toml"), config(release, snapshotter, &dir))?;
        std::fs::create_dir_all(dir.join("net.d"))?;
        std::fs::write(dir.join("net.d/10-nacre-test.conflist"), network(&dir))?;
        let mut engine = Engine {
            dir,
            release,
            programs,
            containerd: None,
            handler: SENTRY,
            snapshotter,
            foreign: Vec::new(),
            seen: Mutex::default(),
        };
        engine.foreign = engine.remains()?;
        engine.run()?;
        let archive = image::archive(&engine.dir)?;
        let archive = archive.display().to_string();
        engine.ctr(&["image", "import", &archive])?;
        // CRI's own namespace.
        engine.ctr(&["-n", CRI_NAMESPACE, "image", "import", &archive])?;
        Ok(engine)
    }

    /// Starts containerd, which must not run.
    pub fn run(&mut self) -> Result<()> {
        let ours = self.dir.join("bin");
        let installed = std::env::var_os("PATH").unwrap_or_default();
        let path = [&ours].into_iter().chain(&self.programs).cloned().chain(std::env::split_paths(&installed));
        let path = std::env::join_paths(path)?;
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = Command::new(self.program("containerd"));
        command.arg("-c").arg(self.dir.join("config.toml")).env("PATH", path).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.containerd = Some(command.spawn().context("cannot start containerd")?);
        self.soon("containerd answers", |engine| Ok(engine.try_ctr(&["version"])?.success()))
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.as_ref().map_or_else(|| name.into(), |programs| programs.join(name))
    }

    /// Kills containerd at once; shims and sandboxes live on.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut containerd) = self.containerd.take() {
            containerd.kill()?;
            containerd.wait()?;
        }
        Ok(())
    }

    /// Sends it SIGKILL; whether it was there.
    pub fn signal_containerd(&self) -> bool {
        self.containerd.as_ref().is_some_and(|containerd| sh::signal(containerd.id(), "KILL"))
    }

    /// Starts it again, whether it still runs or not, and waits for its CRI.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.run()?;
        self.soon("CRI answers", |engine| Ok(engine.cri(&["pod-ids"])?.success()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.program("ctr"));
        let (namespace, args) = match args {
            ["-n", namespace, rest @ ..] => (*namespace, rest),
            args => (NAMESPACE, args),
        };
        command.arg("-a").arg(self.dir.join("c.sock")).args(["-n", namespace]).args(args).stdin(Stdio::null());
        self.with_snapshotter(&mut command);
        command
    }

    /// Tells `ctr`.
    fn with_snapshotter(&self, command: &mut Command) {
        if !self.snapshotter.is_empty() {
            command.env("CONTAINERD_SNAPSHOTTER", self.snapshotter);
        }
    }

    /// `ctr`, whatever comes of it.
    pub fn try_ctr(&self, args: &[&str]) -> Result<Ended> {
        sh::timed(&mut self.command(args), LIMIT)
    }

    /// `ctr`, which must succeed; its output.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let ended = self.try_ctr(args)?;
        if !ended.success() {
            bail!("ctr {}: {}: {}", args.join(" "), ended.how(), ended.stderr.trim());
        }
        Ok(ended.stdout)
    }

    /// `ctr events`, into a file, until it is killed.
    pub fn listen(&self, file: &Path) -> Result<Child> {
        let mut command = self.command(&["events"]);
        command.stdout(File::create(file)?).stderr(Stdio::null());
        command.spawn().context("cannot start ctr events")
    }

    /// `ctr` in a shell, `$CTR` before its arguments: for pipes and terminals.
    pub fn shell(&self, script: &str) -> Result<Ended> {
        let ctr = self.program("ctr").display().to_string();
        let ctr = format!("{ctr} -a {} -n {NAMESPACE}", self.dir.join("c.sock").display());
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("CTR", ctr).stdin(Stdio::null());
        self.with_snapshotter(&mut command);
        sh::timed(&mut command, LIMIT)
    }

    /// Runs a container in the foreground, to be removed at its end.
    pub fn run_once(&self, id: &str, options: &[&str], command: &[&str]) -> Result<Ended> {
        let mut args = vec!["run", "--rm", "--runtime", "io.containerd.nacre.v2"];
        args.extend(options);
        args.extend([image::NAME, id]);
        args.extend(command);
        self.try_ctr(&args)
    }

    /// Starts a container that stays.
    pub fn run_detached(&self, id: &str, options: &[&str], command: &[&str]) -> Result<()> {
        let mut args = vec!["run", "-d", "--runtime", "io.containerd.nacre.v2"];
        args.extend(options);
        args.extend([image::NAME, id]);
        args.extend(command);
        self.ctr(&args).map(drop)
    }

    /// What containerd says a task is: `RUNNING`, …; None if there is none.
    pub fn status(&self, id: &str) -> Result<Option<String>> {
        let list = self.ctr(&["task", "ls"])?;
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        Ok(line.and_then(|line| line.split_whitespace().nth(2)).map(String::from))
    }

    pub fn wait_for(&self, id: &str, wanted: Option<&str>) -> Result<()> {
        self.soon(&format!("{id} is {wanted:?}"), |engine| Ok(engine.status(id)?.as_deref() == wanted))
    }

    /// Deletes a stopped task, which has to have ended with this status (`ctr` says it in a warning).
    pub fn deleted(&self, id: &str, status: u8) -> Result<()> {
        let ended = self.try_ctr(&["task", "delete", id])?;
        if !ended.success() || !ended.stderr.contains(&format!("exit code {status}")) {
            bail!("task delete {id}: {}: {}", ended.how(), ended.stderr.trim());
        }
        Ok(())
    }

    /// Waits until something is so.
    pub fn soon(&self, what: &str, mut check: impl FnMut(&Engine) -> Result<bool>) -> Result<()> {
        let patience = if self.handler == VM { SOON_VM } else { SOON };
        let end = Instant::now() + patience;
        while !check(self)? {
            if Instant::now() > end {
                bail!("not so after {} s: {what}", patience.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The processes of our shims: those with our socket in their arguments.
    pub fn shims(&self) -> Vec<u32> {
        let address = self.dir.join("c.sock").display().to_string();
        let mut found = Vec::new();
        for pid in sh::pids() {
            let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut args = text.split(|byte| *byte == 0);
            let shim = args.next().is_some_and(|name| name.starts_with(b"containerd-shim-nacre"));
            if shim && args.any(|arg| arg == address.as_bytes()) {
                found.push(pid);
            }
        }
        found
    }

    /// The process of the only one there is.
    pub fn only_shim(&self) -> Result<u32> {
        match self.shims()[..] {
            [shim] => Ok(shim),
            ref shims => bail!("one shim expected: {shims:?}"),
        }
    }

    /// Live children of a process with this name.
    pub fn children(&self, parent: u32, name: &str) -> Vec<u32> {
        sh::pids().into_iter().filter(|pid| startup::parent(*pid) == Some(parent) && is_called(*pid, name)).collect()
    }

    /// All live processes that descend from our shims.
    pub fn family(&self) -> Vec<u32> {
        let shims = self.shims();
        let parents: BTreeMap<u32, u32> = sh::pids().into_iter().filter_map(|pid| Some((pid, startup::parent(pid)?))).collect();
        let ours = |pid: &u32| {
            let mut above = parents.get(pid);
            while let Some(parent) = above {
                if shims.contains(parent) {
                    return true;
                }
                above = parents.get(parent);
            }
            false
        };
        parents.keys().copied().filter(ours).filter(|pid| is_live(*pid)).collect()
    }

    /// They have to have ended when all is cleared away, whoever adopts them.
    pub fn note_family(&self) {
        let family = self.family().into_iter().filter_map(|pid| Some((pid, started(pid)?)));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(family);
    }

    /// Those that have not.
    fn left(&self) -> Vec<PathBuf> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let live = seen.iter().filter(|(pid, start)| started(*pid) == Some(*start) && is_live(*pid));
        live.map(|(pid, _)| format!("/proc/{pid}").into()).collect()
    }

    /// Removes all containers; then nothing may be left of any.
    pub fn clear(&mut self) -> Result<()> {
        if self.containerd.is_none() {
            self.restart()?;
        }
        self.note_family();
        for id in self.ctr(&["container", "ls", "-q"])?.lines() {
            let _ = self.try_ctr(&["task", "kill", "-s", "KILL", id]);
            let _ = self.try_ctr(&["task", "delete", "--force", id]);
            self.try_ctr(&["container", "rm", id])?;
        }
        self.clear_pods()?;
        self.soon("no shim is left", |engine| Ok(engine.shims().is_empty()))?;
        self.soon("no mount is left", |engine| Ok(engine.roots()?.is_empty()))?;
        self.soon("nothing is left", |engine| Ok(engine.remains()?.is_empty()))
            .with_context(|| format!("{:?}", self.remains().unwrap_or_default()))
    }

    /// Network namespaces that containerd has made.
    fn namespaces(&self) -> impl Iterator<Item = PathBuf> {
        let all = entries(Path::new("/run/netns")).into_iter();
        all.filter(|path| path.to_string_lossy().contains("/cni-") && !self.foreign.contains(path))
    }

    /// Removes those that containerd does not know of (any more).
    pub fn remove_namespaces(&self) -> Result<()> {
        self.namespaces().try_for_each(|path| {
            sh::run(Command::new("ip").args(["netns", "delete"]).arg(path.file_name().unwrap_or_default()))
        })
    }

    /// What is still there of containers: the runtime's state (also an empty directory), bundles, FIFOs, sockets of shims, cgroups with the
    /// processes in them, processes that have been seen, network namespaces, addresses.
    fn remains(&self) -> Result<Vec<PathBuf>> {
        let mut found = self.states()?;
        found.extend(self.left());
        // By containerd; emptied ones go.
        let states = entries(Path::new("/run/nacre-shim/state"));
        found.extend(states.into_iter().filter(|state| !self.foreign.contains(state)));
        let run = self.dir.join("run");
        let tasks = run.join("io.containerd.runtime.v2.task");
        found.extend([NAMESPACE, CRI_NAMESPACE].iter().flat_map(|namespace| entries(&tasks.join(namespace))));
        found.extend(
            ["sandboxes", "containers"].iter().flat_map(|kind| entries(&run.join("io.containerd.grpc.v1.cri").join(kind))),
        );
        found.extend(entries(Path::new("/run/nacre-shim/s")).into_iter().filter(|socket| !self.foreign.contains(socket)));
        for hierarchy in [PathBuf::from("/sys/fs/cgroup")].into_iter().chain(entries(Path::new("/sys/fs/cgroup"))) {
            for namespace in [NAMESPACE, CRI_NAMESPACE] {
                found.extend(
                    entries(&hierarchy.join(namespace))
                        .into_iter()
                        .filter(|path| path.is_dir() && !self.foreign.contains(path)),
                );
            }
        }
        found.extend(self.namespaces());
        let addresses = entries(&self.dir.join("ipam/nacre-test"));
        found.extend(
            addresses.into_iter().filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("10."))),
        );
        Ok(found)
    }

    /// Roots of containers that are mounted.
    pub fn roots(&self) -> Result<Vec<String>> {
        let state = self.dir.join("run").display().to_string();
        let text = std::fs::read_to_string("/proc/self/mountinfo")?;
        let points = text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&state));
        // containerd's own: a shm for each pod, kept until the pod is removed.
        Ok(points.filter(|point| point.ends_with("/rootfs")).map(String::from).collect())
    }

    /// The runtime's state directories of our containers; ids of tests say whose they are.
    pub fn states(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for containerd in entries(Path::new("/run/nacre-shim/state")) {
            for state in [NAMESPACE, CRI_NAMESPACE].iter().flat_map(|namespace| entries(&containerd.join(namespace))) {
                let text = std::fs::read_to_string(state.join("state.json")).unwrap_or_default();
                if text.contains(&self.dir.display().to_string()) {
                    found.push(state);
                }
            }
        }
        Ok(found)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(containerd) = &mut self.containerd {
            sh::signal(containerd.id(), "TERM");
            let _ = sh::wait(containerd, Duration::from_secs(10));
        }
        for layer in entries(&self.dir.join("root/io.containerd.snapshotter.v1.erofs/snapshots")) {
            let _ = Command::new("umount").arg("-q").arg(layer.join("fs")).stderr(Stdio::null()).status();
        }
        // Kept if a case has left mounts in it.
        if self.roots().is_ok_and(|mounts| mounts.is_empty()) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Whether a live process has this name.
pub fn is_called(pid: u32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name) && is_live(pid)
}

/// Whether a process is there, and no zombie.
pub fn is_live(pid: u32) -> bool {
    startup::stat(pid).and_then(|fields| Some(!matches!(fields.first()?.as_str(), "Z" | "X"))).unwrap_or(false)
}

/// In ticks since boot.
fn started(pid: u32) -> Option<u64> {
    startup::stat(pid)?.get(19)?.parse().ok()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn config(release: Release, snapshotter: &str, dir: &Path) -> String {
    let dir = dir.display();
    let stream = "stream_server_address = \"127.0.0.1\"";
    let pause = image::PAUSE;
    // What was one plugin is three.
    let (version, runtime, more, others, sandboxer) = match release {
        Release::One => {
            (2, "io.containerd.grpc.v1.cri", format!("{stream}\n  sandbox_image = \"{pause}\""), String::new(), "podsandbox")
        }
        Release::Two => {
            let images = format!("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = \"{pause}\"\n");
            let unpack = "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = \"linux/amd64\"\n";
            let (of_cri, of_others) = match snapshotter {
                "" => (String::new(), String::new()),
                name => {
                    let line = format!("  snapshotter = \"{name}\"\n");
                    (format!("[plugins.\"io.containerd.cri.v1.images\"]\n{line}"), format!("{unpack}{line}"))
                }
            };
            let images = format!("{of_others}{of_cri}{images}");
            let others = format!("{images}[plugins.\"io.containerd.grpc.v1.cri\"]\n  {stream}\n");
            (3, "io.containerd.cri.v1.runtime", String::new(), others, "shim")
        }
    };
    let handler = |name: &str| {
        format!(
            r#"[plugins."{runtime}".containerd.runtimes.{name}]
  runtime_type = "io.containerd.{name}.v2"
  pod_annotations = ["dev.nacre.*"]
  container_annotations = ["dev.nacre.*"]
  sandboxer = "{sandboxer}"
"#
        )
    };
    let (sentry, vm) = (handler("nacre"), handler("nacre-vm"));
    format!(
        r#"version = {version}
root = "{dir}/root"
state = "{dir}/run"
[grpc]
  address = "{dir}/c.sock"
[ttrpc]
  address = "{dir}/c.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
{others}[plugins."{runtime}"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  {more}
[plugins."{runtime}".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{dir}/net.d"
[plugins."{runtime}".containerd]
  default_runtime_name = "nacre"
{sentry}{vm}[plugins."{runtime}".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// A pair of interfaces for each pod, and nothing that stays when all pods have gone.
fn network(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "nacre-test", "plugins": [{{"type": "ptp", "ipMasq": false, "ipam": {{
"type": "host-local", "dataDir": "{dir}/ipam", "ranges": [[{{"subnet": "10.198.0.0/16"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#
    )
}
