//! [`GoferInode`]: a host file, directory, link or other object, and what is known of it.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use gofer::protocol::{Name, OpenHow, Truncate, XattrMode, XattrName};
use hostcall::io;
use parking_lot::Mutex;

use super::ahead::Ahead;
use super::attr::{self, Cached};
use super::dir::GoferDir;
use super::fd_cache::Donated;
use super::file::GoferFile;
use super::handles::Named;
use super::listing::{Listing, Told};
use super::{Cache, Key, Tree};
use crate::Errno;
use crate::fs::fsnotify::{FsEvent, Outside};
use crate::fs::{
    DentryCache, FileKind, FileOps, Inode, Link, LookedUp, Metadata, NewInode, OpenFlags, Ownership, RenameFlags, SetAttr,
    SocketSlot, Timestamp, UnlinkKind, XattrCall, XattrReply,
};
use crate::step::{BoxFuture, Step};
use crate::task::Cx;

/// The largest value of an extended attribute (`XATTR_SIZE_MAX`).
const XATTR_MAX: u32 = 64 << 10;

/// What kinds have of their own.
pub(super) enum Body {
    Regular(Mutex<OpenFiles>),
    Directory(Children),
    Symlink(OnceLock<Arc<[u8]>>),
    Socket(SocketSlot),
    Other,
}

/// The descriptors of a regular file.
#[derive(Default)]
pub(super) struct OpenFiles {
    read: Option<Arc<Donated>>,
    /// Also for reading, where the host allows that.
    write: Option<Arc<Donated>>,
}

#[derive(Default)]
pub(super) struct Children {
    /// Inodes by name, in trees that can be changed here: the VFS removes and renames names.
    pub by_name: Mutex<HashMap<Name, Weak<GoferInode>>>,
    /// The names of a small directory, in exclusive trees.
    pub listing: Mutex<Option<Arc<Listing>>>,
    /// Names looked up before they are asked for.
    pub ahead: Mutex<Ahead>,
}

/// A host file, directory, link or other object.
pub struct GoferInode {
    pub(super) tree: Arc<Tree>,
    pub(super) me: Weak<GoferInode>,
    key: Key,
    kind: FileKind,
    /// No other inode had this number or will have it: things are kept by it that outlive the inode.
    identity: u64,
    pub(super) names: Mutex<Vec<Named>>,
    attr: Mutex<Cached>,
    /// How often the way to it was told to the gofer.
    pub(super) asked: AtomicU32,
    /// It was mapped shared and writable: it changes without our knowing.
    pub(super) mapped_shared: AtomicBool,
    pub(super) body: Body,
}

impl GoferInode {
    pub(super) fn new(tree: &Arc<Tree>, key: Key, metadata: Metadata, told: Told) -> Arc<GoferInode> {
        let body = match metadata.kind {
            FileKind::Regular => Body::Regular(Mutex::default()),
            FileKind::Directory => Body::Directory(Children::default()),
            FileKind::Symlink => Body::Symlink(OnceLock::new()),
            FileKind::Socket => Body::Socket(SocketSlot::default()),
            _ => Body::Other,
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let attr = Cached { metadata, valid_until: told.valid_until, stale: false, changed_at: 0 };
        Arc::new_cyclic(|me| GoferInode {
            tree: tree.clone(),
            me: me.clone(),
            key,
            kind: metadata.kind,
            identity: 1 << 62 | NEXT.fetch_add(1, Ordering::Relaxed),
            names: Mutex::default(),
            attr: Mutex::new(attr),
            asked: AtomicU32::new(0),
            mapped_shared: AtomicBool::new(false),
            body,
        })
    }

    pub(super) fn me(&self) -> Result<Arc<GoferInode>, Errno> {
        self.me.upgrade().ok_or(Errno::EIO)
    }

    pub(super) fn identity(&self) -> u64 {
        self.identity
    }

    /// The tree's count of changes when this was changed last.
    pub(super) fn changed_at(&self) -> u64 {
        self.attr.lock().changed_at
    }

    pub(super) fn ino(&self) -> u64 {
        self.key.2
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// The inode number of the directory above, where it is known.
    pub(super) fn parent_ino(&self) -> Option<u64> {
        let parent = self.names.lock().last().and_then(|named| named.place.as_ref()?.0.upgrade());
        parent.map(|parent| parent.ino())
    }

    // Attributes.

    pub(super) fn learn(&self, metadata: Metadata, told: Told) {
        self.attr.lock().learn(metadata, told.seen, told.valid_until);
    }

    /// Whether a file of this identity that was made at that time can be this one: numbers are used again when nothing pins the file.
    pub(super) fn may_be(&self, born: Timestamp) -> bool {
        let own = self.attr.lock().metadata.born;
        own == born || own == Timestamp::default() || born == Timestamp::default() || self.is_pinned()
    }

    fn is_pinned(&self) -> bool {
        self.held_now().is_some() || self.open_file().is_some()
    }

    /// Something was changed here: `edit` says what is known of it. The rest is asked for when it is needed.
    pub(super) fn changed(&self, edit: impl FnOnce(&mut Metadata)) {
        let at = self.tree.changes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut attr = self.attr.lock();
        attr.changed_at = at;
        attr.stale = true;
        edit(&mut attr.metadata);
        drop(attr);
        if let Body::Directory(children) = &self.body {
            let old = (children.listing.lock().take(), children.ahead.lock().clear());
            drop(old);
        }
    }

    /// Somebody else changed it: all that is known is to be asked for again.
    pub(super) fn changed_on_host(&self) {
        self.changed(|_| {});
        self.attr.lock().valid_until = 0;
    }

    /// The host tells of `events` here, or of those of a name. What could be wrong now is not believed any more.
    pub(super) fn doubt(&self, events: FsEvent, name: Option<&Name>, cache: &DentryCache) {
        self.changed_on_host();
        let Some(name) = name else { return };
        if events.intersects(FsEvent::NAMES) {
            cache.distrust();
        }
        match self.tree.writable() {
            Ok(()) => {
                if let Some(child) = self.child(name) {
                    child.changed_on_host();
                }
            }
            // There no children are known by name.
            Err(_) => self.tree.distrust(),
        }
    }

    /// Gives up what keeps a file alive that is gone on the host, as far as nobody uses it.
    pub(super) fn let_go(&self) {
        drop(self.take_opened());
        // Who has it open may ask for its attributes.
        if self.close_idle(OpenHow::Read) && self.close_idle(OpenHow::Write) {
            self.drop_handles();
            self.tree.client.flush_forgets();
        }
    }

    /// Bytes were written up to `end`.
    pub(super) fn wrote(&self, end: u64) {
        self.changed(|metadata| metadata.size = metadata.size.max(end));
    }

    /// The size as far as is known here: a hint.
    pub(super) fn known_size(&self) -> u64 {
        self.attr.lock().metadata.size
    }

    /// The attributes, if the host need not be asked.
    fn metadata_now(&self) -> Option<Metadata> {
        let shared = self.mapped_shared.load(Ordering::Relaxed);
        {
            let attr = self.attr.lock();
            let over = !self.tree.is_before(attr.valid_until);
            if !over && !attr.stale && !shared {
                return Some(attr.metadata);
            }
            if over {
                drop(attr);
                let (host, told) = self.known_attr().filter(|_| !shared)?;
                let metadata = self.tree.metadata(&host);
                self.learn(metadata, told);
                return Some(metadata);
            }
        }
        let file = self.open_file()?;
        let seen = self.tree.seen();
        let status = io::status(&*file).ok()?;
        let mut attr = self.attr.lock();
        if attr.changed_at > seen {
            return None;
        }
        attr.learn_status(&status);
        Some(attr.metadata)
    }

    pub(super) async fn refresh(&self) -> Result<Metadata, Errno> {
        if self.is_lost() {
            return Ok(self.attr.lock().metadata);
        }
        let told = self.tree.told_now();
        let host = match (self.held_now(), self.place()) {
            (Some(held), _) => self.tree.client.get_attr(held.handle()).await?,
            (None, Some((parent, name))) => {
                let base = parent.base().await?;
                let found = self.tree.client.stat(base.held.handle(), base.path, vec![name]).await?;
                let host = found.into_iter().next().unwrap_or(Err(Errno::EIO))?;
                if super::key_of(&host) != self.key {
                    // Another one has the name.
                    return Err(Errno::ENOENT);
                }
                host
            }
            (None, None) => return Err(Errno::ESTALE),
        };
        self.same(super::key_of(&host))?;
        let metadata = self.tree.metadata(&host);
        self.learn(metadata, told);
        Ok(metadata)
    }

    /// A handle's file does not become another. (Overlayfs may renumber it: the kind stays.)
    fn same(&self, key: Key) -> Result<(), Errno> {
        if key.3 == self.key.3 { Ok(()) } else { Err(Errno::EIO) }
    }

    async fn set(&self, change: SetAttr) -> Result<(), Errno> {
        self.tree.writable()?;
        let told = self.tree.told_now();
        // The gofer opens it for that, and closes it.
        let _closed = change.size.and_then(|_| self.tree.host.expect_close(self));
        let host = attr::change(&change);
        let asked = self.by_name(|handle| self.tree.client.set_attr(handle, host)).await;
        let answer = match asked {
            // It has no name any more: the size can be set where it is open.
            Err(Errno::ESTALE) if change.size.is_some() => {
                self.resize_open(change.size.unwrap_or_default()).await?;
                let rest = attr::change(&SetAttr { size: None, ..change });
                let held = self.held().await?;
                self.tree.client.set_attr(held.handle(), rest).await?
            }
            answer => answer?,
        };
        self.same(super::key_of(&answer))?;
        let metadata = self.tree.metadata(&answer);
        self.learn(metadata, told);
        self.attr.lock().changed_at = self.tree.changes.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(())
    }

    async fn resize_open(&self, size: u64) -> Result<(), Errno> {
        let file = self.open_for(OpenHow::Write).ok_or(Errno::ESTALE)?;
        self.tree.services.pool.run(move || io::set_len(&*file, size)).await
    }

    // Descriptors.

    fn files(&self) -> Option<&Mutex<OpenFiles>> {
        match &self.body {
            Body::Regular(files) => Some(files),
            _ => None,
        }
    }

    /// A descriptor of any mode.
    fn open_file(&self) -> Option<Arc<Donated>> {
        let files = self.files()?.lock();
        files.write.clone().or_else(|| files.read.clone())
    }

    /// A descriptor that serves for this.
    pub(super) fn open_for(&self, how: OpenHow) -> Option<Arc<Donated>> {
        let files = self.files()?.lock();
        let write = files.write.as_ref();
        match how {
            OpenHow::Read => files.read.clone().or_else(|| write.filter(|file| file.readable()).cloned()),
            OpenHow::Write => write.cloned(),
            OpenHow::ReadWrite => write.filter(|file| file.readable()).cloned(),
        }
    }

    /// Keeps a descriptor; gives the one that is kept if another was faster.
    pub(super) fn keep(self: &Arc<GoferInode>, file: Arc<Donated>) -> Arc<Donated> {
        let Some(files) = self.files() else { return file };
        let how = file.how;
        let _ = file.inode.set(self.me.clone());
        {
            let mut files = files.lock();
            let slot = if how == OpenHow::Read { &mut files.read } else { &mut files.write };
            match slot {
                Some(kept) if kept.how == how || how == OpenHow::Write => return kept.clone(),
                // One for writing only stays with those who have it.
                _ => *slot = Some(file.clone()),
            }
        }
        self.tree.services.fds.note(self, how);
        file
    }

    /// Closes a kept descriptor that nobody uses. False: it is in use.
    pub(super) fn close_idle(&self, how: OpenHow) -> bool {
        let Some(files) = self.files() else { return true };
        let mut files = files.lock();
        let slot = if how == OpenHow::Read { &mut files.read } else { &mut files.write };
        if !slot.as_ref().is_none_or(Donated::idle) {
            return false;
        }
        let closed = slot.take();
        drop(files);
        drop(closed);
        true
    }

    /// Whether others than this VFS change its tree too.
    pub(super) fn is_shared(&self) -> bool {
        self.tree.cache != Cache::Exclusive
    }

    /// No longer keeps a descriptor for writing that nobody has but the caller, who is about to drop it.
    pub(super) fn give_up_last(&self, last: &Arc<Donated>) {
        let Some(files) = self.files() else { return };
        let mut files = files.lock();
        let kept = files.write.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, last));
        if kept && last.idle_but_for(2) {
            files.write = None;
        }
    }

    /// Makes a donated descriptor one of ours.
    ///
    /// # Errors
    /// `EIO` if it is none of a regular file.
    pub(super) fn adopt(
        &self,
        fd: std::os::fd::OwnedFd,
        how: OpenHow,
        place: super::fd_cache::Place,
    ) -> Result<Arc<Donated>, Errno> {
        let status = io::status(&fd)?;
        if FileKind::from_mode(status.mode) != Some(FileKind::Regular) {
            tracing::warn!(mode = status.mode, "the gofer gave something else than a regular file");
            return Err(Errno::EIO);
        }
        Ok(Donated::new(fd, how, self.tree.local, place))
    }

    async fn open_regular(self: Arc<GoferInode>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        let writes = flags.writable();
        let reads = flags.readable();
        let how = match (reads, writes) {
            (true, false) => OpenHow::Read,
            (false, true) => OpenHow::Write,
            _ => OpenHow::ReadWrite,
        };
        if let Some(file) = self.open_for(how) {
            return Ok(GoferFile::new(self, file));
        }
        let file = match how {
            OpenHow::Read => self.ask_open(OpenHow::Read).await?,
            OpenHow::ReadWrite => self.ask_open(OpenHow::ReadWrite).await?,
            // One for both serves more opens.
            OpenHow::Write => match self.ask_open(OpenHow::ReadWrite).await {
                Err(Errno::EACCES) => self.ask_open(OpenHow::Write).await?,
                file => file?,
            },
        };
        Ok(GoferFile::new(self, file))
    }

    async fn ask_open(self: &Arc<GoferInode>, how: OpenHow) -> Result<Arc<Donated>, Errno> {
        if how != OpenHow::Read {
            self.tree.writable()?;
        }
        if self.held_now().is_none()
            && let Some((parent, name)) = self.place()
        {
            return parent.open_child(self, name, how).await;
        }
        let place = self.tree.reserve()?;
        let fd = self.by_name(|handle| self.tree.client.open(handle, how, Truncate::Keep)).await?;
        Ok(self.keep(self.adopt(fd, how, place)?))
    }

    // Symbolic links.

    fn link(&self) -> Option<&OnceLock<Arc<[u8]>>> {
        match &self.body {
            Body::Symlink(text) => Some(text),
            _ => None,
        }
    }

    /// Notes a link's text, if it can be one.
    pub(super) fn learn_link(&self, text: &[u8]) -> Result<Arc<[u8]>, Errno> {
        let slot = self.link().ok_or(Errno::EIO)?;
        if text.is_empty() || text.len() >= 4096 || text.contains(&0) {
            return Err(Errno::EIO);
        }
        Ok(slot.get_or_init(|| text.into()).clone())
    }

    async fn do_xattr(&self, call: XattrCall<'_>) -> Result<XattrReply, Errno> {
        let client = &self.tree.client;
        let name = |bytes: &[u8]| XattrName::new(bytes).map_err(|_| Errno::ERANGE);
        match call {
            XattrCall::Get(key) => {
                let key = name(key)?;
                self.by_name(|handle| client.get_xattr(handle, key.clone(), XATTR_MAX)).await
            }
            XattrCall::List => self.by_name(|handle| client.list_xattr(handle)).await,
            XattrCall::Set(key, value, flags) => {
                self.tree.writable()?;
                let mode = match flags {
                    0 => XattrMode::Set,
                    1 => XattrMode::Create,
                    2 => XattrMode::Replace,
                    _ => return Err(Errno::EINVAL),
                };
                if value.len() > XATTR_MAX as usize {
                    return Err(Errno::E2BIG);
                }
                let key = name(key)?;
                self.by_name(|handle| client.set_xattr(handle, key.clone(), value.to_vec(), mode)).await?;
                self.changed(|_| {});
                Ok(Vec::new())
            }
            XattrCall::Remove(key) => {
                self.tree.writable()?;
                let key = name(key)?;
                self.by_name(|handle| client.remove_xattr(handle, key.clone())).await?;
                self.changed(|_| {});
                Ok(Vec::new())
            }
        }
    }
}

impl Inode for GoferInode {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        match self.metadata_now() {
            Some(metadata) => Step::ok(metadata),
            None => Step::wait(self.refresh()),
        }
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn ownership(&self) -> Option<Ownership> {
        self.attr.lock().ownership(&self.tree)
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::wait(self.set(change))
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        if self.kind != FileKind::Directory {
            return Step::err(Errno::ENOTDIR);
        }
        if let Some(known) = self.known_child(name) {
            return Step::Ready(known.map(|inode| inode as Arc<dyn Inode>));
        }
        Step::wait(async move {
            let found = self.walk(&[name]).await?;
            match (found.inodes.into_iter().next(), found.error) {
                (Some(inode), _) => Ok(inode),
                (None, error) => Err(error.unwrap_or(Errno::EIO)),
            }
        })
    }

    fn peek(&self, name: &[u8]) -> Option<Metadata> {
        self.peek_child(name)
    }

    fn lookup_path<'a>(&'a self, names: &'a [&'a [u8]]) -> Option<BoxFuture<'a, Result<LookedUp, Errno>>> {
        // Where names are asked for each time, those further on would be asked for again.
        if self.kind != FileKind::Directory || self.tree.cache.name_ttl_ns() == 0 {
            return None;
        }
        Some(Box::pin(self.walk(names)))
    }

    fn create<'a>(&'a self, name: &'a [u8], new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::wait(self.make(name, new))
    }

    fn link<'a>(&'a self, name: &'a [u8], target: &'a Arc<dyn Inode>) -> Step<'a, Result<(), Errno>> {
        Step::wait(self.make_link(name, target))
    }

    fn unlink<'a>(&'a self, name: &'a [u8], kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        Step::wait(self.remove(name, kind))
    }

    fn rename<'a>(
        &'a self,
        name: &'a [u8],
        to: &'a Arc<dyn Inode>,
        to_name: &'a [u8],
        flags: RenameFlags,
    ) -> Step<'a, Result<(), Errno>> {
        Step::wait(self.do_rename(name, to, to_name, flags))
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        GoferInode::link(self)?.get().cloned()
    }

    fn read_link<'a>(&'a self, _cx: &'a Cx) -> Step<'a, Result<Link, Errno>> {
        if self.kind != FileKind::Symlink {
            return Step::err(Errno::EINVAL);
        }
        if let Some(text) = self.link_text() {
            return Step::ok(Link::Text(text.to_vec()));
        }
        Step::wait(async move {
            let held = self.held().await?;
            // It came with the handle.
            if let Some(text) = self.link_text() {
                return Ok(Link::Text(text.to_vec()));
            }
            let text = self.tree.client.read_link(held.handle()).await?;
            Ok(Link::Text(self.learn_link(&text)?.to_vec()))
        })
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        self.open_data(flags)
    }

    fn open_data(self: Arc<Self>, access: OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
        match self.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Step::ok(GoferDir::new(self)),
            FileKind::Symlink => return Step::err(Errno::ELOOP),
            _ => return Step::err(Errno::ENXIO),
        }
        if !access.writable()
            && let Some(file) = self.open_for(OpenHow::Read).or_else(|| self.take_opened())
        {
            return Step::ok(GoferFile::new(self, file));
        }
        Step::wait(self.open_regular(access))
    }

    fn watch_outside<'a>(
        &'a self,
        cache: &'a Arc<DentryCache>,
        events: FsEvent,
    ) -> Option<BoxFuture<'a, Result<Box<dyn Outside>, Errno>>> {
        // Nobody else is there.
        if self.tree.cache == Cache::Exclusive {
            return None;
        }
        Some(Box::pin(async move {
            let watching = self.tree.host.watch(&self.me()?, cache, events).await?;
            Ok(Box::new(watching) as Box<dyn Outside>)
        }))
    }

    fn socket_slot(&self) -> Option<&SocketSlot> {
        match &self.body {
            Body::Socket(slot) => Some(slot),
            _ => None,
        }
    }

    fn xattr<'a>(&'a self, call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
        Step::wait(self.do_xattr(call))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for GoferInode {
    fn drop(&mut self) {
        if let Body::Regular(files) = &mut self.body
            && let Some(file) = files.get_mut().write.take()
        {
            let _closed = self.tree.host.expect_close(self);
            drop(file);
        }
        {
            let mut inodes = self.tree.inodes.lock();
            if inodes.get(&self.key).is_some_and(|known| std::ptr::eq(known.as_ptr(), self)) {
                inodes.remove(&self.key);
            }
        }
        let names = std::mem::take(self.names.get_mut());
        let removed = names.iter().all(|named| named.place.is_none());
        for named in names {
            let Some((parent, name)) = named.place else { continue };
            if let Some(parent) = parent.upgrade()
                && let Body::Directory(children) = &parent.body
            {
                let mut by_name = children.by_name.lock();
                if by_name.get(&name).is_some_and(|known| std::ptr::eq(known.as_ptr(), self)) {
                    by_name.remove(&name);
                }
            }
        }
        // A handle of a removed file keeps its space on the host: it is given up now, not with the next batch.
        if removed && self.kind == FileKind::Regular {
            self.tree.client.flush_forgets();
        }
    }
}
