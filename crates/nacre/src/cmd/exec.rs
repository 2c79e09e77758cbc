//! `nacre exec`: one more process in a running container.

use std::path::PathBuf;

use agent_api::{ExecProcessRequest, Process};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use runtime::config::{self, capabilities};
use runtime::console::Console;
use runtime::state::{Access, Saved, Status, write_whole};

use super::Failure;
use crate::cli::Global;
use crate::session::{self, Session, Wire};
use crate::stand_in;
use crate::stdio::Own;
use crate::terminal;

/// Run a new process in a running container
#[derive(Debug, Args)]
pub struct Exec {
    /// Unix socket that gets the terminal's master
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set an environment variable
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// User and group, as numbers
    #[arg(long, short, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Additional groups
    #[arg(long, short = 'g', value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the process, as `process` of config.json
    #[arg(long, short, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Do not wait for it
    #[arg(long, short)]
    detach: bool,
    /// File to write the pid to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// (no effect in a sandbox)
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// (no effect in a sandbox)
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// No new privileges by exec
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability
    #[arg(long, short, value_name = "CAP")]
    cap: Vec<String>,
    /// (only 0 is supported)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Also in a paused container (it runs when the container is resumed)
    #[arg(long)]
    ignore_paused: bool,
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        // runc's exec fails with 255, so that a failure is not taken for the command's.
        self.exec(global).map_err(|error| Failure { error, code: 255 })
    }

    fn exec(&self, global: &Global) -> anyhow::Result<u8> {
        let signals = (!self.detach).then(session::block_signals);
        if self.preserve_fds != 0 {
            bail!("--preserve-fds {} is not supported yet", self.preserve_fds);
        }
        let entry = global.runtime().store.open(&self.id, Access::Look)?;
        match runtime::pod::status(&entry) {
            Status::Running => {}
            Status::Paused if self.ignore_paused => {}
            Status::Paused => bail!("cannot exec in a paused container (use --ignore-paused to override)"),
            Status::Stopped => bail!("cannot exec in a stopped container"),
            status => bail!("cannot exec in a container that is {status}"),
        }
        let mut process = self.plan(&entry.saved)?;
        let wire = match (&process.terminal, &self.console_socket) {
            (Some(_), None) if self.detach => bail!("cannot allocate tty if nacre will detach without setting console socket"),
            (None, Some(_)) => bail!("cannot use console socket if nacre will not detach or allocate tty"),
            (Some(_), None) if !std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
                bail!("-t needs a terminal as standard input")
            }
            (Some(_), None) => Wire::Terminal,
            _ => Wire::Streams,
        };
        let agent = runtime::container::connect(&entry)?;
        let own = Own::take()?;
        let console = match (&mut process.terminal, &self.console_socket) {
            (Some(size), Some(socket)) => {
                let console = Console::open(*size)?;
                console.send_master(socket)?;
                Some(console)
            }
            (Some(size), None) => {
                *size = terminal::own_size();
                None
            }
            _ => None,
        };
        let stdio = match &console {
            Some(console) => console.as_host(),
            None => own.as_host(),
        };
        let mut fds = Vec::new();
        process.stdio = Some(stdio.place(&mut fds));
        let exec_id =
            format!("exec-{}-{:x}", std::process::id(), std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos()));
        let raw = match wire {
            Wire::Terminal => Some(terminal::Raw::enter().context("cannot change the terminal")?),
            Wire::Streams => None,
        };
        let request = ExecProcessRequest { container_id: self.id.clone(), exec_id: exec_id.clone(), process: Some(process) };
        agent.call_with(&request, &fds).map_err(|error| {
            terminal::restore();
            anyhow!("exec failed: unable to start container process: {error}")
        })?;
        drop(own);
        let Some(signals) = signals else {
            if let Some(path) = &self.pid_file {
                write_whole(path, stand_in::leave(&entry, &exec_id)?.to_string().as_bytes())?;
            }
            return Ok(0);
        };
        if let Some(path) = &self.pid_file {
            write_whole(path, std::process::id().to_string().as_bytes())?;
        }
        let session = Session { agent: agent.into(), container_id: self.id.clone(), exec_id, wire };
        let exit = session.wait(signals);
        drop(raw);
        match exit {
            Ok(exit) => Ok(exit.shell_status()),
            Err(agent_api::ClientError::Closed) => bail!("the container has ended{}", runtime::container::reason(&entry)),
            Err(error) => Err(error.into()),
        }
    }

    fn plan(&self, saved: &Saved) -> anyhow::Result<Process> {
        if let Some(path) = &self.process {
            let process: runtime::config::OciProcess = config::parse_file(path)?;
            config::check_process(&process, "process")?;
            return Ok(config::process(&process)?);
        }
        if self.command.is_empty() {
            bail!("process args cannot be empty");
        }
        let base = saved.process.as_ref().ok_or_else(|| anyhow!("the container's process is not known"))?;
        let mut process = config::process(base)?;
        process.args = self.command.iter().map(|arg| arg.clone().into_bytes()).collect();
        process.terminal = self.tty.then(Default::default);
        for entry in &self.env {
            let (name, _) = entry.split_once('=').ok_or_else(|| anyhow!("--env {entry}: not NAME=VALUE"))?;
            let prefix = format!("{name}=").into_bytes();
            process.env.retain(|known| !known.starts_with(&prefix));
            process.env.push(entry.clone().into_bytes());
        }
        if let Some(cwd) = &self.cwd {
            process.cwd = cwd.as_os_str().as_encoded_bytes().to_vec();
        }
        if let Some(user) = &self.user {
            let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
            let number = |text: &str| text.parse::<u32>().map_err(|_| anyhow!("--user {user}: not UID[:GID]"));
            process.uid = number(uid)?;
            if let Some(gid) = gid {
                process.gid = number(gid)?;
            }
        }
        process.additional_gids.extend(&self.additional_gids);
        process.no_new_privs |= self.no_new_privs;
        for name in &self.cap {
            let bit = capabilities::parse(name).ok_or_else(|| anyhow!("--cap {name}: no such capability"))?;
            let sets = process.capabilities.get_or_insert_default();
            sets.bounding |= bit;
            sets.effective |= bit;
            sets.permitted |= bit;
        }
        Ok(process)
    }
}
