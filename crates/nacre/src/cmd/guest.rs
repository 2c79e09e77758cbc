//! `nacre guest`: what VMs boot with.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use guest::Origin;

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

/// Make the initial root for a kernel and choose that for VMs: the newest of /boot (which VMs take by themselves), one that is named, or one of our own
#[derive(Debug, Args)]
pub struct Build {
    /// A kernel, whose modules are in ../lib/modules beside it or in /lib/modules; or a package of one (linux-image-*.deb), which need not be installed
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Build a small kernel for VMs, from a tree or archive of Linux's source [default: the newest /usr/src/linux-source-*.tar.xz]
    #[arg(long, value_name = "PATH", num_args = 0..=1, conflicts_with = "kernel")]
    kernel_source: Option<Option<PathBuf>>,
    /// The agent [default: nacre-agent beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Write vmlinuz and initrd.cpio here, and choose nothing
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Guest {
    pub fn run(&self) -> Result<u8, Failure> {
        let Verb::Build(Build { kernel, kernel_source, agent, output }) = &self.verb;
        let from = match (kernel, kernel_source) {
            (Some(path), _) => Origin::File(path.clone()),
            (None, Some(source)) => Origin::Source(source.clone()),
            (None, None) => Origin::Newest,
        };
        let options = guest::Options { kernel: from, agent: agent.clone(), output: output.clone() };
        let image = guest::build(&options, &mut |step| eprintln!("nacre: {step}"))?;
        print(&format!("kernel  {}\ninitrd  {}\nrelease {}", image.kernel.display(), image.initrd.display(), image.release))?;
        Ok(0)
    }
}
