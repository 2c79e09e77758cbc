//! `bench --vm`: sandboxes in virtual machines, beside what they are made of: a bare boot of the same kernel, a bare `virtiofsd`, `socat` over the same
//! vsock device. Figures that are compared come from one run, in turn.

mod files;
mod idle;
mod machine;
mod start;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{agent, bundle, packages, page, sh};
pub use machine::Bare;

/// Of its section in docs/performance.md.
pub const HEADING: &str = "## Virtual machines";

const PARTS: [&str; 3] = ["start", "idle", "files"];

/// A kernel that is measured.
pub struct Kernel {
    pub name: &'static str,
    /// Where nacre has it chosen.
    cache: PathBuf,
    /// As the distribution ships it, or as we build it.
    pub path: PathBuf,
}

impl Kernel {
    /// Nacre, with this kernel for its VMs.
    pub fn nacre(&self) -> Command {
        let mut command = Command::new(sh::nacre());
        command.env("XDG_CACHE_HOME", &self.cache).env("NACRE_SANDBOX", "vm");
        command.arg("--root").arg(sh::target().join("bench-state/vm"));
        command
    }
}

pub fn run(args: &[String]) -> Result<()> {
    let (mut rounds, mut parts) = (7, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => rounds = args.next().context("bench --vm: --rounds N")?.parse()?,
            part if PARTS.contains(&part) => parts.push(part),
            other => bail!("bench --vm: {other} is none of {}", PARTS.join(", ")),
        }
    }
    let whole = parts.is_empty();
    let has = |part: &str| whole || parts.contains(&part);
    packages::ensure(&["qemu-system-x86", "linux-image-cloud-amd64", "busybox-static", "socat"])?;
    if std::env::var_os("NACRE").is_none() {
        sh::build_release()?;
        agent::build()?;
    }
    bundle::busybox()?;
    let kernels = kernels()?;
    let mut text = head(rounds)?;
    if has("start") {
        text += &start::report(&kernels, rounds)?;
    }
    if has("idle") {
        text += &idle::report(&kernels)?;
    }
    if has("files") {
        text += &files::report(&kernels, rounds)?;
    }
    page::show(HEADING, &text, whole)
}

/// The distribution's, and ours if one has been built.
fn kernels() -> Result<Vec<Kernel>> {
    let distribution = guest::Kernel::newest("/boot".as_ref())?.path;
    let found = guest::own_kernel().map(|path| ("ours", path));
    if found.is_none() {
        eprintln!("bench: no kernel of our own: `nacre guest build --kernel-source` makes one");
    }
    let mut kernels = Vec::new();
    for (name, path) in std::iter::once(("Debian's", distribution)).chain(found) {
        let cache = sh::target().join("bench-guest").join(name.trim_end_matches("'s"));
        let kernel = Kernel { name, cache, path };
        // Chosen, and everything made that the first VM would wait for.
        sh::output(kernel.nacre().args(["guest", "build", "--kernel"]).arg(&kernel.path))?;
        kernels.push(kernel);
    }
    Ok(kernels)
}

fn head(rounds: usize) -> Result<String> {
    let commit = sh::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(sh::top()))?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let version = sh::output(Command::new("qemu-system-x86_64").arg("--version"))?;
    let accelerator = match vmm_has_kvm() {
        true => "with KVM",
        false => "without KVM (emulated)",
    };
    let mut text = String::new();
    writeln!(
        text,
        "{HEADING}\n\nWritten by `cargo xtask bench --vm` at commit {}: {}, {accelerator}, load before {}; medians of {rounds} rounds in turn.",
        commit.trim(),
        version.lines().next().unwrap_or_default(),
        load.split(' ').next().unwrap_or_default(),
    )?;
    Ok(text)
}

/// As nacre decides it.
pub fn vmm_has_kvm() -> bool {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualises = cpu.lines().filter(|l| l.starts_with("flags")).any(|l| l.split(' ').any(|f| f == "vmx" || f == "svm"));
    virtualises && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}
