//! `nacre update`, with runc's flags.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources};
use runtime::config::mounts::parse_bytes;

use super::Failure;
use crate::cli::Global;

/// Change a running container's limits, or a VM's interfaces
#[derive(Debug, Args)]
pub struct Update {
    /// Take the new limits from a file of OCI's linux.resources ("-": standard input); flags are ignored then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// CPU time per period, in microseconds (-1: no limit)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Length of a period, in microseconds
    #[arg(long, value_name = "N")]
    cpu_period: Option<u64>,
    /// CPU shares against other containers
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,
    /// CPUs to use, on the host
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use, on the host
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory, in bytes or as 64m, 2g (-1: no limit)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Tasks at a time (-1: no limit)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Have a VM follow the network namespace that it has joined: interfaces that have come there since, and those that have gone
    #[arg(long, conflicts_with_all = ["resources", "cpu_quota", "cpu_period", "cpu_share", "cpuset_cpus", "cpuset_mems", "memory", "pids_limit"])]
    network: bool,
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

impl Update {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        if self.network {
            global.runtime().update_network(&self.id)?;
            return Ok(0);
        }
        let resources = match &self.resources {
            Some(path) => read(path)?,
            None => self.asked()?,
        };
        global.runtime().update(&self.id, &resources)?;
        Ok(0)
    }

    fn asked(&self) -> anyhow::Result<LinuxResources> {
        let mut resources = LinuxResources::default();
        if let Some(text) = &self.memory {
            let limit = match (text.as_str(), parse_bytes(text)) {
                ("-1", _) => -1,
                (_, Some(bytes)) => i64::try_from(bytes).with_context(|| format!("--memory {text}: more than there can be"))?,
                (_, None) => bail!("--memory {text:?} is no size: bytes, or a number with k, m, g"),
            };
            resources.set_memory(Some(LinuxMemoryBuilder::default().limit(limit).build()?));
        }
        if let Some(limit) = self.pids_limit {
            resources.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build()?));
        }
        let mut cpu = LinuxCpuBuilder::default().build()?;
        cpu.set_quota(self.cpu_quota);
        cpu.set_period(self.cpu_period);
        cpu.set_shares(self.cpu_share);
        cpu.set_cpus(self.cpuset_cpus.clone());
        cpu.set_mems(self.cpuset_mems.clone());
        resources.set_cpu(Some(cpu));
        Ok(resources)
    }
}

fn read(path: &PathBuf) -> anyhow::Result<LinuxResources> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        let opened = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
        opened.with_context(|| format!("cannot read {}", path.display()))?;
    }
    serde_json::from_str(&text).with_context(|| format!("{} has no resources as OCI's linux.resources", path.display()))
}
