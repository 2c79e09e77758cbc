//! [`Node`]: an inode of a layered overlay.

use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::copy_up::Data;
use super::{Format, Shared};
use crate::Errno;
use crate::fs::overlay::dir::OpenDir;
use crate::fs::{
    AsyncMutex, FileKind, FileOps, Inode, Link, Metadata, NewInode, OpenFlags, Ownership, RenameFlags, SetAttr, SocketSlot,
    UnlinkKind, XattrCall, XattrReply,
};
use crate::step::Step;
use crate::task::Cx;

/// A file, directory, link or node.
pub(super) struct Node {
    pub(super) fs: Arc<Shared>,
    this: Weak<Node>,
    kind: FileKind,
    /// As it was found: it stays the same when it is copied up, while somebody has it.
    ino: u64,
    /// Its directory and name; None at the root, and once it is removed.
    place: Mutex<Option<(Arc<Node>, Box<[u8]>)>>,
    upper: OnceLock<Arc<dyn Inode>>,
    /// From the top down; of what is no directory at most one.
    lowers: Vec<Arc<dyn Inode>>,
    /// Held while it is copied up.
    pub(super) copying: AsyncMutex,
}

impl Node {
    /// The node of something found in the layers.
    pub(super) async fn make(
        fs: &Arc<Shared>,
        upper: Option<Arc<dyn Inode>>,
        lowers: Vec<Arc<dyn Inode>>,
        place: Option<(Arc<Node>, Box<[u8]>)>,
    ) -> Result<Arc<Node>, Errno> {
        let first = upper.as_ref().or(lowers.first()).ok_or(Errno::ENOENT)?;
        let kind = first.kind();
        // Who looks at a stack of read-only layers knows a file by its inode, under whichever name.
        let unique = upper.is_some() || kind == FileKind::Directory || fs.upper.is_none();
        if unique && let Some(node) = fs.known(first) {
            return Ok(node);
        }
        let found = first.metadata().await?;
        let ino = fs.ino(found.dev, found.ino);
        let key = first.clone();
        let node = Arc::new_cyclic(|this| Node {
            fs: fs.clone(),
            this: this.clone(),
            kind,
            ino,
            place: Mutex::new(place),
            upper: upper.map(OnceLock::from).unwrap_or_default(),
            lowers,
            copying: AsyncMutex::default(),
        });
        Ok(if unique { fs.remember_first(&key, node) } else { node })
    }

    pub(super) fn this(&self) -> Result<Arc<Node>, Errno> {
        self.this.upgrade().ok_or(Errno::ESTALE)
    }

    pub(super) fn of_same(&self, inode: &Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        let node = inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        if Arc::ptr_eq(&node.fs, &self.fs) { node.this() } else { Err(Errno::EXDEV) }
    }

    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    pub(super) fn format(&self) -> Format {
        self.fs.format
    }

    pub(super) fn place(&self) -> Option<(Arc<Node>, Box<[u8]>)> {
        self.place.lock().clone()
    }

    pub(super) fn set_place(&self, place: Option<(Arc<Node>, Box<[u8]>)>) {
        let old = std::mem::replace(&mut *self.place.lock(), place);
        drop(old);
    }

    pub(super) fn upper(&self) -> Option<&Arc<dyn Inode>> {
        self.upper.get()
    }

    pub(super) fn set_upper(&self, upper: Arc<dyn Inode>) {
        if let Some(this) = self.this.upgrade() {
            self.fs.remember(&upper, &this);
        }
        let _ = self.upper.set(upper);
    }

    pub(super) fn lowers(&self) -> &[Arc<dyn Inode>] {
        &self.lowers
    }

    /// Its inodes from the top down.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Arc<dyn Inode>> {
        self.upper.get().into_iter().chain(&self.lowers)
    }

    /// The inode that shows.
    fn top(&self) -> Result<&Arc<dyn Inode>, Errno> {
        self.layers().next().ok_or(Errno::EIO)
    }

    /// A name of the upper directory was changed without its own dentries' knowing.
    pub(super) fn changed_behind(&self, name: &[u8]) {
        let Some((root, _)) = self.fs.upper.as_ref().and_then(|upper| upper.layer.seen_as.as_ref()) else { return };
        let mut names = Vec::new();
        let mut at = self.place();
        while let Some((parent, name)) = at {
            names.push(name);
            at = parent.place();
        }
        let mut dentry = root.clone();
        for name in names.iter().rev() {
            // What is not known there cannot be wrong.
            let Some(child) = dentry.child_if_known(name) else { return };
            dentry = child;
        }
        dentry.forget(name);
    }

    fn finish(&self, metadata: Metadata) -> Metadata {
        let nlink = if self.kind == FileKind::Directory { 1 } else { metadata.nlink };
        Metadata { dev: self.fs.dev, ino: self.ino, nlink, ..metadata }
    }

    fn open_with<'a>(
        self: Arc<Self>,
        flags: OpenFlags,
        open: impl Fn(Arc<dyn Inode>) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> + Send + 'a,
    ) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        if self.kind == FileKind::Directory {
            return Step::ok(Arc::new(OpenDir::new(self)));
        }
        if !flags.writable() || self.upper().is_some() {
            return match self.top() {
                Ok(inode) => open(inode.clone()),
                Err(errno) => Step::err(errno),
            };
        }
        Step::wait(async move {
            let upper = self.copy_up(Data::All).await?.clone();
            open(upper).await
        })
    }
}

impl Inode for Node {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        match self.top().map(|inode| inode.metadata()) {
            Ok(Step::Ready(metadata)) => Step::Ready(metadata.map(|metadata| self.finish(metadata))),
            Ok(Step::Wait(later)) => Step::wait(async move { later.await.map(|metadata| self.finish(metadata)) }),
            Err(errno) => Step::err(errno),
        }
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn ownership(&self) -> Option<Ownership> {
        self.top().ok()?.ownership()
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        if let Some(upper) = self.upper() {
            return upper.set_attr(change);
        }
        let data = if change.size == Some(0) { Data::None } else { Data::All };
        Step::wait(async move { self.copy_up(data).await?.set_attr(change).await })
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::wait(async move { self.find(name).await.map(|node| node as Arc<dyn Inode>) })
    }

    fn create<'a>(&'a self, name: &'a [u8], new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::wait(async move { self.make_child(name, new).await.map(|node| node as Arc<dyn Inode>) })
    }

    fn create_unnamed<'a>(&'a self, new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::wait(async move {
            let upper = self.copy_up(Data::All).await?.create_unnamed(new).await?;
            Ok(Node::make(&self.fs, Some(upper), Vec::new(), None).await? as Arc<dyn Inode>)
        })
    }

    fn link<'a>(&'a self, name: &'a [u8], target: &'a Arc<dyn Inode>) -> Step<'a, Result<(), Errno>> {
        Step::wait(async move { self.add_link(name, &self.of_same(target)?).await })
    }

    fn unlink<'a>(&'a self, name: &'a [u8], kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        Step::wait(self.remove_child(name, kind))
    }

    fn rename<'a>(
        &'a self,
        name: &'a [u8],
        to: &'a Arc<dyn Inode>,
        to_name: &'a [u8],
        flags: RenameFlags,
    ) -> Step<'a, Result<(), Errno>> {
        Step::wait(async move { self.rename_child(name, &self.of_same(to)?, to_name, flags).await })
    }

    fn names_of_it_changed(&self) {
        if let Ok(inode) = self.top() {
            inode.names_of_it_changed();
        }
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        self.top().ok()?.link_text()
    }

    fn read_link<'a>(&'a self, cx: &'a Cx) -> Step<'a, Result<Link, Errno>> {
        match self.top() {
            Ok(inode) => inode.read_link(cx),
            Err(errno) => Step::err(errno),
        }
    }

    fn open<'a>(self: Arc<Self>, cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        self.open_with(flags, move |inode| inode.open(cx, flags))
    }

    fn open_data(self: Arc<Self>, access: OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
        self.open_with(access, move |inode| inode.open_data(access))
    }

    fn socket_slot(&self) -> Option<&SocketSlot> {
        self.top().ok()?.socket_slot()
    }

    fn xattr<'a>(&'a self, call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
        let format = self.format();
        match call {
            XattrCall::Get(name) if format.owns(name) => Step::err(Errno::ENODATA),
            XattrCall::Set(name, ..) | XattrCall::Remove(name) if format.owns(name) => Step::err(Errno::EPERM),
            XattrCall::Get(_) => match self.top() {
                Ok(inode) => inode.xattr(call),
                Err(errno) => Step::err(errno),
            },
            XattrCall::List => Step::wait(async move {
                let names = self.top()?.xattr(call).await?;
                let kept = names.split_inclusive(|&byte| byte == 0).filter(|name| !format.owns(name));
                Ok(kept.flatten().copied().collect())
            }),
            _ => Step::wait(async move { self.copy_up(Data::All).await?.xattr(call).await }),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    /// Directories above go one after the other, not one inside the other: a guest decides how deep a tree is.
    fn drop(&mut self) {
        for inode in self.upper.get().into_iter().chain(&self.lowers) {
            self.fs.forget(inode);
        }
        let mut next = self.place.get_mut().take();
        while let Some((parent, _)) = next {
            next = Arc::into_inner(parent).and_then(|mut parent| parent.place.get_mut().take());
        }
    }
}
