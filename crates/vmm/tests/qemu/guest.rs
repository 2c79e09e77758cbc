//! What the guest boots: the Debian cloud kernel and an initramfs of its modules and our init.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ::guest::Kernel;
use ::guest::cpio::Writer;

/// What a test needs of the system, or why it cannot run.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// In the order in which they have to be loaded.
const MODULES: &[&str] = &[
    "virtio_pci",
    "vmw_vsock_virtio_transport",
    "virtio_blk",
    "virtio_net",
    "virtio_pmem",
    "nd_pmem",
    "virtio_mem",
    "virtio_balloon",
];

impl Guest {
    /// None, with a loud reason, where QEMU or the kernel is not installed.
    pub fn build() -> Option<Guest> {
        let Ok(true) = Command::new(vmm::qemu::PROGRAM).arg("--version").output().map(|out| out.status.success()) else {
            eprintln!("SKIPPED: no {}: install qemu-system-x86", vmm::qemu::PROGRAM);
            return None;
        };
        let kernel = match Kernel::newest(Path::new("/boot")) {
            Ok(kernel) => kernel,
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return None;
            }
        };
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let init = dir.join("init");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.c");
        let compiled = Command::new("cc").args(["-Os", "-static", "-w", "-o"]).arg(&init).arg(source).status();
        assert!(compiled.expect("a C compiler").success());
        let initrd = dir.join("initrd");
        fs::write(&initrd, initramfs(&kernel.release, &init)).expect("the initramfs");
        Some(Guest { kernel: kernel.path, initrd })
    }
}

fn initramfs(version: &str, init: &Path) -> Vec<u8> {
    let mut modules: Vec<PathBuf> = Vec::new();
    for name in MODULES {
        let out = Command::new("modprobe").args(["-S", version, "--show-depends", name]).output().expect("modprobe, of kmod");
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            let path = PathBuf::from(line.trim_start_matches("insmod ").trim());
            if line.starts_with("insmod ") && !modules.contains(&path) {
                modules.push(path);
            }
        }
    }
    assert!(modules.len() >= MODULES.len(), "modules missing: {modules:?}");
    let mut archive = Writer::default();
    archive.directory("dev");
    archive.directory("modules");
    let mut order = String::new();
    for path in modules {
        let name = path.file_name().and_then(|n| n.to_str()).expect("a module's name").to_string();
        archive.file(&format!("modules/{name}"), 0o644, &fs::read(&path).expect("a module"));
        order += &format!("{name}\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.file("init", 0o755, &fs::read(init).expect("init"));
    archive.finish()
}
