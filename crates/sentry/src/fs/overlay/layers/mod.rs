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
//! Read-only layers are a stack by themselves too: the images that a container's root is made of ([`LayerFs::stack`]), with another overlay over it.
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
    /// Of a stack: the device numbers of its layers, from the lowest up. Their inode numbers are told apart by the place here.
    devices: Vec<u64>,
    /// What it counts for in [`DEPTH_MAX`].
    depth: usize,
    /// Nodes by the address of their upper inode, directories also by that of their first lower one, and without an upper layer all of them; they hold both.
    nodes: Mutex<HashMap<usize, Weak<Node>>>,
}

/// Inode numbers of a layer stay below this bit, those of images do.
const LAYER_SHIFT: u32 = 48;

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
        let below = all.map(|layer| layer.fs.stack_depth()).max().ok_or(Errno::EINVAL)?;
        if below >= DEPTH_MAX {
            return Err(Errno::EINVAL);
        }
        LayerFs::made(upper, lowers, Shared { depth: below + 1, ..Shared::new(format, dev) }, options).await
    }

    /// What a container's root is made of: read-only layers, from the top down, in the format of those with privilege. Guests see an overlay of one
    /// layer: their own may be as deep over it as over any other root.
    ///
    /// # Errors
    /// `EINVAL` without any layer; the layers' own.
    pub async fn stack(lowers: Vec<Layer>, dev: u64) -> Result<Arc<LayerFs>, Errno> {
        let mut devices = Vec::new();
        for layer in lowers.iter().rev() {
            devices.push(layer.root.metadata().await?.dev);
        }
        if devices.is_empty() {
            return Err(Errno::EINVAL);
        }
        LayerFs::made(None, lowers, Shared { devices, ..Shared::new(Format::Trusted, dev) }, String::new()).await
    }

    async fn made(upper: Option<Upper>, lowers: Vec<Layer>, shared: Shared, options: String) -> Result<Arc<LayerFs>, Errno> {
        let root_upper = upper.as_ref().map(|upper| upper.layer.root.clone());
        let root_lowers = lowers.iter().map(|layer| layer.root.clone()).collect();
        let shared = Arc::new(Shared { upper, lowers, ..shared });
        if let Some(upper) = &shared.upper {
            shared.clean(&upper.work).await?;
        }
        let root = Node::make(&shared, root_upper, root_lowers, None).await?;
        Ok(Arc::new(LayerFs { shared, root, options }))
    }
}

impl Shared {
    /// Without layers yet.
    fn new(format: Format, dev: u64) -> Shared {
        let (devices, nodes) = (Vec::new(), Mutex::default());
        Shared { format, dev, upper: None, lowers: Vec::new(), next: AtomicU64::new(1), devices, depth: 0, nodes }
    }

    /// The number here of a layer's inode.
    fn ino(&self, dev: u64, ino: u64) -> u64 {
        let place = self.devices.iter().position(|&device| device == dev).unwrap_or(0);
        ino | (place as u64) << LAYER_SHIFT
    }

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

    /// Remembers a node that was just made, or gives the one that somebody else has made meanwhile.
    fn remember_first(&self, inode: &Arc<dyn Inode>, node: Arc<Node>) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        let other = nodes.get(&address(inode)).and_then(Weak::upgrade);
        if other.is_none() {
            nodes.insert(address(inode), Arc::downgrade(&node));
        }
        drop(nodes);
        other.unwrap_or(node)
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
        self.shared.depth
    }
}
