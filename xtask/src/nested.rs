//! A machine with KVM as hardware has it: QEMU emulates a CPU with SVM, and in that machine, whose files are the host's (read-only, by our own virtio-fs device),
//! sandboxes are virtual machines that run on KVM.
//!
//! Everything in it is slow, and everything is real: its /dev/kvm is only root's, as the kernel makes it, so the sandbox has to bring its own way there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use guest::Kernel;
use guest::cpio::Writer;

use crate::backend::Server;
use crate::sh;

/// What the machine's kernel is given: its own devices; /dev/kvm; a pod's network, and /dev/vhost-net.
const MODULES: &[&str] =
    &["virtio_pci", "virtiofs", "kvm_amd", "veth", "tun", "sch_ingress", "cls_u32", "act_mirred", "vhost_net"];
/// Two levels of emulation, and other load.
const LIMIT: Duration = Duration::from_secs(400);
/// What a machine prints before the status of the script.
const STATUS: &str = "the script ended with status ";

/// PID 1 of the machine: the host's files become its root, with file systems of its own where a running system has them.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
busybox mount -t devtmpfs dev /dev
while read module; do busybox insmod /modules/$module || echo \"cannot load $module\"; done < /modules/order
busybox mount -t virtiofs host /trees -o ro && busybox mount -o bind,ro /trees/0 /host || busybox poweroff -f
busybox mount -o move /dev /host/dev
for place in proc sys tmp run root dev/shm sys/fs/cgroup; do
    case $place in
        proc) kind=proc ;;
        sys) kind=sysfs ;;
        sys/fs/cgroup) kind=cgroup2 ;;
        dev/shm) kind=tmpfs; busybox mkdir /host/dev/shm ;;
        *) kind=tmpfs ;;
    esac
    busybox mount -t $kind $kind /host/$place
done
busybox cp /script /host/run/script
busybox mkdir /host/run/program && busybox mount -o bind,ro /trees/0DIRECTORY /host/run/program
exec busybox switch_root /host /bin/sh -c '/bin/sh /run/script; echo \"STATUS$?\"; echo o > /proc/sysrq-trigger; while sleep 1; do :; done' < /dev/console > /dev/console 2>&1
";

/// Where the machine has the directory of the program under test: its place on the host may be covered there (/tmp, /root).
pub const PROGRAM: &str = "/run/program";

/// Runs a script in such a machine, with what is in `program`; what it printed.
///
/// # Errors
/// With the output, when the script fails or the machine does not come to its end.
pub fn run(program: &Path, script: &str) -> Result<String> {
    let dir = sh::scratch()?;
    let output = machine(&dir, program, script);
    fs::remove_dir_all(&dir)?;
    output
}

fn machine(dir: &Path, program: &Path, script: &str) -> Result<String> {
    let kernel = Kernel::newest(Path::new("/boot"))?;
    let initrd = dir.join("initrd");
    fs::write(&initrd, archive(&kernel, program, script)?)?;
    let socket = dir.join("files");
    // Our virtio-fs device with the host's root, read-only.
    let mut serve = Command::new(self::program()?);
    serve.arg(&socket).arg("/:ro").stdout(Stdio::null());
    let _server = Server::start(serve, &socket)?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
    ])
    .args(["-M", "q35,memory-backend=ram", "-smp", "2", "-m", "3G", "-object", "memory-backend-memfd,id=ram,size=3G,share=on"])
    .arg("-chardev")
    .arg(format!("socket,id=files,path={}", socket.display()))
    .args(["-device", "vhost-user-fs-pci,chardev=files,tag=host,queue-size=1024", "-serial", "stdio"])
    .args([OsStr::new("-kernel"), kernel.path.as_os_str(), OsStr::new("-initrd"), initrd.as_os_str()])
    .args(["-append", "console=ttyS0 panic=-1 quiet"]);
    let ended = sh::timed(qemu.stdin(Stdio::null()), LIMIT)?;
    let status = ended.stdout.lines().find_map(|line| line.trim().strip_prefix(STATUS));
    match status {
        Some("0") => Ok(ended.stdout),
        Some(status) => bail!("status {status}:\n{}", sh::tail(&ended.stdout, 40)),
        None => {
            bail!("the machine ({}) did not come to its end:\n{}{}", ended.how(), sh::tail(&ended.stdout, 40), ended.stderr)
        }
    }
}

fn archive(kernel: &Kernel, program: &Path, script: &str) -> Result<Vec<u8>> {
    let mut archive = Writer::default();
    for dir in ["bin", "dev", "host", "trees"] {
        archive.directory(dir);
    }
    archive.character_device("dev/console", 5, 1);
    guest::modules::put(&mut archive, kernel, MODULES)?;
    archive.file("bin/busybox", 0o755, &fs::read("/bin/busybox").context("/bin/busybox, of busybox-static")?);
    let init = INIT.replace("STATUS", STATUS).replace("DIRECTORY", program.to_str().context("a path that is no text")?);
    archive.file("init", 0o755, init.as_bytes());
    archive.file("script", 0o644, script.as_bytes());
    Ok(archive.finish())
}

/// An example of `crates/virtiofs`; with the features of the whole workspace, so that the unit tests' build is it.
fn program() -> Result<PathBuf> {
    sh::run(Command::new("cargo").args(["build", "-q", "--workspace", "--example", "serve"]).current_dir(sh::top()))?;
    Ok(sh::target().join("debug/examples/serve"))
}
