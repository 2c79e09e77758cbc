//! `nacre guest`: what VMs boot with.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, print};

/// Make what a VM boots with
#[derive(Debug, Args)]
pub struct Guest {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Build(Build),
}

/// Make the initial root of the distribution's kernel and our agent (a VM's start does so by itself)
#[derive(Debug, Args)]
pub struct Build {
    /// The kernel, whose modules are in ../lib/modules beside it or in /lib/modules [default: the newest of /boot]
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// The agent [default: nacre-agent beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Write vmlinuz and initrd.cpio here [default: the initial root into the cache]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Guest {
    pub fn run(&self) -> Result<u8, Failure> {
        let Verb::Build(Build { kernel, agent, output }) = &self.verb;
        let options = guest::Options { kernel: kernel.clone(), agent: agent.clone(), output: output.clone() };
        let image = guest::build(&options)?;
        print(&format!("kernel  {}\ninitrd  {}\nrelease {}", image.kernel.display(), image.initrd.display(), image.release))?;
        Ok(0)
    }
}
