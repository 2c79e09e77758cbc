//! What people do with running pods: exec, attach and port-forward, over the streams of CRI.

use anyhow::{Context, Result, ensure};

use super::Case;
use super::engine::Engine;
use crate::sh;

pub const CASES: &[Case] = &[("pod-exec", exec), ("pod-attach", attach), ("pod-port-forward", port_forward)];

fn exec(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "exec"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "1000"])?;
    let stream = |options: &[&str], command: &[&str]| engine.cri(&[&["exec-stream", &id], options, &["--"], command].concat());
    let said = stream(&["--stdin", "word\n"], &["sh", "-c", "read x; echo got $x; echo err >&2; exit 6"])?;
    ensure!(
        said.stdout == "got word\n" && said.stderr == "err\n" && said.code() == Some(6),
        "{:?} {}",
        said.code(),
        said.stderr
    );
    let said = stream(&["--tty", "--stdin", "tty; exit 5\n"], &["sh"])?;
    ensure!(said.stdout.contains("/dev/pts/") && said.code() == Some(5), "{:?} {:?}", said.code(), said.stdout);
    let said = stream(&[], &["head", "-c", "3000000", "/dev/zero"])?;
    ensure!(said.stdout.len() == 3_000_000, "{} bytes of 3000000", said.stdout.len());
    Ok(())
}

/// To a shell that waits for somebody, and to one with a terminal.
fn attach(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "attach"])?;
    let id = engine.container(&pod, "main", &["--interactive"], &["sh", "-c", "while read x; do echo got $x; done"])?;
    let said = engine.cri(&["attach", &id, "--stdin", "one\n", "--until", "got one\n"])?;
    ensure!(said.stdout.ends_with("got one\n"), "{:?} {}", said.stdout, said.stderr);
    let said = engine.cri(&["attach", &id, "--stdin", "two\n", "--until", "got two\n"])?;
    ensure!(said.stdout.ends_with("got two\n"), "attached again: {:?} {}", said.stdout, said.stderr);
    engine.wait_status(&id, "running 0")?;
    let id = engine.container(&pod, "terminal", &["--interactive", "--tty"], &["sh"])?;
    let said = engine.cri(&["attach", &id, "--tty", "--stdin", "tty; echo $((40 + 2))\n", "--until", "42"])?;
    ensure!(said.stdout.contains("/dev/pts/0"), "{:?} {}", said.stdout, said.stderr);
    Ok(())
}

/// Through CRI, and without it.
fn port_forward(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "ports", "--cni"])?;
    let server = "while true; do nc -l -p 8080 127.0.0.1 -e sh -c 'read x; echo hello $x'; done";
    engine.container(&pod, "main", &["--cni"], &["sh", "-c", server])?;
    for n in 0..3 {
        let input = format!("{n}\n");
        engine.soon("the port answers", |engine| {
            let said = engine.cri(&["port-forward", &pod, "8080", "--stdin", &input, "--until", "hello"])?;
            Ok(said.stdout.starts_with(&format!("hello {n}")))
        })?;
    }
    let said = engine.cri(&["port-forward", &pod, "8081", "--stdin", "x"])?;
    ensure!(said.stdout.is_empty(), "nobody listens, yet: {:?}", said.stdout);
    own_port_forward(engine, &pod)
}

/// `nacre port-forward`, which asks no engine.
fn own_port_forward(engine: &Engine, pod: &str) -> Result<()> {
    let state = engine.state_of(pod)?;
    let root = state.parent().context("state without a root")?;
    let log = engine.dir.join("port-forward");
    let mut command = std::process::Command::new(engine.dir.join("bin/nacre"));
    command.arg("--root").arg(root).args(["port-forward", pod, "0:8080"]).stdout(std::fs::File::create(&log)?);
    let mut forward = command.spawn()?;
    let asked = (|| {
        let mut address = String::new();
        engine.soon("it says its address", |_| {
            address = std::fs::read_to_string(&log)?.split(' ').next().unwrap_or_default().to_string();
            Ok(!address.is_empty())
        })?;
        engine.soon("its port answers", |_| {
            let client = format!("echo self | timeout 5 busybox nc {}", address.replace(':', " "));
            let said = sh::timed(std::process::Command::new("sh").args(["-c", &client]), std::time::Duration::from_secs(10))?;
            Ok(said.stdout == "hello self\n")
        })
    })();
    forward.kill()?;
    forward.wait()?;
    asked
}
