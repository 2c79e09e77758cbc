//! Extended attributes, and which of them may be seen or changed.
//!
//! `user.*` and the two POSIX ACLs may be read and written; `security.capability` may be read, as `execve` in the sentry needs it. All
//! else (`trusted.*`, other `security.*`, which mean something to the host) is not there.
//!
//! No call takes attributes by an `O_PATH` descriptor (`getxattrat` answers `EBADF`), so the file is opened for the operation, as for its
//! data. That leaves out links and special files, which can have no `user.*` attributes anyway: xattr(7).

use std::os::fd::OwnedFd;

use rustix::fs::XattrFlags;

use super::{Node, open::flags};
use crate::{
    Errno,
    protocol::{FileKind, OpenHow, XattrMode, XattrName},
};

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const MAX: usize = 65536;

fn readable(name: &[u8]) -> bool {
    changeable(name) || name == b"security.capability"
}

fn changeable(name: &[u8]) -> bool {
    name.starts_with(b"user.") || matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

impl Node {
    /// The value, or its length alone as `Err(ERANGE)` if it is longer than `size`.
    ///
    /// # Errors
    /// The host's; `ENODATA` for namespaces that are hidden, `ERANGE`, `ESTALE`.
    pub fn get_xattr(&self, name: &XattrName, size: usize) -> Result<Vec<u8>, Errno> {
        if !readable(name.as_bytes()) || !self.has_xattrs() {
            return Err(Errno::ENODATA);
        }
        // An empty buffer would ask the host for the length and not the value.
        let mut value = vec![0; size.clamp(1, MAX)];
        let n = rustix::fs::fgetxattr(self.reopen(flags(OpenHow::Read))?, name.as_c_str(), &mut value[..])?;
        if n > size {
            return Err(Errno::ERANGE);
        }
        value.truncate(n);
        Ok(value)
    }

    /// # Errors
    /// The host's; `EROFS`, `EPERM` for namespaces that may not be changed, `ESTALE`.
    pub fn set_xattr(&self, name: &XattrName, value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        let how = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        Ok(rustix::fs::fsetxattr(self.open_to_change(name)?, name.as_c_str(), value, how)?)
    }

    /// Names that may be seen, each ended by NUL.
    ///
    /// # Errors
    /// The host's; `ESTALE`.
    pub fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        if !self.has_xattrs() {
            return Ok(Vec::new());
        }
        let mut list = vec![0; MAX];
        let n = rustix::fs::flistxattr(self.reopen(flags(OpenHow::Read))?, &mut list[..])?;
        list.truncate(n);
        let seen = |name: &&[u8]| readable(name.strip_suffix(&[0]).unwrap_or(name));
        Ok(list.split_inclusive(|&b| b == 0).filter(seen).flatten().copied().collect())
    }

    /// # Errors
    /// The host's; `EROFS`, `EPERM` for namespaces that may not be changed, `ESTALE`.
    pub fn remove_xattr(&self, name: &XattrName) -> Result<(), Errno> {
        Ok(rustix::fs::fremovexattr(self.open_to_change(name)?, name.as_c_str())?)
    }

    fn has_xattrs(&self) -> bool {
        matches!(self.kind, FileKind::Regular | FileKind::Directory)
    }

    fn open_to_change(&self, name: &XattrName) -> Result<OwnedFd, Errno> {
        self.writable()?;
        if !changeable(name.as_bytes()) || !self.has_xattrs() {
            return Err(Errno::EPERM);
        }
        self.reopen(flags(OpenHow::Read))
    }
}
