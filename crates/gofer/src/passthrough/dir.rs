//! Reading directories.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{OFlags, RawDir, SeekFrom},
    io::Errno as HostErrno,
};

use super::{Node, attr};
use crate::{
    Errno,
    protocol::{Attr, FileKind, Name, Packed, ReadDirDetail},
};

/// How many bytes of entries are read at a time.
const MAX_RAW: usize = 16 * 1024;

/// An entry of a directory, while it is read.
#[derive(Debug)]
pub struct Found<'a> {
    pub ino: u64,
    /// Where reading goes on after it.
    pub next: u64,
    pub kind: Option<FileKind>,
    /// A valid [`Name`].
    pub name: &'a [u8],
    pub attr: Option<Attr>,
}

/// An entry of a directory, to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub ino: u64,
    /// Where reading goes on after this entry; `0` is the start. Opaque otherwise.
    pub next: u64,
    /// `None` where the host's file system does not tell (`DT_UNKNOWN`).
    pub kind: Option<FileKind>,
    pub name: Name,
    /// If asked for, and the entry still existed.
    pub attr: Option<Attr>,
}

/// A directory opened for reading. It stays inside the process: descriptors of directories are never donated.
#[derive(Debug)]
pub struct DirStream(OwnedFd);

impl Node {
    /// # Errors
    /// The host's; `ENOTDIR`.
    pub fn open_dir(&self) -> Result<DirStream, Errno> {
        self.directory()?;
        self.reopen(OFlags::RDONLY | OFlags::NONBLOCK).map(DirStream)
    }
}

impl DirStream {
    /// A directory that was opened for reading.
    pub(super) fn of(fd: OwnedFd) -> DirStream {
        DirStream(fd)
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The directory's own attributes.
    ///
    /// # Errors
    /// The host's.
    pub fn attr(&self) -> Result<Attr, Errno> {
        attr::of_fd(self.0.as_fd())
    }

    /// Entries from position `from` (0, or the `next` of an entry of this directory; None: from where it is), without `.` and `..`, as long as `take` takes
    /// them; and whether that is all. Names that are not valid (a broken file system) are left out. So many bytes of the host's entries are asked for at
    /// a time (512 B to 16 KiB): those that find no room were read in vain.
    ///
    /// # Errors
    /// The host's; `EINVAL` for a position that is none.
    pub fn each(
        &self,
        raw_bytes: usize,
        from: Option<u64>,
        detail: ReadDirDetail,
        mut take: impl FnMut(&Found<'_>) -> bool,
    ) -> Result<bool, Errno> {
        if let Some(from) = from {
            i64::try_from(from).map_err(|_| Errno::EINVAL)?;
            rustix::fs::seek(&self.0, SeekFrom::Start(from))?;
        }
        let mut buffer = [const { MaybeUninit::uninit() }; MAX_RAW];
        // The longest entry takes 280.
        let (buffer, _) = buffer.split_at_mut(raw_bytes.clamp(512, MAX_RAW));
        let mut raw = RawDir::new(self.0.as_fd(), buffer);
        while let Some(entry) = raw.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(HostErrno::INTR) => continue,
                // Removed while it was read.
                Err(HostErrno::NOENT) => break,
                Err(e) => return Err(e.into()),
            };
            let name = entry.file_name();
            if Name::check(name.to_bytes()).is_err() {
                continue;
            }
            let kind = attr::kind_of(entry.file_type());
            let wanted = match detail {
                ReadDirDetail::Names => false,
                ReadDirDetail::Attributes => true,
                ReadDirDetail::Directories => kind == Some(FileKind::Directory),
            };
            let attr = if wanted { attr::of_checked(self.0.as_fd(), name).ok() } else { None };
            let kind = attr.map(|attr| attr.kind).or(kind);
            if !take(&Found { ino: entry.ino(), next: entry.next_entry_cookie(), kind, name: name.to_bytes(), attr }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As [`DirStream::each`]: the entries, as far as there is room for them.
    ///
    /// # Errors
    /// As there.
    pub fn read_by(
        &self,
        raw_bytes: usize,
        from: Option<u64>,
        detail: ReadDirDetail,
        mut has_room: impl FnMut(&DirEntry) -> bool,
    ) -> Result<(Vec<DirEntry>, bool), Errno> {
        let mut entries = Vec::new();
        let end = self.each(raw_bytes, from, detail, |found| {
            let Ok(name) = Name::new(found.name) else { return true };
            let entry = DirEntry { ino: found.ino, next: found.next, kind: found.kind, name, attr: found.attr };
            let room = has_room(&entry);
            if room {
                entries.push(entry);
            }
            room
        })?;
        Ok((entries, end))
    }

    /// As [`DirStream::each`]: the entries, as far as they take no more of a message than `room`; and whether the next one was too large for that.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn pack(&self, from: Option<u64>, detail: ReadDirDetail, room: usize) -> Result<(Packed, bool), Errno> {
        let mut packed = Packed::default();
        let end = self.each(MAX_RAW, from, detail, |found| {
            let fits = packed.encoded_len() + Packed::size_of(found.name, found.attr.as_ref()) <= room;
            if fits {
                packed.push(found.ino, found.next, found.kind, found.name, found.attr.as_ref());
            }
            fits
        })?;
        Ok((packed, end))
    }
}
