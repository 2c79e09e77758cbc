//! CRI-O and podman: a drop-in file each.

use anyhow::Result;

use super::{Change, Content, Places, Wish};

fn drop_in(path: &str, text: String, wish: Wish, places: &Places) -> Result<Vec<Change>> {
    let after = match wish {
        Wish::Install => Content::Text(text),
        Wish::Uninstall => Content::Absent,
    };
    Ok(vec![Change::new(places.config(path), after)?])
}

const CRIO: &str = "/etc/crio/crio.conf.d/50-nacre.conf";

/// Whether nacre is known to CRI-O.
pub(super) fn has_crio(places: &Places) -> bool {
    places.config(CRIO).exists()
}

/// CRI-O drives shims too (its type `vm`, whatever is behind it): several containers of a pod are then one sandbox's.
pub(super) fn crio(wish: Wish, places: &Places) -> Result<Vec<Change>> {
    let handler = |name: &str, shim: &str| {
        format!(
            "[crio.runtime.runtimes.{name}]\nruntime_type = \"vm\"\nruntime_path = \"{}\"\nruntime_root = \"/run/nacre-crio\"\n\
             allowed_annotations = [\"dev.nacre.sandbox\", \"dev.nacre.overlay\"]\n",
            places.program(shim).display()
        )
    };
    let text = handler("nacre", "containerd-shim-nacre-v2") + &handler("nacre-vm", "containerd-shim-nacre-vm-v2");
    drop_in(CRIO, text, wish, places)
}

pub(super) fn podman(wish: Wish, places: &Places) -> Result<Vec<Change>> {
    let text = format!("[engine.runtimes]\nnacre = [\"{}\"]\n", places.program("nacre").display());
    drop_in("/etc/containers/containers.conf.d/50-nacre.conf", text, wish, places)
}
