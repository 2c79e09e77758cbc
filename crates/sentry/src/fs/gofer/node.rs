//! [`Node`]: a file of the host, by its handle at the gofer.

use std::any::Any;
use std::ffi::CString;
use std::sync::{Arc, Weak};

use gofer::protocol::{
    self, Attr, Entry, EntryKind, Handle, MakeNode, Name, OpenHow, Owner, RenameKind, Truncate, WalkEnd, XattrMode, XattrName,
};
use parking_lot::Mutex;

use super::Shared;
use super::dir::{Listing, OpenDir};
use super::file::{HostFile, OpenFile};
use crate::Errno;
use crate::fs::dev::device_number;
use crate::fs::{
    FileKind, FileOps, Inode, Link, LookedUp, Metadata, NewInode, OpenFlags, Ownership, RenameFlags, SetAttr, SetTime,
    Timestamp, UnlinkKind, XattrCall, XattrReply,
};
use crate::step::{BoxFuture, Step};
use crate::task::Cx;

/// Largest value of an extended attribute.
const XATTR_MAX: u32 = 64 << 10;

/// An inode of the host.
pub(super) struct Node {
    pub(super) shared: Arc<Shared>,
    this: Weak<Node>,
    key: (u64, u64),
    kind: FileKind,
    state: Mutex<State>,
}

struct State {
    handle: Handle,
    attr: Attr,
    /// Monotonic nanoseconds; 0: ask again.
    valid_until: u64,
    link: Option<Arc<[u8]>>,
    /// Open descriptors, to read and to write.
    read: Weak<HostFile>,
    write: Weak<HostFile>,
    listing: Option<Arc<Listing>>,
}

impl Node {
    pub(super) fn new(shared: Arc<Shared>, key: (u64, u64), entry: &Entry, link: Option<&[u8]>) -> Arc<Node> {
        let valid_until = shared.expiry();
        Arc::new_cyclic(|this| Node {
            this: this.clone(),
            key,
            kind: kind_of(entry.attr.kind),
            state: Mutex::new(State {
                handle: entry.handle,
                attr: entry.attr,
                valid_until,
                link: link.map(Into::into),
                read: Weak::new(),
                write: Weak::new(),
                listing: None,
            }),
            shared,
        })
    }

    pub(super) fn same_kind(&self, attr: &Attr) -> bool {
        self.kind == kind_of(attr.kind)
    }

    /// The host mentioned this node once more, by a new handle: that is the one to use, as it stands for a name that exists.
    pub(super) fn seen_again(&self, entry: &Entry, link: Option<&[u8]>) {
        let until = self.shared.expiry();
        let old = {
            let mut state = self.state.lock();
            state.note(&entry.attr, until);
            if let Some(link) = link {
                state.link = Some(link.into());
            }
            std::mem::replace(&mut state.handle, entry.handle)
        };
        self.shared.client.forget(old);
    }

    pub(super) fn handle(&self) -> Handle {
        self.state.lock().handle
    }

    /// The handle of an inode of the same gofer.
    fn of_same(&self, inode: &Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        let node = inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&node.shared, &self.shared) {
            return Err(Errno::EXDEV);
        }
        node.this.upgrade().ok_or(Errno::ESTALE)
    }

    /// A number for what is mapped: the same for the same file.
    pub(super) fn identity(&self) -> u64 {
        1 << 62 | self.shared.ino(self.key.0, self.key.1) ^ self.shared.dev << 40
    }

    pub(super) fn ino(&self) -> u64 {
        self.shared.ino(self.key.0, self.key.1)
    }

    pub(super) fn guest_ino(&self, ino: u64) -> u64 {
        self.shared.ino(self.key.0, ino)
    }

    /// The size as far as it is known.
    pub(super) fn size(&self) -> u64 {
        self.state.lock().attr.size
    }

    pub(super) fn set_size(&self, size: u64) {
        self.state.lock().attr.size = size;
    }

    /// Data was written up to `end`.
    pub(super) fn written(&self, end: u64) {
        let ns = self.shared.clock.realtime_ns();
        let now = protocol::Timestamp { seconds: (ns / 1_000_000_000) as i64, nanoseconds: (ns % 1_000_000_000) as u32 };
        let mut state = self.state.lock();
        let attr = &mut state.attr;
        attr.size = attr.size.max(end);
        attr.blocks = attr.blocks.max(attr.size.div_ceil(512));
        (attr.mtime, attr.ctime) = (now, now);
    }

    /// Attributes are to be asked for again.
    pub(super) fn expire(&self) {
        self.state.lock().valid_until = 0;
    }

    /// Names in this directory have changed.
    fn names_changed(&self) {
        let mut state = self.state.lock();
        state.valid_until = 0;
        state.listing = None;
    }

    pub(super) fn listing(&self) -> Option<Arc<Listing>> {
        self.state.lock().listing.clone()
    }

    pub(super) fn keep_listing(&self, listing: &Arc<Listing>) {
        if self.shared.cache == super::Cache::Exclusive {
            self.state.lock().listing = Some(listing.clone());
        }
    }

    fn metadata_of(&self, attr: &Attr) -> Metadata {
        Metadata {
            dev: self.shared.dev,
            ino: self.ino(),
            kind: self.kind,
            permissions: attr.mode & 0o7777,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: device_number(attr.rdev_major, attr.rdev_minor),
            size: attr.size,
            blocks: attr.blocks,
            block_size: attr.blksize,
            accessed: time_of(attr.atime),
            modified: time_of(attr.mtime),
            changed: time_of(attr.ctime),
            born: attr.btime.map(time_of).unwrap_or_default(),
        }
    }

    fn known(&self) -> Option<Attr> {
        let state = self.state.lock();
        self.shared.valid(state.valid_until).then_some(state.attr)
    }

    /// Asks for the attributes.
    async fn ask(&self) -> Result<Attr, Errno> {
        let attr = self.shared.client.get_attr(self.handle()).await?;
        let until = self.shared.expiry();
        self.state.lock().note(&attr, until);
        Ok(attr)
    }

    /// Walks `names`; the nodes on the way.
    async fn walk(&self, names: &[&[u8]]) -> Result<LookedUp, Errno> {
        let checked: Result<Vec<Name>, _> = names.iter().map(|name| Name::new(name)).collect();
        let walked = self.shared.client.walk(self.handle(), checked?, None).await?;
        let last = walked.steps.len().saturating_sub(1);
        let step = |(at, entry)| {
            let link = walked.link.as_deref().filter(|_| at == last);
            self.shared.node(entry, link) as Arc<dyn Inode>
        };
        let inodes: Vec<Arc<dyn Inode>> = walked.steps.iter().enumerate().map(step).collect();
        let error = match walked.end {
            WalkEnd::Failed(errno) => Some(errno),
            _ => None,
        };
        Ok(LookedUp { inodes, error })
    }

    /// An open descriptor for these flags that is there already.
    fn opened(&self, flags: OpenFlags) -> Option<Arc<HostFile>> {
        let state = self.state.lock();
        if flags.writable() { state.write.upgrade() } else { state.read.upgrade().or_else(|| state.write.upgrade()) }
    }

    fn took(&self, file: &Arc<HostFile>, how: OpenHow) {
        {
            let mut state = self.state.lock();
            match how {
                OpenHow::Read => state.read = Arc::downgrade(file),
                OpenHow::ReadWrite => state.write = Arc::downgrade(file),
                OpenHow::Write => return,
            }
        }
        self.shared.keep(file);
    }

    async fn host_file(&self, flags: OpenFlags) -> Result<Arc<HostFile>, Errno> {
        if let Some(file) = self.opened(flags) {
            return Ok(file);
        }
        let how = if flags.writable() { OpenHow::ReadWrite } else { OpenHow::Read };
        let opened = self.shared.client.open(self.handle(), how, Truncate::Keep).await;
        let (fd, how) = match opened {
            // A file that may be written and not read.
            Err(Errno::EACCES) if how == OpenHow::ReadWrite && !flags.readable() => {
                (self.shared.client.open(self.handle(), OpenHow::Write, Truncate::Keep).await?, OpenHow::Write)
            }
            opened => (opened?, how),
        };
        let file = HostFile::new(fd, how != OpenHow::Read);
        self.took(&file, how);
        Ok(file)
    }

    fn open_now(self: Arc<Self>, flags: OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
        match self.kind {
            FileKind::Regular => {
                if flags.writable() && !self.shared.writable {
                    return Step::err(Errno::EROFS);
                }
                if let Some(file) = self.opened(flags) {
                    return Step::ok(Arc::new(OpenFile::new(self, file)));
                }
                Step::wait(async move {
                    let file = self.host_file(flags).await?;
                    Ok(Arc::new(OpenFile::new(self, file)) as Arc<dyn FileOps>)
                })
            }
            FileKind::Directory => Step::ok(Arc::new(OpenDir::new(self))),
            FileKind::Symlink => Step::err(Errno::ELOOP),
            _ => Step::err(Errno::ENXIO),
        }
    }

    async fn make(&self, name: &[u8], new: &NewInode) -> Result<Arc<Node>, Errno> {
        let (dir, client) = (self.handle(), &self.shared.client);
        let owner = Owner { uid: new.uid, gid: new.gid };
        let name = Name::new(name)?;
        let mode = new.permissions;
        let mut link = None;
        let entry = match new.kind {
            FileKind::Regular => {
                let (entry, fd) = client.create(dir, name, mode, owner, OpenHow::ReadWrite).await?;
                let node = self.shared.node(&entry, None);
                node.took(&HostFile::new(fd, true), OpenHow::ReadWrite);
                self.names_changed();
                return Ok(node);
            }
            FileKind::Directory => client.mkdir(dir, name, mode, owner).await?,
            FileKind::Symlink => {
                link = Some(new.target.as_slice());
                let target = CString::new(new.target.as_slice()).map_err(|_| Errno::EINVAL)?;
                client.symlink(dir, name, target, owner).await?
            }
            FileKind::Fifo => client.mknod(dir, name, MakeNode::Fifo, mode, owner).await?,
            FileKind::Socket => client.mknod(dir, name, MakeNode::Socket, mode, owner).await?,
            FileKind::CharDevice | FileKind::BlockDevice => return Err(Errno::EPERM),
        };
        self.names_changed();
        Ok(self.shared.node(&entry, link))
    }

    fn check_writable(&self) -> Result<(), Errno> {
        if self.shared.writable { Ok(()) } else { Err(Errno::EROFS) }
    }
}

impl State {
    fn note(&mut self, attr: &Attr, until: u64) {
        if attr.mtime != self.attr.mtime {
            self.listing = None;
        }
        self.attr = *attr;
        self.valid_until = until;
    }
}

impl Inode for Node {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        match self.known() {
            Some(attr) => Step::ok(self.metadata_of(&attr)),
            None => Step::wait(async { self.ask().await.map(|attr| self.metadata_of(&attr)) }),
        }
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn ownership(&self) -> Option<Ownership> {
        let state = self.state.lock();
        let attr = &state.attr;
        let owner = Ownership { kind: self.kind, permissions: attr.mode & 0o7777, uid: attr.uid, gid: attr.gid };
        self.shared.valid(state.valid_until).then_some(owner)
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        if let Err(errno) = self.check_writable() {
            return Step::err(errno);
        }
        Step::wait(async move {
            let time = |set: SetTime| match set {
                SetTime::Now => protocol::SetTime::Now,
                SetTime::At(at) => {
                    protocol::SetTime::At(protocol::Timestamp { seconds: at.sec, nanoseconds: at.nsec })
                }
            };
            let set = protocol::SetAttr {
                uid: change.uid,
                gid: change.gid,
                mode: change.permissions,
                size: change.size,
                atime: change.accessed.map(time),
                mtime: change.modified.map(time),
            };
            let attr = self.shared.client.set_attr(self.handle(), set).await?;
            let until = self.shared.expiry();
            self.state.lock().note(&attr, until);
            Ok(())
        })
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::wait(async move {
            let found = self.walk(&[name]).await?;
            found.inodes.into_iter().next().ok_or(found.error.unwrap_or(Errno::EIO))
        })
    }

    fn lookup_path<'a>(&'a self, names: &'a [&'a [u8]]) -> Option<BoxFuture<'a, Result<LookedUp, Errno>>> {
        Some(Box::pin(self.walk(names)))
    }

    fn create<'a>(&'a self, name: &'a [u8], new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        if let Err(errno) = self.check_writable() {
            return Step::err(errno);
        }
        Step::wait(async move { self.make(name, new).await.map(|node| node as Arc<dyn Inode>) })
    }

    fn link<'a>(&'a self, name: &'a [u8], target: &'a Arc<dyn Inode>) -> Step<'a, Result<(), Errno>> {
        Step::wait(async move {
            self.check_writable()?;
            let target = self.of_same(target)?;
            let entry = self.shared.client.link(target.handle(), self.handle(), Name::new(name)?).await?;
            target.seen_again(&entry, None);
            self.names_changed();
            Ok(())
        })
    }

    fn unlink<'a>(&'a self, name: &'a [u8], kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        Step::wait(async move {
            self.check_writable()?;
            let kind = match kind {
                UnlinkKind::NotDirectory => EntryKind::NotDirectory,
                UnlinkKind::Directory => EntryKind::Directory,
            };
            self.shared.client.unlink(self.handle(), Name::new(name)?, kind).await?;
            self.names_changed();
            Ok(())
        })
    }

    fn rename<'a>(
        &'a self,
        name: &'a [u8],
        to: &'a Arc<dyn Inode>,
        to_name: &'a [u8],
        flags: RenameFlags,
    ) -> Step<'a, Result<(), Errno>> {
        Step::wait(async move {
            self.check_writable()?;
            let to = self.of_same(to)?;
            let kind = match flags {
                RenameFlags::NOREPLACE => RenameKind::NoReplace,
                RenameFlags::EXCHANGE => RenameKind::Exchange,
                none if none.is_empty() => RenameKind::Replace,
                _ => return Err(Errno::EINVAL),
            };
            // Handles for these very names: the gofer notes their new places.
            let handle = |found: &LookedUp| {
                found.inodes.first().and_then(|inode| inode.as_any().downcast_ref::<Node>()).map(Node::handle)
            };
            let moved = self.walk(&[name]).await?;
            let displaced = to.walk(&[to_name]).await?;
            let client = &self.shared.client;
            let (old, new) = (Name::new(name)?, Name::new(to_name)?);
            let exchanged = handle(&displaced).filter(|_| kind == RenameKind::Exchange);
            client.rename(self.handle(), old, to.handle(), new, kind, handle(&moved), exchanged).await?;
            self.names_changed();
            to.names_changed();
            for node in moved.inodes.iter().chain(&displaced.inodes) {
                node.names_of_it_changed();
            }
            Ok(())
        })
    }

    fn names_of_it_changed(&self) {
        self.expire();
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        self.state.lock().link.clone()
    }

    fn read_link<'a>(&'a self, _cx: &'a Cx) -> Step<'a, Result<Link, Errno>> {
        if let Some(text) = self.link_text() {
            return Step::ok(Link::Text(text.to_vec()));
        }
        if self.kind != FileKind::Symlink {
            return Step::err(Errno::EINVAL);
        }
        Step::wait(async {
            let text = self.shared.client.read_link(self.handle()).await?;
            self.state.lock().link = Some(text.as_slice().into());
            Ok(Link::Text(text))
        })
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        self.open_now(flags)
    }

    fn open_data(self: Arc<Self>, access: OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
        self.open_now(access)
    }

    fn xattr<'a>(&'a self, call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
        Step::wait(async move {
            let (node, client) = (self.handle(), &self.shared.client);
            match call {
                XattrCall::Get(name) => client.get_xattr(node, XattrName::new(name)?, XATTR_MAX).await,
                XattrCall::List => client.list_xattr(node).await,
                XattrCall::Set(name, value, flags) => {
                    self.check_writable()?;
                    let mode = match flags {
                        0 => XattrMode::Set,
                        1 => XattrMode::Create,
                        2 => XattrMode::Replace,
                        _ => return Err(Errno::EINVAL),
                    };
                    client.set_xattr(node, XattrName::new(name)?, value.to_vec(), mode).await.map(|()| Vec::new())
                }
                XattrCall::Remove(name) => {
                    self.check_writable()?;
                    client.remove_xattr(node, XattrName::new(name)?).await.map(|()| Vec::new())
                }
            }
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.client.forget(self.state.get_mut().handle);
        self.shared.remove(self.key);
    }
}

pub(super) fn kind_of(kind: protocol::FileKind) -> FileKind {
    match kind {
        protocol::FileKind::Regular => FileKind::Regular,
        protocol::FileKind::Directory => FileKind::Directory,
        protocol::FileKind::Symlink => FileKind::Symlink,
        protocol::FileKind::Fifo => FileKind::Fifo,
        protocol::FileKind::Socket => FileKind::Socket,
        protocol::FileKind::CharDevice => FileKind::CharDevice,
        protocol::FileKind::BlockDevice => FileKind::BlockDevice,
    }
}

fn time_of(time: protocol::Timestamp) -> Timestamp {
    Timestamp { sec: time.seconds, nsec: time.nanoseconds }
}
