//! Directories: opening and reading them.

use std::sync::Arc;

use gofer::{
    Errno,
    protocol::{Durability, FileKind, ReadDirDetail},
};
use zerocopy::IntoBytes;

use super::{Answer, Fs, Outcome, Request, done, is_exclusive, reply};
use crate::{
    abi::{Dirent, EntryOut, FSYNC_FDATASYNC, FsyncIn, OpenOut, ROOT_ID, ReadIn, fopen, op},
    handles::Open,
    inodes::Place,
};

/// The most bytes of one answer.
const MAX_LIST: usize = 128 * 1024;

/// The host's positions are opaque and may be any; these two, beyond which none is known to give any, are those after `.` and `..`.
const AFTER_DOT: u64 = i64::MAX as u64 - 2;
const AFTER_DOTS: u64 = i64::MAX as u64 - 1;

/// Entries as the guest's kernel wants them.
pub(super) struct List {
    bytes: Vec<u8>,
    room: usize,
    plus: bool,
    full: bool,
}

impl List {
    fn new(room: usize, plus: bool) -> List {
        List { bytes: Vec::new(), room, plus, full: false }
    }

    fn size(&self, name: &[u8]) -> usize {
        let entry = if self.plus { size_of::<EntryOut>() } else { 0 };
        entry + (size_of::<Dirent>() + name.len()).next_multiple_of(8)
    }

    /// Whether an entry fits. Once one did not, none does.
    fn fits(&mut self, used: usize, name: &[u8]) -> bool {
        self.full |= used + self.size(name) > self.room;
        !self.full
    }

    fn push(&mut self, entry: &EntryOut, ino: u64, next: u64, kind: u8, name: &[u8]) -> bool {
        if !self.fits(self.bytes.len(), name) {
            return false;
        }
        if self.plus {
            self.bytes.extend_from_slice(entry.as_bytes());
        }
        let head = Dirent { ino, off: next, namelen: name.len() as u32, kind: kind.into() };
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        true
    }

    /// An entry without attributes, which the guest looks up if it wants them.
    pub(super) fn push_name(&mut self, ino: u64, next: u64, kind: u8, name: &[u8]) -> bool {
        self.push(&EntryOut::default(), ino, next, kind, name)
    }

    /// # Errors
    /// `EINVAL` if not even one entry fitted: getdents(2).
    pub(super) fn answer(self) -> Outcome {
        match self.bytes.is_empty() && self.full {
            true => Err(Errno::EINVAL),
            false => Ok(Answer::Bytes(self.bytes)),
        }
    }
}

pub(super) fn dirent_kind(kind: Option<FileKind>) -> u8 {
    match kind {
        None => libc::DT_UNKNOWN,
        Some(FileKind::Regular) => libc::DT_REG,
        Some(FileKind::Directory) => libc::DT_DIR,
        Some(FileKind::Symlink) => libc::DT_LNK,
        Some(FileKind::Fifo) => libc::DT_FIFO,
        Some(FileKind::Socket) => libc::DT_SOCK,
        Some(FileKind::CharDevice) => libc::DT_CHR,
        Some(FileKind::BlockDevice) => libc::DT_BLK,
    }
}

impl Fs {
    pub(super) fn opendir(&self, request: &Request<'_>) -> Outcome {
        let id = request.head.nodeid;
        if id == ROOT_ID {
            let fh = self.handles.lock().insert(id, None, Open::Root)?;
            return reply(&OpenOut { fh, ..OpenOut::default() });
        }
        let (node, tree) = self.directory(id)?;
        self.handles.lock().check_room()?;
        let stream = node.open_dir()?;
        let fh = self.handles.lock().insert(id, Some(&tree), Open::Directory(Arc::new(stream)))?;
        let open_flags = if is_exclusive(&tree) { fopen::KEEP_CACHE | fopen::CACHE_DIR } else { 0 };
        reply(&OpenOut { fh, open_flags, padding: 0 })
    }

    /// READDIR, and READDIRPLUS with what a lookup of each name would tell.
    pub(super) fn readdir(&self, request: &Request<'_>) -> Outcome {
        let arg: ReadIn = request.arg()?;
        let id = request.head.nodeid;
        let plus = request.head.opcode == op::READDIRPLUS;
        let mut list = List::new((arg.size as usize).min(request.room()).min(MAX_LIST), plus);
        let (tree, open) = self.handles.lock().open(arg.fh)?;
        let (tree, stream) = match (tree, open) {
            (_, Open::Root) => return self.root_readdir(arg.offset, list),
            (Some(tree), Open::Directory(stream)) => (tree, stream),
            _ => return Err(Errno::ENOTDIR),
        };
        let dots = match arg.offset {
            0 => &[(AFTER_DOT, &b"."[..]), (AFTER_DOTS, &b".."[..])][..],
            AFTER_DOT => &[(AFTER_DOTS, &b".."[..])][..],
            _ => &[][..],
        };
        for &(next, name) in dots {
            if !list.push_name(ROOT_ID, next, libc::DT_DIR, name) {
                return list.answer();
            }
        }
        let from = if matches!(arg.offset, AFTER_DOT | AFTER_DOTS) { 0 } else { arg.offset };
        let detail = if plus { ReadDirDetail::Attributes } else { ReadDirDetail::Names };
        let dir = stream.attr()?;
        let (node, _) = self.directory(id)?;
        let mut used = list.bytes.len();
        // A host's entry is about as long as one of ours without attributes.
        let raw_bytes = if plus { list.room / 5 } else { list.room };
        let (entries, _) = stream.read_by(raw_bytes, Some(from), detail, |entry| {
            let fits = list.fits(used, entry.name.as_bytes());
            used += list.size(entry.name.as_bytes());
            fits
        })?;
        list.full = false;
        for entry in &entries {
            let told = match (&entry.attr, plus) {
                // Beyond what a guest may know it gets names only.
                (Some(attr), true) => {
                    let place = Place { dir: id, node: &node, name: &entry.name };
                    self.entry(&tree, Some(place), attr, None).unwrap_or_default()
                }
                _ => EntryOut::default(),
            };
            let ino = match told.nodeid {
                0 => self.ino((dir.dev_major, dir.dev_minor), entry.ino),
                _ => told.attr.ino,
            };
            list.push(&told, ino, entry.next, dirent_kind(entry.kind), entry.name.as_bytes());
        }
        list.full = entries.is_empty() && used > 0 && used > list.room;
        list.answer()
    }

    pub(super) fn fsyncdir(&self, request: &Request<'_>) -> Outcome {
        let arg: FsyncIn = request.arg()?;
        if request.head.nodeid == ROOT_ID {
            return done();
        }
        let durability = if arg.fsync_flags & FSYNC_FDATASYNC == 0 { Durability::All } else { Durability::Data };
        self.directory(request.head.nodeid)?.0.fsync(durability)?;
        done()
    }
}
