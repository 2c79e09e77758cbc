//! `nacre install`: runtime handlers in the configuration of engines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use super::Failure;
use crate::install::{self, Change, Engine, Places, Wish};

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
    /// All of it for a node whose root is at --prefix: programs in /opt/nacre/bin, and handlers for the containerd or CRI-O that is there
    #[arg(long, conflicts_with_all = ["containerd", "crio", "podman"])]
    kubernetes: bool,
    /// Start engines again, by systemctl in the name spaces of process 1, if their configuration has changed
    #[arg(long)]
    restart: bool,
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
        let (nacre, places) = self.places()?;
        let wish = if self.uninstall { Wish::Uninstall } else { Wish::Install };
        let all = [
            (self.containerd, Engine::Containerd),
            (self.crio, Engine::Crio),
            (self.podman, Engine::Podman),
            (self.cni, Engine::Cni),
        ];
        let mut engines: Vec<Engine> = all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, engine)| engine).collect();
        let mut none = true;
        // Programs come first and go last: while there are handlers there is what they lead to.
        let programs = || install::programs_of_node(&nacre, wish, &places);
        if self.kubernetes {
            engines.extend(install::engines_of_node(&places)?);
            if wish == Wish::Install {
                none &= !self.make(&programs()?)?;
            }
        }
        if engines.is_empty() {
            bail!("say for whom: --containerd, --crio, --podman, --kubernetes or --cni");
        }
        for engine in engines {
            let changes = install::plan(engine, wish, &places)?;
            none &= changes.is_empty();
            let (false, Some(unit)) = (self.dry_run, engine.unit()) else {
                self.make(&changes)?;
                continue;
            };
            // A mark, so that a restart that fails, or is not come to, is caught up with by the next run.
            let owed = install::owed(unit, &places);
            if self.restart && !changes.is_empty() {
                owed.mark()?;
            }
            let changed = self.make(&changes)?;
            if self.restart && owed.is_marked() {
                restart(unit)?;
                owed.settle()?;
            } else if changed {
                super::print(&format!("it takes effect when {unit} is started again"))?;
            }
        }
        if self.kubernetes && wish == Wish::Uninstall {
            none &= !self.make(&programs()?)?;
        }
        if none {
            super::print("nothing to change")?;
        }
        if self.cni && wish == Wish::Install {
            super::print(PLUGIN)?;
        }
        Ok(0)
    }

    /// This program, and where things are.
    fn places(&self) -> anyhow::Result<(PathBuf, Places)> {
        let nacre = std::env::current_exe().context("cannot find this program")?;
        let (root, bin, plugins) = (self.prefix.clone(), self.bindir.clone(), self.cni_bindir.clone());
        let (node, installed) = match self.kubernetes {
            true => (root.clone(), Path::new(install::HOME).join("nacre")),
            false => ("/".into(), nacre.clone()),
        };
        Ok((nacre, Places { root, node, bin, plugins, nacre: installed }))
    }

    /// Says what changes, and does it. Whether there was anything.
    fn make(&self, changes: &[Change]) -> anyhow::Result<bool> {
        for change in changes {
            super::print(change.describe().trim_end())?;
            if !self.dry_run {
                change.apply()?;
            }
        }
        Ok(!changes.is_empty())
    }
}

/// Has the node's systemd start an engine again. Its pods go on meanwhile.
fn restart(unit: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nsenter");
    command.args(["--target", "1", "--mount", "--", "systemctl", "restart", unit]);
    match command.status() {
        Ok(status) if status.success() => super::print(&format!("{unit} was started again")),
        Ok(status) => bail!(
            "{unit} could not be started again ({status}): see its log; a pod that does this needs hostPID and privileges"
        ),
        Err(error) => Err(error).context("cannot start nsenter (Debian package util-linux)"),
    }
}
