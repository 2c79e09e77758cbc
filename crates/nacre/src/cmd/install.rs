//! `nacre install`: runtime handlers in the configuration of engines.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use super::Failure;
use crate::install::{self, Engine, Places, Wish};

/// Make nacre known to containerd, CRI-O or podman
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
    /// Take away what was installed
    #[arg(long)]
    uninstall: bool,
    /// Only print what would be changed
    #[arg(long)]
    dry_run: bool,
    /// Where links to nacre are made
    #[arg(long, value_name = "DIR", default_value = "/usr/local/bin")]
    bindir: PathBuf,
    /// In front of the paths of configuration files
    #[arg(long, value_name = "DIR", default_value = "/")]
    prefix: PathBuf,
}

impl Install {
    pub fn run(&self) -> Result<u8, Failure> {
        Ok(self.install()?)
    }

    fn install(&self) -> anyhow::Result<u8> {
        let all = [(self.containerd, Engine::Containerd), (self.crio, Engine::Crio), (self.podman, Engine::Podman)];
        let engines: Vec<Engine> = all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, engine)| engine).collect();
        if engines.is_empty() {
            bail!("say for whom: --containerd, --crio or --podman");
        }
        let nacre = std::env::current_exe().context("cannot find this program")?;
        let places = Places { root: self.prefix.clone(), bin: self.bindir.clone(), nacre };
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
        Ok(0)
    }
}
