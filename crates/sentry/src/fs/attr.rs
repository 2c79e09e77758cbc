//! Changing attributes: the rules of `chmod(2)`, `chown(2)`, `truncate(2)` and `utimensat(2)`.

use super::fsnotify::FsEvent;
use super::permission::{Mask, SET_GID, is_owner, permission, without_set_id};
use super::{FileKind, Metadata, Ownership, Path, SetAttr, SetTime, View};
use crate::Errno;
use crate::task::{Capability, Creds};

/// A change that writes data: set-user-id and set-group-id bits go, unless the caller may keep them.
pub(super) fn after_write(mut change: SetAttr, metadata: &Metadata, creds: &Creds) -> SetAttr {
    let cleared = without_set_id(metadata.permissions);
    if metadata.kind == FileKind::Regular
        && cleared != metadata.permissions
        && !creds.has_over(metadata.uid, metadata.gid, Capability::Fsetid)
    {
        change.permissions = Some(cleared);
    }
    change
}

/// `chmod(2)`.
///
/// # Errors
/// `EPERM`, `EROFS`, `EOPNOTSUPP` for a symbolic link.
pub async fn chmod(view: &View, at: &Path, mode: u32) -> Result<(), Errno> {
    at.mount.writable()?;
    let metadata = at.inode().metadata().await?;
    if metadata.kind == FileKind::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    if !is_owner(metadata.uid, &view.creds) {
        return Err(Errno::EPERM);
    }
    let mut permissions = mode & 0o7777;
    if !view.creds.in_group(metadata.gid) && !view.creds.has_over(metadata.uid, metadata.gid, Capability::Fsetid) {
        permissions &= !SET_GID;
    }
    at.inode().set_attr(SetAttr { permissions: Some(permissions), ..SetAttr::default() }).await?;
    at.dentry.notify(FsEvent::ATTRIB);
    Ok(())
}

/// `chown(2)`; None leaves an id as it is.
///
/// # Errors
/// `EPERM`, `EROFS`.
pub async fn chown(view: &View, at: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    at.mount.writable()?;
    let metadata = at.inode().metadata().await?;
    let creds = &view.creds;
    let capable = creds.has_over(metadata.uid, metadata.gid, Capability::Chown);
    let owner = creds.fsuid == metadata.uid;
    if uid.is_some_and(|uid| !(capable || (owner && uid == metadata.uid))) {
        return Err(Errno::EPERM);
    }
    if gid.is_some_and(|gid| !(capable || (owner && (creds.in_group(gid) || gid == metadata.gid)))) {
        return Err(Errno::EPERM);
    }
    let mut change = SetAttr { uid, gid, ..SetAttr::default() };
    // Also for root: chown(2), "when the owner or group of an executable file is changed".
    let cleared = without_set_id(metadata.permissions);
    if metadata.kind != FileKind::Directory && cleared != metadata.permissions {
        change.permissions = Some(cleared);
    }
    at.inode().set_attr(change).await?;
    at.dentry.notify(FsEvent::ATTRIB);
    Ok(())
}

/// `truncate(2)`, by name: needs write permission.
///
/// # Errors
/// `EISDIR`, `EINVAL`, `EACCES`, `EROFS`.
pub async fn truncate(view: &View, at: &Path, size: u64) -> Result<(), Errno> {
    let metadata = at.inode().metadata().await?;
    match metadata.kind {
        FileKind::Directory => return Err(Errno::EISDIR),
        FileKind::Regular => {}
        _ => return Err(Errno::EINVAL),
    }
    at.mount.writable()?;
    permission(Ownership::from(&metadata), &view.creds, Mask::WRITE)?;
    at.dentry.may_write()?;
    resize(view, at, size, &metadata).await
}

/// Sets the size of a file that is open for writing.
///
/// # Errors
/// Those of the file system.
pub async fn resize(view: &View, at: &Path, size: u64, metadata: &Metadata) -> Result<(), Errno> {
    let change = SetAttr { size: Some(size), ..SetAttr::default() };
    at.inode().set_attr(after_write(change, metadata, &view.creds)).await?;
    at.dentry.notify(FsEvent::MODIFY);
    Ok(())
}

/// `utimensat(2)`; None leaves a time as it is.
///
/// # Errors
/// `EPERM`, `EACCES`, `EROFS`.
pub async fn set_times(view: &View, at: &Path, accessed: Option<SetTime>, modified: Option<SetTime>) -> Result<(), Errno> {
    at.mount.writable()?;
    let metadata = at.inode().metadata().await?;
    let now = accessed == Some(SetTime::Now) && modified == Some(SetTime::Now);
    if !is_owner(metadata.uid, &view.creds) {
        if !now {
            return Err(Errno::EPERM);
        }
        permission(Ownership::from(&metadata), &view.creds, Mask::WRITE)?;
    }
    at.inode().set_attr(SetAttr { accessed, modified, ..SetAttr::default() }).await?;
    at.dentry.notify(match (accessed, modified) {
        (Some(_), Some(_)) => FsEvent::ATTRIB,
        (Some(_), None) => FsEvent::ACCESS,
        _ => FsEvent::MODIFY,
    });
    Ok(())
}
