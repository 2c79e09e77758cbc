//! The VFS and the file systems.
//!
//! In Linux's shape: a [`FileSystem`] gives a root [`Inode`]; the VFS owns dentries, path walking, permission checks and mounts;
//! opening an inode gives [`FileOps`], and a descriptor refers to a [`File`] around them. File systems implement inodes and file
//! operations, and nothing else.
//!
//! Operations that may leave the sentry return a [`Step`](crate::step::Step).

pub mod anon;
mod async_mutex;
pub mod attr;
pub mod cgroup2;
mod context;
mod dentry;
pub mod dev;
pub mod devpts;
pub mod erofs;
mod fd_table;
mod file;
pub mod fsnotify;
pub mod gofer;
mod inode;
mod mount;
pub mod namei;
pub mod open;
pub mod overlay;
mod path;
pub mod permission;
pub mod proc;
pub mod pseudo;
pub mod sys;
#[cfg(test)]
pub(crate) mod testing;
pub mod tmpfs;
pub mod types;
mod view;
pub mod walk;

pub use async_mutex::{AsyncGuard, AsyncMutex};
pub use context::FsContext;
pub use dentry::{Dentry, DentryCache};
pub use fd_table::{FdEntry, FdTable};
pub use file::{
    DirEntry, Direction, Expired, File, FileId, FileOps, OpenFlags, Origin, Patience, SignalOwner, Turn, Watcher, Whence,
    WriteAt, Written,
};
pub use inode::{
    FileKind, FileSystem, Inode, Link, LookedUp, Metadata, NewInode, RenameFlags, SetAttr, SetTime, SocketSlot, StatFs,
    Timestamp, UnlinkKind, XattrCall, XattrReply,
};
pub use mount::{
    Depth, Mount, MountFlags, MountInfo, MountNamespace, Moving, PropagationType, SuperBlock, Tree, Umount, next_device,
};
pub use open::{open, open_exec, open_how, try_open, try_open_how};
pub use path::Path;
pub use permission::{Mask, Ownership};
pub use view::View;
pub use walk::{Last, ResolveFlags, resolve, resolve_directory, resolve_parent, try_resolve};
