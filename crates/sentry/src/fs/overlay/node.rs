//! [`Node`]: an inode of an overlay.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::Shared;
use super::dir::OpenDir;
use super::names::Names;
use crate::Errno;
use crate::fs::{
    AsyncMutex, FileKind, FileOps, Inode, Link, LookedUp, Metadata, NewInode, OpenFlags, Ownership, RenameFlags, SetAttr,
    SocketSlot, UnlinkKind, XattrCall, XattrReply, tmpfs,
};
use crate::step::{BoxFuture, Step};
use crate::task::Cx;

/// A file, directory, link or node of an overlay.
pub(super) struct Node {
    pub(super) fs: Arc<Shared>,
    pub(super) this: Weak<Node>,
    kind: FileKind,
    /// What it was before any change; None if it was made here.
    pub(super) lower: Option<Arc<dyn Inode>>,
    /// Its attributes, once changed, and its data if `data_is_upper`.
    pub(super) upper: OnceLock<Upper>,
    pub(super) data_is_upper: AtomicBool,
    /// Held while it is copied up.
    pub(super) copying: AsyncMutex,
    /// The names made or removed here, of a directory.
    pub(super) names: Mutex<Names>,
    /// Names made and removed since: added to the number of links of the layer it comes from.
    pub(super) links: AtomicI32,
    /// Made without a name, and may get one yet.
    pub(super) nameless: AtomicBool,
}

/// A node's attributes in the upper layer.
pub(super) struct Upper {
    pub node: Arc<tmpfs::Node>,
    pub ino: u64,
    pub dev: u64,
}

impl Node {
    /// The node over a lower inode.
    pub(super) fn over(fs: Arc<Shared>, lower: Arc<dyn Inode>) -> Arc<Node> {
        let kind = lower.kind();
        Node::make(fs, kind, Some(lower), OnceLock::new())
    }

    /// A new file.
    pub(super) fn fresh(fs: &Arc<Shared>, new: &NewInode) -> Result<Arc<Node>, Errno> {
        let upper = Upper { node: fs.upper.unnamed(new)?, ino: fs.new_ino(), dev: fs.dev };
        Ok(Node::make(fs.clone(), new.kind, None, OnceLock::from(upper)))
    }

    fn make(fs: Arc<Shared>, kind: FileKind, lower: Option<Arc<dyn Inode>>, upper: OnceLock<Upper>) -> Arc<Node> {
        Arc::new_cyclic(|this| Node {
            fs,
            this: this.clone(),
            kind,
            data_is_upper: AtomicBool::new(lower.is_none()),
            lower,
            upper,
            copying: AsyncMutex::default(),
            names: Mutex::default(),
            links: AtomicI32::new(0),
            nameless: AtomicBool::new(false),
        })
    }

    pub(super) fn of_same(&self, inode: &Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        let node = inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&node.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        node.this.upgrade().ok_or(Errno::ESTALE)
    }

    pub(super) fn kind_of(&self) -> FileKind {
        self.kind
    }

    pub(super) fn upper_node(&self) -> Option<&Arc<tmpfs::Node>> {
        self.upper.get().map(|upper| &upper.node)
    }

    /// The lower inode, which every node without an upper has.
    pub(super) fn lower_inode(&self) -> Result<&Arc<dyn Inode>, Errno> {
        self.lower.as_ref().ok_or(Errno::EIO)
    }

    /// The inode whose data is current.
    pub(super) fn data_inode(&self) -> Result<Arc<dyn Inode>, Errno> {
        match self.upper_node() {
            Some(upper) if self.data_is_upper.load(Ordering::Acquire) => Ok(upper.clone()),
            _ => self.lower_inode().cloned(),
        }
    }

    /// Number in listings, if it is known at once.
    pub(super) fn known_ino(&self) -> Option<u64> {
        match (self.upper.get(), &self.lower) {
            (Some(upper), _) => Some(upper.ino),
            (None, Some(lower)) => match lower.metadata() {
                Step::Ready(Ok(metadata)) => Some(metadata.ino),
                _ => None,
            },
            _ => None,
        }
    }

    fn finish(&self, mut metadata: Metadata) -> Metadata {
        let delta = self.links.load(Ordering::Relaxed);
        // A directory's number of subdirectories is not known without listing both layers: 1, which says that.
        metadata.nlink = match self.kind {
            FileKind::Directory => u32::from(!self.names.lock().is_dead()),
            _ => metadata.nlink.saturating_add_signed(delta),
        };
        metadata
    }

    /// Attributes of the upper, with the size of the data that is current.
    fn merged(&self, upper: &Upper, data: Option<&Metadata>) -> Result<Metadata, Errno> {
        let mut metadata = match upper.node.metadata() {
            Step::Ready(metadata) => metadata?,
            Step::Wait(_) => return Err(Errno::EIO),
        };
        (metadata.ino, metadata.dev) = (upper.ino, upper.dev);
        if let Some(data) = data {
            metadata.size = data.size;
            metadata.blocks = data.blocks;
        }
        Ok(self.finish(metadata))
    }

    /// Whether size and blocks come from the lower layer.
    fn sized_by_lower(&self) -> bool {
        self.lower.is_some() && self.kind != FileKind::Directory && !self.data_is_upper.load(Ordering::Acquire)
    }

    async fn metadata_later(&self) -> Result<Metadata, Errno> {
        let lower = self.lower_inode()?.metadata().await?;
        match self.upper.get() {
            Some(upper) => self.merged(upper, Some(&lower)),
            None => Ok(self.of_lower(lower)),
        }
    }

    /// Attributes of a node that is as it was.
    fn of_lower(&self, mut lower: Metadata) -> Metadata {
        lower.dev = self.fs.device(lower.dev);
        self.finish(lower)
    }

    fn open_with<'a>(
        self: Arc<Self>,
        flags: OpenFlags,
        open: impl Fn(Arc<dyn Inode>) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> + Send + 'a,
    ) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        if self.kind == FileKind::Directory {
            return Step::ok(Arc::new(OpenDir::new(self)));
        }
        if !flags.writable() || self.data_is_upper.load(Ordering::Acquire) {
            return match self.data_inode() {
                Ok(inode) => open(inode),
                Err(errno) => Step::err(errno),
            };
        }
        Step::wait(async move {
            self.copy_data(u64::MAX).await?;
            open(self.data_inode()?).await
        })
    }
}

impl Inode for Node {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        match self.upper.get() {
            Some(upper) if !self.sized_by_lower() => Step::Ready(self.merged(upper, None)),
            _ => match self.lower_inode().map(|lower| lower.metadata()) {
                Ok(Step::Ready(Ok(lower))) => Step::Ready(match self.upper.get() {
                    Some(upper) => self.merged(upper, Some(&lower)),
                    None => Ok(self.of_lower(lower)),
                }),
                Ok(Step::Ready(Err(errno))) | Err(errno) => Step::err(errno),
                Ok(Step::Wait(_)) => Step::wait(self.metadata_later()),
            },
        }
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn ownership(&self) -> Option<Ownership> {
        match self.upper_node() {
            Some(upper) => upper.ownership(),
            None => self.lower.as_ref()?.ownership(),
        }
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        if let Some(upper) = self.upper_node()
            && (change.size.is_none() || self.data_is_upper.load(Ordering::Acquire))
        {
            return upper.set_attr(change);
        }
        Step::wait(async move {
            let upper = match change.size {
                Some(size) => self.copy_data(size).await?,
                None => self.copy_attributes().await?,
            };
            upper.set_attr(change).await
        })
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        self.find(name)
    }

    fn peek(&self, name: &[u8]) -> Option<Metadata> {
        if self.kind != FileKind::Directory || self.names.lock().get(name).is_some() {
            return None;
        }
        // What was changed has a node, which has the inode: then there is nothing to peek at.
        let mut metadata = self.lower.as_ref()?.peek(name)?;
        metadata.dev = self.fs.device(metadata.dev);
        Some(metadata)
    }

    fn lookup_path<'a>(&'a self, names: &'a [&'a [u8]]) -> Option<BoxFuture<'a, Result<LookedUp, Errno>>> {
        self.find_path(names)
    }

    fn create<'a>(&'a self, name: &'a [u8], new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        self.change_names(move || self.make_child(name, new).map(|node| node as Arc<dyn Inode>))
    }

    fn create_unnamed<'a>(&'a self, new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::Ready(Node::fresh(&self.fs, new).map(|node| {
            node.links.store(-1, Ordering::Relaxed);
            node.nameless.store(true, Ordering::Relaxed);
            node as Arc<dyn Inode>
        }))
    }

    fn link<'a>(&'a self, name: &'a [u8], target: &'a Arc<dyn Inode>) -> Step<'a, Result<(), Errno>> {
        Step::wait(async move {
            let node = self.of_same(target)?;
            self.copy_attributes().await?;
            node.copy_attributes().await?;
            self.add_link(name, node)
        })
    }

    fn unlink<'a>(&'a self, name: &'a [u8], kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        self.remove_child(name, kind)
    }

    fn rename<'a>(
        &'a self,
        name: &'a [u8],
        to: &'a Arc<dyn Inode>,
        to_name: &'a [u8],
        flags: RenameFlags,
    ) -> Step<'a, Result<(), Errno>> {
        Step::wait(async move {
            let to = self.of_same(to)?;
            self.rename_child(name, &to, to_name, flags).await
        })
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        match &self.lower {
            Some(lower) => lower.link_text(),
            None => self.upper_node()?.link_text(),
        }
    }

    fn read_link<'a>(&'a self, cx: &'a Cx) -> Step<'a, Result<Link, Errno>> {
        match (&self.lower, self.upper_node()) {
            (Some(lower), _) => lower.read_link(cx),
            (None, Some(upper)) => upper.read_link(cx),
            (None, None) => Step::err(Errno::EIO),
        }
    }

    fn open<'a>(self: Arc<Self>, cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        self.open_with(flags, move |inode| inode.open(cx, flags))
    }

    fn open_data(self: Arc<Self>, access: OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
        self.open_with(access, move |inode| inode.open_data(access))
    }

    fn socket_slot(&self) -> Option<&SocketSlot> {
        self.upper_node()?.socket_slot()
    }

    fn xattr<'a>(&'a self, call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
        match (self.upper_node(), &self.lower, call) {
            (Some(upper), _, _) => upper.xattr(call),
            (None, Some(lower), XattrCall::Get(_) | XattrCall::List) => lower.xattr(call),
            _ => Step::wait(async move { self.copy_attributes().await?.xattr(call).await }),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    /// Directories below go one after the other, not one inside the other: a guest decides how deep a tree is.
    fn drop(&mut self) {
        if let Some(lower) = &self.lower {
            self.fs.remove(lower);
        }
        let mut todo = self.names.get_mut().take();
        while let Some(node) = todo.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                todo.extend(node.names.get_mut().take());
            }
        }
    }
}
