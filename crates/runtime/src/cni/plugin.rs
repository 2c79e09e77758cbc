//! Running a plugin: its parameters are variables, its configuration is its input, and its answer its output.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

use serde::Deserialize;
use serde_json::Value;

use super::config::Plugin;
use crate::error::{Doing, Error, Result};

/// Where plugins are, unless `$CNI_PATH` says.
const PLUGINS: &str = "/opt/cni/bin:/usr/lib/cni";
/// What the interface is called in the sandbox.
const INTERFACE: &str = "eth0";

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

/// A plugin's word for what went wrong.
#[derive(Deserialize)]
struct Refusal {
    msg: String,
    #[serde(default)]
    details: String,
}

/// Runs it. Its answer, if it gives one.
///
/// # Errors
/// It is not there, or refuses.
pub fn run(command: Command, id: &str, namespace: Option<&Path>, plugin: &Plugin, input: &Value) -> Result<Option<Value>> {
    let path = std::env::var_os("CNI_PATH").unwrap_or_else(|| PLUGINS.into());
    let program = find(&path, &plugin.kind)?;
    let about = || format!("the CNI plugin {} ({})", plugin.kind, command.name());
    let mut child = process::Command::new(&program)
        .env_clear()
        // For those that run iptables and the like.
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin".into()))
        .env("CNI_COMMAND", command.name())
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", namespace.unwrap_or(Path::new("")))
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_PATH", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("cannot start {}", program.display()))?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that does not read it has its reasons, and says them.
        let _ = pipe.write_all(input.to_string().as_bytes());
    }
    let output = child.wait_with_output().doing(|| format!("cannot wait for {}", about()))?;
    if !output.status.success() {
        let said = match serde_json::from_slice::<Refusal>(&output.stdout) {
            Ok(Refusal { msg, details }) if details.is_empty() => msg,
            Ok(Refusal { msg, details }) => format!("{msg}: {details}"),
            Err(_) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        };
        return Err(Error::Other(format!("{}: {said}", about())));
    }
    if output.stdout.trim_ascii().is_empty() {
        return Ok(None);
    }
    let answer = serde_json::from_slice(&output.stdout);
    answer.map(Some).map_err(|error| Error::Other(format!("{}: its answer cannot be read: {error}", about())))
}

fn find(path: &OsString, kind: &str) -> Result<PathBuf> {
    let mut places = std::env::split_paths(path).map(|dir| dir.join(kind));
    places.find(|program| program.is_file()).ok_or_else(|| {
        let path = path.to_string_lossy();
        Error::Other(format!("the CNI plugin {kind} is not in {path}: install the package containernetworking-plugins"))
    })
}
