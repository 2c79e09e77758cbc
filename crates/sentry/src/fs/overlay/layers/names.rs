//! Names in a directory of layers: finding, making, removing and moving them. The VFS holds the directory's lock over changes.

use std::sync::Arc;

use super::copy_up::Data;
use super::format::Opaque;
use super::list;
use super::node::Node;
use crate::Errno;
use crate::fs::overlay::dir::Lister;
use crate::fs::{FileKind, Inode, NewInode, RenameFlags, UnlinkKind};

/// A name in one layer; None if it is not there.
async fn look(dir: &Arc<dyn Inode>, name: &[u8]) -> Result<Option<Arc<dyn Inode>>, Errno> {
    match dir.lookup(name).await {
        Ok(inode) => Ok(Some(inode)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

impl Node {
    pub(super) async fn find(&self, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let format = self.format();
        let (mut upper, mut lowers) = (None, Vec::new());
        let mut goes_on = true;
        if let Some(dir) = self.upper()
            && let Some(inode) = look(dir, name).await?
        {
            if format.is_whiteout(&inode).await? {
                return Err(Errno::ENOENT);
            }
            format.check_whole(&inode).await?;
            goes_on = inode.kind() == FileKind::Directory && format.opaque(&inode).await != Opaque::Yes;
            upper = Some(inode);
        }
        for dir in self.lowers() {
            if !goes_on {
                break;
            }
            let Some(inode) = look(dir, name).await? else { continue };
            if format.is_whiteout(&inode).await? {
                break;
            }
            if inode.kind() != FileKind::Directory {
                if upper.is_none() && lowers.is_empty() {
                    format.check_whole(&inode).await?;
                    lowers.push(inode);
                }
                break;
            }
            format.check_whole(&inode).await?;
            goes_on = format.opaque(&inode).await != Opaque::Yes;
            lowers.push(inode);
        }
        Node::make(&self.fs, upper, lowers, Some((self.this()?, name.into()))).await
    }

    /// Whether a lower layer has this name, so that a whiteout is needed when it goes.
    async fn below_has(&self, name: &[u8]) -> Result<bool, Errno> {
        for dir in self.lowers() {
            if let Some(inode) = look(dir, name).await? {
                return Ok(!self.format().is_whiteout(&inode).await?);
            }
        }
        Ok(false)
    }

    /// Whether the upper directory has a whiteout of this name.
    async fn whiteout_at(&self, dir: &Arc<dyn Inode>, name: &[u8]) -> Result<bool, Errno> {
        match look(dir, name).await? {
            Some(inode) => self.format().is_whiteout(&inode).await,
            None => Ok(false),
        }
    }

    pub(super) async fn make_child(&self, name: &[u8], new: &NewInode) -> Result<Arc<Node>, Errno> {
        let dir = self.copy_up(Data::All).await?;
        let inode = if self.whiteout_at(dir, name).await? {
            let (work, temporary) = (self.fs.work()?, self.fs.work_name());
            let inode = work.create(&temporary, new).await?;
            self.over_whiteout(&inode, &temporary, dir, name).await?;
            inode
        } else {
            dir.create(name, new).await?
        };
        self.changed_behind(name);
        Node::make(&self.fs, Some(inode), Vec::new(), Some((self.this()?, name.into()))).await
    }

    /// Moves something from the work directory to where a whiteout is.
    async fn over_whiteout(
        &self,
        inode: &Arc<dyn Inode>,
        temporary: &[u8],
        dir: &Arc<dyn Inode>,
        name: &[u8],
    ) -> Result<(), Errno> {
        let work = self.fs.work()?;
        if inode.kind() != FileKind::Directory {
            return work.rename(temporary, dir, name, RenameFlags::empty()).await;
        }
        self.format().set_opaque(inode, Opaque::Yes).await?;
        work.rename(temporary, dir, name, RenameFlags::EXCHANGE).await?;
        work.unlink(temporary, UnlinkKind::NotDirectory).await
    }

    /// Puts a whiteout in the place of what the upper directory has there: nothing, or something of this kind.
    async fn plant_whiteout(&self, dir: &Arc<dyn Inode>, name: &[u8], old: Option<FileKind>) -> Result<(), Errno> {
        let (work, temporary) = (self.fs.work()?, self.fs.work_name());
        self.format().make_whiteout(work, &temporary, dir).await?;
        if old == Some(FileKind::Directory) {
            work.rename(&temporary, dir, name, RenameFlags::EXCHANGE).await?;
            work.unlink(&temporary, UnlinkKind::Directory).await
        } else {
            work.rename(&temporary, dir, name, RenameFlags::empty()).await
        }
    }

    pub(super) async fn add_link(&self, name: &[u8], target: &Arc<Node>) -> Result<(), Errno> {
        let inode = target.copy_up(Data::All).await?;
        let dir = self.copy_up(Data::All).await?;
        if self.whiteout_at(dir, name).await? {
            let (work, temporary) = (self.fs.work()?, self.fs.work_name());
            work.link(&temporary, inode).await?;
            work.rename(&temporary, dir, name, RenameFlags::empty()).await?;
        } else {
            dir.link(name, inode).await?;
        }
        if target.place().is_none() {
            target.set_place(Some((self.this()?, name.into())));
        }
        self.changed_behind(name);
        Ok(())
    }

    pub(super) async fn remove_child(&self, name: &[u8], kind: UnlinkKind) -> Result<(), Errno> {
        let node = self.find(name).await?;
        self.check_removable(&node, kind).await?;
        let dir = self.copy_up(Data::All).await?;
        let below = self.below_has(name).await?;
        if let Some(upper) = node.upper() {
            if node.kind() == FileKind::Directory {
                clear(upper).await?;
            }
            match below {
                true => self.plant_whiteout(dir, name, Some(node.kind())).await?,
                false => dir.unlink(name, kind).await?,
            }
        } else {
            self.plant_whiteout(dir, name, None).await?;
        }
        self.changed_behind(name);
        // Another name of the same file may be known by this node; it keeps its upper inode, which is all it needs.
        node.set_place(None);
        Ok(())
    }

    async fn check_removable(&self, node: &Arc<Node>, kind: UnlinkKind) -> Result<(), Errno> {
        match (node.kind(), kind) {
            (FileKind::Directory, UnlinkKind::NotDirectory) => Err(Errno::EISDIR),
            (FileKind::Directory, UnlinkKind::Directory) if !node.list().await?.is_empty() => Err(Errno::ENOTEMPTY),
            (FileKind::Directory, _) | (_, UnlinkKind::NotDirectory) => Ok(()),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) async fn rename_child(
        &self,
        name: &[u8],
        to: &Arc<Node>,
        to_name: &[u8],
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let node = self.find(name).await?;
        let is_dir = node.kind() == FileKind::Directory;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let old = match to.find(to_name).await {
            Ok(old) => Some(old),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let movable = |node: &Arc<Node>| node.kind() != FileKind::Directory || node.lowers().is_empty();
        if !movable(&node) || (exchange && !old.as_ref().is_some_and(movable)) {
            return Err(Errno::EXDEV);
        }
        node.copy_up(Data::All).await?;
        let (from_dir, to_dir) = (self.copy_up(Data::All).await?, to.copy_up(Data::All).await?);
        let (from_below, to_below) = (self.below_has(name).await?, to.below_has(to_name).await?);
        let hide = async |node: &Arc<Node>, below: bool| match (node.kind(), node.upper()) {
            (FileKind::Directory, Some(upper)) if below => node.format().set_opaque(upper, Opaque::Yes).await,
            _ => Ok(()),
        };
        if let Some(other) = old.as_ref().filter(|_| exchange) {
            other.copy_up(Data::All).await?;
            hide(&node, to_below).await?;
            hide(other, from_below).await?;
            from_dir.rename(name, to_dir, to_name, RenameFlags::EXCHANGE).await?;
            other.set_place(Some((self.this()?, name.into())));
        } else {
            if let Some(old) = &old {
                let kind = if is_dir { UnlinkKind::Directory } else { UnlinkKind::NotDirectory };
                to.check_removable(old, kind).await?;
                if is_dir {
                    // A directory in the way goes first; a file is replaced by the rename.
                    to.remove_child(to_name, kind).await?;
                }
                old.set_place(None);
            }
            hide(&node, to_below).await?;
            if is_dir && to.whiteout_at(to_dir, to_name).await? {
                // The whiteout comes to the old name, where it may be needed.
                from_dir.rename(name, to_dir, to_name, RenameFlags::EXCHANGE).await?;
                from_dir.unlink(name, UnlinkKind::NotDirectory).await?;
            } else {
                from_dir.rename(name, to_dir, to_name, RenameFlags::empty()).await?;
            }
            if from_below {
                self.plant_whiteout(from_dir, name, None).await?;
            }
        }
        self.changed_behind(name);
        to.changed_behind(to_name);
        node.set_place(Some((to.clone(), to_name.into())));
        Ok(())
    }
}

/// Removes the whiteouts that are left in a directory which shows nothing.
async fn clear(dir: &Arc<dyn Inode>) -> Result<(), Errno> {
    for (_, name) in list::raw(dir).await? {
        dir.unlink(&name, UnlinkKind::NotDirectory).await?;
    }
    Ok(())
}
