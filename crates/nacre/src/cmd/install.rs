//! `nacre install`: runtime handlers in the configuration of engines.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use super::Failure;
use crate::install::{self, Engine, Places, Wish};

/// What is said after the plugin is there.
const PLUGIN: &str = r#"in the list of plugins (/etc/cni/net.d/*.conflist) of a network for nacre's pods alone, after bridge or ptp, add
    { "type": "nacre-cni" }
which gives them a tap in the place of the veth pair; other runtimes' pods on it would have no network"#;

/// Make nacre known to containerd, CRI-O, podman or CNI
#[derive(Debug, Args)]
pub struct Install {
    /// Handlers nacre and nacre-vm in /etc/containerd/config.toml, and links to the shims
    #[arg(long)]
    containerd: bool,
    /// Handlers nacre and nacre-vm in /etc/crio/crio.conf.d, and links to the shims
    #[arg(long)]
    crio: bool,
    /// Runtime nacre in /etc/containers/containers.conf.d
    #[arg(long)]
    podman: bool,
    /// The plugin nacre-cni, which gives sandboxes a tap instead of a veth pair
    #[arg(long)]
    cni: bool,
    /// Take away what was installed
    #[arg(long)]
    uninstall: bool,
    /// Only print what would be changed
    #[arg(long)]
    dry_run: bool,
    /// Where links to nacre are made
    #[arg(long, value_name = "DIR", default_value = "/usr/local/bin")]
    bindir: PathBuf,
    /// Where CNI's plugins are
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bindir: PathBuf,
    /// In front of the paths of configuration files
    #[arg(long, value_name = "DIR", default_value = "/")]
    prefix: PathBuf,
}

impl Install {
    pub fn run(&self) -> Result<u8, Failure> {
        Ok(self.install()?)
    }

    fn install(&self) -> anyhow::Result<u8> {
        let all = [
            (self.containerd, Engine::Containerd),
            (self.crio, Engine::Crio),
            (self.podman, Engine::Podman),
            (self.cni, Engine::Cni),
        ];
        let engines: Vec<Engine> = all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, engine)| engine).collect();
        if engines.is_empty() {
            bail!("say for whom: --containerd, --crio, --podman or --cni");
        }
        let nacre = std::env::current_exe().context("cannot find this program")?;
        let (bin, plugins) = (self.bindir.clone(), self.cni_bindir.clone());
        let places = Places { root: self.prefix.clone(), bin, plugins, nacre };
        let wish = if self.uninstall { Wish::Uninstall } else { Wish::Install };
        let mut none = true;
        for engine in engines {
            for change in install::plan(engine, wish, &places)? {
                none = false;
                super::print(change.describe().trim_end())?;
                if !self.dry_run {
                    change.apply()?;
                }
            }
        }
        if none {
            super::print("nothing to change")?;
        } else if !self.dry_run && (self.containerd || self.crio) {
            super::print("it takes effect when the engine is started again")?;
        }
        if self.cni && wish == Wish::Install {
            super::print(PLUGIN)?;
        }
        Ok(0)
    }
}
