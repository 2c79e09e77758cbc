//! A machine to mount the device in: QEMU (TCG), the distribution's kernel, and an initramfs of busybox and the modules needed.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ::guest::{Kernel, cpio::Writer};

/// With all that they need.
const MODULES: &[&str] = &["virtio_pci", "virtiofs", "overlay"];

/// What a machine is made of.
pub struct Parts {
    kernel: Kernel,
    busybox: PathBuf,
}

/// The machine's parts, or what is missing.
pub fn parts() -> Result<Parts, String> {
    let found = |path: &str| Path::new(path).exists().then(|| PathBuf::from(path));
    found("/usr/bin/qemu-system-x86_64").ok_or("no qemu-system-x86_64: install qemu-system-x86")?;
    let busybox = found("/bin/busybox").ok_or("no busybox: install busybox-static")?;
    let kernel = Kernel::newest(Path::new("/boot")).map_err(|e| e.to_string())?;
    Ok(Parts { kernel, busybox })
}

/// A running machine; killed when dropped.
pub struct Machine(Child);

impl Machine {
    /// Boots with `script` as what the init does.
    pub fn boot(parts: &Parts, folder: &Path, socket: &Path, script: &str) -> Machine {
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, make_initramfs(parts, script)).unwrap();
        let child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-cpu", "max", "-M", "q35"])
            .args(["-smp", "2", "-m", "512M", "-serial", "stdio", "-no-reboot"])
            .args(["-object", "memory-backend-memfd,id=mem,size=512M,share=on", "-numa", "node,memdev=mem"])
            .arg("-kernel")
            .arg(&parts.kernel.path)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .arg("-chardev")
            .arg(format!("socket,id=c0,path={}", socket.display()))
            .args(["-device", "vhost-user-fs-pci,chardev=c0,tag=nacre,queue-size=1024"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Machine(child)
    }

    /// The lines of its console, as they come, until it is off.
    pub fn watch(&mut self, limit: Duration, mut line: impl FnMut(&str)) {
        let start = Instant::now();
        let (send, receive) = std::sync::mpsc::channel();
        let console = BufReader::new(self.0.stdout.take().unwrap());
        std::thread::spawn(move || {
            for text in console.split(b'\n').map_while(Result::ok) {
                if send.send(String::from_utf8_lossy(&text).trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        loop {
            match receive.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok(text) => line(&text),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("the machine is not done after {limit:?}"),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn make_initramfs(parts: &Parts, script: &str) -> Vec<u8> {
    let mut archive = Writer::default();
    for dir in ["bin", "dev", "proc", "sys", "mnt"] {
        archive.directory(dir);
    }
    archive.file("bin/busybox", 0o755, &fs::read(&parts.busybox).unwrap());
    let mut init = String::from(
        "#!/bin/busybox sh\nB=/bin/busybox\n$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev\n",
    );
    guest::modules::put(&mut archive, &parts.kernel, MODULES).expect("the kernel's modules");
    init.push_str("while read module; do $B insmod /modules/$module; done < /modules/order\n");
    init.push_str("$B mkdir -p /x\n$B --install -s /bin\nexport PATH=/bin\n");
    init.push_str(script);
    init.push_str("\n$B poweroff -f\n");
    archive.file("init", 0o755, init.as_bytes());
    archive.finish()
}
