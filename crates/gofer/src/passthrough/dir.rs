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
    protocol::{Attr, DirEntry, FileKind, Name, ReadDirDetail},
};

/// How many bytes of entries are read at a time, unless said otherwise.
const MAX_RAW: usize = 16 * 1024;

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

    /// Entries from position `from` (0, or the `next` of an entry of this directory; None: from where it is), without `.` and `..`, as long as `keep` says
    /// that there is room; and whether that is all. Names that are not valid (a broken file system) are left out.
    ///
    /// # Errors
    /// The host's; `EINVAL` for a position that is none.
    pub fn read(
        &self,
        from: Option<u64>,
        detail: ReadDirDetail,
        has_room: impl FnMut(&DirEntry) -> bool,
    ) -> Result<(Vec<DirEntry>, bool), Errno> {
        self.read_by(MAX_RAW, from, detail, has_room)
    }

    /// As [`DirStream::read`], with so many bytes of the host's entries asked for at a time (512 B to 16 KiB): those that find no room were read in
    /// vain.
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
        if let Some(from) = from {
            i64::try_from(from).map_err(|_| Errno::EINVAL)?;
            rustix::fs::seek(&self.0, SeekFrom::Start(from))?;
        }
        let mut buffer = [const { MaybeUninit::uninit() }; MAX_RAW];
        // The longest entry takes 280.
        let (buffer, _) = buffer.split_at_mut(raw_bytes.clamp(512, MAX_RAW));
        let mut raw = RawDir::new(self.0.as_fd(), buffer);
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(HostErrno::INTR) => continue,
                // Removed while it was read.
                Err(HostErrno::NOENT) => break,
                Err(e) => return Err(e.into()),
            };
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            let kind = attr::kind_of(entry.file_type());
            let wanted = match detail {
                ReadDirDetail::Names => false,
                ReadDirDetail::Attributes => true,
                ReadDirDetail::Directories => kind == Some(FileKind::Directory),
            };
            let attr = if wanted { attr::of_entry(self.0.as_fd(), &name).ok() } else { None };
            let kind = attr.map(|attr| attr.kind).or(kind);
            let entry = DirEntry { ino: entry.ino(), next: entry.next_entry_cookie(), kind, name, attr };
            if !has_room(&entry) {
                return Ok((entries, false));
            }
            entries.push(entry);
        }
        Ok((entries, true))
    }
}
