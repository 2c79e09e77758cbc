//! [`Format`]: how whiteouts and opaque directories are written, and how they are recognised (Documentation/filesystems/overlayfs).

use std::sync::Arc;

use crate::Errno;
use crate::fs::{FileKind, Inode, NewInode, XattrCall};

/// The attribute names of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `trusted.overlay.*`, whiteouts are devices.
    Trusted,
    /// `user.overlay.*`, for those without privilege.
    User,
}

/// What a directory's `overlay.opaque` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opaque {
    No,
    /// Nothing below shows.
    Yes,
    /// Whiteouts in it may be files with an attribute.
    Whiteouts,
}

impl Format {
    fn name(self, what: &str) -> Vec<u8> {
        let space = match self {
            Format::Trusted => "trusted",
            Format::User => "user",
        };
        format!("{space}.overlay.{what}").into_bytes()
    }

    /// Whether an attribute is one of ours: guests neither see nor set those.
    pub(super) fn owns(self, name: &[u8]) -> bool {
        name.starts_with(&self.name(""))
    }

    /// The value of an attribute; None if there is none or it cannot be had.
    async fn get(self, inode: &Arc<dyn Inode>, what: &str) -> Option<Vec<u8>> {
        inode.xattr(XattrCall::Get(&self.name(what))).await.ok()
    }

    pub(super) async fn opaque(self, dir: &Arc<dyn Inode>) -> Opaque {
        match self.get(dir, "opaque").await.as_deref() {
            Some(b"y") => Opaque::Yes,
            Some(b"x") => Opaque::Whiteouts,
            _ => Opaque::No,
        }
    }

    pub(super) async fn set_opaque(self, dir: &Arc<dyn Inode>, to: Opaque) -> Result<(), Errno> {
        let value: &[u8] = if to == Opaque::Yes { b"y" } else { b"x" };
        dir.xattr(XattrCall::Set(&self.name("opaque"), value, 0)).await.map(drop)
    }

    /// Whether something found in a layer stands for nothing.
    pub(super) async fn is_whiteout(self, inode: &Arc<dyn Inode>) -> Result<bool, Errno> {
        match inode.kind() {
            FileKind::CharDevice => Ok(inode.metadata().await?.rdev == 0),
            FileKind::Regular => Ok(inode.metadata().await?.size == 0 && self.get(inode, "whiteout").await.is_some()),
            _ => Ok(false),
        }
    }

    /// Refuses what says that its data, or its names, are elsewhere in the layers: that is not followed here.
    ///
    /// # Errors
    /// `EIO`, as Linux has it for data with `metacopy=off`.
    pub(super) async fn check_whole(self, inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let elsewhere = match (self, inode.kind()) {
            (Format::Trusted, FileKind::Regular) => "metacopy",
            (Format::Trusted, FileKind::Directory) => "redirect",
            // Anybody could say so, and Linux does not listen.
            _ => return Ok(()),
        };
        match self.get(inode, elsewhere).await {
            Some(_) => Err(Errno::EIO),
            None => Ok(()),
        }
    }

    /// Makes a whiteout. `dir` is where it will be moved to.
    pub(super) async fn make_whiteout(self, work: &Arc<dyn Inode>, name: &[u8], dir: &Arc<dyn Inode>) -> Result<(), Errno> {
        let mut new = NewInode { kind: FileKind::CharDevice, permissions: 0, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
        match work.create(name, &new).await {
            Err(Errno::EPERM | Errno::EOPNOTSUPP) => {}
            made => return made.map(drop),
        }
        (new.kind, new.permissions) = (FileKind::Regular, 0o600);
        let file = work.create(name, &new).await?;
        file.xattr(XattrCall::Set(&self.name("whiteout"), b"y", 0)).await?;
        if self.opaque(dir).await == Opaque::No {
            self.set_opaque(dir, Opaque::Whiteouts).await?;
        }
        Ok(())
    }
}
