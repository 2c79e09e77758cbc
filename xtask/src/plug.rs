//! Our CNI plugin, as an engine would run it after a plugin that has made a veth pair: [`Plug`].

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::sh;

const LIMIT: Duration = Duration::from_secs(20);

/// One interface `eth0` of a pod.
pub struct Plug {
    /// The network namespaces, by name.
    pub host: String,
    pub pod: String,
    /// The pair's end in `host`.
    pub veth: String,
    /// As `10.0.0.2/24`.
    pub address: String,
}

impl Plug {
    /// Puts a tap in the pair's place.
    pub fn add(&self) -> Result<()> {
        let said = self.plugin("ADD")?;
        if said.trim() != self.before() {
            bail!("nacre-cni answers {said}");
        }
        self.plugin("CHECK").map(drop)
    }

    /// Takes it away; a second time there is nothing to do, and a check fails.
    pub fn delete(&self) -> Result<()> {
        self.plugin("DEL")?;
        self.plugin("DEL")?;
        let mut show = Command::new("ip");
        if sh::timed(show.args(["-n", &self.host, "link", "show", &self.veth]), LIMIT)?.success() {
            bail!("the tap {} is still there", self.veth);
        }
        match self.plugin("CHECK") {
            Err(error) if format!("{error:#}").contains("the tap is not there") => Ok(()),
            other => bail!("a check of nothing: {other:?}"),
        }
    }

    /// What the plugin before has answered.
    fn before(&self) -> String {
        let interfaces = format!(r#"[{{"name":"{}"}},{{"name":"eth0","sandbox":"/run/netns/{}"}}]"#, self.veth, self.pod);
        let ips = format!(r#"[{{"address":"{}","interface":1}}]"#, self.address);
        format!(r#"{{"cniVersion":"1.0.0","interfaces":{interfaces},"ips":{ips}}}"#)
    }

    fn plugin(&self, command: &str) -> Result<String> {
        let before = self.before();
        let config = format!(r#"{{"cniVersion":"1.0.0","name":"xtask","type":"nacre-cni","prevResult":{before}}}"#);
        let mut plugin = Command::new("ip");
        plugin.args(["netns", "exec", &self.host, "bash", "-c", "exec -a nacre-cni \"$0\" <<<\"$1\""]);
        plugin.arg(sh::nacre()).arg(config);
        plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", &self.pod).env("CNI_IFNAME", "eth0");
        plugin.env("CNI_NETNS", format!("/run/netns/{}", self.pod));
        let ended = sh::timed(&mut plugin, LIMIT)?;
        match ended.success() {
            true => Ok(ended.stdout),
            false => bail!("nacre-cni {command}: {}{}", ended.stdout.trim(), ended.stderr.trim()),
        }
    }
}
