//! Networks by CNI plugins, where no engine has called them: `--net cni[:NETWORK]` (containernetworking/cni, SPEC.md).
//!
//! [`attach`] makes a network namespace, lets the plugins of a configured network furnish it, and hands it over; the sandbox
//! then joins it as it would join an engine's. Name servers that the plugins tell of are in a file beside it ([`resolv_conf`]), for the containers'
//! /etc/resolv.conf. What was done is in a record beside the containers' states, written before the namespace is made, which
//! is mounted there too: plugins read from it what they have to undo. So [`detach`] undoes it in whatever process, and an attachment whose owner
//! has died, or that a plugin could not undo, is undone by the next [`attach`].

mod answer;
mod config;
mod lock;
mod plugin;
mod ports;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::ports::PortMapping;
use crate::error::{Doing, Error, Result};
use crate::pod_network;
use crate::process::Network;
use crate::state::{ProcessRef, check_id, write_whole};
use config::NetworkConfig;
use lock::Lock;
use plugin::{Command, INTERFACE, Plugins};

/// How often it is tried to undo an attachment; a plugin that cannot by then never will.
const ATTEMPTS: u32 = 3;

/// What `--net cni` and `--publish` ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The network's name; None: the first that is configured.
    pub network: Option<String>,
    pub ports: Vec<PortMapping>,
}

/// Which network a sandbox is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkWish {
    /// What the configuration says (`config::Network`); a loopback interface where there is none.
    #[default]
    Configured,
    /// One that is there.
    Ready(Network),
    /// One that plugins make.
    Cni(Wish),
}

/// What has been done, to be undone.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    /// Who has to live for this to be right; None: a container's, which is removed by its id.
    owner: Option<ProcessRef>,
    network: NetworkConfig,
    ports: Vec<PortMapping>,
    /// The plugins' last answer.
    result: Option<Value>,
    /// Plugins whose ADD has begun, if none is left out; only these have something to undo.
    #[serde(default = "all")]
    begun: usize,
    /// How often it could not be undone: more than 0, and the next sweep is to try.
    #[serde(default)]
    attempts: u32,
}

/// Of a record that does not say.
fn all() -> usize {
    usize::MAX
}

/// Makes a namespace for sandbox `id` and lets the plugins furnish it: the network to launch the sandbox with.
///
/// # Errors
/// No such network; a plugin that is missing or refuses, in its own words. Nothing is left.
pub fn attach(root: &Path, id: &str, wish: &Wish) -> Result<Network> {
    sweep(root);
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Other("--net cni: only root can have networks made".into()));
    }
    let network = config::find(wish.network.as_deref())?;
    network.can_publish(&wish.ports)?;
    let plugins = Plugins::installed();
    plugins.find_all(&network)?;
    let held = Lock::wait(root, id)?;
    if place(root, id).exists() {
        return Err(Error::Other(format!("the network that an earlier {id} had has not been given back: its plugins say why")));
    }
    let owner = ProcessRef::of(std::process::id() as i32);
    let mut record = Record { id: id.into(), owner, network, ports: wish.ports.clone(), result: None, begun: 0, attempts: 0 };
    record.save(root)?;
    match record.make(root, &plugins) {
        Ok(()) => Ok(Network::Namespace(namespace(root, id))),
        Err(error) => {
            undo(root, &held, record, &plugins);
            Err(error)
        }
    }
}

/// A file that is to be the containers' /etc/resolv.conf, if the network of a sandbox names servers.
pub fn resolv_conf(root: &Path, id: &str) -> Option<PathBuf> {
    check_id(id).ok()?;
    // One that waits to be undone was another's.
    Record::read(&place(root, id)).filter(|record| record.attempts == 0)?;
    Some(servers(root, id)).filter(|path| path.is_file())
}

/// Leaves an attachment to whoever removes the container.
///
/// # Errors
/// The host's.
pub fn keep(root: &Path, id: &str) -> Result<()> {
    let Some(mut record) = Record::read(&place(root, id)) else { return Ok(()) };
    record.owner = None;
    record.save(root)
}

/// Undoes an attachment, if there is one. What a plugin cannot undo is logged, and tried again by the next [`attach`]: not by this, which
/// also comes after an [`attach`] that has failed.
pub fn detach(root: &Path, id: &str) {
    let to_undo = || Record::read(&place(root, id)).filter(|record| record.attempts == 0);
    if check_id(id).is_err() || to_undo().is_none() {
        return;
    }
    match Lock::wait(root, id) {
        Ok(held) => {
            if let Some(record) = to_undo() {
                undo(root, &held, record, &Plugins::installed());
            }
        }
        Err(error) => tracing::warn!("{error}"),
    }
}

/// Undoes the attachments of processes that have died, and those that could not be undone before.
fn sweep(root: &Path) {
    for entry in fs::read_dir(directory(root)).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let to_undo = || Record::read(&path).filter(Record::is_left);
        let Some(id) = to_undo().map(|record| record.id) else { continue };
        // Whoever has it undoes it just now. What was read before it was locked may be no more.
        let Ok(Some(held)) = Lock::at_once(root, &id) else { continue };
        if let Some(record) = to_undo() {
            let left = record.attempts > 0;
            let why = if left { "it could not be before" } else { "its process has died" };
            tracing::info!("the network of {} is given back: {why}", record.id);
            undo(root, &held, record, &Plugins::installed());
        }
    }
}

/// `_held` is the record's.
fn undo(root: &Path, _held: &Lock, mut record: Record, plugins: &Plugins) {
    // Who has this id next may have another network.
    let _ = fs::remove_file(servers(root, &record.id));
    let namespace = namespace(root, &record.id);
    let mounted = rustix::fs::statfs(&namespace).is_ok_and(|stat| stat.f_type == libc::NSFS_MAGIC);
    let mut undone = true;
    for plugin in record.network.plugins.iter().take(record.begun).rev() {
        let input = record.network.input(plugin, &record.ports, record.result.as_ref());
        if let Err(error) = plugins.run(Command::Del, &record.id, mounted.then_some(&*namespace), plugin, &input) {
            tracing::warn!("{error}");
            undone = false;
        }
    }
    record.attempts += 1;
    if !undone && record.attempts < ATTEMPTS {
        match record.save(root) {
            Ok(()) => tracing::warn!("the network of {} is kept: the next that is made tries again to give it back", record.id),
            Err(error) => tracing::warn!("{error}"),
        }
        return;
    }
    if !undone {
        tracing::error!("the network of {} is forgotten: its plugins could not undo it {ATTEMPTS} times", record.id);
    }
    if mounted && let Err(errno) = unmount(&namespace, UnmountFlags::DETACH) {
        tracing::warn!("cannot unmount {}: {errno}", namespace.display());
        // Kept in mind, for the next sweep.
        if let Err(error) = record.save(root) {
            tracing::warn!("{error}");
        }
        return;
    }
    for path in [namespace, place(root, &record.id)] {
        let _ = fs::remove_file(path);
    }
}

impl Record {
    fn read(path: &Path) -> Option<Record> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whether nobody else is to undo it.
    fn is_left(&self) -> bool {
        self.attempts > 0 || self.owner.is_some_and(|owner| !owner.is_alive())
    }

    fn save(&self, root: &Path) -> Result<()> {
        let path = place(root, &self.id);
        let dir = directory(root);
        fs::create_dir_all(&dir).doing(|| format!("cannot make {}", dir.display()))?;
        let text = serde_json::to_vec(self).map_err(|error| Error::Other(format!("{}: {error}", path.display())))?;
        write_whole(&path, &text)
    }

    /// Makes the namespace and what is in it.
    fn make(&mut self, root: &Path, plugins: &Plugins) -> Result<()> {
        let namespace = namespace(root, &self.id);
        new_namespace(&namespace).doing(|| "cannot make a network namespace")?;
        self.add(root, &namespace, plugins)?;
        // Whatever they have answered.
        if !pod_network::has_interface(&namespace, INTERFACE)? {
            return Err(Error::Other(format!(
                "the plugins of CNI network {} have made no interface {INTERFACE}",
                self.network.name
            )));
        }
        if let Some(text) = self.result.as_ref().and_then(answer::resolv_conf) {
            let path = servers(root, &self.id);
            let written = fs::write(&path, text).and_then(|()| {
                // Whatever our umask is: all in the container read it.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            });
            written.doing(|| format!("cannot write {}", path.display()))?;
        }
        self.save(root)
    }

    /// Runs the plugins, each with the answer of the one before it.
    fn add(&mut self, root: &Path, namespace: &Path, plugins: &Plugins) -> Result<()> {
        for (before, plugin) in self.network.plugins.clone().iter().enumerate() {
            self.begun = before + 1;
            self.save(root)?;
            let input = self.network.input(plugin, &self.ports, self.result.as_ref());
            if let Some(answer) = plugins.run(Command::Add, &self.id, Some(namespace), plugin, &input)? {
                self.result = Some(answer);
            }
        }
        Ok(())
    }
}

/// Where the records are: no container's id has this form.
fn directory(root: &Path) -> PathBuf {
    root.join("~networks")
}

fn place(root: &Path, id: &str) -> PathBuf {
    directory(root).join(format!("{id}.json"))
}

/// Where the namespace is mounted.
fn namespace(root: &Path, id: &str) -> PathBuf {
    directory(root).join(format!("{id}.net"))
}

/// The text of /etc/resolv.conf.
fn servers(root: &Path, id: &str) -> PathBuf {
    directory(root).join(format!("{id}.resolv"))
}

/// A network namespace with nothing but a loopback interface, mounted at `path`.
fn new_namespace(path: &Path) -> io::Result<()> {
    fs::File::create(path)?;
    let made = std::thread::scope(|scope| {
        let made = scope.spawn(|| -> io::Result<()> {
            crate::sys::unshare_network()?;
            Ok(mount_bind("/proc/thread-self/ns/net", path)?)
        });
        made.join()
    });
    made.unwrap_or_else(|_| Err(io::Error::other("the thread that makes it has failed")))
}
