//! `net`: sandboxes on a pod network, as a CNI plugin makes it: two network namespaces on a bridge in a third, which stands for the host. All is done
//! twice: over the veth pairs (packet sockets, or tcfilter for VMs), and over the taps that our own plugin puts in their place.
//!
//! tests/net/peer.py is at both ends, in every pairing (a sandbox and itself, the host, another sandbox), over IPv4 and IPv6; tests/net/hostile.py
//! sends what nobody should; tests/net/tools.sh is what people use (curl, ssh, dig, ss, tcpdump, `ip`, apt; not in VMs), with servers.sh on the host;
//! tests/net/farm.sh has the servers that people run (`servers`; VMs only with `--full`), in all pairings. `--full`
//! adds ten thousand connections held by one server, and two hundred thousand short ones; `--small` is what an emulated VM does in some minutes. With
//! `NACRE_SANDBOX=vm` the sandboxes are VMs, and what takes an emulated one long is asked by the host only.

mod farm;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::plug::Plug;
use crate::tally::Tally;
use crate::{packages, sh};

const LIMIT: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(600);
const HOST: [&str; 2] = ["10.77.0.1", "fd77::1"];
const A: [&str; 2] = ["10.77.0.2", "fd77::2"];
const B: [&str; 2] = ["10.77.0.3", "fd77::3"];
const C: [&str; 2] = ["10.77.0.4", "fd77::4"];
const PORT: &str = "7000";
/// What tools.sh and servers.sh run.
const TOOLS: [&str; 11] = [
    "curl",
    "openssh-server",
    "openssh-client",
    "bind9-dnsutils",
    "dnsmasq-base",
    "iputils-arping",
    "iputils-ping",
    "tcpdump",
    "dpkg-dev",
    "apt",
    "util-linux",
];

/// Cases of a few packets each.
const FEW_PACKETS: &[&str] =
    &["echo", "names", "reset", "refused", "nonblocking", "udp", "udp_fragments", "udp_refused", "udp_too_long"];

/// How much is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    Small,
    All,
    Full,
}

impl Tier {
    /// What the host asks; all if none are named.
    fn host_cases(self) -> &'static [&'static str] {
        if self == Tier::Small { FEW_PACKETS } else { &[] }
    }

    /// What a sandbox asks.
    fn sandbox_cases(self) -> &'static [&'static str] {
        if self == Tier::Small || sh::in_vm() { FEW_PACKETS } else { &[] }
    }

    /// What there is to do over a link.
    fn over(self, link: Link) -> Tier {
        match (self, link) {
            (Tier::All, Link::Tap) => Tier::Small,
            _ => self,
        }
    }

    /// How long that may take.
    fn limit(self) -> Duration {
        if self == Tier::Full || sh::in_vm() { LONG } else { LIMIT * 3 }
    }
}

/// What is between the host and a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Veth,
    Tap,
}

pub fn run(args: &[String]) -> Result<Tally> {
    let (mut tier, mut links, mut only_servers) = (Tier::All, vec![Link::Veth, Link::Tap], false);
    for arg in args {
        match arg.as_str() {
            "--full" => tier = Tier::Full,
            "--small" => tier = Tier::Small,
            "veth" => links = vec![Link::Veth],
            "tap" => links = vec![Link::Tap],
            "servers" => only_servers = true,
            _ => bail!("net: unknown argument {arg:?}"),
        }
    }
    packages::ensure(&["busybox-static", "python3", "iproute2"])?;
    sh::build_nacre()?;
    let mut tally = Tally::default();
    for link in links.iter().filter(|_| !only_servers) {
        println!("net: over a {}", format!("{link:?}").to_lowercase());
        over(*link, if links.len() == 1 { tier } else { tier.over(*link) }, &mut tally)?;
    }
    // What servers do hardly depends on the link.
    if only_servers || tier == Tier::Full {
        for link in &links {
            servers(*link, &mut tally)?;
        }
    } else if tier == Tier::All && !sh::in_vm() {
        servers(Link::Veth, &mut tally)?;
    }
    Ok(tally)
}

/// The servers that people run.
fn servers(link: Link, tally: &mut Tally) -> Result<()> {
    println!("net: servers over a {}", format!("{link:?}").to_lowercase());
    let lab = Lab::new(link)?;
    let farm = farm::Farm::new(&lab)?;
    let _host = farm.of_host()?;
    farm.pods(tally)?;
    // That is the same over every link.
    if link == Link::Veth && !sh::in_vm() {
        farm.host_network(tally)?;
    }
    Ok(())
}

fn over(link: Link, tier: Tier, tally: &mut Tally) -> Result<()> {
    let lab = Lab::new(link)?;
    let _host = Server::start(&mut lab.in_host(&["python3", &lab.peer, "serve", PORT]), "the host's server")?;
    let server = format!("cd {}; busybox httpd -p 8000 -h . ; exec python3 {} serve {PORT}", lab.files().display(), lab.peer);
    let mut sandbox = Server::start(&mut lab.sandbox("a", &server), "the sandbox's server")?;
    lab.host_asks(tier, tally)?;
    lab.sandbox_asks(tier, tally)?;
    if tier != Tier::Small && !sh::in_vm() {
        packages::ensure(&TOOLS)?;
        lab.tools(tally)?;
    }
    tally.step("net: a namespace that another sandbox has is refused", lab.taken());
    tally.step("net: no such namespace", lab.missing());
    tally.step("net: nobody answers beside the sandbox", lab.quiet());
    tally.step("net: a flood of bad frames", lab.hostile(&mut sandbox));
    if link == Link::Tap {
        tally.step("net: what is not in a sandbox is told that there is no network", lab.without_nacre());
        tally.step("net: the taps go", lab.plugs.iter().try_for_each(Plug::delete));
        tally.step("net: a sandbox whose tap has gone lives on", lab.lives_on(&mut sandbox));
    }
    Ok(())
}

/// The namespaces, and where things are.
struct Lab {
    name: String,
    peer: String,
    link: Link,
    plugs: Vec<Plug>,
}

impl Lab {
    fn new(link: Link) -> Result<Lab> {
        let mut lab = Lab {
            name: format!("nacre-net-{}", std::process::id()),
            peer: sh::top().join("tests/net/peer.py").display().to_string(),
            link,
            plugs: Vec::new(),
        };
        let host = lab.namespace("h");
        ip(&["netns", "add", &host])?;
        ip(&["-n", &host, "link", "set", "lo", "up"])?;
        ip(&["-n", &host, "link", "add", "br0", "type", "bridge"])?;
        // It asks who is in which group, and carries to a port what somebody there has asked for: also what neighbours are asked by.
        ip(&["-n", &host, "link", "set", "br0", "type", "bridge", "mcast_querier", "1"])?;
        ip(&["-n", &host, "addr", "add", &format!("{}/24", HOST[0]), "dev", "br0"])?;
        ip(&["-n", &host, "addr", "add", &format!("{}/64", HOST[1]), "dev", "br0", "nodad"])?;
        ip(&["-n", &host, "link", "set", "br0", "up"])?;
        for (name, addresses) in [("a", A), ("b", B), ("c", C)] {
            let pod = lab.namespace(name);
            ip(&["netns", "add", &pod])?;
            ip(&["-n", &pod, "link", "set", "lo", "up"])?;
            let port = format!("veth-{name}");
            ip(&["link", "add", &port, "netns", &host, "type", "veth", "peer", "name", "eth0", "netns", &pod])?;
            ip(&["-n", &host, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &pod, "link", "set", "eth0", "up"])?;
            lab.addresses(name, addresses)?;
            if link == Link::Tap {
                let plug = Plug { host: host.clone(), pod, veth: port, address: format!("{}/24", addresses[0]) };
                plug.add()?;
                lab.plugs.push(plug);
            }
        }
        Ok(lab)
    }

    /// Gives a pod's interface its addresses, as the plugin did.
    fn addresses(&self, name: &str, [v4, v6]: [&str; 2]) -> Result<()> {
        let pod = self.namespace(name);
        ip(&["-n", &pod, "addr", "add", &format!("{v4}/24"), "broadcast", "+", "dev", "eth0"])?;
        ip(&["-n", &pod, "addr", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"])?;
        ip(&["-n", &pod, "route", "add", "default", "via", HOST[0]])?;
        ip(&["-n", &pod, "route", "add", "default", "via", HOST[1]])
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    fn in_host(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace("h")]).args(args);
        command
    }

    /// A sandbox on a pod's network that runs a script.
    fn sandbox(&self, name: &str, script: &str) -> Command {
        let mut command = Command::new(sh::nacre());
        let path = PathBuf::from("/run/netns").join(self.namespace(name));
        command.arg("do").arg("--net").arg(path).args(["--", "sh", "-c", script]);
        command
    }

    /// Where the sandbox's web server finds something.
    fn files(&self) -> PathBuf {
        sh::top().join("tests/net")
    }

    /// The host asks the sandbox.
    fn host_asks(&self, tier: Tier, tally: &mut Tally) -> Result<()> {
        for address in A {
            let check = [&["python3", &self.peer, "check", address, PORT][..], tier.host_cases()].concat();
            let ended = sh::timed(&mut self.in_host(&check), LIMIT * 2)?;
            cases(&format!("host to sandbox {address}"), &ended, tally);
        }
        let ping = self.in_host(&["busybox", "ping", "-c", "3", A[0]]);
        tally.step("net: the host pings the sandbox", succeeds(ping));
        let fetch = self.in_host(&["busybox", "wget", "-q", "-O", "/dev/null", &format!("http://{}:8000/peer.py", A[0])]);
        tally.step("net: a web server in the sandbox", succeeds(fetch));
        if tier == Tier::Full {
            for (case, many) in [("many", "10000"), ("churn", "200000")] {
                let mut command = self.in_host(&["python3", &self.peer, "check", A[0], PORT, case]);
                let ended = sh::timed(command.env("MANY", many), LONG)?;
                cases(&format!("host to sandbox, {many}"), &ended, tally);
            }
        }
        Ok(())
    }

    /// A second sandbox asks the host, the first, and itself.
    fn sandbox_asks(&self, tier: Tier, tally: &mut Tally) -> Result<()> {
        let cases = tier.sandbox_cases().join(" ");
        let mut script = format!("python3 {} serve {PORT} >/dev/null & ", self.peer);
        let mut places = Vec::new();
        for (place, [v4, v6]) in [("host", HOST), ("sandbox", A), ("itself", B)] {
            for address in [v4, v6] {
                places.push(format!("sandbox to {place} {address}"));
                script += &format!("echo == {address}; python3 {} check {address} {PORT} {cases}; ", self.peer);
            }
        }
        // What the interface looks like from inside, and ICMP.
        script += &format!(
            "echo == programs; busybox ping -c 2 {} >/dev/null && echo ok ping; busybox ping -c 2 {} >/dev/null && echo ok ping_sandbox; \
             busybox ping -6 -c 2 {} >/dev/null && echo ok ping_v6; \
             busybox wget -q -O /dev/null http://{}:8000/peer.py && echo ok wget; \
             ip -o addr show eth0 | grep -q {} && echo ok address; ip route | grep -q 'default via {}' && echo ok route; \
             ip neigh | grep -q {} && echo ok neighbour; grep -q eth0 /proc/net/dev && echo ok dev; \
             test $(cat /sys/class/net/eth0/mtu) = 1500 && echo ok mtu; kill %1 2>/dev/null; exit 0",
            HOST[0], A[0], HOST[1], A[0], B[0], HOST[0], HOST[0],
        );
        let ended = sh::timed(&mut self.sandbox("b", &script), tier.limit())?;
        let mut parts = ended.stdout.split("== ").skip(1);
        for place in places {
            match parts.next() {
                Some(text) => lines(&place, text, tally),
                None => tally.fail(format!("net {place}: not reached: {}", sh::tail(&ended.stderr, 3))),
            }
        }
        let programs = parts.next().unwrap_or_default();
        for name in ["ping", "ping_sandbox", "ping_v6", "wget", "address", "route", "neighbour", "dev", "mtu"] {
            let there = programs.lines().any(|line| line == format!("ok {name}"));
            let result = if there { Ok(()) } else { Err(anyhow::anyhow!("{}", sh::tail(&ended.stderr, 3))) };
            tally.step(&format!("net: {name} in the sandbox"), result);
        }
        Ok(())
    }

    /// What people use, in a third sandbox.
    fn tools(&self, tally: &mut Tally) -> Result<()> {
        let folder = std::env::temp_dir().join(self.namespace("tools")).display().to_string();
        let program = |name: &str| sh::top().join("tests/net").join(name).display().to_string();
        let servers = ["bash", &program("servers.sh"), &folder, HOST[0], HOST[1]];
        let servers = Server::start(&mut self.in_host(&servers), "servers.sh");
        let script = format!("bash {} {folder} {} {} {}", program("tools.sh"), HOST[0], HOST[1], C[0]);
        let ended = servers.and_then(|_servers| sh::timed(&mut self.sandbox("c", &script), LIMIT * 3));
        let _ = std::fs::remove_dir_all(&folder);
        cases("tools", &ended?, tally);
        Ok(())
    }

    /// Nobody gets a network that another has.
    fn taken(&self) -> Result<()> {
        let ended = sh::timed(&mut self.sandbox("a", "true"), LIMIT)?;
        let why = match self.link {
            _ if !sh::in_vm() => "another sandbox has the network namespace",
            Link::Veth => "another sandbox has interface eth0",
            Link::Tap => "another sandbox has it",
        };
        if ended.success() || !ended.stderr.contains(why) {
            bail!("{}: {}", ended.how(), sh::tail(&ended.stderr, 3));
        }
        Ok(())
    }

    fn missing(&self) -> Result<()> {
        let ended = sh::timed(Command::new(sh::nacre()).args(["do", "--net", "/run/netns/nacre-none", "--", "true"]), LIMIT)?;
        if ended.success() || !ended.stderr.contains("cannot open the network namespace /run/netns/nacre-none") {
            bail!("{}: {}", ended.how(), sh::tail(&ended.stderr, 3));
        }
        Ok(())
    }

    /// The host's kernel has the addresses as well, and keeps silent.
    fn quiet(&self) -> Result<()> {
        let program = sh::top().join("tests/net/quiet.py").display().to_string();
        let ended = sh::timed(&mut self.in_host(&["python3", &program, "veth-a", A[0], A[1]]), LIMIT)?;
        if !ended.stdout.contains("done") {
            bail!("quiet.py: {}: {}", ended.how(), sh::tail(&ended.stderr, 3));
        }
        if self.link == Link::Veth {
            let mut ping = Command::new("ip");
            ping.args(["netns", "exec", &self.namespace("a"), "busybox", "ping", "-c", "1", "-W", "1", HOST[0]]);
            if sh::timed(&mut ping, LIMIT)?.success() {
                bail!("the host's kernel sends from a sandbox's interface");
            }
        }
        Ok(())
    }

    /// What another runtime would run in a pod with a tap.
    fn without_nacre(&self) -> Result<()> {
        for address in [HOST[0], &format!("[{}]", HOST[1])] {
            let mut fetch = Command::new("ip");
            fetch.args(["netns", "exec", &self.namespace("b"), "busybox", "wget", "-q", "-O", "/dev/null"]);
            let ended = sh::timed(fetch.arg(format!("http://{address}:{PORT}/")), LIMIT)?;
            if ended.success() || !ended.stderr.contains("Network is unreachable") {
                bail!("{address}: {}: {}", ended.how(), sh::tail(&ended.stderr, 3));
            }
        }
        Ok(())
    }

    /// Whose tap has gone has a network from which nothing comes.
    fn lives_on(&self, sandbox: &mut Server) -> Result<()> {
        std::thread::sleep(Duration::from_millis(300));
        lives(sandbox)
    }

    /// Bad frames; afterwards the server must answer as before.
    fn hostile(&self, sandbox: &mut Server) -> Result<()> {
        let program = sh::top().join("tests/net/hostile.py").display().to_string();
        for seed in ["1", "2"] {
            let ended = sh::timed(&mut self.in_host(&["python3", &program, "br0", A[0], seed]), LIMIT)?;
            if !ended.stdout.contains("done") {
                bail!("hostile.py: {}: {}", ended.how(), sh::tail(&ended.stderr, 3));
            }
        }
        lives(sandbox)?;
        self.afterwards(&["echo", "download", "half_close", "udp", "short_connections"])?;
        // A VM's kernel has a queue for each listener: the one that others connect to is not flooded.
        if !sh::in_vm() {
            self.afterwards(&["cookies"])?;
        }
        // Linux keeps the pieces of packets for 30 s (ipfrag_time), and takes no others while its memory for them is full: so does a network namespace of
        // the host, and a VM. A case waits for 20 s.
        let mut last = self.afterwards(&["udp_fragments"]);
        for _ in 0..if sh::in_vm() { 2 } else { 0 } {
            last = last.or_else(|_| self.afterwards(&["udp_fragments"]));
        }
        last
    }

    fn afterwards(&self, cases: &[&str]) -> Result<()> {
        let args = [&["python3", &self.peer, "check", A[0], PORT], cases].concat();
        let ended = sh::timed(&mut self.in_host(&args), if sh::in_vm() { LONG } else { LIMIT })?;
        match ended.stdout.lines().filter(|line| line.starts_with("ok ")).count() == cases.len() {
            true => Ok(()),
            false => bail!("afterwards: {}", ended.stdout.trim().replace('\n', "; ")),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in ["a", "b", "c", "h"] {
            let _ = ip(&["netns", "del", &self.namespace(name)]);
        }
    }
}

/// A server that has said that it is ready; ended when dropped.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, what: &str) -> Result<Server> {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {what}"))?;
        let mut server = Server(child);
        let stdout = server.0.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("{what} did not start");
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(args: &[&str]) -> Result<()> {
    sh::run(Command::new("ip").args(args))
}

/// A sandbox that should have gone on.
fn lives(sandbox: &mut Server) -> Result<()> {
    match sandbox.0.try_wait()? {
        None => Ok(()),
        Some(status) => bail!("the sandbox has ended: {status}"),
    }
}

fn succeeds(mut command: Command) -> Result<()> {
    let ended = sh::timed(&mut command, LIMIT)?;
    if !ended.success() {
        bail!("{}: {}", ended.how(), sh::tail(&ended.stderr, 3));
    }
    Ok(())
}

fn cases(place: &str, ended: &sh::Ended, tally: &mut Tally) {
    if ended.stdout.is_empty() {
        tally.fail(format!("net {place}: {}: {}", ended.how(), sh::tail(&ended.stderr, 3)));
    }
    lines(place, &ended.stdout, tally);
}

/// Counts what peer.py said.
fn lines(place: &str, text: &str, tally: &mut Tally) {
    let (mut passed, mut failed) = (0, 0);
    for line in text.lines() {
        if line.starts_with("ok ") {
            passed += 1;
            tally.pass();
        } else if let Some(what) = line.strip_prefix("FAIL ") {
            failed += 1;
            tally.fail(format!("net {place}: {what}"));
        }
    }
    println!("net {place}: {passed} of {} cases pass", passed + failed);
    if passed + failed == 0 {
        tally.fail(format!("net {place}: no case ran"));
    }
}
