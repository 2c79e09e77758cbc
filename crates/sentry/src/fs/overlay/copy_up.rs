//! Copying up: a lower file gets attributes, and then data, of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::node::{Node, Upper};
use crate::Errno;
use crate::executor::yield_now;
use crate::fs::{File, FileKind, FileOps, Inode, NewInode, OpenFlags, Origin, XattrCall, tmpfs};
use crate::mm::Sink;

/// Bytes copied between two turns of other tasks.
pub(super) const CHUNK: usize = 256 << 10;

impl Node {
    /// Gives the node attributes of its own. Returns its upper.
    pub(super) async fn copy_attributes(&self) -> Result<&Arc<tmpfs::Node>, Errno> {
        if let Some(upper) = self.upper_node() {
            return Ok(upper);
        }
        let _copying = self.copying.lock().await;
        self.copy_attributes_locked().await
    }

    /// The caller holds `copying`.
    async fn copy_attributes_locked(&self) -> Result<&Arc<tmpfs::Node>, Errno> {
        if let Some(upper) = self.upper_node() {
            return Ok(upper);
        }
        let lower = self.lower_inode()?;
        let metadata = lower.metadata().await?;
        let new = NewInode {
            kind: metadata.kind,
            permissions: metadata.permissions,
            uid: metadata.uid,
            gid: metadata.gid,
            rdev: metadata.rdev,
            target: Vec::new(),
        };
        let node = self.fs.upper.unnamed(&new)?;
        node.adopt(&metadata);
        // A lower layer without extended attributes has none to copy.
        if let Ok(names) = lower.xattr(XattrCall::List).await {
            for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
                let value = lower.xattr(XattrCall::Get(name)).await?;
                node.xattr(XattrCall::Set(name, &value, 0)).await?;
            }
        }
        let this = self.this.upgrade().ok_or(Errno::EIO)?;
        self.fs.hold(lower, this);
        let dev = self.fs.device(metadata.dev);
        Ok(&self.upper.get_or_init(|| Upper { node, ino: metadata.ino, dev }).node)
    }

    /// Gives a regular file data of its own: the first `len` bytes of it. Returns its upper.
    pub(super) async fn copy_data(&self, len: u64) -> Result<&Arc<tmpfs::Node>, Errno> {
        if self.kind_of() != FileKind::Regular {
            return self.copy_attributes().await;
        }
        let _copying = self.copying.lock().await;
        let upper = self.copy_attributes_locked().await?;
        if self.data_is_upper.load(Ordering::Acquire) {
            return Ok(upper);
        }
        if len > 0
            && let Err(errno) = self.copy_bytes(upper, len).await
        {
            upper.discard_data();
            return Err(errno);
        }
        self.data_is_upper.store(true, Ordering::Release);
        Ok(upper)
    }

    async fn copy_bytes(&self, upper: &Arc<tmpfs::Node>, len: u64) -> Result<(), Errno> {
        let lower = self.lower_inode()?;
        let from = open(lower, lower.clone().open_data(OpenFlags::empty()).await?, OpenFlags::empty());
        let mut at = 0;
        while at < len {
            let max = usize::try_from(len - at).unwrap_or(usize::MAX).min(CHUNK);
            let mut chunk = Chunk::new(max);
            let n = from.ops.read(&from, at, &mut chunk).await?;
            if n == 0 {
                break;
            }
            upper.fill_data(at, &chunk.bytes)?;
            at += n as u64;
            yield_now().await;
        }
        Ok(())
    }
}

/// An open file for the kernel's own use.
pub(super) fn open(inode: &Arc<dyn Inode>, ops: Arc<dyn FileOps>, flags: OpenFlags) -> Arc<File> {
    File::new(ops, Origin::Anonymous { inode: inode.clone(), name: "lower".into() }, flags)
}

/// A sink of at most `max` bytes.
pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    max: usize,
}

impl Chunk {
    pub fn new(max: usize) -> Chunk {
        Chunk { bytes: Vec::new(), max }
    }
}

impl Sink for Chunk {
    fn remaining(&self) -> usize {
        self.max.saturating_sub(self.bytes.len())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let n = bytes.len().min(self.remaining());
        self.bytes.extend_from_slice(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }
}
