//! sysfs: the files that libraries, run-times and tools like `lscpu` read.

mod cpu;
mod node;

use std::sync::Arc;

use super::pseudo::{Look, Tree};
use super::{FileSystem, Inode, StatFs};
use crate::Errno;
use crate::kernel::Kernel;
use crate::net::report;
use crate::step::Step;

/// `SYSFS_MAGIC`.
const MAGIC: u64 = 0x6265_6572;

/// The sysfs of a sandbox.
pub struct SysFs {
    root: Arc<dyn Inode>,
    dev: u64,
}

impl SysFs {
    pub fn new(kernel: &Kernel, dev: u64) -> Arc<SysFs> {
        let mut tree = Tree::with_look(dev, Look::SYSFS);
        cpu::add(&mut tree, &kernel.machine);
        node::add(&mut tree, &kernel.machine);
        huge_pages(&mut tree);
        for directory in [
            "block",
            "bus",
            "class/block",
            "class/mem",
            "class/misc",
            "class/tty",
            "class/thermal",
            "dev/block",
            "dev/char",
            "devices/virtual",
            "firmware",
            "fs/cgroup",
            "hypervisor",
            "kernel/debug",
            "kernel/security",
            "kernel/tracing",
            "module",
            "power",
        ] {
            tree.add_directory(directory);
        }
        for (at, device) in kernel.net.devices().iter().enumerate() {
            for (number, (name, _)) in report::interface(device).iter().enumerate() {
                let net = kernel.net.clone();
                let value = move || {
                    let device = net.devices().into_iter().nth(at);
                    device
                        .and_then(|device| report::interface(&device).into_iter().nth(number))
                        .map_or(String::new(), |(_, text)| text)
                };
                tree.add(format!("class/net/{}/{name}", device.name), value);
            }
        }
        Arc::new(SysFs { root: tree.into_root(), dev })
    }
}

fn huge_pages(tree: &mut Tree) {
    const TRANSPARENT: [(&str, &str); 5] = [
        ("enabled", "always [madvise] never"),
        ("defrag", "always defer defer+madvise [madvise] never"),
        ("shmem_enabled", "always within_size advise [never] deny force"),
        ("hpage_pmd_size", "2097152"),
        ("use_zero_page", "1"),
    ];
    for (name, value) in TRANSPARENT {
        tree.add(format!("kernel/mm/transparent_hugepage/{name}"), move || value.into());
    }
    for name in ["nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages"] {
        tree.add(format!("kernel/mm/hugepages/hugepages-2048kB/{name}"), || "0".into());
    }
}

impl FileSystem for SysFs {
    fn name(&self) -> &'static str {
        "sysfs"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        Step::ok(StatFs { magic: MAGIC, block_size: 4096, name_max: 255, fsid: self.dev, ..StatFs::default() })
    }

    /// Nothing changes by itself.
    fn name_ttl_ns(&self) -> u64 {
        u64::MAX
    }
}
