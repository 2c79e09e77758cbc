//! `nacre create`.

use std::path::PathBuf;

use clap::Args;
use runtime::container::{self, bundle_or_here};

use super::Failure;
use crate::cli::{Global, Net};
use crate::stand_in;
use crate::stdio::Own;

/// Create a container
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    pub options: Options,
    /// The process that has started this one: when it dies first, nothing is made
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    /// EROFS image of the root, instead of the bundle's directory; each is over the one named before it
    #[arg(long, hide = true, value_name = "PATH")]
    root_image: Vec<PathBuf>,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// Flags of create and run.
#[derive(Debug, Args)]
pub struct Options {
    /// Path of the bundle [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Unix socket that gets the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File to write the pid to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Where writes to the root go: memory, dir (in the bundle), dir:PATH, or none (the root itself) [default: as annotation
    /// dev.nacre.overlay says, or memory]
    #[arg(long, value_name = "MODE")]
    pub overlay: Option<String>,
    #[command(flatten)]
    pub net: Net,
    /// (no effect: a sandbox always pivots)
    #[arg(long)]
    no_pivot: bool,
    /// (no effect: a sandbox has no host keyring)
    #[arg(long)]
    no_new_keyring: bool,
    /// (only 0 is supported)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

impl Options {
    pub fn check(&self) -> anyhow::Result<()> {
        if self.preserve_fds != 0 {
            anyhow::bail!("--preserve-fds {} is not supported yet", self.preserve_fds);
        }
        Ok(())
    }
}

impl Create {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        self.options.check()?;
        if let Some(parent) = self.parent {
            die_with(parent)?;
        }
        let own = Own::take()?;
        let mut container = global.runtime().create(&container::Create {
            id: &self.id,
            bundle: &bundle_or_here(self.options.bundle.as_ref()),
            console_socket: self.options.console_socket.as_deref(),
            pid_file: self.options.pid_file.as_deref(),
            overlay: self.options.overlay.as_deref(),
            stdio: own.as_host(),
            own_terminal: None,
            network: self.options.net.wish()?,
            root_images: &self.root_image,
            sandbox: global.sandbox()?,
        })?;
        drop(own);
        stand_in::for_member(&mut container, self.options.pid_file.as_deref())?;
        Ok(0)
    }
}

/// Ends this process when its parent does.
fn die_with(parent: i32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    match rustix::process::getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == parent => Ok(()),
        _ => anyhow::bail!("the process that has started this one has ended"),
    }
}
