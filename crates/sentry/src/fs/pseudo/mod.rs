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
pub use text::{Opened, OpenerFile, TakesWrites, TextFile, TextWrite};
pub use tree::{Entry, Look, Tree};

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{FileKind, Metadata, Timestamp};

/// CPUs of a mask as kernel files list them (`0-3,5`).
pub fn cpu_list(mask: u64) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut at = 0;
    while at < 64 {
        let rest = mask >> at;
        if rest & 1 == 0 {
            at += 1;
            continue;
        }
        let run = rest.trailing_ones();
        parts.push(if run == 1 { at.to_string() } else { format!("{at}-{}", at + run - 1) });
        at += run;
    }
    parts.join(",")
}

/// Who a made-up file is and who owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub dev: u64,
    pub ino: u64,
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    /// What stat says, in bytes: 0 in proc, a page for sysfs's files.
    pub size: u64,
    pub block_size: u32,
}

impl Identity {
    /// Root's file, with a number made from what it is called (stable, and different for different names).
    pub fn named(dev: u64, permissions: u32, name: impl Hash) -> Identity {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Identity { dev, ino: hasher.finish() >> 16 | 1 << 32, permissions, uid: 0, gid: 0, size: 0, block_size: 1024 }
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
            size: if kind == FileKind::Regular { self.size } else { 0 },
            blocks: 0,
            block_size: self.block_size,
            accessed: now,
            modified: now,
            changed: now,
            born: Timestamp::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list(0), "");
        assert_eq!(cpu_list(0b1011), "0-1,3");
        assert_eq!(cpu_list(u64::MAX), "0-63");
        assert_eq!(cpu_list(1 << 63), "63");
    }
}
