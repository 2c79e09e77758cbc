//! File operations on a tree of the host, by raw descriptors and without `/proc`.
//!
//! An [`Export`] is a tree with its access; a [`Node`] is a file or directory in it, held by an `O_PATH` descriptor, which
//! pins the inode but gives no access to its data. Every path the host kernel sees is either empty (the node itself) or one
//! checked [`Name`] relative to a directory's descriptor, so nothing outside an export can be named; see `docs/gofer.md` for
//! the argument, races included. Data is reached only through descriptors of regular files made by [`Node::open`] and
//! [`Node::create`].
//!
//! It does not know who asks: no handles, no protocol. Nodes may be shared between threads. The one lock, a node's
//! place, is never held across a host call.

mod attr;
mod create;
mod dir;
mod lookup;
mod open;
mod remove;
mod scan;
#[cfg(test)]
mod tests;
mod watch;
mod xattr;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

pub use self::{
    attr::of_fd as attr_of_open,
    dir::{DirEntry, DirStream, Found},
    scan::ScanLimits,
    watch::Notifier,
};
use crate::{
    Errno,
    protocol::{Access, Attr, FileKind, Name},
};

/// How many descriptors nodes may hold, all exports of a process together.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), limit })
    }

    /// `ENFILE` when spent: the caller should forget nodes and try again.
    fn take(self: &Arc<Budget>) -> Result<Share, Errno> {
        let taken =
            self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < self.limit).then_some(used + 1));
        taken.map(|_| Share(Arc::clone(self))).map_err(|_| Errno::ENFILE)
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// One descriptor's part of a [`Budget`].
#[derive(Debug)]
struct Share(Arc<Budget>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An `O_PATH` descriptor within the budget.
#[derive(Debug)]
struct PathFd {
    fd: OwnedFd,
    _share: Share,
}

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A tree of the host that may be reached.
#[derive(Debug)]
pub struct Export {
    access: Access,
    budget: Arc<Budget>,
}

/// Where an export's tree comes from.
#[derive(Debug)]
pub enum Source {
    /// A descriptor of a directory (`O_PATH` will do).
    Directory(OwnedFd),
    /// A directory's entry, when what is exported is a single file (a bind-mounted `/etc/resolv.conf`).
    Entry { dir: OwnedFd, name: Name },
}

impl Source {
    /// The source at a path as this process sees it now; symbolic links in it are followed except the last component's.
    ///
    /// # Errors
    /// The host's; `EINVAL` if the path ends in no proper name and is no directory.
    pub fn at_path(path: &Path) -> Result<Source, Errno> {
        let open = |path: &Path, flags| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty());
        match open(path, OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            Ok(fd) => Ok(Source::Directory(fd)),
            Err(rustix::io::Errno::NOTDIR) => {
                let name = path.file_name().ok_or(Errno::EINVAL)?;
                let parent = match path.parent() {
                    Some(parent) if parent != Path::new("") => parent,
                    _ => Path::new("."),
                };
                Ok(Source::Entry {
                    dir: open(parent, OFlags::DIRECTORY)?,
                    name: Name::new(std::os::unix::ffi::OsStrExt::as_bytes(name))?,
                })
            }
            Err(e) => Err(e.into()),
        }
    }
}

impl Export {
    /// The root of a new export.
    ///
    /// # Errors
    /// The host's; `ENFILE` without budget.
    pub fn open(source: Source, access: Access, budget: &Arc<Budget>) -> Result<Arc<Node>, Errno> {
        let export = Arc::new(Export { access, budget: Arc::clone(budget) });
        let share = budget.take()?;
        match source {
            Source::Directory(fd) => {
                let attr = attr::of_fd(fd.as_fd())?;
                if attr.kind != FileKind::Directory {
                    return Err(Errno::ENOTDIR);
                }
                Ok(Arc::new(Node {
                    export,
                    fd: Arc::new(PathFd { fd, _share: share }),
                    kind: FileKind::Directory,
                    identity: Identity::of(&attr),
                    place: Mutex::new(None),
                }))
            }
            Source::Entry { dir, name } => {
                let dir = Arc::new(PathFd { fd: dir, _share: share });
                lookup::child(&export, &dir, &name).map(|(node, _)| node)
            }
        }
    }
}

/// What tells one inode from another, while a descriptor pins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    dev: (u32, u32),
    ino: u64,
}

impl Identity {
    fn of(attr: &Attr) -> Identity {
        Identity { dev: (attr.dev_major, attr.dev_minor), ino: attr.ino }
    }
}

/// A directory's descriptor and a name in it.
#[derive(Debug, Clone)]
struct Place {
    dir: Arc<PathFd>,
    name: Name,
}

/// A file, directory, link or special file of an export.
#[derive(Debug)]
pub struct Node {
    export: Arc<Export>,
    fd: Arc<PathFd>,
    kind: FileKind,
    identity: Identity,
    /// Where the node was last seen; none for directories, which open by their own descriptor. A hint: whatever is opened there must
    /// have this node's identity.
    place: Mutex<Option<Place>>,
}

impl Node {
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// The node's descriptor; good for naming it in a Landlock rule, not for its data.
    pub(crate) fn path_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Passes if the node's export may be written. Each changing operation starts here.
    fn writable(&self) -> Result<(), Errno> {
        match self.export.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(Errno::EROFS),
        }
    }

    fn directory(&self) -> Result<&Arc<PathFd>, Errno> {
        match self.kind {
            FileKind::Directory => Ok(&self.fd),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// A directory whose entries may be changed.
    fn writable_directory(&self) -> Result<&Arc<PathFd>, Errno> {
        let dir = self.directory()?;
        self.writable()?;
        Ok(dir)
    }

    /// Both nodes belong to one export; renames and links go nowhere else.
    fn same_export(&self, other: &Node) -> Result<(), Errno> {
        if Arc::ptr_eq(&self.export, &other.export) { Ok(()) } else { Err(Errno::EXDEV) }
    }
}
