//! An overlay whose changes are kept in a directory, in the format of Linux's overlayfs: `--overlay=dir`, and overlays that guests mount.
//!
//! Lower directories are a stack of inode trees, the upper one is another tree. A name in the upper directory hides those below; a *whiteout* hides
//! them and is nothing itself; an *opaque* directory hides all below it. Whiteouts are devices 0/0 or, where those cannot be made, empty
//! files with the attribute `overlay.whiteout` (in a directory whose `overlay.opaque` is `x`), as Linux reads them too. What is found in the trees is not trusted to make
//! sense: an odd whiteout or attribute hides names or does not, and nothing more.
//!
//! A file is copied up whole, with the directories above it, at its first change: in the work directory, and moved to its place when it is complete, so a crash
//! leaves either. Directories that the lower layers have are not renamed (`EXDEV`, as on Linux without `redirect_dir`); hard links of
//! lower files come apart when one is copied up.
//!
//! Locking: a node's `copying` (async) is held while it is copied up, parents before children; `place` and [`Shared::nodes`] are leaves.

mod copy_up;
mod format;
mod list;
mod names;
mod node;
mod options;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Errno;
use crate::fs::{Dentry, FileKind, FileSystem, Inode, Path, StatFs, SuperBlock, UnlinkKind};
use crate::step::Step;
pub use format::Format;
use node::Node;
pub use options::{Options, make};

/// `OVERLAYFS_SUPER_MAGIC`.
const MAGIC: u64 = 0x794c_7630;

/// Most file systems of this kind on top of each other, a container's own root included.
const DEPTH_MAX: usize = 3;

/// One tree of an overlay.
#[derive(Clone)]
pub struct Layer {
    pub root: Arc<dyn Inode>,
    pub fs: Arc<dyn FileSystem>,
    /// The names that others know of it, which must learn of changes made behind them; and what keeps them.
    seen_as: Option<(Arc<Dentry>, Arc<SuperBlock>)>,
}

impl Layer {
    /// A tree that nobody else sees.
    pub fn whole(fs: &Arc<dyn FileSystem>, root: Arc<dyn Inode>) -> Layer {
        Layer { root, fs: fs.clone(), seen_as: None }
    }

    /// A directory of a mounted file system.
    pub fn at(place: &Path) -> Layer {
        let seen_as = Some((place.dentry.clone(), place.mount.super_block().clone()));
        Layer { root: place.inode().clone(), fs: place.mount.fs.clone(), seen_as }
    }
}

/// Where changes go.
pub struct Upper {
    pub layer: Layer,
    /// On the same file system: where things are made ready.
    pub work: Arc<dyn Inode>,
}

/// An overlay.
pub struct LayerFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
    options: String,
}

struct Shared {
    format: Format,
    dev: u64,
    upper: Option<Upper>,
    lowers: Vec<Layer>,
    next: AtomicU64,
    /// Nodes by the address of their upper inode, directories also by that of their first lower one; they hold both.
    nodes: Mutex<HashMap<usize, Weak<Node>>>,
}

impl LayerFs {
    /// `lowers` from the top down. Things left in the work directory by an earlier end are removed.
    ///
    /// # Errors
    /// `EINVAL` without any layer, or if layers are stacked too high; the work directory's.
    pub async fn new(
        upper: Option<Upper>,
        lowers: Vec<Layer>,
        format: Format,
        dev: u64,
        options: String,
    ) -> Result<Arc<LayerFs>, Errno> {
        let all = upper.iter().map(|upper| &upper.layer).chain(&lowers);
        if all.map(|layer| layer.fs.stack_depth()).max().ok_or(Errno::EINVAL)? >= DEPTH_MAX {
            return Err(Errno::EINVAL);
        }
        let root_upper = upper.as_ref().map(|upper| upper.layer.root.clone());
        let root_lowers = lowers.iter().map(|layer| layer.root.clone()).collect();
        let next = AtomicU64::new(1);
        let shared = Arc::new(Shared { format, dev, upper, lowers, next, nodes: Mutex::default() });
        if let Some(upper) = &shared.upper {
            shared.clean(&upper.work).await?;
        }
        let root = Node::make(&shared, root_upper, root_lowers, None).await?;
        Ok(Arc::new(LayerFs { shared, root, options }))
    }
}

impl Shared {
    fn work(&self) -> Result<&Arc<dyn Inode>, Errno> {
        self.upper.as_ref().map(|upper| &upper.work).ok_or(Errno::EROFS)
    }

    /// A name in the work directory that nothing has.
    fn work_name(&self) -> Vec<u8> {
        format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// Empties a work directory: what an earlier mount was making, which may be a directory with whiteouts in it.
    async fn clean(&self, work: &Arc<dyn Inode>) -> Result<(), Errno> {
        for (kind, name) in list::raw(work).await? {
            if kind == FileKind::Directory {
                let dir = work.lookup(&name).await?;
                for (_, inner) in list::raw(&dir).await? {
                    let _ = dir.unlink(&inner, UnlinkKind::NotDirectory).await;
                }
                let _ = work.unlink(&name, UnlinkKind::Directory).await;
            } else {
                let _ = work.unlink(&name, UnlinkKind::NotDirectory).await;
            }
        }
        Ok(())
    }

    /// The node with this upper or lower inode, if somebody has it.
    fn known(&self, inode: &Arc<dyn Inode>) -> Option<Arc<Node>> {
        self.nodes.lock().get(&address(inode)).and_then(Weak::upgrade)
    }

    fn remember(&self, inode: &Arc<dyn Inode>, node: &Arc<Node>) {
        self.nodes.lock().insert(address(inode), Arc::downgrade(node));
    }

    fn forget(&self, inode: &Arc<dyn Inode>) {
        let mut nodes = self.nodes.lock();
        if nodes.get(&address(inode)).is_some_and(|node| node.strong_count() == 0) {
            nodes.remove(&address(inode));
        }
    }
}

fn address(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>().addr()
}

impl FileSystem for LayerFs {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    /// The upper layer's space, as on Linux.
    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        let Some(layer) = self.shared.upper.as_ref().map(|upper| &upper.layer).or(self.shared.lowers.first()) else {
            return Step::err(Errno::EIO);
        };
        let dev = self.shared.dev;
        Step::wait(async move { Ok(StatFs { magic: MAGIC, fsid: dev, ..layer.fs.stat_fs().await? }) })
    }

    fn read_only(&self) -> bool {
        self.shared.upper.is_none()
    }

    fn name_ttl_ns(&self) -> u64 {
        u64::MAX
    }

    fn options(&self) -> String {
        self.options.clone()
    }

    fn stack_depth(&self) -> usize {
        let layers = self.shared.upper.iter().map(|upper| &upper.layer).chain(&self.shared.lowers);
        layers.map(|layer| layer.fs.stack_depth()).max().unwrap_or(0) + 1
    }
}
