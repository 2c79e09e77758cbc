//! The names under which engines find this program.

use anyhow::{Result, bail};

use super::{Change, Content, Engine, Places, Wish, read};

pub(super) fn plan(engine: Engine, wish: Wish, places: &Places) -> Result<Vec<Change>> {
    let names: &[&str] = match engine {
        Engine::Containerd | Engine::Crio => &["containerd-shim-nacre-v2", "containerd-shim-nacre-vm-v2"],
        Engine::Podman => &["nacre"],
        Engine::Cni => &[runtime::nacre_cni::NAME],
    };
    if wish == Wish::Uninstall && is_needed_by_another(engine, places) {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    for name in names {
        let path = if engine == Engine::Cni { places.plugins.join(name) } else { places.program(name) };
        // It is there itself.
        if path == places.nacre {
            continue;
        }
        let path = places.here(&path);
        let after = match (read(&path).unwrap_or_else(|_| Content::Text(String::new())), wish) {
            (Content::Text(_), Wish::Install) => bail!("{} is in the way: a file, not a link to nacre", path.display()),
            (_, Wish::Install) => Content::Link(places.nacre.clone()),
            // Somebody else's.
            (Content::Text(_), Wish::Uninstall) => continue,
            (Content::Link(to), Wish::Uninstall) if to != places.nacre => continue,
            (_, Wish::Uninstall) => Content::Absent,
        };
        changes.push(Change::new(path, after)?);
    }
    Ok(changes)
}

/// containerd and CRI-O use the same shims.
fn is_needed_by_another(engine: Engine, places: &Places) -> bool {
    match engine {
        Engine::Containerd => super::engines::has_crio(places),
        Engine::Crio => super::containerd::is_installed(places),
        Engine::Podman | Engine::Cni => false,
    }
}
