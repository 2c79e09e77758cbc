//! `nacre run`: create and start, and stay unless detached.

use anyhow::Context;
use clap::Args;
use runtime::config;
use runtime::container::{self, bundle_or_here};

use super::Failure;
use super::create::Options;
use crate::cli::Global;
use crate::session::{self, Session, Wire};
use crate::stdio::Own;
use crate::terminal;

/// Create and run a container
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    options: Options,
    /// Do not wait for the container to end
    #[arg(long, short)]
    detach: bool,
    /// Keep the container after it has ended
    #[arg(long)]
    keep: bool,
    /// (no effect: nothing is left to reap)
    #[arg(long)]
    no_subreaper: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

impl Run {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        self.options.check()?;
        let signals = (!self.detach).then(session::block_signals);
        let bundle = bundle_or_here(self.options.bundle.as_ref());
        let wire = self.wire(&bundle)?;
        let own = Own::take()?;
        let mut container = global.runtime().create(&container::Create {
            id: &self.id,
            bundle: &bundle,
            console_socket: self.options.console_socket.as_deref(),
            pid_file: self.options.pid_file.as_deref(),
            stdio: own.as_host(),
            own_terminal: (wire == Wire::Terminal).then(terminal::own_size),
        })?;
        drop(own);
        let raw = match wire {
            Wire::Terminal => Some(terminal::Raw::enter().context("cannot change the terminal")?),
            Wire::Streams => None,
        };
        if let Err(error) = container.start() {
            drop(raw);
            container.destroy();
            return Err(error.into());
        }
        container.unlock();
        let Some(signals) = signals else { return Ok(0) };
        let session =
            Session { agent: container.sandbox.agent_handle(), container_id: self.id.clone(), exec_id: String::new(), wire };
        let exit = session.wait(signals);
        drop(raw);
        let code = match exit {
            Ok(exit) => Ok(session::exit_code(&exit)),
            Err(error) => container.sandbox.status_instead("cannot wait for the container", error),
        };
        if !self.keep {
            container.destroy();
        }
        Ok(code?)
    }

    /// With `terminal: true` and no console socket, our own terminal is the wire.
    fn wire(&self, bundle: &std::path::Path) -> anyhow::Result<Wire> {
        if self.detach || self.options.console_socket.is_some() {
            return Ok(Wire::Streams);
        }
        let spec = config::load(bundle)?;
        match spec.process().as_ref().and_then(|process| process.terminal()) {
            Some(true) if std::io::IsTerminal::is_terminal(&std::io::stdin()) => Ok(Wire::Terminal),
            Some(true) => anyhow::bail!("process.terminal is true, but standard input is no terminal and there is no --console-socket"),
            _ => Ok(Wire::Streams),
        }
    }
}
