//! `cri --bench`: what a kubelet waits for, beside runc, in interleaved rounds of one run. Its section of docs/performance.md.

use std::fmt::Write as _;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::engine::Engine;
use crate::bench::median;
use crate::bench_vm::Bare;
use crate::{page, sh, startup};

/// Of its section.
pub const HEADING: &str = "## Under containerd";

const PARTS: [&str; 4] = ["life", "many", "logs", "idle"];
/// The VM's column is filled last, with fewer rounds: a machine that has to emulate its VMs takes seconds for each.
const HANDLERS: [&str; 3] = ["runc", "nacre", "nacre-vm"];
const BESIDE: [usize; 2] = [0, 1];
const VM: usize = 2;
const ROUNDS: usize = 15;
const FEW: usize = 3;
const AT_ONCE: usize = 20;
const IDLE: usize = 100;
/// Before idle pods are looked at, and how long their CPU time is counted.
const SETTLE: Duration = Duration::from_secs(5);
const WATCH: Duration = Duration::from_secs(30);
/// Bytes of log lines (of a VM's, which may be emulated, fewer), and of one with its end.
const LOG: usize = 20_000_000;
const VM_LOG: usize = LOG / 5;
const LINE: usize = 64;
/// What the log has before each at least: time (without zeros at its end), stream and kind.
const BEFORE: usize = 30;

const START: &str = "RunPodSandbox + CreateContainer + StartContainer, ms";

const EXEC: &str = "exec `true`, ms";
const MANY: &str = "20 such pods at once, ms";
const LOGS: &str = "log lines, MB/s";
const IDLE_MEMORY: &str = "idle pod, all host processes, KiB PSS (1 VM, 100 others)";

/// What nacre is to reach, beside runc or in all; a VM shall not take longer for a pod than its own boot and 100 ms.
const GOALS: [(&str, &str); 5] = [
    (START, "1.3 at most"),
    (EXEC, "1.3 at most"),
    (MANY, "1.5 at most"),
    (LOGS, "1 at least"),
    (IDLE_MEMORY, "15,360 KiB at most"),
];

/// What is measured, of each of [`HANDLERS`].
#[derive(Default)]
struct Rows(Vec<(&'static str, [Vec<f64>; HANDLERS.len()])>);

impl Rows {
    fn add(&mut self, name: &'static str, handler: usize, value: f64) {
        let index = self.0.iter().position(|(row, _)| *row == name).unwrap_or_else(|| {
            self.0.push((name, Default::default()));
            self.0.len() - 1
        });
        self.0[index].1[handler].push(value);
    }

    fn table(self) -> Result<String> {
        let mut text = String::from("| | runc | nacre | ratio | goal | nacre-vm |\n|---|--:|--:|--:|--:|--:|\n");
        for (name, values) in self.0 {
            let [runc, nacre, vm] = values.map(median);
            let cell = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.1}"));
            let ratio = runc.zip(nacre).map_or("–".into(), |(runc, nacre)| format!("{:.2}", nacre / runc));
            let goal = GOALS.iter().find(|(row, _)| *row == name).map_or("–", |(_, goal)| goal);
            writeln!(text, "| {name} | {} | {} | {ratio} | {goal} | {} |", cell(runc), cell(nacre), cell(vm))?;
        }
        Ok(text)
    }
}

/// Prints the table; a whole one goes to the page.
pub fn run(engine: &Engine, parts: &[&str]) -> Result<()> {
    if let Some(part) = parts.iter().find(|part| !PARTS.contains(part)) {
        bail!("cri --bench: {part} is none of {}", PARTS.join(", "));
    }
    let has = |part: &str| parts.is_empty() || parts.contains(&part);
    let mut text = head(engine)?;
    let (mut rows, mut boots) = (Rows::default(), Vec::new());
    if has("life") {
        for round in 0..=ROUNDS {
            for handler in BESIDE {
                life(engine, handler, round, &mut rows)?;
            }
        }
        let bare = Bare::of_distribution()?;
        for round in 0..=FEW {
            life(engine, VM, round, &mut rows)?;
            let begin = Instant::now();
            sh::run(bare.boot().stdout(Stdio::null()))?;
            boots.push(ms(begin));
        }
    }
    for _ in 0..FEW {
        for handler in BESIDE.into_iter().filter(|_| has("many")) {
            many(engine, handler, &mut rows)?;
        }
        for handler in BESIDE.into_iter().filter(|_| has("logs")) {
            rows.add(LOGS, handler, log_rate(engine, HANDLERS[handler], LOG)?);
        }
    }
    if has("logs") {
        rows.add(LOGS, VM, log_rate(engine, HANDLERS[VM], VM_LOG)?);
    }
    if has("idle") {
        idle(engine, VM, 1, &mut rows)?;
        for handler in BESIDE {
            idle(engine, handler, IDLE, &mut rows)?;
        }
    }
    text += &rows.table()?;
    if let Some(boot) = median(boots) {
        writeln!(
            text,
            "\nA bare boot of the same kernel, to the power-off by its init: {boot:.0} ms; goal for a VM pod: that and 100 ms at most."
        )?;
    }
    page::show(HEADING, &text, parts.is_empty())
}

fn head(engine: &Engine) -> Result<String> {
    let commit = sh::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(sh::top()))?;
    let version = sh::output(Command::new(engine.program("containerd")).arg("--version"))?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "{HEADING}\n\nWritten by `cargo xtask cri --bench` at commit {}: containerd {}, load before {}, a CNI network for each pod. Medians of {ROUNDS} rounds in \
         turn; of {FEW} for what is done at once, for logs (`yes … | head -c {LOG}`, lines of {LINE} bytes) and for VMs.\n\n",
        commit.trim(),
        version.split_whitespace().nth(2).unwrap_or_default(),
        load.split(' ').next().unwrap_or_default(),
    ))
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

/// One pod's, with an exec. The first round warms the page cache.
fn life(engine: &Engine, handler: usize, round: usize, rows: &mut Rows) -> Result<()> {
    let begin = Instant::now();
    let (pod, id) = engine.sleeper(&format!("one{round}"), HANDLERS[handler])?;
    let started = ms(begin);
    let begin = Instant::now();
    ensure!(engine.exec(&id, &["true"])?.success(), "exec");
    let exec = ms(begin);
    let begin = Instant::now();
    engine.remove_pod(&pod)?;
    if round > 0 {
        rows.add(START, handler, started);
        rows.add(EXEC, handler, exec);
        rows.add("StopPodSandbox + RemovePodSandbox, ms", handler, ms(begin));
    }
    Ok(())
}

fn many(engine: &Engine, handler: usize, rows: &mut Rows) -> Result<()> {
    let begin = Instant::now();
    let pods = at_once(engine, HANDLERS[handler], 0..AT_ONCE)?;
    rows.add(MANY, handler, ms(begin));
    pods.iter().try_for_each(|pod| engine.remove_pod(pod))
}

fn at_once(engine: &Engine, handler: &str, numbers: Range<usize>) -> Result<Vec<String>> {
    std::thread::scope(|scope| {
        let one = |n: usize| engine.sleeper(&format!("many{n}"), handler).map(|(pod, _)| pod);
        let all: Vec<_> = numbers.map(|n| scope.spawn(move || one(n))).collect();
        all.into_iter().map(|pod| pod.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
    })
}

/// Memory and CPU time of pods that do nothing.
fn idle(engine: &Engine, handler: usize, count: usize, rows: &mut Rows) -> Result<()> {
    let mut pods = Vec::new();
    while pods.len() < count {
        pods.extend(at_once(engine, HANDLERS[handler], pods.len()..count.min(pods.len() + AT_ONCE))?);
    }
    std::thread::sleep(SETTLE);
    let processes = processes(engine);
    let sum = |of: fn(u32) -> u64| processes.iter().map(|pid| of(*pid)).sum::<u64>() as f64;
    rows.add(IDLE_MEMORY, handler, sum(startup::pss) / count as f64);
    let before = sum(startup::cpu_ticks);
    std::thread::sleep(WATCH);
    // A tick is 10 ms; of one CPU.
    let percent = (sum(startup::cpu_ticks) - before) / WATCH.as_secs_f64();
    rows.add("these idle pods together, % of a CPU", handler, percent);
    pods.iter().try_for_each(|pod| engine.remove_pod(pod))
}

/// All shims of this containerd, and what descends from them.
fn processes(engine: &Engine) -> Vec<u32> {
    let address = engine.dir.join("c.sock").display().to_string();
    let is_shim = |pid: &u32| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.contains("containerd-shim") && text.contains(&address)
    };
    let pids = sh::pids();
    let shims: Vec<u32> = pids.iter().copied().filter(is_shim).collect();
    pids.into_iter().filter(|pid| shims.iter().any(|shim| startup::descends(*pid, *shim))).collect()
}

/// How fast lines come out of a container that has been started into its log.
fn log_rate(engine: &Engine, handler: &str, bytes: usize) -> Result<f64> {
    let pod = engine.call(&["run-pod", "log", "--handler", handler])?;
    let log = engine.dir.join("logs/rate.log");
    std::fs::create_dir_all(engine.dir.join("logs"))?;
    let script = format!("yes {} | head -c {bytes}", "x".repeat(LINE - 1));
    let path = log.display().to_string();
    let id = engine.container(&pod, "main", &["--log", &path], &["sh", "-c", &script])?;
    let begin = Instant::now();
    let whole = (bytes + bytes / LINE * BEFORE) as u64;
    engine.soon("the log is whole", |_| Ok(std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() >= whole)))?;
    let seconds = begin.elapsed().as_secs_f64();
    engine.wait_status(&id, "exited 0 Completed")?;
    engine.remove_pod(&pod)?;
    std::fs::remove_file(&log).with_context(|| format!("{}", log.display()))?;
    Ok(bytes as f64 / 1e6 / seconds)
}
