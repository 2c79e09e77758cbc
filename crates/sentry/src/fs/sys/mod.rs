//! sysfs: the few files that libraries and run-times read.

use std::sync::Arc;

use super::pseudo::Tree;
use super::{FileSystem, Inode, StatFs};
use crate::Errno;
use crate::kernel::Kernel;
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
        let cpus = kernel.machine.cpus.max(1);
        let all = if cpus == 1 { "0".to_string() } else { format!("0-{}", cpus - 1) };
        let mut tree = Tree::new(dev);
        for name in ["online", "possible", "present"] {
            let all = all.clone();
            tree.add(format!("devices/system/cpu/{name}"), move || all.clone());
        }
        tree.add("devices/system/cpu/offline", String::new);
        tree.add("devices/system/cpu/kernel_max", || "8191".into());
        for cpu in 0..cpus {
            let topology = format!("devices/system/cpu/cpu{cpu}/topology");
            tree.add(format!("{topology}/core_id"), move || cpu.to_string());
            tree.add(format!("{topology}/physical_package_id"), || "0".into());
            tree.add(format!("{topology}/thread_siblings_list"), move || cpu.to_string());
            let all = all.clone();
            tree.add(format!("{topology}/core_siblings_list"), move || all.clone());
        }
        tree.add("devices/system/node/online", || "0".into());
        tree.add("devices/system/node/possible", || "0".into());
        tree.add("devices/system/node/node0/cpulist", move || all.clone());
        tree.add("kernel/mm/transparent_hugepage/enabled", || "always [madvise] never".into());
        tree.add("kernel/mm/transparent_hugepage/hpage_pmd_size", || "2097152".into());
        tree.add_directory("fs/cgroup");
        Arc::new(SysFs { root: tree.into_root(), dev })
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
