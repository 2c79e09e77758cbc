//! The servers that people run (tests/net/farm.sh), in all pairings: a sandbox and itself, the host, another sandbox, over IPv4 and IPv6; the same for
//! sandboxes that use the host's network.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{A, B, HOST, LONG, Lab, Server, cases, lines};
use crate::tally::Tally;
use crate::{packages, sh};

/// What farm.sh runs.
const PACKAGES: [&str; 13] = [
    "nginx-light",
    "redis-server",
    "redis-tools",
    "postgresql",
    "memcached",
    "dnsmasq-base",
    "bind9-dnsutils",
    "openssh-server",
    "openssh-client",
    "python3",
    "nodejs",
    "golang-go",
    "curl",
];
/// Where each farm's ports begin.
const OF_HOST: &str = "9100";
const OF_SANDBOX: &str = "9200";
const OF_ITSELF: &str = "9300";
/// On the host's network dnsmasq takes connections at addresses that netlink tells it only, and that tells of `lo` alone there (docs/net.md).
const ON_HOST: &str = "datagrams";

pub(super) struct Farm<'a> {
    lab: &'a Lab,
    program: String,
    folder: PathBuf,
}

impl<'a> Farm<'a> {
    pub(super) fn new(lab: &'a Lab) -> Result<Farm<'a>> {
        packages::ensure(&PACKAGES)?;
        let folder = std::env::temp_dir().join(lab.namespace("farm"));
        std::fs::create_dir_all(&folder)?;
        let farm = Farm { lab, program: sh::top().join("tests/net/farm.sh").display().to_string(), folder };
        let mut key = Command::new("ssh-keygen");
        sh::run(key.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(farm.folder.join("key")))?;
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(farm.folder.join("web")).arg(sh::top().join("tests/net/web.go"));
        build.env("CGO_ENABLED", "0").env("GOCACHE", sh::target().join("go-cache")).env("GOFLAGS", "-mod=mod");
        sh::run(&mut build).context("tests/net/web.go")?;
        Ok(farm)
    }

    fn serve(&self, port: &str) -> String {
        format!("bash {} serve {} {port}", self.program, self.folder.display())
    }

    /// The host's own, while `body` runs.
    pub(super) fn of_host(&self) -> Result<Server> {
        Server::start(&mut self.lab.in_host(&["bash", "-c", &self.serve(OF_HOST)]), "the host's servers")
    }

    fn host_asks(&self, addresses: &[&str], whose: &str, dns: &str, tally: &mut Tally) -> Result<()> {
        for address in addresses {
            let folder = self.folder.display().to_string();
            let mut check = self.lab.in_host(&["bash", &self.program, "check", address, OF_SANDBOX, &folder, dns]);
            cases(&format!("servers: host to {whose} {address}"), &sh::timed(&mut check, LONG)?, tally);
        }
        Ok(())
    }

    /// A sandbox with servers of its own asks those of a list: what each is called, its address and its ports.
    fn sandbox_asks(
        &self,
        mut sandbox: impl FnMut(&str) -> Command,
        asked: &[(&str, &str, &str)],
        dns: &str,
        tally: &mut Tally,
    ) -> Result<()> {
        let mut script =
            format!("{} >/tmp/ready & while ! grep -q ready /tmp/ready; do sleep 0.2; done; ", self.serve(OF_ITSELF));
        for (_, address, port) in asked {
            let folder = self.folder.display();
            script += &format!("echo == {address}; bash {} check {address} {port} {folder} {dns}; ", self.program);
        }
        let ended = sh::timed(&mut sandbox(&format!("{script} kill %1; exit 0")), LONG)?;
        let mut parts = ended.stdout.split("== ").skip(1);
        for (name, address, _) in asked {
            match parts.next() {
                Some(text) => lines(&format!("servers: sandbox to {name} {address}"), text, tally),
                None => tally.fail(format!("net servers: sandbox to {name} {address}: {}", sh::tail(&ended.stderr, 3))),
            }
        }
        Ok(())
    }

    /// On the pod's network.
    pub(super) fn pods(&self, tally: &mut Tally) -> Result<()> {
        let _sandbox = Server::start(&mut self.lab.sandbox("a", &self.serve(OF_SANDBOX)), "the sandbox's servers")?;
        self.host_asks(&A, "sandbox", "", tally)?;
        let asked = [
            ("itself", B[0], OF_ITSELF),
            ("itself", B[1], OF_ITSELF),
            ("sandbox", A[0], OF_SANDBOX),
            ("sandbox", A[1], OF_SANDBOX),
            ("host", HOST[0], OF_HOST),
            ("host", HOST[1], OF_HOST),
        ];
        self.sandbox_asks(|script| self.lab.sandbox("b", script), &asked, "", tally)
    }

    /// On the host's.
    pub(super) fn host_network(&self, tally: &mut Tally) -> Result<()> {
        let nacre = sh::nacre().display().to_string();
        let sandbox = |script: &str| self.lab.in_host(&[&nacre, "do", "--net", "host", "--", "bash", "-c", script]);
        let _sandbox = Server::start(&mut sandbox(&self.serve(OF_SANDBOX)), "the servers of a sandbox on the host's network")?;
        self.host_asks(&HOST, "sandbox on its network", ON_HOST, tally)?;
        let asked = [
            ("itself on the host's network", HOST[0], OF_ITSELF),
            ("itself on the host's network", HOST[1], OF_ITSELF),
            ("sandbox on the host's network", HOST[0], OF_SANDBOX),
            ("sandbox on the host's network", HOST[1], OF_SANDBOX),
            ("host on its network", HOST[0], OF_HOST),
            ("host on its network", HOST[1], OF_HOST),
        ];
        self.sandbox_asks(sandbox, &asked, ON_HOST, tally)
    }
}

impl Drop for Farm<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
