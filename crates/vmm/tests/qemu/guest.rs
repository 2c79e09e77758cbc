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

/// With all that they need.
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
        fs::write(&initrd, initramfs(&kernel, &init)).expect("the initramfs");
        Some(Guest { kernel: kernel.path, initrd })
    }
}

fn initramfs(kernel: &Kernel, init: &Path) -> Vec<u8> {
    let mut archive = Writer::default();
    archive.directory("dev");
    ::guest::modules::put(&mut archive, kernel, MODULES).expect("the kernel's modules");
    archive.file("init", 0o755, &fs::read(init).expect("init"));
    archive.finish()
}
