//! Removing and renaming.

use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags};

use super::{Node, PathFd, Place};
use crate::{
    Errno,
    protocol::{EntryKind, FileKind, Name, RenameKind},
};

impl Node {
    /// # Errors
    /// The host's; `EROFS`, `ENOTDIR`.
    pub fn unlink(&self, name: &Name, kind: EntryKind) -> Result<(), Errno> {
        let flags = match kind {
            EntryKind::NotDirectory => AtFlags::empty(),
            EntryKind::Directory => AtFlags::REMOVEDIR,
        };
        Ok(rustix::fs::unlinkat(self.writable_directory()?, name.as_c_str(), flags)?)
    }

    /// # Errors
    /// The host's; `EROFS`, `ENOTDIR`, `EXDEV` between exports.
    pub fn rename(&self, name: &Name, new_dir: &Node, new_name: &Name, kind: RenameKind) -> Result<(), Errno> {
        let (from, to) = (self.writable_directory()?, new_dir.writable_directory()?);
        self.same_export(new_dir)?;
        let flags = match kind {
            RenameKind::Replace => RenameFlags::empty(),
            RenameKind::NoReplace => RenameFlags::NOREPLACE,
            RenameKind::Exchange => RenameFlags::EXCHANGE,
            RenameKind::Whiteout => RenameFlags::WHITEOUT,
        };
        Ok(rustix::fs::renameat_with(from, name.as_c_str(), to, new_name.as_c_str(), flags)?)
    }

    /// Notes where a node is after a rename. A wrong place does no harm: what is opened there is checked.
    pub fn moved_to(&self, dir: &Node, name: &Name) {
        if self.kind == FileKind::Directory || self.same_export(dir).is_err() {
            return;
        }
        if let Ok(dir) = dir.directory() {
            let dir: Arc<PathFd> = Arc::clone(dir);
            *self.place.lock() = Some(Place { dir, name: name.clone() });
        }
    }
}
