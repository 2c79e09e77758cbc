//! The VFS and the file systems.
//!
//! In Linux's shape: a [`FileSystem`] gives a root [`Inode`]; the VFS owns dentries, path walking, permission checks and mounts;
//! opening an inode gives [`FileOps`], and a descriptor refers to a [`File`] around them. File systems implement inodes and file
//! operations, and nothing else.
//!
//! Operations that may leave the sentry return a [`Step`](crate::step::Step).

pub mod anon;
mod context;
mod dentry;
pub mod dev;
mod fd_table;
mod file;
mod inode;
mod mount;
mod path;
pub mod pseudo;
pub mod sys;

pub use context::FsContext;
pub use dentry::Dentry;
pub use fd_table::{FdEntry, FdTable};
pub use file::{
    DirEntry, Direction, Expired, File, FileId, FileOps, OpenFlags, Origin, Patience, SignalOwner, Turn, Watcher, Whence, WriteAt,
    Written,
};
pub use inode::{
    FileKind, FileSystem, Inode, Link, Metadata, NewInode, RenameFlags, SetAttr, SetTime, StatFs, Timestamp, UnlinkKind,
    XattrCall, XattrReply,
};
pub use mount::Mount;
pub use path::Path;
