//! `nacre run`: create and start, and stay unless detached.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use agent_api::ClientError;
use anyhow::{Context, bail};
use clap::Args;
use runtime::container::{self, bundle_or_here};
use runtime::{Error, config, state};

use super::Failure;
use super::create::Options;
use super::do_::command_failure;
use crate::cli::Global;
use crate::flags::Flags;
use crate::imaged::{self, Fetch, Imaged, Wish};
use crate::session::{self, Session, Wire};
use crate::stand_in;
use crate::stdio::Own;
use crate::terminal;

/// Create and run a container, from a bundle or from an image
#[derive(Debug, Args)]
#[command(override_usage = "nacre run [OPTIONS] CONTAINER-ID\n       nacre run --image PATH|REF [OPTIONS] [COMMAND [ARG]...]")]
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
    /// Run an image: an OCI layout, oci-archive or docker-archive (PATH, PATH:NAME or PATH@DIGEST), or a registry's (REF)
    #[arg(long, value_name = "PATH|REF", help_heading = "Images", conflicts_with = "bundle")]
    image: Option<OsString>,
    /// Name of the container [default: a random one]
    #[arg(long, value_name = "CONTAINER-ID", help_heading = "Images", requires = "image")]
    name: Option<String>,
    /// Program to run instead of the image's, without its arguments ("" for none)
    #[arg(long, value_name = "PROGRAM", help_heading = "Images", requires = "image")]
    entrypoint: Option<String>,
    #[command(flatten, next_help_heading = "Images")]
    fetch: Fetch,
    #[command(flatten, next_help_heading = "Images")]
    flags: Flags,
    /// Name of the container; with --image, the command and its arguments
    #[arg(value_name = "CONTAINER-ID|COMMAND", trailing_var_arg = true)]
    args: Vec<OsString>,
}

impl Run {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        self.options.check()?;
        match &self.image {
            None => self.run_bundle(&bundle_or_here(self.options.bundle.as_ref()), &self.id()?, || (), global),
            Some(image) => self.run_image(image, global),
        }
    }

    /// Without an image, the only argument; and no flags that are about images.
    fn id(&self) -> anyhow::Result<String> {
        if let Some(flag) = self.fetch.given().or_else(|| self.flags.given()) {
            bail!("{flag} needs --image: a bundle's config.json says it");
        }
        match &*self.args {
            [id] => id.to_str().map(String::from).with_context(|| format!("{}: not UTF-8", id.display())),
            [] => bail!("CONTAINER-ID is missing"),
            _ => bail!("one CONTAINER-ID, after all flags"),
        }
    }

    fn run_image(&self, image: &OsStr, global: &Global) -> Result<u8, Failure> {
        let id = match &self.name {
            Some(name) => name.clone(),
            None => imaged::random_id()?,
        };
        state::check_id(&id)?;
        let wire = match (self.detach, self.options.console_socket.is_some()) {
            (_, true) => Wire::Terminal,
            (true, false) if self.flags.tty => return Err(anyhow::anyhow!("-t with --detach needs --console-socket").into()),
            (true, false) => Wire::Streams,
            (false, false) => self.flags.wire()?,
        };
        let wish = Wish {
            image,
            fetch: &self.fetch,
            flags: &self.flags,
            entrypoint: self.entrypoint.as_deref(),
            command: &self.args,
            id: &id,
            wire,
            overlay: self.options.overlay.as_deref(),
        };
        let Imaged { container, using } = imaged::prepare(&wish, global)?;
        let ran = self.run_bundle(&container.dir, &id, || drop(using), global);
        // A container that stays keeps its bundle.
        if ran.is_err() || !(self.detach || self.keep) {
            container.remove();
        }
        ran
    }

    /// `created` is called once the runtime knows the container.
    fn run_bundle(&self, bundle: &Path, id: &str, created: impl FnOnce(), global: &Global) -> Result<u8, Failure> {
        let signals = (!self.detach).then(session::block_signals);
        let wire = self.wire(bundle)?;
        let own = Own::take()?;
        let mut container = global
            .runtime()
            .create(&container::Create {
                id,
                bundle,
                console_socket: self.options.console_socket.as_deref(),
                pid_file: self.options.pid_file.as_deref(),
                overlay: self.options.overlay.as_deref(),
                stdio: own.as_host(),
                own_terminal: (wire == Wire::Terminal).then(terminal::own_size),
                network: self.options.net.wish()?,
                root_images: &[],
                sandbox: global.sandbox()?,
            })
            .map_err(|error| self.failure(error))?;
        created();
        drop(own);
        if self.detach {
            stand_in::for_member(&mut container, self.options.pid_file.as_deref())?;
        }
        let raw = match wire {
            Wire::Terminal => Some(terminal::Raw::enter().context("cannot change the terminal")?),
            Wire::Streams => None,
        };
        if let Err(error) = container.start() {
            drop(raw);
            container.destroy();
            return Err(self.failure(error));
        }
        container.unlock();
        let Some(signals) = signals else { return Ok(0) };
        let session =
            Session { agent: container.sandbox.agent().clone(), container_id: id.into(), exec_id: String::new(), wire };
        let exit = session.wait(signals);
        drop(raw);
        let code = match exit {
            Ok(exit) => Ok(exit.shell_status()),
            Err(error) => container.sandbox.status_instead("cannot wait for the container", error),
        };
        if !self.keep {
            container.destroy();
        }
        Ok(code?)
    }

    /// From an image, exit codes are `do`'s; from a bundle, runc's.
    fn failure(&self, error: Error) -> Failure {
        match error {
            Error::Agent { cause: ClientError::Status(status), .. } if self.image.is_some() => command_failure(status),
            other => other.into(),
        }
    }

    /// With `terminal: true` and no console socket, our own terminal is the wire.
    fn wire(&self, bundle: &Path) -> anyhow::Result<Wire> {
        if self.detach || self.options.console_socket.is_some() {
            return Ok(Wire::Streams);
        }
        let spec = config::load(bundle)?;
        match spec.process().as_ref().and_then(|process| process.terminal()) {
            Some(true) if std::io::IsTerminal::is_terminal(&std::io::stdin()) => Ok(Wire::Terminal),
            Some(true) => bail!("process.terminal is true, but standard input is no terminal and there is no --console-socket"),
            _ => Ok(Wire::Streams),
        }
    }
}
