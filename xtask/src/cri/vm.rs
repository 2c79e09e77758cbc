//! The same shim under its other name: containers and pods in virtual machines.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Case;
use super::engine::Engine;
use super::image;
use crate::sh;

pub const CASES: &[Case] = &[("vm-run", run), ("vm-pod", pod), ("vm-kill", kill), ("vm-block-device", block_device)];

/// Cases of pods that are not played again in VMs, and why.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    ("pod-containers", "it counts a sentry's processes; vm-pod is the like"),
    ("pod-kill-sentry", "vm-kill is the like"),
    ("pod-debug", "containers of a VM have no pids of their own on the host"),
    ("pod-debug-stacks", "a guest's kernel shows no stacks"),
    ("pod-block-device", "vm-block-device is the like"),
    ("pod-node-network", "a VM has no sockets of the host's"),
    ("pods", "twenty emulated machines at once"),
];

const RUNTIME: &str = "io.containerd.nacre-vm.v2";

/// A container of `ctr`: output, input, exit status.
fn run(engine: &mut Engine) -> Result<()> {
    let script = "read x; echo got $x; echo err >&2; grep -c hypervisor /proc/cpuinfo; exit 7";
    let run = format!("echo word | $CTR run --rm --runtime {RUNTIME} {} vm sh -c '{script}'", image::NAME);
    let ended = engine.shell(&run)?;
    ensure!(
        ended.code() == Some(7) && ended.stdout.starts_with("got word\n"),
        "{:?} {:?} {}",
        ended.code(),
        ended.stdout,
        ended.stderr
    );
    ensure!(ended.stderr.contains("err"), "standard error is lost: {:?}", ended.stderr);
    Ok(())
}

/// Two containers in one machine, with all that is done to them from outside.
fn pod(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "vm", "--handler", "nacre-vm", "--cni"])?;
    let log = engine.dir.join("vm-logs/main.log");
    std::fs::create_dir_all(engine.dir.join("vm-logs"))?;
    let server = "echo logged; while true; do nc -l -p 8080 -e sh -c 'read x; echo hello $x'; done";
    let options = ["--cni", "--log", &log.display().to_string(), "--memory", "134217728"];
    let one = engine.container(&pod, "one", &options, &["sh", "-c", server])?;
    let two =
        engine.container(&pod, "two", &["--cni", "--interactive"], &["sh", "-c", "while read x; do echo got $x; done"])?;
    ensure!(engine.children(engine.only_shim()?, "nacre-keeper").len() == 1, "one machine for the pod");
    engine.soon("one hears the other", |engine| {
        Ok(engine.exec(&two, &["sh", "-c", "echo two | nc 127.0.0.1 8080"])?.stdout == "hello two\n")
    })?;
    let said = engine.exec(&one, &["sh", "-c", "echo in; exit 3"])?;
    ensure!(said.code() == Some(3) && said.stdout == "in\n", "exec: {:?} {}", said.code(), said.stderr);
    let said = engine.cri(&["exec-stream", &one, "--tty", "--stdin", "tty; exit 5\n", "--", "sh"])?;
    ensure!(said.code() == Some(5) && said.stdout.contains("/dev/pts/"), "terminal: {:?} {:?}", said.code(), said.stdout);
    let said = engine.cri(&["attach", &two, "--stdin", "word\n", "--until", "got word\n"])?;
    ensure!(said.stdout.ends_with("got word\n"), "attach: {:?} {}", said.stdout, said.stderr);
    let said = engine.cri(&["port-forward", &pod, "8080", "--stdin", "out\n", "--until", "hello"])?;
    ensure!(said.stdout.starts_with("hello out"), "port-forward: {:?} {}", said.stdout, said.stderr);
    let stats = engine.call(&["stats", &one])?;
    ensure!(!stats.contains("memory 0"), "{stats}");
    engine.soon("the log", |_| Ok(std::fs::read_to_string(&log).unwrap_or_default().contains(" stdout F logged\n")))?;
    engine.call(&["stop", &one])?;
    // Its shell is told to end, and does.
    engine.wait_status(&one, "exited 143 Error")?;
    engine.wait_status(&two, "running 0")?;
    engine.call(&["remove", &one])?;
    let again = engine.container(&pod, "again", &["--cni"], &["sh", "-c", "exit 4"])?;
    engine.wait_status(&again, "exited 4 Error")
}

/// The machine dies: so its containers have.
fn kill(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "dead", "--handler", "nacre-vm"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "1000"])?;
    let keeper = *engine.children(engine.only_shim()?, "nacre-keeper").first().context("no keeper")?;
    let machine = *engine.children(keeper, "qemu-system-x86").first().context("the keeper has no machine")?;
    sh::signal(machine, "KILL");
    engine.wait_status(&id, "exited 137 Error")
}

/// A raw block volume is the host's device, and free again without its container; a privileged container, which gets all devices of the node, has no disk of it.
fn block_device(engine: &mut Engine) -> Result<()> {
    let file = engine.dir.join("volume");
    std::fs::write(&file, [b"of the host".as_slice(), &[0; 1 << 20]].concat())?;
    let made = sh::output(Command::new("losetup").args(["--find", "--show"]).arg(&file));
    let disk = made.context("this machine has no loop device")?.trim().to_string();
    let used = use_block_device(engine, &disk);
    // Also after a failure: a device that is held goes with its last holder.
    let detached = sh::run(Command::new("losetup").args(["-d", &disk]));
    used.and(detached)?;
    // (A node that is free again may be another file's at once.)
    ensure!(sh::output(Command::new("losetup").arg("-j").arg(&file))?.trim().is_empty(), "{disk} is held still");
    ensure!(std::fs::read(&file)?.starts_with(b"of the guest"), "it was not written to");
    Ok(())
}

fn use_block_device(engine: &mut Engine, disk: &str) -> Result<()> {
    let pod = engine.call(&["run-pod", "block", "--handler", "nacre-vm", "--privileged"])?;
    let device = format!("{disk}:/dev/volume");
    let id = engine.container(&pod, "volume", &["--device", &device], &["sleep", "1000"])?;
    let script = "head -c 11 /dev/volume; echo; printf 'of the guest' | dd of=/dev/volume conv=fsync,notrunc 2>/dev/null; \
        head -c 12 /dev/volume";
    let said = engine.exec(&id, &["sh", "-c", script])?;
    ensure!(said.stdout == "of the host\nof the guest", "{:?} {}", said.stdout, said.stderr);
    let other = engine.container(&pod, "privileged", &["--privileged"], &["sleep", "1000"])?;
    let said = engine.exec(&other, &["ls", disk])?;
    ensure!(!said.success(), "it is there: {:?}", said.stdout);
    engine.call(&["stop", &id])?;
    engine.call(&["remove", &id])?;
    let said = engine.exec(&other, &["grep", "-c", " vd", "/proc/partitions"])?;
    ensure!(said.stdout == "0\n", "the machine has it still: {:?}", said.stdout);
    Ok(())
}
