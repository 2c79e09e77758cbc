//! A large file: out of the guest as the output of `exec cat`, beside a pipe within it, and into it through virtio-fs.

use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Kernel, machine};
use crate::bench::median;
use crate::{bundle, sh};

/// An emulated guest needs half a minute for it, so there are few rounds.
const SIZE_MIB: usize = 1024;
const PORT: u32 = 5000;
/// What is as fast as what it is compared with, as far as that can be measured.
const GOAL: f64 = 0.9;
/// What a script prints before a time in seconds.
const MARK: &str = "seconds ";

pub fn report(kernels: &[Kernel], rounds: usize) -> Result<String> {
    let mut text = format!(
        "\nA file of {SIZE_MIB} MiB, MB/s, first read after the guest's caches were emptied: sent to the host (`nacre exec … cat`, beside `socat` in a bare machine \
         over the same vsock device, and `cat | cat > /dev/null` in the sandbox's guest), and read in the guest (`dd bs=1M`, beside Debian's `virtiofsd` in a bare \
         machine). Goals: both ratios at least {GOAL}, the transport's own speed.\n\n\
         | kernel | pipe in the guest | `exec cat` | socat | ratio to it | read | read, bare, our device | read, bare, virtiofsd | ratio to it |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    let rounds = rounds.div_ceil(4);
    let root = bundle::busybox()?.join("rootfs");
    let file = root.join("bench-large");
    make(&file)?;
    let done = rows(kernels, rounds, &root, &mut text);
    let _ = std::fs::remove_file(&file);
    done.map(|()| text)
}

fn rows(kernels: &[Kernel], rounds: usize, root: &Path, text: &mut String) -> Result<()> {
    for kernel in kernels {
        eprintln!("bench: a large file: {}", kernel.name);
        let Sandbox { piped, sent, read } = in_sandbox(kernel, root, rounds)?;
        let bare = in_machine(kernel, root, rounds)?;
        let [piped, sent, read, bare_sent, ours, theirs] = [piped, sent, read, bare.sent, bare.ours, bare.theirs]
            .map(|seconds| SIZE_MIB as f64 * 1.048_576 / median(seconds).unwrap_or(f64::NAN));
        writeln!(
            text,
            "| {} | {piped:.0} | {sent:.0} | {bare_sent:.0} | {:.2} | {read:.0} | {ours:.0} | {theirs:.0} | {:.2} |",
            kernel.name,
            sent / bare_sent,
            read / theirs
        )?;
    }
    Ok(())
}

fn make(file: &Path) -> Result<()> {
    let mut random = std::fs::File::open("/dev/urandom")?.take((SIZE_MIB as u64) << 20);
    std::io::copy(&mut random, &mut std::fs::File::create(file)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}

/// Seconds of each round.
#[derive(Default)]
struct Sandbox {
    piped: Vec<f64>,
    sent: Vec<f64>,
    read: Vec<f64>,
}

fn in_sandbox(kernel: &Kernel, root: &Path, rounds: usize) -> Result<Sandbox> {
    let id = format!("files-{}", std::process::id());
    let dir = sh::target().join("bundles/bench-vm-files");
    bundle::Config::new(root, &["/bin/sleep", "1000"]).write(&dir)?;
    let mut run = kernel.nacre();
    run.args(["run", "--detach", "--bundle"]).arg(&dir).arg(&id);
    sh::run(run.stdin(Stdio::null()).stdout(Stdio::null()))?;
    let exec = |args: &[&str]| {
        let mut exec = kernel.nacre();
        exec.args(["exec", &id]).args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        exec.spawn().context("cannot start nacre")
    };
    let timed = |command: &str| -> Result<Vec<f64>> {
        let output = exec(&["/bin/sh", "-c", &timed(command)])?.wait_with_output()?;
        Ok(seconds(&String::from_utf8_lossy(&output.stdout)))
    };
    let measure = || {
        let mut measured = Sandbox::default();
        for _ in 0..rounds {
            measured.piped.extend(timed("busybox cat /bench-large | busybox cat > /dev/null")?);
            measured.sent.push(drain(exec(&["/bin/sh", "-c", &format!("{EMPTY}; exec cat /bench-large")])?)?);
            measured.read.extend(timed(&read("/bench-large"))?);
        }
        Ok(measured)
    };
    let measured = measure();
    let _ = sh::output(kernel.nacre().args(["delete", "--force", &id]));
    measured
}

struct Machine {
    sent: Vec<f64>,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// The same without a sandbox.
fn in_machine(kernel: &Kernel, root: &Path, rounds: usize) -> Result<Machine> {
    let dir = sh::scratch()?;
    let socket = dir.join(format!("vsock_{PORT}"));
    let listener = UnixListener::bind(&socket)?;
    let receiver = std::thread::spawn(move || {
        (0..rounds)
            .map(|_| listener.accept().map_err(anyhow::Error::from).and_then(|(stream, _)| whole(stream)))
            .collect::<Result<Vec<_>>>()
    });
    let ours = format!("/ours/0{}/bench-large", root.display());
    let send =
        format!("busybox chroot /ours/0 /usr/bin/socat -u -b 65536 OPEN:{}/bench-large VSOCK-CONNECT:2:{PORT}", root.display());
    let round = format!("{}\n{send}\n{}\n{}\n", EMPTY, timed(&read(&ours)), timed(&read("/theirs/bench-large")));
    let output = machine::with_devices(kernel, &dir, root, &round.repeat(rounds));
    // The machine has ended: if it has sent less often, the receiver hears that nothing comes, and goes on.
    for _ in 0..rounds {
        drop(UnixStream::connect(&socket));
    }
    let sent = receiver.join().map_err(|_| anyhow::anyhow!("the receiver has failed"))?;
    std::fs::remove_dir_all(&dir)?;
    let all = seconds(&output?);
    if all.len() != 2 * rounds {
        bail!("the machine has measured {} times instead of {}", all.len(), 2 * rounds);
    }
    let every = |first: usize| all.iter().skip(first).step_by(2).copied().collect();
    Ok(Machine { sent: sent?, ours: every(0), theirs: every(1) })
}

const EMPTY: &str = "echo 3 > /proc/sys/vm/drop_caches 2> /dev/null";

fn read(file: &str) -> String {
    format!("busybox dd if={file} of=/dev/null bs=1M 2> /dev/null")
}

/// A script for busybox that does something and prints how long that took.
fn timed(command: &str) -> String {
    format!("{EMPTY}; read a b < /proc/uptime; {command}; read c d < /proc/uptime; echo {MARK}$a $c")
}

fn seconds(output: &str) -> Vec<f64> {
    let times = output.lines().filter_map(|line| line.trim().strip_prefix(MARK)?.split_once(' '));
    times.filter_map(|(from, to)| Some(to.parse::<f64>().ok()? - from.parse::<f64>().ok()?)).collect()
}

fn drain(mut child: Child) -> Result<f64> {
    let out = child.stdout.take().context("no standard output")?;
    let took = whole(out);
    match sh::wait(&mut child, Duration::from_secs(60))? {
        Some(status) if status.success() => took,
        Some(status) => bail!("exec: {status}"),
        None => bail!("exec: still running"),
    }
}

/// Seconds from the first byte of the file to its last.
fn whole(mut stream: impl Read) -> Result<f64> {
    let mut buffer = vec![0; 64 << 10];
    let mut len = stream.read(&mut buffer)?;
    let begin = Instant::now();
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            more => len += more,
        }
    }
    match len == SIZE_MIB << 20 {
        true => Ok(begin.elapsed().as_secs_f64()),
        false => bail!("{len} bytes instead of {SIZE_MIB} MiB"),
    }
}
