//! A bare machine: QEMU as everybody starts it, busybox as its init, and whatever devices a measurement is about.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use guest::cpio::Writer;

use super::{Kernel, vmm_has_kvm};
use crate::backend::Server;
use crate::sh;

const LIMIT: Duration = Duration::from_secs(900);

/// What a script may need of modules, where they are not built in.
const MODULES: &[&str] = &["virtio_pci", "virtiofs", "vmw_vsock_virtio_transport"];

/// An initial root whose init is busybox with a script, with [`MODULES`] loaded before.
fn archive(kernel: &Kernel, script: &str) -> Result<Vec<u8>> {
    let mut archive = Writer::default();
    for dir in ["bin", "dev", "proc", "ours", "theirs"] {
        archive.directory(dir);
    }
    archive.character_device("dev/console", 5, 1);
    guest::modules::put(&mut archive, &guest::Kernel::open(&kernel.path)?, MODULES)?;
    archive.file("bin/busybox", 0o755, &std::fs::read("/bin/busybox").context("/bin/busybox, of busybox-static")?);
    let load = "while read module; do busybox insmod /modules/$module; done < /modules/order";
    let init = format!("#!/bin/busybox sh\nexport PATH=/bin\n{load}\n{script}\nbusybox poweroff -f\n");
    archive.file("init", 0o755, init.as_bytes());
    Ok(archive.finish())
}

/// The machine that does nothing: its init powers it off.
pub struct Bare {
    dir: PathBuf,
    kernel: PathBuf,
}

impl Bare {
    /// With the newest kernel that the distribution has installed.
    pub fn of_distribution() -> Result<Bare> {
        Bare::with(guest::Kernel::newest("/boot".as_ref())?.path)
    }

    pub fn new(kernel: &Kernel) -> Result<Bare> {
        Bare::with(kernel.path.clone())
    }

    fn with(kernel: PathBuf) -> Result<Bare> {
        let dir = sh::scratch()?;
        let source = sh::top().join("bench/poweroff.c");
        let place = sh::target().join("bench-guest");
        std::fs::create_dir_all(&place)?;
        let program = place.join("poweroff");
        sh::compile_c(&source, &program)?;
        let mut archive = Writer::default();
        archive.directory("dev");
        archive.character_device("dev/console", 5, 1);
        archive.file("init", 0o755, &std::fs::read(&program)?);
        std::fs::write(dir.join("initrd"), archive.finish())?;
        Ok(Bare { dir, kernel })
    }

    /// `qemu … -kernel -initrd`, to its end.
    pub fn boot(&self) -> Command {
        qemu(&self.kernel, &self.dir.join("initrd"))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn qemu(kernel: &Path, initrd: &Path) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-smp", "1", "-serial", "stdio"]);
    qemu.args(["-object", "memory-backend-memfd,id=ram,size=1G,share=on", "-M", "q35,memory-backend=ram", "-m", "1G"]);
    match vmm_has_kvm() {
        true => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        false => qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
    };
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", "console=ttyS0 panic=-1 quiet"]);
    qemu.stdin(Stdio::null());
    qemu
}

/// Runs a script in a machine with two virtio-fs devices, mounted on /ours (the host's root is /ours/0) and /theirs (`share`), and our vsock device, whose
/// ports are sockets `vsock_PORT` in `dir`. Returns what it printed.
pub fn with_devices(kernel: &Kernel, dir: &Path, share: &Path, script: &str) -> Result<String> {
    let mounts = "busybox mount -t devtmpfs dev /dev; busybox mount -t proc proc /proc
for place in ours theirs; do busybox mount -t virtiofs $place /$place || busybox poweroff -f; done";
    let initrd = dir.join("initrd");
    std::fs::write(&initrd, archive(kernel, &format!("{mounts}\n{script}"))?)?;
    let socket = |name: &str| dir.join(name);
    let examples = examples()?;
    let mut serve = Command::new(examples.join("serve"));
    serve.arg(socket("ours")).arg("/:ro").stdout(Stdio::null());
    let mut theirs = Command::new("/usr/lib/qemu/virtiofsd");
    theirs.arg(format!("--socket-path={}", socket("theirs").display()));
    theirs
        .args(["-o", &format!("source={}", share.display()), "-o", "cache=always", "-o", "sandbox=chroot"])
        .stderr(Stdio::null());
    let mut vsock = Command::new(examples.join("vsock-paths"));
    vsock.arg(socket("vsock.device")).arg("3").arg(socket("vsock")).stderr(Stdio::null());
    let _servers = [
        Server::start(serve, &socket("ours"))?,
        Server::start(theirs, &socket("theirs"))?,
        Server::start(vsock, &socket("vsock.device"))?,
    ];
    let mut qemu = qemu(&kernel.path, &initrd);
    for (id, name) in [("ours", "ours"), ("theirs", "theirs"), ("vsock", "vsock.device")] {
        qemu.args(["-chardev", &format!("socket,id={id},path={}", socket(name).display())]);
    }
    for tag in ["ours", "theirs"] {
        qemu.args(["-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024")]);
    }
    qemu.args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
    let ended = sh::timed(&mut qemu, LIMIT)?;
    match ended.success() {
        true => Ok(ended.stdout),
        false => bail!("the machine ({}):\n{}{}", ended.how(), sh::tail(&ended.stdout, 20), ended.stderr),
    }
}

/// Where our devices are as programs of their own, optimised as nacre is.
fn examples() -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    build.args([
        "build",
        "-q",
        "--profile",
        "fast",
        "-p",
        "vmm",
        "-p",
        "virtiofs",
        "--example",
        "serve",
        "--example",
        "vsock-paths",
    ]);
    sh::run(build.current_dir(sh::top()))?;
    Ok(sh::target().join("fast/examples"))
}
