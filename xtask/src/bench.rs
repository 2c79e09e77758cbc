//! `bench`: bench/bench.c in the same OCI bundle under runc (that is: natively), runsc and Nacre; median of interleaved rounds.
//!
//! The program stops before and after each measured loop until we say so; in between we read the CPU time of its cgroup,
//! which holds the runtime and every process it made, the dead ones too. So a row costs what everything that took part used.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{bundle, packages, page, sh, startup};

/// How long one row of bench.c may take.
const ROW_LIMIT: Duration = Duration::from_secs(60);

/// A program that runs rows, one after the other, and says when each begins and ends.
pub struct Load {
    pub rootfs: PathBuf,
    /// Its command line, before the names of the rows.
    pub args: Vec<String>,
    pub rows: Vec<String>,
    /// How long one row may take.
    pub limit: Duration,
}

/// What figures are shown in.
#[derive(Clone, Copy)]
pub enum Unit {
    Nanoseconds,
    Milliseconds,
}

pub struct Options {
    pub rounds: usize,
    ms: u32,
    one_cpu: bool,
    pub rows: Vec<String>,
    pub systems: Vec<System>,
}

impl Options {
    /// Those of `all` that are asked for: all, unless some are named.
    pub fn wanted(&self, all: &[&str]) -> Vec<String> {
        let chosen = |row: &&&str| self.rows.is_empty() || self.rows.iter().any(|wanted| wanted == **row);
        all.iter().filter(chosen).map(ToString::to_string).collect()
    }

    /// # Errors
    /// A row that is asked for is none of these.
    pub fn check(&self, all: &[&str]) -> Result<()> {
        match self.rows.iter().find(|row| !all.contains(&row.as_str())) {
            Some(row) => bail!("bench: {row} is none of {}", all.join(", ")),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    Native,
    Runsc,
    Nacre,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            System::Native => "native",
            System::Runsc => "runsc",
            System::Nacre => "nacre",
        }
    }

    /// The command that runs the container of a bundle.
    pub fn run(self, bundle: &Path, id: &str) -> Result<Command> {
        let state = sh::target().join("bench-state").join(self.name());
        std::fs::create_dir_all(&state)?;
        let mut command = match self {
            System::Native => Command::new("runc"),
            System::Nacre => Command::new(sh::nacre()),
            System::Runsc => {
                let mut command = Command::new(packages::runsc()?);
                command.args(["--rootless=false", "--network=none", "--ignore-cgroups", "--platform=systrap"]);
                command
            }
        };
        command.arg("--root").arg(&state).arg("run").arg("--bundle").arg(bundle).arg(id);
        Ok(command)
    }
}

pub fn run(all: &[String]) -> Result<()> {
    let mut options = Options {
        rounds: 9,
        ms: 40,
        one_cpu: false,
        rows: Vec::new(),
        systems: vec![System::Native, System::Runsc, System::Nacre],
    };
    let (mut whole, mut only_startup, mut programs, mut network) = (true, false, false, false);
    let mut args = all.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => (options.rounds, options.ms, whole) = (3, 10, false),
            "--one-cpu" => (options.one_cpu, whole) = (true, false),
            "--native-only" => (options.systems, whole) = (vec![System::Native], false),
            "--no-nacre" => (options.systems, whole) = (vec![System::Native, System::Runsc], false),
            "--no-runsc" => (options.systems, whole) = (vec![System::Native, System::Nacre], false),
            "--net" => (network, whole, options.rounds) = (true, false, 5),
            "--programs" => (programs, whole, options.rounds) = (true, false, 5),
            "--rounds" => options.rounds = args.next().context("bench: --rounds N")?.parse()?,
            "--vm" => {
                let others = all.iter().filter(|other| *other != arg);
                return crate::bench_vm::run(&others.cloned().collect::<Vec<_>>());
            }
            "--startup" => (only_startup, whole) = (true, false),
            flag if flag.starts_with('-') => bail!("bench: unknown flag {flag}"),
            row => {
                options.rows.push(row.to_string());
                whole = false;
            }
        }
    }
    packages::ensure(&["runc", "busybox-static"])?;
    if options.systems.contains(&System::Nacre) {
        sh::build_nacre()?;
    }
    if only_startup {
        print!("{}", startup::report(&options)?);
        return Ok(());
    }
    if network {
        return crate::network::run(&options);
    }
    if programs {
        return crate::programs::run(&options);
    }
    let mut text = calls(&options)?;
    if whole {
        options.one_cpu = true;
        text += &calls(&options)?;
        text += &startup::report(&options)?;
        let old = page::read();
        let others = [
            crate::network::LOOPBACK,
            crate::network::POD_NETWORK,
            crate::programs::HEADING,
            crate::bench_vm::HEADING,
            crate::cri::bench::HEADING,
        ]
        .map(|heading| page::section(&old, heading));
        page::write(&format!("{}{text}{}", header(page::prose(&old))?, others.concat()))?;
    }
    print!("{text}");
    Ok(())
}

/// One row in one round: nanoseconds per operation, by the clock and of CPU time.
#[derive(Clone, Copy)]
pub struct Sample {
    wall: f64,
    cpu: f64,
}

pub type Samples = BTreeMap<(String, System), Vec<Sample>>;

/// The table of bench.c.
fn calls(options: &Options) -> Result<String> {
    let (rootfs, mut rows) = prepare()?;
    if !options.rows.is_empty() {
        rows.retain(|r| options.rows.contains(r));
    }
    let ms = options.ms.to_string();
    let args = ["/bench", "--hold", "--ms", &ms].map(String::from).into();
    let load = Load { rootfs, args, rows, limit: ROW_LIMIT };
    let title = if options.one_cpu { "On one CPU" } else { "On all CPUs" };
    table(title, &measure(&load, options)?, &load.rows, options, Unit::Nanoseconds)
}

fn prepare() -> Result<(PathBuf, Vec<String>)> {
    let bundle = bundle::busybox()?;
    let program = bundle.join("rootfs/bench");
    sh::compile_c(&sh::top().join("bench/bench.c"), &program)?;
    let source = std::fs::read_to_string(sh::top().join("bench/bench.c"))?;
    let table = source.split("} rows[] = {").nth(1).context("bench.c has no table of rows")?;
    let rows = table.split("{\"").skip(1).filter_map(|r| r.split('"').next()).map(String::from).collect();
    Ok((bundle.join("rootfs"), rows))
}

pub fn measure(load: &Load, options: &Options) -> Result<Samples> {
    let mut samples = Samples::new();
    for round in 0..options.rounds {
        for turn in 0..options.systems.len() {
            let system = options.systems[(round + turn) % options.systems.len()];
            eprintln!("bench: round {} of {}: {}", round + 1, options.rounds, system.name());
            let mut left = load.rows.clone();
            // A system that fails in a row is started again for the rows after it.
            while !left.is_empty() {
                let mut run = Run::start(system, load, &left, options)?;
                let done = run.rows(&mut left, system, &mut samples);
                run.stop();
                if let Err(error) = done {
                    eprintln!("bench: {}: {}: {error:#}", system.name(), left[0]);
                    left.remove(0);
                }
            }
        }
    }
    Ok(samples)
}

/// The program, running in one system.
struct Run {
    child: Child,
    lines: Receiver<String>,
    usage: PathBuf,
    cgroup: PathBuf,
    limit: Duration,
}

impl Run {
    fn start(system: System, load: &Load, rows: &[String], options: &Options) -> Result<Run> {
        let id = format!("bench-{}-{}", system.name(), std::process::id());
        let group = format!("nacre-bench-{}", std::process::id());
        let (cgroup, usage) = cgroup(&group)?;
        let args: Vec<&str> = load.args.iter().chain(rows).map(String::as_str).collect();
        let path = format!("/{group}/{}", system.name());
        let bundle = sh::target().join("bundles").join(&id);
        bundle::Config { cgroups_path: Some(&path), ..bundle::Config::new(&load.rootfs, &args) }.write(&bundle)?;
        let run = system.run(&bundle, &id)?;
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(cgroup.join("cgroup.procs"));
        if options.one_cpu {
            command.args(["taskset", "-c", "1"]);
        }
        command.arg(run.get_program()).args(run.get_args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("cannot start the sandbox")?;
        let out = child.stdout.take().context("no standard output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(|l| l.ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Run { child, lines, usage, cgroup, limit: load.limit })
    }

    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(self.limit).context("no answer")
    }

    fn go_on(&mut self) -> Result<()> {
        self.child.stdin.as_mut().context("no standard input")?.write_all(b"\n").context("it is gone")
    }

    fn rows(&mut self, left: &mut Vec<String>, system: System, samples: &mut Samples) -> Result<()> {
        while let Some(row) = left.first().cloned() {
            let line = self.line()?;
            if line != format!("begin {row}") {
                bail!("it says '{line}'");
            }
            let before = cpu_ns(&self.usage)?;
            self.go_on()?;
            let line = self.line()?;
            let cpu = cpu_ns(&self.usage)? - before;
            let words: Vec<&str> = line.split(' ').collect();
            let [_, _, wall, count] = words[..] else { bail!("it says '{line}'") };
            let (wall, count): (f64, f64) = (wall.parse()?, count.parse()?);
            samples.entry((row, system)).or_default().push(Sample { wall, cpu: cpu / count });
            left.remove(0);
            self.go_on()?;
        }
        Ok(())
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        let _ = sh::wait(&mut self.child, Duration::from_secs(10));
        // runc and runsc kill their container when they are told to, not when they are killed: end what is left by the group.
        for _ in 0..100 {
            let left = std::fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default();
            let nested: Vec<PathBuf> = nested(&self.cgroup);
            let more: String = nested.iter().filter_map(|d| std::fs::read_to_string(d.join("cgroup.procs")).ok()).collect();
            let pids: Vec<u32> = left.lines().chain(more.lines()).filter_map(|l| l.parse().ok()).collect();
            if pids.is_empty() {
                for dir in nested {
                    let _ = std::fs::remove_dir(dir);
                }
                let _ = std::fs::remove_dir(&self.cgroup);
                break;
            }
            for pid in pids {
                sh::signal(pid, "KILL");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn nested(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()).unwrap_or_default()
}

/// Makes a cgroup; its folder and the file that tells the CPU time of it and all below.
pub fn cgroup(name: &str) -> Result<(PathBuf, PathBuf)> {
    for top in ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"] {
        if Path::new(top).join("cpuacct.usage").exists() {
            let dir = Path::new(top).join(name);
            std::fs::create_dir_all(&dir)?;
            return Ok((dir.clone(), dir.join("cpuacct.usage")));
        }
    }
    let dir = Path::new("/sys/fs/cgroup").join(name);
    std::fs::create_dir_all(&dir).context("no cgroup for CPU time can be made")?;
    Ok((dir.clone(), dir.join("cpu.stat")))
}

pub fn cpu_ns(usage: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(usage)?;
    Ok(match text.strip_prefix("usage_usec ") {
        Some(rest) => rest.lines().next().unwrap_or_default().parse::<f64>()? * 1000.0,
        None => text.trim().parse()?,
    })
}

pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Three digits are what such figures are worth.
pub fn figure(ns: Option<f64>) -> String {
    let Some(ns) = ns else { return "–".into() };
    let unit = 10f64.powi((ns.max(1.0).log10().floor() as i32 - 2).max(0));
    let whole = ((ns / unit).round() * unit) as u64;
    let digits = whole.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    text
}

/// How much longer a row takes than natively, by the medians.
pub fn ratio(samples: &Samples, row: &str, system: System) -> Option<f64> {
    let wall = |system| samples.get(&(row.to_string(), system)).and_then(|s| median(s.iter().map(|s| s.wall).collect()));
    Some(wall(system)? / wall(System::Native)?)
}

pub fn table(title: &str, samples: &Samples, rows: &[String], options: &Options, unit: Unit) -> Result<String> {
    let figure = |ns: Option<f64>| match unit {
        Unit::Nanoseconds => figure(ns),
        Unit::Milliseconds => figure(ns.map(|ns| ns / 1e6)),
    };
    let of = |row: &str, system, which: fn(&Sample) -> f64| {
        samples.get(&(row.to_string(), system)).and_then(|s| median(s.iter().map(which).collect()))
    };
    let others: Vec<System> = options.systems.iter().copied().filter(|s| *s != System::Native).collect();
    let mut text = format!("\n## {title}\n\n| row | native |");
    for system in &others {
        write!(text, " {0} | ÷ native |", system.name())?;
    }
    text += " CPU native |";
    for system in &others {
        write!(text, " CPU {} |", system.name())?;
    }
    text += "\n|---|";
    text += &"--:|".repeat(1 + 2 * others.len() + 1 + others.len());
    text += "\n";
    let mut logs: BTreeMap<System, Vec<f64>> = BTreeMap::new();
    for row in rows {
        let native = of(row, System::Native, |s| s.wall);
        write!(text, "| {row} | {} |", figure(native))?;
        for &system in &others {
            let wall = of(row, system, |s| s.wall);
            let ratio = wall.zip(native).map(|(w, n)| w / n);
            if let Some(ratio) = ratio {
                logs.entry(system).or_default().push(ratio.max(1.0).ln());
            }
            write!(text, " {} | {} |", figure(wall), ratio.map_or("–".into(), |r| format!("{r:.2}")))?;
        }
        for system in std::iter::once(System::Native).chain(others.iter().copied()) {
            write!(text, " {} |", figure(of(row, system, |s| s.cpu)))?;
        }
        text += "\n";
    }
    text += "\n";
    for (system, logs) in logs {
        let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
        writeln!(
            text,
            "Geometric mean of {} over {} rows (faster than native counts as 1): **{mean:.2}**.",
            system.name(),
            logs.len()
        )?;
    }
    Ok(text)
}

/// The page's beginning; `prose` is what the tables do not say.
fn header(prose: &str) -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("unknown CPU").to_string();
    let cpus = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = sh::output(Command::new("uname").arg("-r"))?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let commit = sh::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(sh::top()))?;
    Ok(format!(
        "# Performance\n\n\
         Written by `cargo xtask bench` at commit {}. Nanoseconds per operation, each figure the median of 9 interleaved rounds; CPU is the\n\
         CPU time of all processes that took part (the cgroup's). All three run the same OCI bundle: native is runc without a seccomp filter,\n\
         runsc is Debian's of bookworm-backports (`--network=none --ignore-cgroups --platform=systrap`). The rows are in `bench/bench.c`.\n\n\
         Machine: {model}, {cpus} CPUs (virtual), Linux {}, load at the end {}.\n\n{prose}\n",
        commit.trim(),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
    ))
}
