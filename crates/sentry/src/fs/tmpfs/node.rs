//! [`Node`]: an inode of a tmpfs.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::data::Data;
use super::dir::{Names, OpenDir};
use super::file::OpenFile;
use super::{Shared, Xattrs};
use crate::Errno;
use crate::fs::{
    FileKind, FileOps, Inode, Link, Metadata, NewInode, OpenFlags, Ownership, RenameFlags, SetAttr, SetTime, SocketSlot,
    Timestamp, UnlinkKind, XattrCall, XattrReply,
};
use crate::step::Step;
use crate::task::{Capability, Cx};

/// A file, directory, link or node of a tmpfs.
pub struct Node {
    pub(super) fs: Arc<Shared>,
    ino: u64,
    kind: FileKind,
    rdev: u64,
    this: Weak<Node>,
    pub(super) attributes: Mutex<Attributes>,
    pub(super) body: Body,
    xattrs: Mutex<Xattrs>,
    socket: SocketSlot,
}

pub(super) enum Body {
    File(Arc<Data>),
    Directory(Mutex<Names>),
    Symlink(Arc<[u8]>),
    Special,
}

/// What can change of a node's attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
    born: Timestamp,
    /// Made without a name, and may get one yet.
    pub nameless: bool,
}

impl Node {
    pub(super) fn make(fs: Arc<Shared>, ino: u64, new: &NewInode, parent: Option<&Arc<Node>>) -> Arc<Node> {
        let now = fs.now();
        let body = match new.kind {
            FileKind::Regular => Body::File(Data::new(fs.clone())),
            FileKind::Directory => Body::Directory(Mutex::new(Names::new(parent))),
            FileKind::Symlink => Body::Symlink(new.target.as_slice().into()),
            _ => Body::Special,
        };
        let attributes = Attributes {
            permissions: if new.kind == FileKind::Symlink { 0o777 } else { new.permissions },
            uid: new.uid,
            gid: new.gid,
            nlink: if new.kind == FileKind::Directory { 2 } else { 1 },
            accessed: now,
            modified: now,
            changed: now,
            born: now,
            nameless: false,
        };
        Arc::new_cyclic(|this| Node {
            fs,
            ino,
            kind: new.kind,
            rdev: new.rdev,
            this: this.clone(),
            attributes: Mutex::new(attributes),
            body,
            xattrs: Mutex::default(),
            socket: SocketSlot::default(),
        })
    }

    /// The node behind an inode of any tmpfs.
    pub fn of(inode: &dyn Inode) -> Option<&Node> {
        inode.as_any().downcast_ref()
    }

    pub(super) fn of_same(&self, inode: &Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        let node = Node::of(&**inode).ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&node.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        node.this.upgrade().ok_or(Errno::ENOENT)
    }

    pub(super) fn this(&self) -> Option<Arc<Node>> {
        self.this.upgrade()
    }

    pub fn ino(&self) -> u64 {
        self.ino
    }

    pub(super) fn kind_of(&self) -> FileKind {
        self.kind
    }

    pub(super) fn names(&self) -> Result<&Mutex<Names>, Errno> {
        match &self.body {
            Body::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The data of a regular file.
    pub(super) fn data(&self) -> Result<&Arc<Data>, Errno> {
        match &self.body {
            Body::File(data) => Ok(data),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Changes the number of links; the node's status changes with it.
    pub(super) fn add_links(&self, n: i32) {
        let now = self.fs.now();
        let mut attributes = self.attributes.lock();
        attributes.nlink = attributes.nlink.saturating_add_signed(n);
        attributes.changed = now;
    }

    /// Notes a change of the content.
    pub(super) fn touch(&self) {
        let now = self.fs.now();
        let mut attributes = self.attributes.lock();
        attributes.modified = now;
        attributes.changed = now;
    }

    /// Sets all of the attributes that copying up keeps.
    pub(in crate::fs) fn adopt(&self, from: &Metadata) {
        let mut attributes = self.attributes.lock();
        attributes.permissions = from.permissions;
        attributes.uid = from.uid;
        attributes.gid = from.gid;
        attributes.nlink = from.nlink;
        attributes.accessed = from.accessed;
        attributes.modified = from.modified;
        attributes.changed = from.changed;
        attributes.born = from.born;
    }

    /// For the overlay, which keeps the names itself: some have changed.
    pub(in crate::fs) fn touch_names(&self) {
        self.touch();
    }

    /// For the overlay: the number of links has changed.
    pub(in crate::fs) fn touch_status(&self) {
        self.attributes.lock().changed = self.fs.now();
    }

    /// For the overlay, which copies data up: writes without a change of the times.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub(in crate::fs) fn fill_data(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.data()?.write(Some(offset), bytes).map(drop)
    }

    /// Takes back what [`Node::fill_data`] wrote.
    pub(in crate::fs) fn discard_data(&self) {
        if let Ok(data) = self.data() {
            // Cutting to nothing frees; it needs no memory.
            let _ = data.set_size(0);
        }
    }

    fn open_now(self: Arc<Self>, keeps_set_id: bool) -> Result<Arc<dyn FileOps>, Errno> {
        match &self.body {
            Body::File(_) => Ok(Arc::new(OpenFile::new(self, keeps_set_id))),
            Body::Directory(_) => Ok(Arc::new(OpenDir(self))),
            Body::Symlink(_) => Err(Errno::ELOOP),
            Body::Special => Err(Errno::ENXIO),
        }
    }
}

impl Inode for Node {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        let (size, blocks) = match &self.body {
            Body::File(data) => data.size_and_blocks(),
            Body::Directory(names) => (names.lock().len() as u64 * 20, 0),
            Body::Symlink(text) => (text.len() as u64, 0),
            Body::Special => (0, 0),
        };
        let a = *self.attributes.lock();
        Step::ok(Metadata {
            dev: self.fs.dev,
            ino: self.ino,
            kind: self.kind,
            permissions: a.permissions,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: self.rdev,
            size,
            blocks,
            block_size: 4096,
            accessed: a.accessed,
            modified: a.modified,
            changed: a.changed,
            born: a.born,
        })
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn ownership(&self) -> Option<Ownership> {
        let a = self.attributes.lock();
        Some(Ownership { kind: self.kind, permissions: a.permissions, uid: a.uid, gid: a.gid })
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        let resized = match (change.size, &self.body) {
            (None, _) => false,
            (Some(size), Body::File(data)) => match data.set_size(size) {
                Ok(()) => true,
                Err(errno) => return Step::err(errno),
            },
            (Some(_), Body::Directory(_)) => return Step::err(Errno::EISDIR),
            (Some(_), _) => return Step::err(Errno::EINVAL),
        };
        let now = self.fs.now();
        let time = |set: SetTime| set.resolve(now);
        let mut a = self.attributes.lock();
        a.permissions = change.permissions.unwrap_or(a.permissions);
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        if resized {
            a.modified = now;
        }
        a.accessed = change.accessed.map_or(a.accessed, time);
        a.modified = change.modified.map_or(a.modified, time);
        a.changed = now;
        Step::ok(())
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::Ready(self.find(name).map(|node| node as Arc<dyn Inode>))
    }

    fn create<'a>(&'a self, name: &'a [u8], new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::Ready(self.make_child(name, new).map(|node| node as Arc<dyn Inode>))
    }

    fn create_unnamed<'a>(&'a self, new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::Ready(self.fs.new_ino().map(|ino| {
            let node = Node::make(self.fs.clone(), ino, new, None);
            {
                let mut attributes = node.attributes.lock();
                attributes.nlink = 0;
                attributes.nameless = true;
            }
            node as Arc<dyn Inode>
        }))
    }

    fn link<'a>(&'a self, name: &'a [u8], target: &'a Arc<dyn Inode>) -> Step<'a, Result<(), Errno>> {
        Step::Ready(self.of_same(target).and_then(|node| self.add_link(name, node)))
    }

    fn unlink<'a>(&'a self, name: &'a [u8], kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        Step::Ready(self.remove_child(name, kind))
    }

    fn rename<'a>(
        &'a self,
        name: &'a [u8],
        to: &'a Arc<dyn Inode>,
        to_name: &'a [u8],
        flags: RenameFlags,
    ) -> Step<'a, Result<(), Errno>> {
        Step::Ready(self.of_same(to).and_then(|to| self.rename_child(name, &to, to_name, flags)))
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        match &self.body {
            Body::Symlink(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn read_link<'a>(&'a self, _cx: &'a Cx) -> Step<'a, Result<Link, Errno>> {
        Step::Ready(self.link_text().map(|text| Link::Text(text.to_vec())).ok_or(Errno::EINVAL))
    }

    fn open<'a>(self: Arc<Self>, cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        let keeps_set_id = flags.writable() && cx.creds().has(Capability::Fsetid);
        Step::Ready(self.open_now(keeps_set_id))
    }

    fn open_data(self: Arc<Self>, _access: OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
        Step::Ready(self.open_now(true))
    }

    fn socket_slot(&self) -> Option<&SocketSlot> {
        (self.kind == FileKind::Socket).then_some(&self.socket)
    }

    fn xattr<'a>(&'a self, call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
        let result = self.xattrs.lock().call(call);
        if result.is_ok() && matches!(call, XattrCall::Set(..) | XattrCall::Remove(_)) {
            self.attributes.lock().changed = self.fs.now();
        }
        Step::Ready(result)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    /// Directories below go one after the other, not one inside the other: a guest decides how deep a tree is.
    fn drop(&mut self) {
        self.fs.drop_inode();
        let Body::Directory(names) = &mut self.body else { return };
        let mut todo: Vec<Arc<Node>> = names.get_mut().take();
        while let Some(node) = todo.pop() {
            if let Some(mut node) = Arc::into_inner(node)
                && let Body::Directory(names) = &mut node.body
            {
                todo.extend(names.get_mut().take());
            }
        }
    }
}
