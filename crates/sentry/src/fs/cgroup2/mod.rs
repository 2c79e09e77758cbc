//! cgroup2: a container's control groups as directories and files (Documentation/admin-guide/cgroup-v2).
//!
//! [`crate::cgroup`] has the groups; here are their view: `dir` the directories, `file` the files, `control` what each file shows and takes.

mod control;
mod dir;
mod file;

use std::sync::Arc;

use super::{File, FileSystem, Inode, Origin, StatFs, next_device};
use crate::Errno;
use crate::cgroup::Cgroup;
use crate::kernel::Container;
use crate::step::Step;
use crate::task::Creds;
use dir::Dir;

/// `CGROUP2_SUPER_MAGIC`.
const MAGIC: u64 = 0x6367_7270;

/// A view of the groups below one.
pub struct Cgroup2Fs {
    shared: Arc<Shared>,
    root: Arc<dyn Inode>,
}

/// What all inodes of a view need.
struct Shared {
    container: Arc<Container>,
    dev: u64,
    /// The group that is shown as the root.
    top: Arc<Cgroup>,
}

impl Cgroup2Fs {
    /// The groups from `top` down.
    pub fn new(container: Arc<Container>, top: Arc<Cgroup>) -> Arc<Cgroup2Fs> {
        let shared = Arc::new(Shared { container, dev: next_device(), top: top.clone() });
        Arc::new(Cgroup2Fs { root: Arc::new(Dir::new(&shared, top)), shared })
    }
}

/// The group whose directory is open, for somebody who wants a child of a process in another group there (`CLONE_INTO_CGROUP`).
///
/// # Errors
/// `EBADF` if it is no directory of a group, `ENOENT` if that was removed or is another container's; `EACCES` without the right to move processes from there to here.
pub fn group_for_child(file: &File, from: &Arc<Cgroup>, creds: &Creds) -> Result<Arc<Cgroup>, Errno> {
    let Origin::Path(place) = &file.origin else { return Err(Errno::EBADF) };
    let group = place.inode().as_any().downcast_ref::<Dir>().ok_or(Errno::EBADF)?.group.clone();
    // Another container's is outside of what the caller sees.
    if group.is_removed() || !group.is_of_the_tree_of(from) {
        return Err(Errno::ENOENT);
    }
    control::may_write_procs(&group, creds)?;
    control::may_write_procs(&from.common_ancestor(&group), creds)?;
    Ok(group)
}

impl FileSystem for Cgroup2Fs {
    fn name(&self) -> &'static str {
        "cgroup2"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        Step::ok(StatFs { magic: MAGIC, block_size: 4096, name_max: 255, fsid: self.shared.dev, ..StatFs::default() })
    }

    /// Files come and go as controllers are enabled.
    fn name_ttl_ns(&self) -> u64 {
        0
    }

    fn options(&self) -> String {
        "nsdelegate".into()
    }
}
