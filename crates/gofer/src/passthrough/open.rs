//! Opening the data of a regular file, and putting it on disk.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::{Identity, Node, attr, lookup::beneath};
use crate::{
    Errno,
    protocol::{Durability, FileKind, OpenHow, Truncate},
};

pub(super) fn flags(how: OpenHow) -> OFlags {
    let access = match how {
        OpenHow::Read => OFlags::RDONLY,
        OpenHow::Write => OFlags::WRONLY,
        OpenHow::ReadWrite => OFlags::RDWR,
    };
    access | OFlags::NONBLOCK | OFlags::NOCTTY
}

impl Node {
    /// A descriptor of a regular file's data, in the least mode that serves.
    ///
    /// # Errors
    /// The host's; `EROFS` for writing in a read-only export, `ELOOP` on a symbolic link, `EISDIR`, `ENXIO` on FIFOs, sockets and
    /// devices, which are never opened; `ESTALE` if the node's name means another file by now.
    pub fn open(&self, how: OpenHow, truncate: Truncate) -> Result<OwnedFd, Errno> {
        if how != OpenHow::Read || truncate == Truncate::ToZero {
            self.writable()?;
        }
        if how == OpenHow::Read && truncate == Truncate::ToZero {
            return Err(Errno::EINVAL);
        }
        match self.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            FileKind::Symlink => return Err(Errno::ELOOP),
            _ => return Err(Errno::ENXIO),
        }
        let fd = self.reopen(flags(how))?;
        if truncate == Truncate::ToZero {
            rustix::fs::ftruncate(&fd, 0)?;
        }
        Ok(fd)
    }

    /// Opens the node itself: a directory by its descriptor, anything else by its last known place, if it is still there.
    pub(super) fn reopen(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        if self.kind == FileKind::Directory {
            return beneath(&*self.fd, c".", flags | OFlags::DIRECTORY, Mode::empty());
        }
        let place = self.place.lock().clone().ok_or(Errno::ESTALE)?;
        let fd = beneath(&*place.dir, place.name.as_c_str(), flags, Mode::empty()).map_err(|e| match e {
            // The name is gone, or is a link, a socket or a directory now: not this node.
            Errno::ENOENT | Errno::ELOOP | Errno::ENXIO | Errno::EISDIR | Errno::ENODEV => Errno::ESTALE,
            e => e,
        })?;
        let found = attr::of_fd(fd.as_fd())?;
        if found.kind == self.kind && self.is(Identity::of(&found))? { Ok(fd) } else { Err(Errno::ESTALE) }
    }

    /// Whether an identity is this node's. Asks again if it differs from the one first seen: overlayfs may
    /// change an inode's number when it copies the file up.
    pub(super) fn is(&self, found: Identity) -> Result<bool, Errno> {
        Ok(found == self.identity || found == Identity::of(&attr::of(&self.fd)?))
    }

    /// # Errors
    /// The host's; `EINVAL` on what is neither a regular file nor a directory.
    pub fn fsync(&self, durability: Durability) -> Result<(), Errno> {
        if !matches!(self.kind, FileKind::Regular | FileKind::Directory) {
            return Err(Errno::EINVAL);
        }
        let fd = self.reopen(flags(OpenHow::Read))?;
        match durability {
            Durability::All => rustix::fs::fsync(&fd)?,
            Durability::Data => rustix::fs::fdatasync(&fd)?,
        }
        Ok(())
    }
}
