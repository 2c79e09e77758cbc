//! Networks by CNI plugins, where no engine has called them: `--net cni[:NETWORK]` (containernetworking/cni, SPEC.md).
//!
//! [`attach`] makes a network namespace, lets the plugins of a configured network furnish it, and hands it over; the sandbox
//! then joins it as it would join an engine's. What was done is in a record beside the containers' states, written before the namespace is made, which
//! is mounted there too: plugins read from it what they have to undo. So [`detach`] undoes it in whatever process, and an attachment whose owner
//! has died is undone by the next [`attach`].

mod config;
mod plugin;
mod ports;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::ports::PortMapping;
use crate::error::{Doing, Error, Result};
use crate::process::Network;
use crate::state::{ProcessRef, check_id, write_whole};
use config::NetworkConfig;
use plugin::Command;

/// What `--net cni` and `--publish` ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The network's name; None: the first that is configured.
    pub network: Option<String>,
    pub ports: Vec<PortMapping>,
}

/// Which network a sandbox is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkWish {
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
    let owner = ProcessRef::of(std::process::id() as i32);
    let mut record = Record { id: id.into(), owner, network, ports: wish.ports.clone(), result: None };
    record.save(root)?;
    let namespace = namespace(root, id);
    let made = new_namespace(&namespace).doing(|| "cannot make a network namespace");
    match made.and_then(|()| record.add(&namespace)).and_then(|()| record.save(root)) {
        Ok(()) => Ok(Network::Namespace(namespace)),
        Err(error) => {
            undo(root, &record);
            Err(error)
        }
    }
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

/// Undoes an attachment, if there is one. What a plugin cannot undo is logged.
pub fn detach(root: &Path, id: &str) {
    if check_id(id).is_ok()
        && let Some(record) = Record::read(&place(root, id))
    {
        undo(root, &record);
    }
}

/// Undoes the attachments of processes that have died.
fn sweep(root: &Path) {
    for entry in fs::read_dir(directory(root)).into_iter().flatten().flatten() {
        if let Some(record) = Record::read(&entry.path())
            && record.owner.is_some_and(|owner| !owner.is_alive())
        {
            tracing::info!("the network of {} is given back: its process has died", record.id);
            undo(root, &record);
        }
    }
}

fn undo(root: &Path, record: &Record) {
    let namespace = namespace(root, &record.id);
    let mounted = rustix::fs::statfs(&namespace).is_ok_and(|stat| stat.f_type == libc::NSFS_MAGIC);
    for plugin in record.network.plugins.iter().rev() {
        let input = record.network.input(plugin, &record.ports, record.result.as_ref());
        if let Err(error) = plugin::run(Command::Del, &record.id, mounted.then_some(&*namespace), plugin, &input) {
            tracing::warn!("{error}");
        }
    }
    if mounted && let Err(errno) = unmount(&namespace, UnmountFlags::DETACH) {
        // Kept in mind, for the next sweep.
        tracing::warn!("cannot unmount {}: {errno}", namespace.display());
        return;
    }
    let _ = fs::remove_file(&namespace);
    let _ = fs::remove_file(place(root, &record.id));
}

impl Record {
    fn read(path: &Path) -> Option<Record> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    fn save(&self, root: &Path) -> Result<()> {
        let path = place(root, &self.id);
        let dir = directory(root);
        fs::create_dir_all(&dir).doing(|| format!("cannot make {}", dir.display()))?;
        let text = serde_json::to_vec(self).map_err(|error| Error::Other(format!("{}: {error}", path.display())))?;
        write_whole(&path, &text)
    }

    /// Runs the plugins, each with the answer of the one before it.
    fn add(&mut self, namespace: &Path) -> Result<()> {
        for plugin in &self.network.plugins {
            let input = self.network.input(plugin, &self.ports, self.result.as_ref());
            if let Some(answer) = plugin::run(Command::Add, &self.id, Some(namespace), plugin, &input)? {
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
