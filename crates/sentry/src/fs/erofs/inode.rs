//! [`Node`]: an inode of an image.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use super::dir::{self, Entry};
use super::file::OpenFile;
use super::image::{BLOCK, RawInode};
use super::{Shared, xattr};
use crate::Errno;
use crate::fs::dev::device_number;
use crate::fs::{
    DirEntry, File, FileKind, FileOps, Inode, Link, Metadata, NewInode, OpenFlags, Ownership, RenameFlags, SetAttr, SocketSlot,
    Timestamp, UnlinkKind, XattrCall, XattrReply,
};
use crate::mm::{Pages, Sink};
use crate::step::Step;
use crate::task::Cx;

/// The longest symbolic link.
const LINK_MAX: u64 = 4095;

pub(super) struct Node {
    pub fs: Arc<Shared>,
    pub nid: u64,
    pub raw: RawInode,
    kind: FileKind,
    text: OnceLock<Arc<[u8]>>,
    /// The entries of a directory, once somebody has asked.
    entries: OnceLock<Vec<Entry>>,
    /// The last page of a file whose tail is not on one of its own.
    pub tail: OnceLock<Pages>,
    socket: SocketSlot,
}

impl Node {
    pub fn read(fs: &Arc<Shared>, nid: u64) -> Result<Arc<Node>, Errno> {
        let raw = fs.image.inode(nid)?;
        let kind = FileKind::from_mode(raw.mode).ok_or(Errno::EUCLEAN)?;
        let node = Node {
            fs: fs.clone(),
            nid,
            raw,
            kind,
            text: OnceLock::new(),
            entries: OnceLock::new(),
            tail: OnceLock::new(),
            socket: SocketSlot::default(),
        };
        if kind == FileKind::Symlink {
            if raw.size > LINK_MAX {
                return Err(Errno::EUCLEAN);
            }
            let _ = node.text.set(raw.read(&fs.image, 0, raw.size as usize)?.into());
        }
        Ok(Arc::new(node))
    }

    fn entries(&self) -> Result<&[Entry], Errno> {
        if self.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if self.entries.get().is_none() {
            let _ = self.entries.set(dir::entries(&self.fs.image, &self.raw)?);
        }
        Ok(self.entries.get().map(Vec::as_slice).unwrap_or_default())
    }

    fn find(&self, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let entries = self.entries()?;
        let at = entries.binary_search_by(|entry| (*entry.name).cmp(name)).map_err(|_| Errno::ENOENT)?;
        let entry = entries.get(at).ok_or(Errno::ENOENT)?;
        let node = self.fs.node(entry.nid)?;
        if node.kind == entry.kind { Ok(node) } else { Err(Errno::EUCLEAN) }
    }

    fn open_now(self: Arc<Self>) -> Result<Arc<dyn FileOps>, Errno> {
        match self.kind {
            FileKind::Regular => Ok(Arc::new(OpenFile::new(self)?)),
            FileKind::Directory => Ok(Arc::new(OpenDir(self))),
            FileKind::Symlink => Err(Errno::ELOOP),
            _ => Err(Errno::ENXIO),
        }
    }
}

impl Inode for Node {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        let raw = &self.raw;
        let at = Timestamp { sec: raw.modified.0, nsec: raw.modified.1 };
        let device = matches!(self.kind, FileKind::CharDevice | FileKind::BlockDevice);
        let rdev =
            if device { device_number((raw.rdev & 0xfff00) >> 8, raw.rdev & 0xff | raw.rdev >> 12 & 0xfff00) } else { 0 };
        let size = if device { 0 } else { raw.size };
        Step::ok(Metadata {
            dev: self.fs.dev,
            ino: self.nid,
            kind: self.kind,
            permissions: raw.mode & 0o7777,
            nlink: raw.nlink,
            uid: raw.uid,
            gid: raw.gid,
            rdev,
            size,
            blocks: size.div_ceil(BLOCK) * (BLOCK / 512),
            block_size: BLOCK as u32,
            accessed: at,
            modified: at,
            changed: at,
            born: Timestamp::default(),
        })
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn ownership(&self) -> Option<Ownership> {
        let raw = &self.raw;
        Some(Ownership { kind: self.kind, permissions: raw.mode & 0o7777, uid: raw.uid, gid: raw.gid })
    }

    fn set_attr(&self, _change: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::err(Errno::EROFS)
    }

    fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::Ready(self.find(name).map(|node| node as Arc<dyn Inode>))
    }

    fn create<'a>(&'a self, _name: &'a [u8], _new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::err(Errno::EROFS)
    }

    fn create_unnamed<'a>(&'a self, _new: &'a NewInode) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
        Step::err(Errno::EROFS)
    }

    fn link<'a>(&'a self, _name: &'a [u8], _target: &'a Arc<dyn Inode>) -> Step<'a, Result<(), Errno>> {
        Step::err(Errno::EROFS)
    }

    fn unlink<'a>(&'a self, _name: &'a [u8], _kind: UnlinkKind) -> Step<'a, Result<(), Errno>> {
        Step::err(Errno::EROFS)
    }

    fn rename<'a>(
        &'a self,
        _name: &'a [u8],
        _to: &'a Arc<dyn Inode>,
        _to_name: &'a [u8],
        _flags: RenameFlags,
    ) -> Step<'a, Result<(), Errno>> {
        Step::err(Errno::EROFS)
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        self.text.get().cloned()
    }

    fn read_link<'a>(&'a self, _cx: &'a Cx) -> Step<'a, Result<Link, Errno>> {
        Step::Ready(self.link_text().map(|text| Link::Text(text.to_vec())).ok_or(Errno::EINVAL))
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::Ready(self.open_now())
    }

    fn open_data(self: Arc<Self>, _access: OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
        Step::Ready(self.open_now())
    }

    fn socket_slot(&self) -> Option<&SocketSlot> {
        (self.kind == FileKind::Socket).then_some(&self.socket)
    }

    fn xattr<'a>(&'a self, call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
        Step::Ready(xattr::call(&self.fs.image, &self.raw, call))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.fs.forget(self.nid);
    }
}

struct OpenDir(Arc<Node>);

impl FileOps for OpenDir {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, _into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    /// Positions 0 and 1 are `.` and `..`; the rest are places in the sorted list.
    fn read_dir<'a>(
        &'a self,
        _file: &'a File,
        from: u64,
        emit: &'a mut (dyn for<'b> FnMut(DirEntry<'b>) -> bool + Send),
    ) -> Step<'a, Result<(), Errno>> {
        let entries = match self.0.entries() {
            Ok(entries) => entries,
            Err(errno) => return Step::err(errno),
        };
        let dots = [b".".as_slice(), b".."].map(|name| (self.0.nid, FileKind::Directory, name));
        let rest = entries.iter().map(|entry| (entry.nid, entry.kind, &*entry.name));
        let first = usize::try_from(from).unwrap_or(usize::MAX);
        for (at, (ino, kind, name)) in dots.into_iter().chain(rest).enumerate().skip(first) {
            if !emit(DirEntry { ino, kind, name, next: at as u64 + 1 }) {
                break;
            }
        }
        Step::ok(())
    }

    fn sync(&self) -> Step<'_, Result<(), Errno>> {
        Step::ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
