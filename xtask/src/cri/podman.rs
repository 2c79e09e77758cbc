//! podman, with nacre as its OCI runtime.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use super::engine::Engine;
use super::image;
use crate::sh::{self, Ended};

pub const CASES: &[Case] = &[("podman", life), ("podman-streams", streams), ("podman-pod", pod)];

pub const LIMIT: Duration = Duration::from_secs(120);
/// The host may have lower limits than podman asks for by itself; there is no network to set up.
pub const OPTIONS: [&str; 6] = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "--network", "none"];

/// The command, with what leads it to a place of its own.
fn line(engine: &Engine) -> Vec<String> {
    let place = |name: &str| engine.dir.join(name).display().to_string();
    let mut line = ["podman", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        .map(String::from)
        .to_vec();
    for (option, name) in [("--root", "podman/root"), ("--runroot", "podman/run"), ("--runtime", "bin/nacre")] {
        line.extend([option.into(), place(name)]);
    }
    line
}

fn podman(engine: &Engine, args: &[&str]) -> Result<Ended> {
    let line = line(engine);
    sh::timed(Command::new(&line[0]).args(&line[1..]).args(args), LIMIT)
}

fn load(engine: &Engine) -> Result<()> {
    let archive = engine.dir.join("image.tar").display().to_string();
    ensure!(podman(engine, &["load", "-i", &archive])?.success(), "podman does not take the image");
    Ok(())
}

fn life(engine: &mut Engine) -> Result<()> {
    load(engine)?;
    let run = |first: &[&str], command: &[&str]| podman(engine, &[first, &OPTIONS, &[image::NAME], command].concat());
    let ended = run(&["run", "--rm"], &["sh", "-c", "echo out; exit 3"])?;
    ensure!(ended.code() == Some(3) && ended.stdout == "out\n", "{:?} {}", ended.code(), ended.stderr);
    let started = run(&["run", "-d", "--name", "one"], &["sh", "-c", "echo logged; exec sleep 1000"])?;
    ensure!(started.success(), "{}", started.stderr);
    let said = podman(engine, &["exec", "one", "sh", "-c", "echo in; exit 4"])?;
    let logged = podman(engine, &["logs", "one"])?;
    let paused = podman(engine, &["pause", "one"])?.success() && podman(engine, &["unpause", "one"])?.success();
    let killed = podman(engine, &["kill", "one"])?;
    let waited = podman(engine, &["wait", "one"])?;
    let removed = podman(engine, &["rm", "-f", "one"])?;
    ensure!(said.code() == Some(4) && said.stdout == "in\n", "exec: {:?} {}", said.code(), said.stderr);
    ensure!(logged.stdout == "logged\n", "logs: {:?} {}", logged.stdout, logged.stderr);
    ensure!(paused, "pause");
    ensure!(killed.success() && waited.stdout == "137\n", "wait: {:?} {}", waited.stdout, waited.stderr);
    ensure!(removed.success(), "rm: {}", removed.stderr);
    Ok(())
}

/// Input, a terminal, attaching, figures.
fn streams(engine: &mut Engine) -> Result<()> {
    load(engine)?;
    let started = podman(engine, &[&["run", "-d", "-i", "--name", "two"], &OPTIONS[..], &[image::NAME, "cat"]].concat())?;
    ensure!(started.success(), "{}", started.stderr);
    let podman_line = line(engine).join(" ");
    let stats = podman(engine, &["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "two"])?;
    let script =
        format!("{{ sleep 1; printf 'tty; exit 4\\n'; sleep 1; }} | script -qec \"{podman_line} exec -it two sh\" /dev/null");
    let terminal = sh::timed(Command::new("sh").args(["-c", &script]), LIMIT)?;
    // Its end is the container's: last.
    let script = format!("(echo attached; sleep 2) | timeout 10 {podman_line} attach two");
    let attached = sh::timed(Command::new("sh").args(["-c", &script]), LIMIT)?;
    let removed = podman(engine, &["rm", "-f", "-t", "0", "two"])?;
    ensure!(attached.stdout.trim() == "attached", "attach: {:?} {}", attached.stdout, attached.stderr);
    ensure!(stats.success() && !stats.stdout.starts_with('0'), "stats: {:?} {}", stats.stdout, stats.stderr);
    ensure!(
        terminal.code() == Some(4) && terminal.stdout.contains("/dev/pts/"),
        "exec -t: {:?} {:?}",
        terminal.code(),
        terminal.stdout
    );
    ensure!(removed.success(), "rm: {}", removed.stderr);
    Ok(())
}

/// Containers of one sandbox, each with an end of its own.
fn pod(engine: &mut Engine) -> Result<()> {
    load(engine)?;
    let made = podman(engine, &["pod", "create", "--name", "pod", "--infra-image", image::PAUSE, "--network", "none"])?;
    ensure!(made.success(), "pod create: {}", made.stderr);
    let lived = pod_life(engine);
    // podman 4.3 trips over its own cgroups at the first try where cgroups are v1, with runc too.
    podman(engine, &["pod", "rm", "-f", "-t", "0", "pod"])?;
    let removed = podman(engine, &["pod", "rm", "-f", "-i", "-t", "0", "pod"])?;
    lived?;
    ensure!(removed.success(), "pod rm: {}", removed.stderr);
    Ok(())
}

fn pod_life(engine: &Engine) -> Result<()> {
    let run = |options: &[&str], command: &[&str]| {
        podman(engine, &[&["run", "--pod", "pod"], &OPTIONS[..4], options, &[image::NAME], command].concat())
    };
    let server = run(&["-d", "--name", "server"], &["sh", "-c", "while true; do echo hello | nc -l -p 80; done"])?;
    ensure!(server.success(), "{}", server.stderr);
    let client = run(&["--rm"], &["sh", "-c", "sleep 1; nc 127.0.0.1 80 </dev/null; exit 5"])?;
    ensure!(
        client.code() == Some(5) && client.stdout == "hello\n",
        "{:?} {:?} {}",
        client.code(),
        client.stdout,
        client.stderr
    );
    let said = podman(engine, &["exec", "server", "echo", "in"])?;
    ensure!(said.stdout == "in\n", "exec: {:?} {}", said.stdout, said.stderr);
    ensure!(podman(engine, &["kill", "server"])?.success(), "kill");
    let waited = podman(engine, &["wait", "server"])?;
    ensure!(waited.stdout == "137\n", "wait: {:?} {}", waited.stdout, waited.stderr);
    Ok(())
}
