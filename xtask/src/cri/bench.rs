//! `cri --bench`: what a kubelet waits for, beside runc, in interleaved rounds of one run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::engine::Engine;
use crate::bench::median;
use crate::{sh, startup};

const HANDLERS: [&str; 2] = ["runc", "nacre"];
const ROUNDS: usize = 15;
const AT_ONCE: usize = 20;
/// Bytes of log lines, and of one with its end.
const LOG: usize = 20_000_000;
const LINE: usize = 64;
/// What the log has before each at least: time (without zeros at its end), stream and kind.
const BEFORE: usize = 30;

/// Prints the table.
pub fn run(engine: &mut Engine) -> Result<()> {
    let mut rows: Vec<(&str, [Vec<f64>; 2])> = Vec::new();
    let mut add = |name, handler: usize, value: f64| {
        let index = rows.iter().position(|(row, _)| *row == name).unwrap_or_else(|| {
            rows.push((name, [Vec::new(), Vec::new()]));
            rows.len() - 1
        });
        rows[index].1[handler].push(value);
    };
    for round in 0..=ROUNDS {
        for (n, handler) in HANDLERS.iter().enumerate() {
            let begin = Instant::now();
            let (pod, id) = engine.sleeper(&format!("one{round}"), handler)?;
            let started = ms(begin);
            let begin = Instant::now();
            ensure!(engine.exec(&id, &["true"])?.success(), "exec");
            let exec = ms(begin);
            let begin = Instant::now();
            engine.remove_pod(&pod)?;
            // The first round warms the page cache.
            if round > 0 {
                add("RunPodSandbox + CreateContainer + StartContainer, ms", n, started);
                add("exec `true`, ms", n, exec);
                add("StopPodSandbox + RemovePodSandbox, ms", n, ms(begin));
            }
        }
    }
    for _ in 0..3 {
        for (n, handler) in HANDLERS.iter().enumerate() {
            let begin = Instant::now();
            let pods = at_once(engine, handler)?;
            add("20 such pods at once, ms", n, ms(begin));
            std::thread::sleep(Duration::from_secs(1));
            add("idle pod, all host processes, KiB PSS", n, pss_of_all(engine) as f64 / AT_ONCE as f64);
            for pod in pods {
                engine.remove_pod(&pod)?;
            }
            add("log lines, MB/s", n, log_rate(engine, handler)?);
        }
    }
    println!("| | {} | {} | ratio |\n|---|--:|--:|--:|", HANDLERS[0], HANDLERS[1]);
    for (name, [runc, nacre]) in rows {
        let (runc, nacre) = (median(runc).context("no rounds")?, median(nacre).context("no rounds")?);
        println!("| {name} | {runc:.1} | {nacre:.1} | {:.2} |", nacre / runc);
    }
    Ok(())
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

fn at_once(engine: &Engine, handler: &str) -> Result<Vec<String>> {
    std::thread::scope(|scope| {
        let one = |n: usize| engine.sleeper(&format!("many{n}"), handler).map(|(pod, _)| pod);
        let all: Vec<_> = (0..AT_ONCE).map(|n| scope.spawn(move || one(n))).collect();
        all.into_iter().map(|pod| pod.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
    })
}

/// Of all shims of this containerd, and what descends from them.
fn pss_of_all(engine: &Engine) -> u64 {
    let address = engine.dir.join("c.sock").display().to_string();
    let pids = sh::pids();
    let is_shim = |pid: u32| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.contains("containerd-shim") && text.contains(&address)
    };
    let shims: Vec<u32> = pids.iter().copied().filter(|pid| is_shim(*pid)).collect();
    let ours = |pid: u32| {
        let mut at = Some(pid);
        while let Some(now) = at.filter(|now| *now > 1) {
            if shims.contains(&now) {
                return true;
            }
            at = startup::parent(now);
        }
        false
    };
    pids.iter().filter(|pid| ours(**pid)).map(|pid| startup::pss(*pid)).sum()
}

/// How fast lines come out of a container into its log.
fn log_rate(engine: &Engine, handler: &str) -> Result<f64> {
    let pod = engine.call(&["run-pod", "log", "--handler", handler])?;
    let log = engine.dir.join("logs/rate.log");
    std::fs::create_dir_all(engine.dir.join("logs"))?;
    let script = format!("yes {} | head -c {LOG}", "x".repeat(LINE - 1));
    let begin = Instant::now();
    let path = log.display().to_string();
    let id = engine.container(&pod, "main", &["--log", &path], &["sh", "-c", &script])?;
    let whole = (LOG + LOG / LINE * BEFORE) as u64;
    engine.soon("the log is whole", |_| Ok(std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() >= whole)))?;
    let seconds = begin.elapsed().as_secs_f64();
    engine.wait_status(&id, "exited 0 Completed")?;
    engine.remove_pod(&pod)?;
    std::fs::remove_file(&log)?;
    Ok(LOG as f64 / 1e6 / seconds)
}
