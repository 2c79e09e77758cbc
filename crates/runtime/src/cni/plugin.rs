//! Running a plugin: its parameters are variables, its configuration is its input, and its answer its output.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;
use serde_json::Value;

use super::answer;
use super::config::Plugin;
use crate::error::{Doing, Error, Result};

/// Where plugins are, unless `$CNI_PATH` says.
const PLUGINS: &str = "/opt/cni/bin:/usr/lib/cni";
/// What the interface is called in the sandbox.
pub const INTERFACE: &str = "eth0";
/// How long a plugin may take: as long as engines let a pod's network take.
const PATIENCE: Duration = Duration::from_secs(120);
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

    /// Runs one. Its answer, which ADD must have.
    ///
    /// # Errors
    /// It is not there, refuses, takes too long (it is killed then), or answers what cannot be meant.
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
        let mut told = file(&about)?;
        told.write_all(input.to_string().as_bytes()).and_then(|()| told.rewind()).doing(about)?;
        let (mut said, mut complained) = (file(&about)?, file(&about)?);
        let mut child = process::Command::new(&program)
            .env_clear()
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
            .process_group(0)
            .spawn()
            .doing(|| format!("cannot start {}", program.display()))?;
        let Some(status) = self.wait(&mut child).doing(|| format!("cannot wait for {}", about()))? else {
            return Err(Error::Other(format!(
                "{}: it has not ended within {} s, and is killed",
                about(),
                self.patience.as_secs()
            )));
        };
        let said = text(&mut said).doing(about)?;
        if !status.success() {
            let refusal = match serde_json::from_slice::<Refusal>(&said) {
                Ok(Refusal { msg, details }) if details.is_empty() => msg,
                Ok(Refusal { msg, details }) => format!("{msg}: {details}"),
                Err(_) => format!("{status}: {}", String::from_utf8_lossy(&text(&mut complained).doing(about)?).trim()),
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

    /// Waits for its end. None: it took too long, and is gone with all that it has started.
    fn wait(&self, child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
        let pid = Pid::from_child(child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let end = std::time::Instant::now() + self.patience;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) => break,
                Ok(_) => return child.wait().map(Some),
            }
        }
        kill_process_group(pid, Signal::KILL)?;
        child.wait().map(|_| None)
    }

    fn find(&self, kind: &str) -> Result<PathBuf> {
        let mut places = std::env::split_paths(&self.path).map(|dir| dir.join(kind));
        places.find(|program| program.is_file()).ok_or_else(|| {
            let path = self.path.to_string_lossy();
            Error::Other(format!("the CNI plugin {kind} is not in {path}: install the package containernetworking-plugins"))
        })
    }
}

fn file(about: &dyn Fn() -> String) -> Result<File> {
    let file = rustix::fs::memfd_create("nacre-cni", rustix::fs::MemfdFlags::CLOEXEC).doing(about)?;
    Ok(File::from(file))
}

fn text(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(ANSWER).read_to_end(&mut bytes)?;
    Ok(bytes)
}
