//! The files of a source: a directory's, or a tar archive's, which are read where they are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::archive::{ArchiveError, Kind, Reader};
use crate::blob::Blob;
use crate::error::{Error, Result};
use crate::unpack::Limits;
use crate::unpack::beneath;
use crate::unpack::decompress;

/// Most members of an archive of images.
const MOST_MEMBERS: usize = 100_000;

#[derive(Debug)]
pub struct Files {
    /// For messages.
    pub place: String,
    kind: FilesKind,
}

#[derive(Debug)]
enum FilesKind {
    Directory(OwnedFd),
    Archive { file: File, members: HashMap<String, Found> },
}

/// A member of an archive.
#[derive(Debug, Clone)]
enum Found {
    File {
        offset: u64,
        length: u64,
    },
    /// docker's archives have links from one layer to another that is the same.
    Link(String),
}

impl Files {
    /// # Errors
    /// Neither directory nor tar archive; it cannot be read.
    pub fn open(path: &Path) -> Result<Files> {
        let place = path.display().to_string();
        let cannot = || format!("cannot open {place}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::host(cannot())(e.into()))?;
        let stat = rustix::fs::fstat(&opened).map_err(|e| Error::host(cannot())(e.into()))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => FilesKind::Directory(opened),
            FileType::RegularFile => {
                let file = uncompressed(File::from(opened), &place)?;
                let members = members(&file).map_err(|cause| match cause {
                    ArchiveError::Checksum => Error::NotAnImage(place.clone()),
                    cause => Error::Archive { place: place.clone(), cause },
                })?;
                FilesKind::Archive { file, members }
            }
            _ => return Err(Error::NotAnImage(place)),
        };
        Ok(Files { place, kind })
    }

    /// A file by its name. None if there is none.
    ///
    /// # Errors
    /// The host's.
    pub fn get(&self, name: &str) -> Result<Option<Blob>> {
        match &self.kind {
            FilesKind::Directory(directory) => self.in_directory(directory, name),
            FilesKind::Archive { file, members } => {
                let mut name = name.to_string();
                // Links to links are possible, rings too.
                for _ in 0..8 {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Found::Link(target)) => name.clone_from(target),
                        Some(Found::File { offset, length }) => {
                            let file = file.try_clone().map_err(Error::host(format!("cannot read {}", self.place)))?;
                            return Ok(Some(Blob { file, offset: *offset, length: *length, digest: None }));
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    fn in_directory(&self, directory: &OwnedFd, name: &str) -> Result<Option<Blob>> {
        let cannot = || format!("cannot open {}/{name}", self.place);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = match beneath::open(directory.as_fd(), name.as_bytes(), flags) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            opened => opened.map_err(|e| Error::host(cannot())(e.into()))?,
        };
        let stat = rustix::fs::fstat(&opened).map_err(|e| Error::host(cannot())(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::malformed(format!("{}/{name}", self.place), "not a regular file"));
        }
        Ok(Some(Blob { file: opened.into(), offset: 0, length: stat.st_size.unsigned_abs(), digest: None }))
    }
}

/// Where the files of an archive are. Their data is not read.
fn members(file: &File) -> Result<HashMap<String, Found>, ArchiveError> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    let end = file.metadata()?.len();
    let mut members = HashMap::new();
    let mut reader = Reader::new(file);
    while let Some(member) = reader.next_member()? {
        if members.len() >= MOST_MEMBERS {
            return Err(ArchiveError::MetaTooLarge);
        }
        let (offset, length) = (reader.position(), reader.left());
        let name = plain(&member.path, b"");
        let found = match member.kind {
            Kind::File if member.size == length => Some(Found::File { offset, length }),
            Kind::HardLink => plain(&member.target, b"").map(Found::Link),
            Kind::Symlink => plain(&member.target, &member.path).map(Found::Link),
            _ => None,
        };
        if let (Some(name), Some(found)) = (name, found) {
            members.insert(name, found);
        }
        if offset.checked_add(length).is_none_or(|past| past > end) {
            return Err(ArchiveError::Truncated("a member's data"));
        }
        let jump = i64::try_from(reader.to_skip()).map_err(|_| ArchiveError::Field("size"))?;
        reader.input().seek(SeekFrom::Current(jump))?;
        reader.skipped();
    }
    Ok(members)
}

/// A member's path without `.` and `..`; `beside` is the link a target is relative to.
fn plain(path: &[u8], beside: &[u8]) -> Option<String> {
    let mut parts: Vec<&[u8]> = beside.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    parts.pop();
    if path.starts_with(b"/") {
        parts.clear();
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    String::from_utf8(parts.join(&b'/')).ok()
}

/// The archive itself, or an unnamed file it was unpacked to if it is compressed.
fn uncompressed(mut file: File, place: &str) -> Result<File> {
    let cannot = || format!("cannot read {place}");
    let mut start = Vec::new();
    (&mut file).take(4).read_to_end(&mut start).map_err(Error::host(cannot()))?;
    file.seek(SeekFrom::Start(0)).map_err(Error::host(cannot()))?;
    let compressed = start.starts_with(&[0x1f, 0x8b])
        || start == [0x28, 0xb5, 0x2f, 0xfd]
        || start.starts_with(b"BZh")
        || start.starts_with(&[0xfd, b'7', b'z']);
    if !compressed {
        return Ok(file);
    }
    let mut unpacked = unnamed().map_err(Error::host(format!("cannot make a temporary file to unpack {place} to")))?;
    let unpack = |cause| Error::Unpack { layer: place.into(), cause };
    let mut layer = decompress::Layer::new(file, Limits::default()).map_err(unpack)?;
    if let Err(error) = std::io::copy(&mut layer, &mut unpacked) {
        return Err(match layer.refused.take() {
            Some(refused) => unpack(refused),
            None => Error::host(format!("cannot unpack {place}"))(error),
        });
    }
    Ok(unpacked)
}

fn unnamed() -> std::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::open(std::env::temp_dir(), flags, Mode::from_raw_mode(0o600))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_members() {
        assert_eq!(plain(b"./blobs//sha256/x", b"").as_deref(), Some("blobs/sha256/x"));
        assert_eq!(plain(b"../b/layer.tar", b"a/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(plain(b"/b", b"a/c").as_deref(), Some("b"));
        assert_eq!(plain(b"../../b", b"a/layer.tar"), None);
    }
}
