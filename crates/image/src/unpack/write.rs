//! Files, their data and attributes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::decompress::Layer;
use super::layer::{Name, Tree, host, owner, refused, times};
use super::{Owners, UnpackError};
use crate::archive::{Member, Reader};

/// A run of zeros that is worth a hole.
const HOLE: usize = 4096;

impl Tree<'_> {
    pub(super) fn file<R: Read + 'static>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &Name<'_>,
        member: &Member,
        reader: &mut Reader<Layer<R>>,
    ) -> Result<(), UnpackError> {
        if member.size > self.limits.file {
            return Err(refused(&member.path, format!("a file of {} bytes", member.size)));
        }
        let last = name.components.last().copied().unwrap_or_default();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made =
            rustix::fs::openat(parent, last, flags, Mode::from_raw_mode(0o600)).map_err(host(&member.path, "make the file"))?;
        let mut file = File::from(made);
        write_data(&mut file, member, reader, self.progress)?;
        self.attributes(file.as_fd(), member)?;
        rustix::fs::futimens(&file, &times(member)).map_err(host(&member.path, "set the time"))
    }

    /// Owner, mode and extended attributes of a file or directory, in the order in which the kernel does not undo one by the next.
    pub(super) fn attributes(&mut self, file: BorrowedFd<'_>, member: &Member) -> Result<(), UnpackError> {
        let owner = owner(self.owners, member)?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(host(&member.path, "set the owner"))?;
        }
        for (key, value) in &member.xattrs {
            self.xattr(file, member, key, value)?;
        }
        // After the owner, which takes setuid away, and the ACL, which changes the mode.
        let least = match (self.owners, member.kind) {
            (Owners::Archive, _) => 0,
            (Owners::Own, crate::archive::Kind::Directory) => 0o700,
            (Owners::Own, _) => 0o400,
        };
        rustix::fs::fchmod(file, Mode::from_raw_mode(member.mode | least)).map_err(host(&member.path, "set the mode"))
    }

    /// Owner and time of what cannot be opened.
    pub(super) fn link_attributes(&mut self, parent: BorrowedFd<'_>, last: &[u8], member: &Member) -> Result<(), UnpackError> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = owner(self.owners, member)? {
            rustix::fs::chownat(parent, last, Some(uid), Some(gid), nofollow).map_err(host(&member.path, "set the owner"))?;
        }
        self.counts.xattrs_skipped += member.xattrs.len() as u64;
        rustix::fs::utimensat(parent, last, &times(member), nofollow).map_err(host(&member.path, "set the time"))
    }

    fn xattr(&mut self, file: BorrowedFd<'_>, member: &Member, key: &[u8], value: &[u8]) -> Result<(), UnpackError> {
        let kept = key.starts_with(b"user.")
            || [&b"security.capability"[..], b"system.posix_acl_access", b"system.posix_acl_default"].contains(&key);
        if !kept {
            self.counts.xattrs_skipped += 1;
            return Ok(());
        }
        match rustix::fs::fsetxattr(file, key, value, XattrFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {
                self.counts.xattrs_skipped += 1;
                Ok(())
            }
            Err(Errno::INVAL | Errno::RANGE | Errno::NOSPC | Errno::TOOBIG) => Err(refused(
                &member.path,
                format!("extended attribute {:?} is malformed or too large", String::from_utf8_lossy(key)),
            )),
            Err(error) => Err(host(&member.path, "set an extended attribute")(error)),
        }
    }
}

fn write_data<R: Read + 'static>(
    file: &mut File,
    member: &Member,
    reader: &mut Reader<Layer<R>>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), UnpackError> {
    let failed = |error: std::io::Error| host(&member.path, "write")(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let mut buffer = vec![0; 128 << 10];
    for segment in &member.segments {
        file.seek(SeekFrom::Start(segment.offset)).map_err(failed)?;
        let mut left = segment.length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = reader.read_data(buffer.get_mut(..most).unwrap_or_default())?;
            left -= count as u64;
            write_sparsely(file, buffer.get(..count).unwrap_or_default()).map_err(failed)?;
            progress(reader.input().consumed());
        }
    }
    rustix::fs::ftruncate(file.as_fd(), member.size).map_err(host(&member.path, "set the size"))
}

/// Leaves holes where there are only zeros.
fn write_sparsely(file: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    let zero = |block: &[u8]| block.len() == HOLE && block.iter().all(|byte| *byte == 0);
    while !bytes.is_empty() {
        let holes = bytes.chunks(HOLE).take_while(|block| zero(block)).count() * HOLE;
        let (hole, rest) = bytes.split_at(holes);
        if !hole.is_empty() {
            file.seek(SeekFrom::Current(hole.len() as i64))?;
        }
        let data: usize = rest.chunks(HOLE).take_while(|block| !zero(block)).map(<[u8]>::len).sum();
        let (data, rest) = rest.split_at(data);
        file.write_all(data)?;
        bytes = rest;
    }
    Ok(())
}
