//! procfs: processes and the kernel, as text.
//!
//! `root` holds what is about the whole container, `sys` the sysctls, `process` one directory for each process and thread.

mod locks;
mod machine;
mod process;
mod root;
mod sys;
mod sysvipc;

use std::sync::Arc;

pub use process::named_by;
pub use sys::fixed_sysctl;

use super::pseudo::{DirInode, Identity};
use super::{FileSystem, Inode, StatFs};
use crate::Errno;
use crate::kernel::{Container, Kernel};
use crate::ns::PidNs;
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
    /// Whose numbers it shows.
    pid_ns: PidNs,
    dev: u64,
    options: Options,
}

/// What `mount -o` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Directories of other users' processes are closed. (Linux's `invisible` and `ptraceable` hide the names too; here they close as `noaccess` does.)
    pub hide_pid: u8,
    /// The group to which `hidepid` does not apply.
    pub gid: u32,
    /// Only processes are shown.
    pub subset_pid: bool,
}

impl Options {
    /// # Errors
    /// `EINVAL`.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), Errno> {
        match (key, value) {
            ("hidepid", Some("0" | "off")) => self.hide_pid = 0,
            ("hidepid", Some("1" | "noaccess")) => self.hide_pid = 1,
            ("hidepid", Some("2" | "invisible")) => self.hide_pid = 2,
            ("hidepid", Some("4" | "ptraceable")) => self.hide_pid = 4,
            ("gid", Some(gid)) => self.gid = gid.parse().map_err(|_| Errno::EINVAL)?,
            ("subset", Some("pid")) => self.subset_pid = true,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

impl Shared {
    fn identity(&self, permissions: u32, name: impl std::hash::Hash) -> Identity {
        Identity::named(self.dev, permissions, name)
    }
}

impl ProcFs {
    /// The procfs of `container`; `dev` is its device number.
    pub fn new(kernel: Arc<Kernel>, container: Arc<Container>, dev: u64) -> Arc<ProcFs> {
        ProcFs::with(kernel, container, PidNs::ROOT, dev, Options::default())
    }

    /// The procfs of a pid namespace of `container`: that of whoever mounts it.
    pub fn with(kernel: Arc<Kernel>, container: Arc<Container>, pid_ns: PidNs, dev: u64, options: Options) -> Arc<ProcFs> {
        let shared = Arc::new(Shared { kernel, container, pid_ns, dev, options });
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

    fn options(&self) -> String {
        let Options { hide_pid, gid, subset_pid } = self.shared.options;
        let mut options = Vec::new();
        if gid != 0 {
            options.push(format!("gid={gid}"));
        }
        match hide_pid {
            1 => options.push("hidepid=noaccess".into()),
            2 => options.push("hidepid=invisible".into()),
            4 => options.push("hidepid=ptraceable".into()),
            _ => {}
        }
        if subset_pid {
            options.push("subset=pid".into());
        }
        options.join(",")
    }
}
