//! A node of Kubernetes, seen from a container that has its root mounted: programs are copied to a place of their own there, and the engine is found.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Change, Content, Engine, Places, Wish};

/// Where programs are on a node.
pub const HOME: &str = "/opt/nacre/bin";

/// The programs that go there, beside one another as everywhere. Without the agent there are no VMs.
const NAMES: [&str; 2] = ["nacre", "nacre-agent"];

/// The node's engines.
///
/// # Errors
/// There is none.
pub fn engines(places: &Places) -> Result<Vec<Engine>> {
    // The program tells, not a folder of configuration that an earlier engine has left.
    let has = |engine: &str| {
        ["/usr/bin/", "/usr/local/bin/", "/bin/"].iter().any(|dir| places.config(&format!("{dir}{engine}")).exists())
    };
    let found: Vec<Engine> = [("containerd", Engine::Containerd), ("crio", Engine::Crio)]
        .into_iter()
        .filter(|(name, _)| has(name))
        .map(|(_, engine)| engine)
        .collect();
    if found.is_empty() {
        bail!("no containerd and no CRI-O below {}: is the node's root mounted there (--prefix)?", places.root.display());
    }
    Ok(found)
}

/// A restart that is owed to an engine, as a file of the node.
pub struct Owed(PathBuf);

/// That of the engine with this unit.
pub fn owed(unit: &str, places: &Places) -> Owed {
    Owed(places.config(&format!("/run/nacre-restart-{unit}")))
}

impl Owed {
    /// # Errors
    /// The host's.
    pub fn mark(&self) -> Result<()> {
        let about = || format!("cannot write {}", self.0.display());
        self.0.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&self.0, "")).with_context(about)
    }

    pub fn is_marked(&self) -> bool {
        self.0.exists()
    }

    /// # Errors
    /// The host's.
    pub fn settle(&self) -> Result<()> {
        fs::remove_file(&self.0).with_context(|| format!("cannot remove {}", self.0.display()))
    }
}

/// Copies of `nacre` and of what is beside it.
///
/// # Errors
/// One cannot be read.
pub fn programs(nacre: &Path, wish: Wish, places: &Places) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for name in NAMES {
        let (from, path) = (nacre.with_file_name(name), places.here(&Path::new(HOME).join(name)));
        let old = contents(&path)?;
        let (before, after) = match wish {
            Wish::Uninstall if old.is_none() => continue,
            Wish::Uninstall => (Content::Copy(path.clone()), Content::Absent),
            Wish::Install => {
                let Some(new) = contents(&from)? else {
                    if name == "nacre" {
                        bail!("{} is not there", from.display());
                    }
                    continue;
                };
                match old {
                    Some(old) if old == new => continue,
                    Some(_) => (Content::Copy(path.clone()), Content::Copy(from)),
                    None => (Content::Absent, Content::Copy(from)),
                }
            }
        };
        changes.push(Change { path, before, after });
    }
    Ok(changes)
}

fn contents(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Copies a program to where the old one may be running.
pub(super) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let beside = to.with_extension(format!("{}.new", std::process::id()));
    let copied = fs::copy(from, &beside)
        .and_then(|_| fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&beside, to));
    if copied.is_err() {
        let _ = fs::remove_file(&beside);
    }
    copied
}
