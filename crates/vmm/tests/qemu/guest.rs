//! What the guest boots: the Debian cloud kernel and an initramfs of its modules and our init.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

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
        let Some(version) = newest_kernel() else {
            eprintln!("SKIPPED: no kernel in /boot: install linux-image-cloud-amd64");
            return None;
        };
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let init = dir.join("init");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.c");
        let compiled = Command::new("cc").args(["-Os", "-static", "-w", "-o"]).arg(&init).arg(source).status();
        assert!(compiled.expect("a C compiler").success());
        let initrd = dir.join("initrd");
        fs::write(&initrd, initramfs(&version, &init)).expect("the initramfs");
        Some(Guest { kernel: format!("/boot/vmlinuz-{version}").into(), initrd })
    }
}

fn newest_kernel() -> Option<String> {
    let names = fs::read_dir("/boot").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| Some(name.strip_prefix("vmlinuz-").filter(|v| v.ends_with("-cloud-amd64"))?.to_string())).max()
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
    let mut archive = Archive(Vec::new());
    archive.add("dev", 0o040755, &[]);
    archive.add("modules", 0o040755, &[]);
    let mut order = String::new();
    for path in modules {
        let name = path.file_name().and_then(|n| n.to_str()).expect("a module's name").to_string();
        archive.add(&format!("modules/{name}"), 0o100644, &fs::read(&path).expect("a module"));
        order += &format!("{name}\n");
    }
    archive.add("modules/order", 0o100644, order.as_bytes());
    archive.add("init", 0o100755, &fs::read(init).expect("init"));
    archive.add("TRAILER!!!", 0, &[]);
    archive.0
}

/// A cpio archive of the "newc" kind (`Documentation/driver-api/early-userspace/buffer-format.rst`).
struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        let fields = [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0]
            .map(|field| format!("{field:08x}"));
        write!(self.0, "070701{}{name}\0", fields.concat()).expect("memory");
        self.pad();
        self.0.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
