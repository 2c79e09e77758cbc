//! `bench --net`: servers and their clients on a sandbox's own loopback interface (bench/network.sh) in one Debian bundle under runc, runsc and Nacre;
//! and a pod's network: iperf3 and a ping-pong (bench/pingpong.c) from a namespace that stands for the host to one that stands for the pod,
//! by turns with the server in it as it is and in sandboxes that have joined it: over the veth pair, and over the tap that our CNI plugin puts in its
//! place. Then the same with VMs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::{self, Load, Options, Unit};
use crate::bench_vm::vmm_has_kvm;
use crate::plug::Plug;
use crate::{agent, bundle, packages, page, sh, startup};

const ROWS: [&str; 7] = ["redis-set", "redis-get", "redis-set-16", "redis-get-16", "wrk-small", "wrk-1MiB", "pgbench-tcp"];
/// The word for all rows of the second section.
const PODS: &str = "pod";
const LIMIT: Duration = Duration::from_secs(300);
/// How long servers may take to answer: an emulated VM boots first.
const PATIENCE: Duration = Duration::from_secs(90);
/// The two sections.
pub const LOOPBACK: &str = "## Network: a sandbox's own loopback";
pub const POD_NETWORK: &str = "## Network: a pod's";

/// A pod row: its name, and iperf3's arguments; none: the ping-pong.
const POD: [(&str, &[&str]); 5] = [
    ("host to pod, 1 stream, Gbit/s", &["-P", "1"]),
    ("host to pod, 8 streams, Gbit/s", &["-P", "8"]),
    ("pod to host, 1 stream, Gbit/s", &["-P", "1", "-R"]),
    ("pod to host, 8 streams, Gbit/s", &["-P", "8", "-R"]),
    ("ping-pong of a byte, µs", &[]),
];
const ADDRESS: &str = "10.77.0.2";
const PORT: &str = "7777";

/// The tables; whole ones go to docs/performance.md, in the place of those before.
pub fn run(options: &Options) -> Result<()> {
    options.check(&[&ROWS[..], &[PODS]].concat())?;
    let whole = options.rows.is_empty();
    let rows = options.wanted(&ROWS);
    let pods = whole || options.rows.iter().any(|row| row == PODS);
    if pods {
        // First, as what is missing should not be said after a quarter of an hour.
        packages::ensure(&["iperf3", "iproute2", "qemu-system-x86", "linux-image-cloud-amd64"])?;
        agent::build()?;
    }
    if !rows.is_empty() {
        page::show(LOOPBACK, &loopback(options, rows)?, whole)?;
    }
    if pods {
        page::show(POD_NETWORK, &pod(options)?, true)?;
    }
    Ok(())
}

fn loopback(options: &Options, rows: Vec<String>) -> Result<String> {
    let root = bundle::network()?;
    let dir = root.join("bench");
    std::fs::create_dir_all(&dir)?;
    std::fs::copy(sh::top().join("bench/network.sh"), dir.join("network.sh"))?;
    let load = Load { rootfs: root, args: vec!["/bin/bash".into(), "/bench/network.sh".into()], rows, limit: LIMIT };
    let samples = bench::measure(&load, options)?;
    let title = format!("{} (ns for a request, median of {} rounds)", LOOPBACK.trim_start_matches("## "), options.rounds);
    bench::table(&title, &samples, &load.rows, options, Unit::Nanoseconds)
}

/// What was measured of a row in a place: the figure, and CPUs that the server's side used.
type Samples = BTreeMap<(usize, Place), Vec<(f64, f64)>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Plain,
    Veth,
    Tap,
    /// A VM behind a veth pair: tcfilter.
    VmVeth,
    VmTap,
}

impl Place {
    /// Those that are measured by turns. An emulated VM is never idle, so those are on their own.
    const TURNS: [&'static [Place]; 2] = [&[Place::Plain, Place::Veth, Place::Tap], &[Place::VmVeth, Place::VmTap]];

    fn title(self) -> &'static str {
        match self {
            Place::Plain => "plain",
            Place::Veth => "sentry, veth",
            Place::Tap => "sentry, tap",
            Place::VmVeth => "VM, veth (tcfilter)",
            Place::VmTap => "VM, tap",
        }
    }

    fn has_tap(self) -> bool {
        matches!(self, Place::Tap | Place::VmTap)
    }

    fn sandbox(self) -> &'static str {
        if matches!(self, Place::VmVeth | Place::VmTap) { "vm" } else { "sentry" }
    }
}

fn pod(options: &Options) -> Result<String> {
    let program = sh::target().join("pingpong");
    sh::compile_c(&sh::top().join("bench/pingpong.c"), &program)?;
    let mut samples = Samples::new();
    for places in Place::TURNS {
        let pods = places.iter().map(|place| Pod::start(*place, &program)).collect::<Result<Vec<_>>>()?;
        for round in 0..options.rounds {
            for (row, (name, args)) in POD.iter().enumerate() {
                eprintln!("bench: round {} of {}: {name}", round + 1, options.rounds);
                for pod in &pods {
                    samples.entry((row, pod.place)).or_default().push(pod.measure(args, &program)?);
                }
            }
        }
    }
    let places = Place::TURNS.concat();
    let titles: String = places.iter().map(|place| format!(" {} |", place.title())).collect();
    let mut text = format!(
        "\n{POD_NETWORK}, MTU 1500 (median of {} rounds; in brackets the ratio to the plain namespace, and the CPUs that the server's side used; \
         VMs: {})\n\n| |{titles}\n|---|{}\n",
        options.rounds,
        if vmm_has_kvm() { "KVM" } else { "emulated" },
        "--:|".repeat(places.len())
    );
    for (row, (name, _)) in POD.iter().enumerate() {
        let of = |place, which: fn(&(f64, f64)) -> f64| {
            samples.get(&(row, place)).and_then(|all| bench::median(all.iter().map(which).collect())).unwrap_or(f64::NAN)
        };
        let plain = of(Place::Plain, |s| s.0);
        write!(text, "| {name} |")?;
        for place in &places {
            let (figure, cpus) = (of(*place, |s| s.0), of(*place, |s| s.1));
            write!(text, " {figure:.1} ({:.2}, {cpus:.2}) |", figure / plain)?;
        }
        writeln!(text)?;
    }
    Ok(text)
}

/// Two namespaces with a veth pair, and the servers in the second.
struct Pod {
    place: Place,
    name: String,
    server: Option<Child>,
}

impl Pod {
    fn start(place: Place, program: &std::path::Path) -> Result<Pod> {
        let name = format!("nacre-bench-{place:?}-{}", std::process::id()).to_lowercase();
        let (host, pod) = (format!("{name}-h"), format!("{name}-p"));
        let mut made = Pod { place, name, server: None };
        for args in [
            format!("netns add {host}"),
            format!("netns add {pod}"),
            format!("link add veth0 netns {host} type veth peer name eth0 netns {pod}"),
            format!("-n {host} addr add 10.77.0.1/24 dev veth0"),
            format!("-n {host} link set veth0 up"),
            format!("-n {pod} link set lo up"),
            format!("-n {pod} addr add {ADDRESS}/24 dev eth0"),
            format!("-n {pod} link set eth0 up"),
        ] {
            sh::run(Command::new("ip").args(args.split(' ')))?;
        }
        if place.has_tap() {
            let (veth, address) = ("veth0".into(), format!("{ADDRESS}/24"));
            Plug { host: host.clone(), pod: pod.clone(), veth, address }.add()?;
        }
        let script = format!("setpriv --pdeathsig KILL iperf3 -s >/dev/null 2>&1 & exec {} serve {PORT}", program.display());
        let mut command = match place {
            Place::Plain => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &pod]);
                command
            }
            _ => {
                let mut command = Command::new(sh::nacre());
                command
                    .args(["--sandbox", place.sandbox()])
                    .arg("do")
                    .arg("--net")
                    .arg(PathBuf::from("/run/netns").join(&pod))
                    .arg("--");
                command
            }
        };
        command.args(["setpriv", "--pdeathsig", "KILL", "sh", "-c", &script]);
        made.server = Some(command.stdin(Stdio::null()).spawn().context("cannot start the servers")?);
        // Until both answer.
        let start = Instant::now();
        while made.figure(&[], program, "1").is_err() || made.figure(&["-t", "1"], program, "1").is_err() {
            if start.elapsed() > PATIENCE {
                bail!("the servers of {place:?} do not answer");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(made)
    }

    fn measure(&self, args: &[&str], program: &std::path::Path) -> Result<(f64, f64)> {
        let server = self.server.as_ref().context("no server")?.id();
        let (before, start) = (cpu_seconds(server), Instant::now());
        let figure = self.figure(args, program, "5000")?;
        let took = start.elapsed().as_secs_f64();
        Ok((figure, (cpu_seconds(server) - before) / took))
    }

    /// Gbit/s, or µs.
    fn figure(&self, args: &[&str], program: &std::path::Path, count: &str) -> Result<f64> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-h", self.name)]);
        if args.is_empty() {
            command.arg(program).args([ADDRESS, PORT, count]);
            let ended = sh::timed(&mut command, LIMIT)?;
            return Ok(ended.stdout.trim().parse::<f64>().with_context(|| ended.stderr.clone())? / 1000.0);
        }
        command.args(["iperf3", "-c", ADDRESS, "-f", "k", "-t", "3"]).args(args);
        let ended = sh::timed(&mut command, LIMIT)?;
        // The last line about what was received, of all streams: `… 123456 Kbits/sec …`.
        let line = ended.stdout.lines().rfind(|line| line.contains("receiver")).with_context(|| ended.stderr.clone())?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "Kbits/sec").context("iperf3 says something else")?;
        Ok(words.get(at.wrapping_sub(1)).context("no figure")?.parse::<f64>()? / 1e6)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        for end in ["h", "p"] {
            let _ = sh::run(Command::new("ip").args(["netns", "del", &format!("{}-{end}", self.name)]));
        }
    }
}

/// The CPU time of a process and of all below it.
fn cpu_seconds(top: u32) -> f64 {
    let all = sh::pids().into_iter().filter(|pid| startup::descends(*pid, top));
    all.map(startup::cpu_ticks).sum::<u64>() as f64 / 100.0
}
