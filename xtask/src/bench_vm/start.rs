//! `run` of /bin/true, over a bare boot of the same kernel with an init that powers the machine off.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::machine::Bare;
use super::{Kernel, vmm_has_kvm};
use crate::bench::{cgroup, cpu_ns, median};
use crate::{bundle, sh};

const LIMIT: Duration = Duration::from_secs(120);

/// Of one start.
#[derive(Default)]
struct Times {
    wall_ms: Vec<f64>,
    cpu_ms: Vec<f64>,
}

pub fn report(kernels: &[Kernel], rounds: usize) -> Result<String> {
    let mut text = format!(
        "\n`run` of /bin/true in the busybox bundle, beside `qemu … -kernel -initrd` of the same kernel with an init that powers off; milliseconds, and \
         CPU milliseconds of all processes (which other load on the machine changes less). Goals: at most {} ms over it; with our own kernel at most half of \
         the time with the distribution's.\n\n\
         | kernel | bare boot | `run` | over it | bare boot, CPU | `run`, CPU | over it |\n|---|--:|--:|--:|--:|--:|--:|\n",
        if vmm_has_kvm() { 100 } else { 300 },
    );
    let bares = kernels.iter().map(Bare::new).collect::<Result<Vec<_>>>()?;
    let mut times: Vec<[Times; 2]> = kernels.iter().map(|_| Default::default()).collect();
    let bundle = sh::target().join("bundles/bench-vm-start");
    let group = format!("nacre-bench-vm-{}", std::process::id());
    let path = format!("/{group}/run");
    let root = bundle::busybox()?.join("rootfs");
    bundle::Config { cgroups_path: Some(&path), ..bundle::Config::new(&root, &["/bin/true"]) }.write(&bundle)?;
    for round in 0..=rounds {
        eprintln!("bench: start: round {round} of {rounds}");
        for ((kernel, bare), [alone, whole]) in kernels.iter().zip(&bares).zip(&mut times) {
            let mut run = kernel.nacre();
            run.arg("run").arg("--bundle").arg(&bundle).arg(format!("start-{}", std::process::id()));
            let of = [timed(bare.boot(), &group)?, timed(run, &group)?];
            // The first ones bring files into the page cache.
            if round > 0 {
                for (times, (wall, cpu)) in [alone, whole].into_iter().zip(of) {
                    times.wall_ms.push(wall);
                    times.cpu_ms.push(cpu);
                }
            }
        }
    }
    for (kernel, [alone, whole]) in kernels.iter().zip(times) {
        let of = |values: Vec<f64>| median(values).unwrap_or_default();
        let [bare, run, bare_cpu, run_cpu] = [of(alone.wall_ms), of(whole.wall_ms), of(alone.cpu_ms), of(whole.cpu_ms)];
        writeln!(
            text,
            "| {} | {bare:.0} | {run:.0} | {:.0} | {bare_cpu:.0} | {run_cpu:.0} | {:.0} |",
            kernel.name,
            run - bare,
            run_cpu - bare_cpu
        )?;
    }
    Ok(text)
}

/// Wall and CPU milliseconds of a command that must succeed.
fn timed(command: Command, group: &str) -> Result<(f64, f64)> {
    let (dir, usage) = cgroup(group)?;
    let mut inside = Command::new("sh");
    inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(dir.join("cgroup.procs"));
    inside.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        inside.env(name, value.unwrap_or_default());
    }
    inside.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let before = cpu_ns(&usage)?;
    let begin = Instant::now();
    let mut child = inside.spawn().context("cannot start it")?;
    let status = sh::wait(&mut child, LIMIT)?;
    let wall = begin.elapsed().as_secs_f64() * 1000.0;
    let cpu = (cpu_ns(&usage)? - before) / 1e6;
    let _ = std::fs::remove_dir(&dir);
    match status {
        Some(status) if status.success() => Ok((wall, cpu)),
        Some(status) => bail!("{command:?}: {status}"),
        None => bail!("{command:?}: still running"),
    }
}
