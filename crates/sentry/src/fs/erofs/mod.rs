//! EROFS: read-only images, mapped without a gofer (Documentation/filesystems/erofs, fs/erofs/erofs_fs.h).
//!
//! The runtime opens the image and hands over its descriptor; files' pages are mapped straight from it. [`image::Image`] reads and checks what is on it, `inode` gives
//! that to the VFS, `data` says where a file's bytes are, `file` reads and maps them, `dir` lists, `xattr` has attributes.
//!
//! Of the format: uncompressed files (plain, with an inline tail, in chunks), both kinds of inodes, attributes inline and shared. Compressed files, several devices
//! and blocks of other sizes than 4 KiB are refused when the image is mounted or, if it does not say so, when the file is opened (`EOPNOTSUPP`).
//!
//! An image is hostile: every number on it is checked where it is used (`EUCLEAN`), nothing recurses, and what is kept in memory is bounded by
//! the file or directory that somebody has open.

mod data;
mod dir;
mod file;
mod image;
mod inode;
#[cfg(test)]
mod tests;
mod xattr;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{FileSystem, Inode, StatFs};
use crate::Errno;
use crate::mm::MemoryFile;
use crate::step::Step;
use image::{BLOCK, Image};
use inode::Node;

/// What statfs(2) says it is.
const MAGIC: u64 = agent_api::erofs::MAGIC as u64;

/// A mounted image.
pub struct EroFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

/// What its inodes share.
struct Shared {
    image: Image,
    dev: u64,
    /// For the tails of files, which are not on pages of their own.
    memory: Arc<MemoryFile>,
    /// Inodes in use, by their number on the image.
    nodes: Mutex<HashMap<u64, Weak<Node>>>,
}

impl EroFs {
    /// The file system on an image.
    ///
    /// # Errors
    /// `EINVAL` if it is none; `EOPNOTSUPP` for features that are not known here; `EUCLEAN` if its root cannot be read.
    pub fn new(file: OwnedFd, memory: Arc<MemoryFile>, dev: u64) -> Result<Arc<EroFs>, Errno> {
        let image = Image::open(file)?;
        let root_nid = image.root_nid;
        let shared = Arc::new(Shared { image, dev, memory, nodes: Mutex::default() });
        let root = shared.node(root_nid)?;
        if root.kind() != super::FileKind::Directory {
            return Err(Errno::EUCLEAN);
        }
        Ok(Arc::new(EroFs { shared, root }))
    }

    /// Whether files may have attributes that are left out here, an overlay's marks among them.
    pub fn leaves_attributes_out(&self) -> bool {
        self.shared.image.long_prefixes
    }
}

impl Shared {
    /// The inode of a number.
    fn node(self: &Arc<Shared>, nid: u64) -> Result<Arc<Node>, Errno> {
        if let Some(node) = self.nodes.lock().get(&nid).and_then(Weak::upgrade) {
            return Ok(node);
        }
        let node = Node::read(self, nid)?;
        let mut nodes = self.nodes.lock();
        // Somebody else may have been faster.
        if let Some(other) = nodes.get(&nid).and_then(Weak::upgrade) {
            return Ok(other);
        }
        nodes.insert(nid, Arc::downgrade(&node));
        Ok(node)
    }

    fn forget(&self, nid: u64) {
        let mut nodes = self.nodes.lock();
        if nodes.get(&nid).is_some_and(|node| node.strong_count() == 0) {
            nodes.remove(&nid);
        }
    }
}

impl FileSystem for EroFs {
    fn name(&self) -> &'static str {
        "erofs"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        let image = &self.shared.image;
        Step::ok(StatFs {
            magic: MAGIC,
            block_size: BLOCK,
            blocks: image.blocks,
            files: image.inodes,
            name_max: 255,
            fsid: self.shared.dev,
            ..StatFs::default()
        })
    }

    fn read_only(&self) -> bool {
        true
    }

    fn name_ttl_ns(&self) -> u64 {
        u64::MAX
    }

    fn options(&self) -> String {
        "user_xattr,acl,cache_strategy=readaround".into()
    }
}
