//! Names in a directory: looking them up, making, removing and changing them. The VFS holds the directory's lock over changes.

use std::ffi::CString;
use std::sync::{Arc, Weak};

use gofer::protocol::{EntryKind, MAX_WALK, MakeNode, Name, OpenHow, Owner, RenameKind, WalkEnd};

use super::GoferInode;
use super::expected::Expected;
use super::inode::Body;
use crate::Errno;
use crate::fs::fsnotify::FsEvent;
use crate::fs::{FileKind, Inode, LookedUp, NewInode, RenameFlags, UnlinkKind};

impl GoferInode {
    /// Looks names up, each in the one before, in one round trip.
    pub(super) async fn walk(&self, names: &[&[u8]]) -> Result<LookedUp, Errno> {
        let me = self.me()?;
        if let Some(&first) = names.first() {
            match self.look_ahead(first).await {
                Some(Ok(inode)) => return Ok(LookedUp { inodes: vec![inode], error: None }),
                Some(Err(error)) => return Ok(LookedUp { inodes: Vec::new(), error: Some(error) }),
                None => {}
            }
        }
        let names = names.iter().take(MAX_WALK).map(|name| Name::new(name)).collect::<Result<Vec<_>, _>>()?;
        let from = self.held().await?;
        let told = self.tree.told_now();
        let walked = self.tree.ask_walk(&from, &names).await?;
        let mut inodes: Vec<Arc<GoferInode>> = Vec::with_capacity(walked.steps.len());
        // Held from the start, so that none is lost if the answer turns out to be nonsense.
        let held: Vec<_> = walked.steps.iter().map(|step| self.tree.hold(step.handle)).collect();
        for ((step, held), name) in walked.steps.iter().zip(held).zip(names) {
            let dir = inodes.last().unwrap_or(&me);
            if dir.kind() != FileKind::Directory {
                return Err(Errno::EIO);
            }
            let inode = self.tree.intern(Some((dir, name)), Some(held), &step.attr, told);
            inodes.push(inode);
        }
        if let (Some(last), Some(text)) = (inodes.last(), &walked.link)
            && last.kind() == FileKind::Symlink
        {
            last.learn_link(text)?;
        }
        let error = match walked.end {
            WalkEnd::Failed(errno) => Some(errno),
            WalkEnd::Complete | WalkEnd::Symlink | WalkEnd::NotDirectory => None,
        };
        Ok(LookedUp { inodes: inodes.into_iter().map(|inode| inode as Arc<dyn Inode>).collect(), error })
    }

    /// Makes something new.
    pub(super) async fn make(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        self.tree.writable()?;
        let me = self.me()?;
        let name = Name::new(name)?;
        let client = &self.tree.client;
        let held = self.held().await?;
        let dir = held.handle();
        let owner = Owner { uid: new.uid, gid: new.gid };
        let mode = new.permissions & 0o7777;
        let told = self.tree.told_now();
        let own_name = name.clone();
        let host = &self.tree.host;
        let own = host.expect_own(self, FsEvent::CREATE, &name);
        // It is given to its owner.
        let _owner = host.expect_none(self, FsEvent::ATTRIB, &name);
        let entry = match new.kind {
            FileKind::Regular => {
                let place = self.tree.reserve()?;
                let (entry, fd) = client.create(dir, name, mode, owner, OpenHow::ReadWrite).await?;
                own.into_iter().for_each(Expected::done);
                let inode = self.tree.entry(&me, own_name, &entry, told);
                self.made(&inode, FileKind::Regular)?;
                inode.keep(inode.adopt(fd, OpenHow::ReadWrite, place)?);
                return Ok(inode);
            }
            FileKind::Directory => client.mkdir(dir, name, mode, owner).await?,
            FileKind::Symlink => {
                let target = CString::new(new.target.as_slice()).map_err(|_| Errno::EINVAL)?;
                client.symlink(dir, name, target, owner).await?
            }
            FileKind::Fifo => client.mknod(dir, name, MakeNode::Fifo, mode, owner).await?,
            FileKind::Socket => client.mknod(dir, name, MakeNode::Socket, mode, owner).await?,
            // As on a file system that is mounted nodev and has no use for them.
            FileKind::CharDevice | FileKind::BlockDevice => return Err(Errno::EPERM),
        };
        own.into_iter().for_each(Expected::done);
        let inode = self.tree.entry(&me, own_name, &entry, told);
        self.made(&inode, new.kind)?;
        if new.kind == FileKind::Symlink {
            inode.learn_link(&new.target)?;
        }
        Ok(inode)
    }

    fn made(&self, inode: &GoferInode, kind: FileKind) -> Result<(), Errno> {
        self.changed(|metadata| metadata.nlink = metadata.nlink.saturating_add(u32::from(kind == FileKind::Directory)));
        if inode.kind() == kind { Ok(()) } else { Err(Errno::EIO) }
    }

    /// The host file of an inode of the same tree.
    fn own<'a>(&self, inode: &'a Arc<dyn Inode>) -> Result<&'a GoferInode, Errno> {
        let own = inode.as_any().downcast_ref::<GoferInode>();
        own.filter(|inode| Arc::ptr_eq(&inode.tree, &self.tree)).ok_or(Errno::EXDEV)
    }

    /// Another name for `target`.
    pub(super) async fn make_link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.tree.writable()?;
        let target = self.own(target)?;
        let me = self.me()?;
        let name = Name::new(name)?;
        let held = self.held().await?;
        let client = &self.tree.client;
        let own = self.tree.host.expect_own(self, FsEvent::CREATE, &name);
        let entry = target.by_name(|handle| client.link(handle, held.handle(), name.clone())).await?;
        own.into_iter().for_each(Expected::done);
        self.changed(|_| {});
        let new = self.tree.hold(entry.handle);
        if super::key_of(&entry.attr) != target.key() {
            return Err(Errno::EIO);
        }
        target.add_name(Some((&me, name)), Some(new));
        target.changed(|metadata| metadata.nlink = metadata.nlink.saturating_add(1));
        Ok(())
    }

    pub(super) async fn remove(&self, name: &[u8], kind: UnlinkKind) -> Result<(), Errno> {
        self.tree.writable()?;
        let name = Name::new(name)?;
        let child = self.child(&name);
        if let Some(child) = &child {
            child.keep_reachable().await;
        }
        let held = self.held().await?;
        let entry_kind = match kind {
            UnlinkKind::NotDirectory => EntryKind::NotDirectory,
            UnlinkKind::Directory => EntryKind::Directory,
        };
        let own = self.tree.host.expect_own(self, FsEvent::DELETE, &name);
        self.tree.client.unlink(held.handle(), name.clone(), entry_kind).await?;
        own.into_iter().for_each(Expected::done);
        self.name_gone(&name, child.as_deref());
        let dirs = u32::from(kind == UnlinkKind::Directory);
        self.changed(|metadata| metadata.nlink = metadata.nlink.saturating_sub(dirs));
        Ok(())
    }

    /// The inode that a name was last found to mean.
    pub(super) fn child(&self, name: &Name) -> Option<Arc<GoferInode>> {
        let Body::Directory(children) = &self.body else { return None };

        children.by_name.lock().get(name).and_then(Weak::upgrade)
    }

    fn set_child(&self, name: &Name, child: Option<&Arc<GoferInode>>) {
        let Body::Directory(children) = &self.body else { return };
        let mut by_name = children.by_name.lock();
        match child {
            Some(child) => by_name.insert(name.clone(), Arc::downgrade(child)),
            None => by_name.remove(name),
        };
    }

    /// Before its last name goes: gets a handle of it if somebody besides its dentry (and the caller) has it.
    async fn keep_reachable(self: &Arc<GoferInode>) {
        if Arc::strong_count(self) > 2 {
            // Without one it is told what was known last.
            let _ = self.held().await;
        }
    }

    fn name_gone(&self, name: &Name, child: Option<&GoferInode>) {
        self.set_child(name, None);
        let Some(child) = child else { return };
        child.lose_name(self, name);
        let links = if child.kind() == FileKind::Directory { u32::MAX } else { 1 };
        child.changed(|metadata| metadata.nlink = metadata.nlink.saturating_sub(links));
        // What is open keeps a removed file's space on the host.
        drop(child.take_opened());
        child.close_idle(OpenHow::Read);
        child.close_idle(OpenHow::Write);
    }

    pub(super) async fn do_rename(
        &self,
        name: &[u8],
        to: &Arc<dyn Inode>,
        to_name: &[u8],
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        self.tree.writable()?;
        let kind = match flags {
            flags if flags.is_empty() => RenameKind::Replace,
            RenameFlags::NOREPLACE => RenameKind::NoReplace,
            RenameFlags::EXCHANGE => RenameKind::Exchange,
            _ => return Err(Errno::EINVAL),
        };
        let to = self.own(to)?.me()?;
        let (name, to_name) = (Name::new(name)?, Name::new(to_name)?);
        let (moved, displaced) = (self.child(&name), to.child(&to_name));
        let moved_held = moved.as_ref().and_then(|inode| inode.held_for(self, &name));
        let other = displaced.as_ref().filter(|_| kind == RenameKind::Exchange);
        let other_held = other.and_then(|inode| inode.held_for(&to, &to_name));
        let (dir, to_dir) = (self.held().await?, to.held().await?);
        if let Some(displaced) = displaced.as_ref().filter(|_| kind == RenameKind::Replace) {
            displaced.keep_reachable().await;
        }
        let moves = FsEvent::MOVED_FROM | FsEvent::MOVED_TO;
        let host = &self.tree.host;
        let own = [host.expect_own(self, moves, &name), host.expect_own(&to, moves, &to_name)];
        self.tree
            .client
            .rename(
                dir.handle(),
                name.clone(),
                to_dir.handle(),
                to_name.clone(),
                kind,
                moved_held.as_ref().map(|held| held.handle()),
                other_held.as_ref().map(|held| held.handle()),
            )
            .await?;
        own.into_iter().flatten().for_each(Expected::done);
        match &displaced {
            Some(displaced) if kind == RenameKind::Exchange => {
                displaced.move_name((&to, &to_name), (&self.me()?, &name));
                displaced.changed(|_| {});
            }
            displaced => to.name_gone(&to_name, displaced.as_deref()),
        }
        if let Some(moved) = &moved {
            moved.move_name((self, &name), (&to, &to_name));
            moved.changed(|_| {});
        }
        to.set_child(&to_name, moved.as_ref());
        self.set_child(&name, displaced.as_ref().filter(|_| kind == RenameKind::Exchange));
        self.changed(|_| {});
        to.changed(|_| {});
        Ok(())
    }
}
