//! Running a plugin: its parameters are variables, its configuration is its input, and its answer its output.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::answer;
use super::config::{NetworkConfig, Plugin};
use crate::child::{self, End};
use crate::error::{Doing, Error, Result};
use crate::sys::{self, SignalSet};

/// Where plugins are, unless `$CNI_PATH` says.
const PLUGINS: &str = "/opt/cni/bin:/usr/lib/cni";
/// What the interface is called in the sandbox.
pub const INTERFACE: &str = "eth0";
/// How long a plugin may take: as long as engines let a pod's network take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What ends a program that is run from a terminal or a shell. A plugin has a process group of its own, so that all of it can be killed, and does not hear
/// what a terminal sends to ours.
pub const ENDINGS: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
/// Bytes of an answer that are read.
const ANSWER: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
        }
    }

    /// The signals that stop it, where we do not die of them ourselves. They are left to wait: one that has come already ends what is made, and
    /// does not keep us from undoing it.
    fn stopped_by(self) -> SignalSet {
        match self {
            Command::Add => SignalSet::blocked(&ENDINGS),
            Command::Del => SignalSet::to_come(&ENDINGS),
        }
    }
}

/// Where plugins are, and how long each may take.
#[derive(Debug, Clone)]
pub struct Plugins {
    pub path: OsString,
    pub patience: Duration,
}

/// A plugin's word for what went wrong.
#[derive(Deserialize)]
struct Refusal {
    msg: String,
    #[serde(default)]
    details: String,
}

impl Plugins {
    /// Those of this machine.
    pub fn installed() -> Plugins {
        Plugins { path: std::env::var_os("CNI_PATH").unwrap_or_else(|| PLUGINS.into()), patience: PATIENCE }
    }

    /// # Errors
    /// One of the network's is not there.
    pub fn find_all(&self, network: &NetworkConfig) -> Result<()> {
        network.plugins.iter().try_for_each(|plugin| self.find(&plugin.kind).map(drop))
    }

    /// Runs one. Its answer, which ADD must have.
    ///
    /// # Errors
    /// It is not there, refuses, takes too long or is not to go on (it is killed then), or answers what cannot be meant.
    pub fn run(
        &self,
        command: Command,
        id: &str,
        namespace: Option<&Path>,
        plugin: &Plugin,
        input: &Value,
    ) -> Result<Option<Value>> {
        let program = self.find(&plugin.kind)?;
        let about = || format!("the CNI plugin {} ({})", plugin.kind, command.name());
        // Files, not pipes: whom it leaves behind keeps nobody waiting, nor does one that does not read.
        let told = child::file_of(input.to_string().as_bytes()).doing(about)?;
        let (mut said, mut complained) = (child::file_of(b"").doing(about)?, child::file_of(b"").doing(about)?);
        let stop = command.stopped_by().descriptor().doing(about)?;
        let mut run = process::Command::new(&program);
        run.env_clear()
            // For those that run iptables and the like.
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin".into()))
            .env("CNI_COMMAND", command.name())
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", namespace.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", &self.path)
            .stdin(told)
            .stdout(Stdio::from(said.try_clone().doing(about)?))
            .stderr(Stdio::from(complained.try_clone().doing(about)?))
            .process_group(0);
        sys::die_with_parent(&mut run);
        let mut child = run.spawn().doing(|| format!("cannot start {}", program.display()))?;
        let ended = child::wait_unless(&mut child, Instant::now() + self.patience, Some(stop.as_fd()));
        let killed = |why: String| Err(Error::Other(format!("{}: {why}, and is killed", about())));
        let status = match ended.doing(|| format!("cannot wait for {}", about()))? {
            End::Own(status) => status,
            End::Late => return killed(format!("it has not ended within {} s", self.patience.as_secs())),
            End::Stopped => return killed("a signal says that it is not to go on".into()),
        };
        let said = child::content(&mut said, ANSWER).doing(about)?;
        if !status.success() {
            let refusal = match serde_json::from_slice::<Refusal>(&said) {
                Ok(Refusal { msg, details }) if details.is_empty() => msg,
                Ok(Refusal { msg, details }) => format!("{msg}: {details}"),
                Err(_) => format!(
                    "{status}: {}",
                    String::from_utf8_lossy(&child::content(&mut complained, ANSWER).doing(about)?).trim()
                ),
            };
            return Err(Error::Other(format!("{}: {refusal}", about())));
        }
        if command == Command::Del {
            return Ok(None);
        }
        let bad = |what: String| Error::Other(format!("{}: its answer cannot be used: {what}", about()));
        let said: Value = serde_json::from_slice(&said).map_err(|error| bad(error.to_string()))?;
        answer::check(&said).map_err(bad)?;
        Ok(Some(said))
    }

    fn find(&self, kind: &str) -> Result<PathBuf> {
        let mut places = std::env::split_paths(&self.path).map(|dir| dir.join(kind));
        places.find(|program| program.is_file()).ok_or_else(|| {
            let path = self.path.to_string_lossy();
            Error::Other(format!("the CNI plugin {kind} is not in {path}: install the package containernetworking-plugins"))
        })
    }
}
