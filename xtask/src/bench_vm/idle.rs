//! What a pod that does nothing costs the host: its processes beside QEMU, and the guest memory that has been touched.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Kernel;
use crate::startup::{descends, pss};
use crate::{bundle, sh};

/// Free memory is reported to the host some seconds after it became so.
const SETTLE: Duration = Duration::from_secs(10);
const VMM: &str = "qemu-system-x86";
/// A limit as pods have it, and none: the machine is as large as its limit says.
const LIMITS: [(&str, Option<u64>); 2] = [("128 MiB", Some(128 << 20)), ("none", None)];

pub fn report(kernels: &[Kernel]) -> Result<String> {
    let mut text = format!(
        "\nA sandbox that sleeps, {} s after its start; KiB. Guest memory is what the host has given for it. Goals: processes at most 15,360; \
         guest memory with our kernel at most 40,960.\n\n\
         | kernel | memory limit | processes but QEMU, PSS | QEMU without guest memory, PSS | guest memory |\n|---|--:|--:|--:|--:|\n",
        SETTLE.as_secs()
    );
    for kernel in kernels {
        for (name, memory) in LIMITS {
            let Idle { processes, vmm, guest } = idle(kernel, memory)?;
            writeln!(text, "| {} | {name} | {processes} | {vmm} | {guest} |", kernel.name)?;
        }
    }
    Ok(text)
}

struct Idle {
    processes: u64,
    vmm: u64,
    guest: u64,
}

fn idle(kernel: &Kernel, memory: Option<u64>) -> Result<Idle> {
    let id = format!("idle-{}", std::process::id());
    let dir = sh::target().join("bundles/bench-vm-idle");
    let root = bundle::busybox()?.join("rootfs");
    let args = ["/bin/sh", "-c", "echo up; exec sleep 1000"];
    bundle::Config { memory, ..bundle::Config::new(&root, &args) }.write(&dir)?;
    let mut run = kernel.nacre();
    run.arg("run").arg("--bundle").arg(&dir).arg(&id).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = run.spawn().context("cannot start nacre")?;
    let mut line = String::new();
    let up = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
    std::thread::sleep(SETTLE);
    let measured = measure(child.id());
    // Its command ends with it, and cleans up.
    sh::run(kernel.nacre().args(["kill", &id, "KILL"]))?;
    sh::wait(&mut child, Duration::from_secs(20))?;
    if !matches!(up, Some(Ok(1..))) {
        bail!("the sandbox did not come up");
    }
    measured
}

/// Of the processes below one, which waits in the foreground and is none of the sandbox's.
fn measure(of: u32) -> Result<Idle> {
    let mut idle = Idle { processes: 0, vmm: 0, guest: 0 };
    let mut machines = 0;
    for pid in sh::pids().into_iter().filter(|pid| *pid != of && descends(*pid, of)) {
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if command.starts_with(VMM) {
            machines += 1;
            idle.guest += guest_memory(pid)?;
            idle.vmm += pss(pid).saturating_sub(guest_pss(pid)?);
        } else {
            idle.processes += pss(pid);
        }
    }
    match machines {
        1 => Ok(idle),
        _ => bail!("{machines} machines belong to the sandbox"),
    }
}

/// KiB of the file that is the guest's memory.
fn guest_memory(vmm: u32) -> Result<u64> {
    let mut kib = 0;
    for entry in std::fs::read_dir(format!("/proc/{vmm}/fd"))?.flatten() {
        let is_memory = |target: &Path| target.to_string_lossy().contains("memfd:memory-backend-memfd");
        if std::fs::read_link(entry.path()).is_ok_and(|target| is_memory(&target)) {
            kib += std::fs::metadata(entry.path())?.blocks() / 2;
        }
    }
    Ok(kib)
}

/// What of a VMM's PSS is guest memory.
fn guest_pss(vmm: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{vmm}/smaps"))?;
    let (mut kib, mut is_memory) = (0, false);
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("Pss", value)) if is_memory => {
                kib += value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
            }
            _ if line.contains('-') && line.contains(" rw-s ") => is_memory = line.contains("memory-backend-memfd"),
            _ if line.split(' ').next().is_some_and(|range| range.contains('-')) => is_memory = false,
            _ => {}
        }
    }
    Ok(kib)
}
