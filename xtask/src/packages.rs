//! Debian packages that the tests need: only what is missing is installed, from the machine's own apt sources.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::sh;

/// What `cargo xtask test` needs beside Rust and a C compiler.
pub const TEST: &[&str] = &[
    "libc6-dev",
    "busybox-static",
    "erofs-utils",
    "docker-registry",
    "debootstrap",
    "runc",
    "git",
    "python3-minimal",
    "python3",
    "libpython3.11-testsuite",
    "perl",
    "sqlite3",
    "gcc",
    "procps",
    "strace",
    "gdb",
    "psmisc",
    "lsof",
    "tmux",
    "bubblewrap",
    "iproute2",
    "iptables",
    "containernetworking-plugins",
    "redis-server",
    "qemu-system-x86",
    "linux-image-cloud-amd64",
    "containerd",
    "podman",
];

/// What the full tier of `apps` needs.
pub const APPS: &[&str] = &[
    "nodejs",
    "golang-go",
    "default-jdk-headless",
    "postgresql",
    "nginx-light",
    "openssh-server",
    "curl",
    "make",
    "autoconf",
    "automake",
    "dpkg-dev",
    "tzdata",
    "stress-ng",
    "chromium",
    "mariadb-server",
    "file",
];

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).stderr(Stdio::null()).output();
    query.is_ok_and(|o| o.stdout == b"installed")
}

/// Installs those that are missing.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
        // Somebody else may be installing.
        apt.args(["-o", "DPkg::Lock::Timeout=300"]);
        apt
    };
    let _ = sh::run(apt().args(["update", "-q"])); // one dead source of many is no reason to stop
    sh::run(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing))
}

/// The mirror that the machine itself installs Debian from.
pub fn mirror() -> Result<String> {
    let text =
        sh::output(Command::new("apt-get").args(["indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"]))?;
    let line = text
        .lines()
        .find(|l| l.ends_with(" bookworm"))
        .or_else(|| text.lines().next())
        .context("apt knows no source of packages")?;
    Ok(line.split(' ').next().unwrap_or_default().trim_end_matches('/').to_string())
}

/// Where [`source`] puts them.
pub fn sources() -> PathBuf {
    sh::target().join("sources")
}

/// A Debian package's source, unpacked as `sources()/NAME-VERSION`.
pub fn source(name: &str) -> Result<()> {
    let dir = sources();
    std::fs::create_dir_all(&dir)?;
    let prefix = format!("{name}-");
    let names = std::fs::read_dir(&dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    if names.into_iter().any(|n| n.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))) {
        return Ok(());
    }
    let apt = Apt::new(&dir, &format!("deb-src {} bookworm main\n", mirror()?))?;
    apt.get(&["update", "-q"])?;
    apt.get(&["source", "-q", name])
}

/// An apt with sources and state of its own, which leaves the machine's alone.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn new(dir: &Path, list: &str) -> Result<Apt> {
        let apt = dir.join("apt");
        std::fs::create_dir_all(apt.join("lists/partial"))?;
        std::fs::create_dir_all(apt.join("archives/partial"))?;
        std::fs::write(apt.join("sources.list"), list)?;
        Ok(Apt { dir: dir.to_path_buf() })
    }

    fn get(&self, args: &[&str]) -> Result<()> {
        let apt = self.dir.join("apt");
        let options = [
            format!("Dir::Etc::SourceList={}", apt.join("sources.list").display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", apt.join("lists").display()),
            format!("Dir::Cache={}", apt.display()),
            "APT::Sandbox::User=root".into(),
        ];
        let mut command = Command::new("apt-get");
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null());
        for option in &options {
            command.args(["-o", option]);
        }
        sh::run(command.args(args))
    }
}

/// Debian's `runsc` of bookworm-backports, unpacked under target/ (not installed).
pub fn runsc() -> Result<PathBuf> {
    unpacked("runsc", "bookworm-backports", "runsc")
}

/// Debian's containerd 2, of unstable, unpacked likewise: the directory of its programs. It needs no newer C library than the machine has.
pub fn containerd2() -> Result<PathBuf> {
    let program = unpacked("containerd", "sid", "containerd")?;
    let version = sh::output(Command::new(&program).arg("--version"))?;
    if !version.split_whitespace().nth(2).is_some_and(|version| version.starts_with("2.")) {
        bail!("unstable's containerd is no containerd 2: {}", version.trim());
    }
    Ok(program.parent().unwrap_or(&program).to_path_buf())
}

/// A program of a package of another suite, which is unpacked under target/.
fn unpacked(package: &str, suite: &str, program: &str) -> Result<PathBuf> {
    let dir = sh::target().join(package);
    let program = dir.join("usr/bin").join(program);
    if program.exists() {
        return Ok(program);
    }
    let apt = Apt::new(&dir, &format!("deb {} {suite} main\n", mirror()?))?;
    apt.get(&["update", "-q"])?;
    apt.get(&["download", "-q", package])?;
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            sh::run(Command::new("dpkg").arg("-x").arg(&path).arg(&dir))?;
        }
    }
    if !program.exists() {
        bail!("the package {package} of {suite} has no {}", program.display());
    }
    Ok(program)
}
