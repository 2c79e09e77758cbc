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
    pub annotations: Vec<(String, String)>,
    pub memory: Option<i64>,
    pub user: Option<u64>,
    pub mounts: Vec<String>,
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
                "--cni" => options.cni = true,
                "--annotation" => {
                    let text = value()?;
                    let (name, value) = text.split_once('=').context("--annotation takes K=V")?;
                    options.annotations.push((name.into(), value.into()));
                }
                "--memory" => options.memory = Some(value()?.parse()?),
                "--user" => options.user = Some(value()?.parse()?),
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
