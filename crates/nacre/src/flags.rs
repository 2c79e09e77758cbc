//! Flags about a command's process and surroundings, which `do` and `run --image` share.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use agent_api::Limits;
use anyhow::{Context, anyhow, bail};
use clap::Args;

use crate::session::Wire;

#[derive(Debug, Args)]
pub struct Flags {
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set NAME=VALUE, or pass NAME on from here
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// Bind SRC of the host to DST in the sandbox, writable unless :ro
    #[arg(long, short, value_name = "SRC:DST[:ro]")]
    pub volume: Vec<OsString>,
    /// User (and group) to run as: names of the root's /etc/passwd, or numbers
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Most memory (k, m, g)
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Most tasks
    #[arg(long, value_name = "N")]
    pub pids: Option<u64>,
    /// Give the command a terminal (the default if standard input and output are one)
    #[arg(short = 't', long)]
    pub tty: bool,
}

impl Flags {
    /// The first flag that is given, for commands that take them under a condition.
    pub fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--cwd", self.cwd.is_some()),
            ("--env", !self.env.is_empty()),
            ("--volume", !self.volume.is_empty()),
            ("--user", self.user.is_some()),
            ("--memory", self.memory.is_some()),
            ("--pids", self.pids.is_some()),
            ("--tty", self.tty),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    pub fn wire(&self) -> anyhow::Result<Wire> {
        let (stdin, stdout) = (std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
        match (self.tty, stdin, stdout) {
            (true, false, _) => bail!("-t needs a terminal as standard input"),
            (true, true, _) | (false, true, true) => Ok(Wire::Terminal),
            _ => Ok(Wire::Streams),
        }
    }

    pub fn limits(&self) -> anyhow::Result<Limits> {
        let memory = match &self.memory {
            None => None,
            Some(text) => {
                let bytes = runtime::config::mounts::parse_bytes(text).filter(|bytes| *bytes > 0);
                Some(bytes.ok_or_else(|| anyhow!("--memory {text}: not a size (like 512m)"))?)
            }
        };
        if self.pids == Some(0) {
            bail!("--pids 0: not even the command could run");
        }
        Ok(Limits { memory, pids: self.pids, ..Default::default() })
    }

    pub fn volumes(&self) -> anyhow::Result<Vec<Volume>> {
        self.volume.iter().map(|volume| Volume::parse(volume)).collect()
    }

    /// `vars`, changed and added to by `--env`.
    pub fn environment(&self, vars: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
        let mut vars = vars;
        for change in &self.env {
            let bytes = change.as_bytes();
            let (name, value) = match bytes.iter().position(|b| *b == b'=') {
                Some(at) => {
                    let value = OsStr::from_bytes(bytes.get(at + 1..).unwrap_or_default());
                    (OsStr::from_bytes(bytes.get(..at).unwrap_or_default()), Some(value.to_os_string()))
                }
                None => (change.as_os_str(), std::env::var_os(change)),
            };
            let Some(value) = value else { continue };
            vars.retain(|(known, _)| known != name);
            vars.push((name.into(), value));
        }
        vars
    }
}

/// SRC:DST[:ro|:rw], checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
}

impl Volume {
    pub fn parse(text: &OsStr) -> anyhow::Result<Volume> {
        let shown = || format!("--volume {}", text.display());
        let mut parts = text.as_bytes().split(|b| *b == b':').map(OsStr::from_bytes);
        let (Some(source), Some(destination)) = (parts.next(), parts.next()) else { bail!("{}: not SRC:DST[:ro]", shown()) };
        let read_only = match parts.next().map(OsStr::as_bytes) {
            None | Some(b"rw") => false,
            Some(b"ro") => true,
            Some(_) => bail!("{}: options are ro and rw", shown()),
        };
        if parts.next().is_some() {
            bail!("{}: too many colons", shown());
        }
        let destination = PathBuf::from(destination);
        if !destination.is_absolute() {
            bail!("{}: {} is not an absolute path", shown(), destination.display());
        }
        if source.is_empty() {
            bail!("{}: the source is empty", shown());
        }
        let source = std::fs::canonicalize(source).with_context(shown)?;
        Ok(Volume { source, destination, read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let volume = Volume::parse(OsStr::new("/tmp:/data:ro")).expect("volume");
        assert_eq!(volume.destination, PathBuf::from("/data"));
        assert!(volume.read_only);
        for bad in ["/tmp", "/tmp:data", "/tmp:/data:rx", "/tmp:/data:ro:x", ":/data", "/nowhere/at/all:/data"] {
            assert!(Volume::parse(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}
