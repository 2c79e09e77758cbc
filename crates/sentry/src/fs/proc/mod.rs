//! procfs: processes and the kernel, as text.
//!
//! `root` holds what is about the whole container, `sys` the sysctls, `process` one directory for each process and thread.

mod machine;
mod process;
mod root;
mod sys;

use std::sync::Arc;

use super::pseudo::{DirInode, Identity};
use super::{FileSystem, Inode, StatFs};
use crate::Errno;
use crate::kernel::{Container, Kernel};
use crate::step::Step;

/// `PROC_SUPER_MAGIC`.
const MAGIC: u64 = 0x9fa0;

/// A container's procfs.
pub struct ProcFs {
    shared: Arc<Shared>,
    root: Arc<dyn Inode>,
}

/// What all inodes of one procfs need.
struct Shared {
    kernel: Arc<Kernel>,
    container: Arc<Container>,
    dev: u64,
}

impl Shared {
    fn identity(&self, permissions: u32, name: impl std::hash::Hash) -> Identity {
        Identity::named(self.dev, permissions, name)
    }
}

impl ProcFs {
    /// The procfs of `container`; `dev` is its device number.
    pub fn new(kernel: Arc<Kernel>, container: Arc<Container>, dev: u64) -> Arc<ProcFs> {
        let shared = Arc::new(Shared { kernel, container, dev });
        Arc::new(ProcFs { root: DirInode::make(root::Root(shared.clone())), shared })
    }
}

impl FileSystem for ProcFs {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        Step::ok(StatFs { magic: MAGIC, block_size: 4096, name_max: 255, fsid: self.shared.dev, ..StatFs::default() })
    }

    /// Processes come and go.
    fn name_ttl_ns(&self) -> u64 {
        0
    }
}
