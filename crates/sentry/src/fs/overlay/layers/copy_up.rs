//! Copying up: a lower file, and the directories above it, get a place in the upper layer.

use std::sync::Arc;

use super::node::Node;
use crate::Errno;
use crate::executor::yield_now;
use crate::fs::overlay::copy_up::{CHUNK, Chunk, open};
use crate::fs::{
    FileKind, Inode, Metadata, NewInode, OpenFlags, RenameFlags, SetAttr, SetTime, UnlinkKind, WriteAt, XattrCall,
};

/// How much of a file's data is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    All,
    /// It is about to be cut to nothing.
    None,
}

impl Node {
    /// The inode in the upper layer, made if there is none yet.
    pub(super) async fn copy_up(&self, data: Data) -> Result<&Arc<dyn Inode>, Errno> {
        if let Some(upper) = self.upper() {
            return Ok(upper);
        }
        // Directories above it first, from the top.
        let mut above = Vec::new();
        let mut at = self.place();
        while let Some((parent, _)) = at {
            if parent.upper().is_some() {
                break;
            }
            at = parent.place();
            above.push(parent);
        }
        for parent in above.iter().rev() {
            parent.copy_up_one(Data::All).await?;
        }
        self.copy_up_one(data).await?;
        self.upper().ok_or(Errno::EIO)
    }

    async fn copy_up_one(&self, data: Data) -> Result<(), Errno> {
        let _copying = self.copying.lock().await;
        if self.upper().is_some() {
            return Ok(());
        }
        // Removed meanwhile: there is no place for it.
        let (parent, name) = self.place().ok_or(Errno::ENOENT)?;
        let dir = parent.upper().ok_or(Errno::EIO)?;
        let lower = self.layers().next().ok_or(Errno::EIO)?.clone();
        let metadata = lower.metadata().await?;
        let work = self.fs.work()?;
        let temporary = self.fs.work_name();
        let made = self.copy(&lower, &metadata, work, &temporary, data).await;
        let result = match made {
            Ok(upper) => work.rename(&temporary, dir, &name, RenameFlags::empty()).await.map(|()| upper),
            Err(errno) => Err(errno),
        };
        match result {
            Ok(upper) => {
                parent.changed_behind(&name);
                self.set_upper(upper);
                Ok(())
            }
            Err(errno) => {
                let kind = if metadata.kind == FileKind::Directory { UnlinkKind::Directory } else { UnlinkKind::NotDirectory };
                let _ = work.unlink(&temporary, kind).await;
                Err(errno)
            }
        }
    }

    async fn copy(
        &self,
        lower: &Arc<dyn Inode>,
        metadata: &Metadata,
        work: &Arc<dyn Inode>,
        name: &[u8],
        data: Data,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let target = match metadata.kind {
            FileKind::Symlink => lower.link_text().ok_or(Errno::EIO)?.to_vec(),
            _ => Vec::new(),
        };
        let new = NewInode {
            kind: metadata.kind,
            permissions: metadata.permissions,
            uid: metadata.uid,
            gid: metadata.gid,
            rdev: metadata.rdev,
            target,
        };
        let upper = work.create(name, &new).await?;
        if metadata.kind == FileKind::Regular && data == Data::All && metadata.size > 0 {
            copy_data(lower, &upper).await?;
        }
        if let Ok(names) = lower.xattr(XattrCall::List).await {
            for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty() && !self.format().owns(name)) {
                let value = lower.xattr(XattrCall::Get(name)).await?;
                match upper.xattr(XattrCall::Set(name, &value, 0)).await {
                    // As Linux: what the upper layer cannot keep is lost.
                    Ok(_) | Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        if metadata.kind != FileKind::Symlink {
            let times = SetAttr {
                permissions: Some(metadata.permissions),
                accessed: Some(SetTime::At(metadata.accessed)),
                modified: Some(SetTime::At(metadata.modified)),
                ..SetAttr::default()
            };
            upper.set_attr(times).await?;
        }
        Ok(upper)
    }
}

async fn copy_data(lower: &Arc<dyn Inode>, upper: &Arc<dyn Inode>) -> Result<(), Errno> {
    let from = open(lower, lower.clone().open_data(OpenFlags::empty()).await?, OpenFlags::empty());
    let to = open(upper, upper.clone().open_data(OpenFlags::RDWR).await?, OpenFlags::RDWR);
    let mut at = 0;
    loop {
        let mut chunk = Chunk::new(CHUNK);
        let n = from.ops.read(&from, at, &mut chunk).await?;
        if n == 0 {
            return Ok(());
        }
        let mut rest = chunk.bytes.as_slice();
        while !rest.is_empty() {
            let written = to.ops.write(&to, WriteAt::Offset(at), &mut { rest }).await?;
            if written.bytes == 0 {
                return Err(Errno::ENOSPC);
            }
            at += written.bytes as u64;
            rest = rest.get(written.bytes..).unwrap_or_default();
        }
        yield_now().await;
    }
}
