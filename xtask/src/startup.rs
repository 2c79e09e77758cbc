//! Start-up and idle memory: the part of `bench` that is about whole sandboxes.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::{Options, System, median};
use crate::{bundle, sh};

pub fn report(options: &Options) -> Result<String> {
    let rounds = options.rounds.max(9);
    let mut text = String::from(
        "\n## Start-up and idle memory\n\n`run` of /bin/true in the busybox bundle, milliseconds; all processes of a sandbox that runs `sleep`.\n\n",
    );
    text += "| | warm | cold page cache | processes | PSS, KiB | CPU in 5 idle seconds, ms |\n|---|--:|--:|--:|--:|--:|\n";
    let busybox = bundle::busybox()?;
    let mut times = vec![(Vec::new(), Vec::new()); options.systems.len()];
    // The warm ones first: emptying the page cache empties it for all.
    for round in 0..=rounds {
        for (system, (warm, _)) in options.systems.iter().zip(&mut times) {
            let took = start(*system, &busybox, false).ok();
            warm.extend(took.filter(|_| round > 0));
        }
    }
    for _ in 0..rounds {
        for (system, (_, cold)) in options.systems.iter().zip(&mut times) {
            cold.extend(start(*system, &busybox, true).ok());
        }
    }
    for (system, (warm, cold)) in options.systems.iter().zip(times) {
        let label = if *system == System::Native { "runc" } else { system.name() };
        let ms = |v: Vec<f64>| median(v).map_or("–".into(), |m| format!("{m:.1}"));
        write!(text, "| {label} | {} | {} |", ms(warm), ms(cold))?;
        match idle(*system) {
            Ok(idle) => writeln!(text, " {} | {} | {:.0} |", idle.processes, idle.pss_kib, idle.cpu_ms)?,
            Err(error) => {
                eprintln!("bench: idle {label}: {error:#}");
                text += " – | – | – |\n";
            }
        }
    }
    Ok(text)
}

/// Milliseconds of one `run` of /bin/true.
fn start(system: System, bundle: &Path, cold: bool) -> Result<f64> {
    let id = format!("start-{}-{}", system.name(), std::process::id());
    let mut command = system.run(bundle, &id)?;
    if cold {
        sh::run(&mut Command::new("sync"))?;
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot empty the page cache")?;
    }
    let begin = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    if !status.success() {
        bail!("{status}");
    }
    Ok(took)
}

struct Idle {
    processes: usize,
    pss_kib: u64,
    cpu_ms: f64,
}

/// A sandbox that sleeps: the descendants of its `run`, and what it made elsewhere, found by comparing before and after.
fn idle(system: System) -> Result<Idle> {
    let before = sh::pids();
    let id = format!("idle-{}-{}", system.name(), std::process::id());
    let dir = sh::target().join("bundles").join(&id);
    let root = bundle::busybox()?.join("rootfs");
    bundle::Config::new(&root, &["/bin/sleep", "1000"]).write(&dir)?;
    let mut child = system.run(&dir, &id)?.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_secs(3));
    let made: Vec<u32> = sh::pids().difference(&before).copied().filter(|pid| belongs(*pid, child.id())).collect();
    let cpu = || made.iter().map(|pid| cpu_ticks(*pid)).sum::<u64>();
    let start = cpu();
    std::thread::sleep(Duration::from_secs(5));
    let cpu_ms = (cpu() - start) as f64 * 10.0;
    // The sandbox's own processes, not the command in the foreground that waits for it.
    let sandbox: Vec<u32> = made.iter().copied().filter(|pid| *pid != child.id()).collect();
    let pss_kib = sandbox.iter().map(|pid| pss(*pid)).sum();
    sh::signal(child.id(), "TERM");
    for pid in &sandbox {
        sh::signal(*pid, "KILL");
    }
    sh::wait(&mut child, Duration::from_secs(10))?;
    if sandbox.is_empty() {
        bail!("it did not start");
    }
    Ok(Idle { processes: sandbox.len(), pss_kib, cpu_ms })
}

/// What is in /proc/PID/stat after the name.
pub fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(String::from).collect())
}

/// Whether it descends from `ancestor`, or from a process in the session of it (a runtime's detached helper).
fn belongs(pid: u32, ancestor: u32) -> bool {
    let programs = ["nacre", "runsc", "sleep", "exe", "busybox", "stub", "gofer", "sentry", "zygote"];
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if programs.iter().any(|p| comm.starts_with(p)) {
        return true;
    }
    descends(pid, ancestor)
}

/// Whether it is, or descends from, `ancestor`.
pub fn descends(mut pid: u32, ancestor: u32) -> bool {
    while pid > 1 {
        if pid == ancestor {
            return true;
        }
        pid = parent(pid).unwrap_or(0);
    }
    false
}

pub fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// In hundredths of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    stat(pid).map_or(0, |f| f.iter().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum())
}

/// KiB.
pub fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("Pss:")).and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
