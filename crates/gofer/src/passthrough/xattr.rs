//! Extended attributes, and which of them may be seen or changed.
//!
//! `user.*` and the two POSIX ACLs may be read and written; `security.capability` may be read, as `execve` in the sentry needs it. All
//! else (`trusted.*`, other `security.*`, which mean something to the host) is not there.

use std::os::fd::{AsFd, OwnedFd};

use hostcall::at;
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
    /// The host's; `ENODATA` for namespaces that are hidden, `ERANGE`.
    pub fn get_xattr(&self, name: &XattrName, size: usize) -> Result<Vec<u8>, Errno> {
        if !readable(name.as_bytes()) {
            return Err(Errno::ENODATA);
        }
        // An empty buffer would ask the host for the length and not the value.
        let mut value = vec![0; size.clamp(1, MAX)];
        let n = match at::getxattr_path_fd(self.fd.as_fd(), name.as_c_str(), &mut value) {
            Err(Errno::ENOSYS) => rustix::fs::fgetxattr(self.for_xattr()?, name.as_c_str(), &mut value[..])?,
            other => other?,
        };
        if n > size {
            return Err(Errno::ERANGE);
        }
        value.truncate(n);
        Ok(value)
    }

    /// # Errors
    /// The host's; `EROFS`, `EPERM` for namespaces that may not be changed.
    pub fn set_xattr(&self, name: &XattrName, value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        self.may_change(name)?;
        let how = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        match at::setxattr_path_fd(self.fd.as_fd(), name.as_c_str(), value, how.bits()) {
            Err(Errno::ENOSYS) => Ok(rustix::fs::fsetxattr(self.for_xattr()?, name.as_c_str(), value, how)?),
            other => other,
        }
    }

    /// Names that may be seen, each ended by NUL.
    ///
    /// # Errors
    /// The host's.
    pub fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        let mut list = vec![0; MAX];
        let n = match at::listxattr_path_fd(self.fd.as_fd(), &mut list) {
            Err(Errno::ENOSYS) => rustix::fs::flistxattr(self.for_xattr()?, &mut list[..])?,
            other => other?,
        };
        list.truncate(n);
        Ok(list.split_inclusive(|&b| b == 0).filter(|name| readable(&name[..name.len() - 1])).flatten().copied().collect())
    }

    /// # Errors
    /// The host's; `EROFS`, `EPERM` for namespaces that may not be changed.
    pub fn remove_xattr(&self, name: &XattrName) -> Result<(), Errno> {
        self.may_change(name)?;
        match at::removexattr_path_fd(self.fd.as_fd(), name.as_c_str()) {
            Err(Errno::ENOSYS) => Ok(rustix::fs::fremovexattr(self.for_xattr()?, name.as_c_str())?),
            other => other,
        }
    }

    fn may_change(&self, name: &XattrName) -> Result<(), Errno> {
        self.writable()?;
        if changeable(name.as_bytes()) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Before Linux 6.13 the file must be opened, which only files and directories allow.
    fn for_xattr(&self) -> Result<OwnedFd, Errno> {
        match self.kind {
            FileKind::Regular | FileKind::Directory => self.reopen(flags(OpenHow::Read)),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}
