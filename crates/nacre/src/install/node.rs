//! A node of Kubernetes, seen from a container that has its root mounted: programs are copied to a place of their own there, and the engine is found.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

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
    let has = |engine: &str| {
        ["/etc/", "/usr/bin/", "/usr/local/bin/"].iter().any(|dir| places.config(&format!("{dir}{engine}")).exists())
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
