//! The command line.

use anyhow::{Context, Result, bail};

#[derive(Debug, Default)]
pub struct Options {
    pub socket: String,
    pub verb: String,
    pub arguments: Vec<String>,
    /// After `--`.
    pub command: Vec<String>,
    pub handler: String,
    pub share_pid: bool,
    pub cni: bool,
    /// The pod's network is the node's, and nothing is said of how.
    pub node_network: bool,
    pub cgroup_parent: String,
    pub tty: bool,
    /// The container whose processes are to be seen.
    pub target: Option<String>,
    /// What is sent; None: no input is asked for.
    pub stdin: Option<String>,
    /// Output after which nothing more is waited for.
    pub until: Option<String>,
    pub annotations: Vec<(String, String)>,
    pub memory: Option<i64>,
    pub user: Option<u64>,
    pub group: Option<u64>,
    pub groups: Vec<i64>,
    pub cpu_quota: Option<i64>,
    pub sysctls: Vec<(String, String)>,
    pub capabilities_added: Vec<String>,
    pub capabilities_dropped: Vec<String>,
    pub interactive: bool,
    pub read_only: bool,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub seccomp: bool,
    pub mounts: Vec<String>,
    pub devices: Vec<String>,
    log: Option<String>,
}

impl Options {
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Options> {
        let mut args = args;
        let mut options = Options {
            socket: args.next().context("the socket is missing")?,
            verb: args.next().context("the verb is missing")?,
            ..Options::default()
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--handler" => options.handler = value()?,
                "--share-pid" => options.share_pid = true,
                "--tty" => options.tty = true,
                "--target" => options.target = Some(value()?),
                "--stdin" => options.stdin = Some(value()?),
                "--until" => options.until = Some(value()?),
                "--cni" => options.cni = true,
                "--node-network" => options.node_network = true,
                "--cgroup-parent" => options.cgroup_parent = value()?,
                "--interactive" => options.interactive = true,
                "--read-only" => options.read_only = true,
                "--privileged" => options.privileged = true,
                "--no-new-privileges" => options.no_new_privileges = true,
                "--seccomp" => options.seccomp = true,
                "--annotation" => options.annotations.push(pair(&value()?)?),
                "--sysctl" => options.sysctls.push(pair(&value()?)?),
                "--cap-add" => options.capabilities_added.push(value()?),
                "--cap-drop" => options.capabilities_dropped.push(value()?),
                "--cpu-quota" => options.cpu_quota = Some(value()?.parse()?),
                "--group" => options.group = Some(value()?.parse()?),
                "--groups" => options.groups.push(value()?.parse()?),
                "--memory" => options.memory = Some(value()?.parse()?),
                "--user" => options.user = Some(value()?.parse()?),
                "--device" => options.devices.push(value()?),
                "--mount" => options.mounts.push(value()?),
                "--log" => options.log = Some(value()?),
                "--" => options.command = args.by_ref().collect(),
                flag if flag.starts_with("--") => bail!("unknown flag {flag}"),
                _ => options.arguments.push(arg),
            }
        }
        Ok(options)
    }

    /// CRI splits a log's path in two.
    pub fn log_directory(&self) -> String {
        let parts = self.log.as_deref().and_then(|log| log.rsplit_once('/'));
        parts.map(|(dir, _)| dir.to_string()).unwrap_or_default()
    }

    pub fn log_name(&self) -> String {
        let parts = self.log.as_deref().and_then(|log| log.rsplit_once('/'));
        parts.map(|(_, name)| name.to_string()).unwrap_or_default()
    }
}

fn pair(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').with_context(|| format!("{text:?} is not K=V"))?;
    Ok((name.into(), value.into()))
}
