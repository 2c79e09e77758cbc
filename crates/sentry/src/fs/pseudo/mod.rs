//! Files that are made up when they are opened: the common part of proc and sysfs.
//!
//! A file system of this kind implements [`Directory`] for its directories and hands out [`TextFile`]s, whose content is made
//! at the first read (so a reader sees one state), [`LinkInode`]s and [`DirInode`]s.

mod dir;
mod link;
mod text;
mod tree;

pub use dir::{DirInode, Directory, Listed};
pub use link::LinkInode;
pub use text::{Opened, OpenerFile, TextFile, TextWrite};
pub use tree::Tree;

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{FileKind, Metadata, Timestamp};

/// Who a made-up file is and who owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub dev: u64,
    pub ino: u64,
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Identity {
    /// Root's file, with a number made from what it is called (stable, and different for different names).
    pub fn named(dev: u64, permissions: u32, name: impl Hash) -> Identity {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Identity { dev, ino: hasher.finish() >> 16 | 1 << 32, permissions, uid: 0, gid: 0 }
    }

    /// The same owned by somebody else.
    pub fn owned_by(self, uid: u32, gid: u32) -> Identity {
        Identity { uid, gid, ..self }
    }

    pub fn metadata(&self, kind: FileKind, now: Timestamp) -> Metadata {
        Metadata {
            dev: self.dev,
            ino: self.ino,
            kind,
            permissions: self.permissions,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: 1024,
            accessed: now,
            modified: now,
            changed: now,
            born: Timestamp::default(),
        }
    }
}
