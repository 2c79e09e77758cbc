//! Layers become directories.
//!
//! A layer is unpacked on top of those below it, in one tree, by a confined process ([`helper`]): an archive is hostile input with a parser, a
//! decompressor and thousands of file operations behind it. [`decompress`] bounds what a layer can grow to, [`layer`] applies its members,
//! [`beneath`] is the only way to the file system: every path is resolved by the kernel inside the tree.

pub mod beneath;
pub mod decompress;
pub mod helper;
pub mod layer;
mod whiteout;
mod write;

use serde::{Deserialize, Serialize};

use crate::archive::ArchiveError;
use crate::digest::Digest;

/// How much a layer may take. Beyond, it is refused.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the unpacked archive.
    pub bytes: u64,
    /// Unpacked bytes for each compressed one, once [`Limits::ratio_from`] is passed.
    pub ratio: u64,
    pub ratio_from: u64,
    /// Members.
    pub members: u64,
    /// Bytes of one file, holes included.
    pub file: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 128 << 30, ratio: 200, ratio_from: 1 << 30, members: 8 << 20, file: 1 << 40 }
    }
}

/// Whose the files will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owners {
    /// As the archive says. Needs root's rights.
    Archive,
    /// The unpacking user's, who can always read and remove them (mode u+r, directories u+rwx).
    Own,
}

/// What was done, and what could not be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub members: u64,
    /// Bytes of the unpacked archive.
    pub bytes: u64,
    /// Device nodes, which are never made: a container has its own /dev.
    pub devices_skipped: u64,
    /// Extended attributes of other kinds than user's, capabilities and ACLs, or that the file system or the user's rights do not allow.
    pub xattrs_skipped: u64,
}

/// A layer that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Of the archive as it came, compressed or not.
    pub blob: Digest,
    /// Of the unpacked archive.
    pub diff_id: Digest,
    pub counts: Counts,
}

/// Why a layer was refused, or could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("compressed by {0}, which is not supported (gzip and zstd are)")]
    Compression(&'static str),
    #[error("cannot decompress: {0}")]
    Decompress(String),
    #[error("it unpacks to more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("a decompression bomb: it unpacks to more than {ratio} times its size")]
    Bomb { ratio: u64 },
    #[error("it has more than {limit} members")]
    TooMany { limit: u64 },
    #[error("member {path:?}: {problem}")]
    Member { path: String, problem: String },
    #[error("member {path:?}: cannot {what}: {cause}")]
    Host { path: String, what: &'static str, cause: rustix::io::Errno },
    #[error("{0}")]
    Helper(String),
}
